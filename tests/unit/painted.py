"""Pictures that are the colour of their masks, and whether they still are after an augmentation."""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from seg_cli.data.augment import Augment
from seg_cli.data.labels import VOID
from seg_cli.data.sample import Sample


def painted(height: int, width: int, seed: int = 0, cell: int = 1, bands: int = 3) -> Sample:
    """A sample whose image is its mask in grey: class i is the colour (20 i + 20) in all channels."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 6, (math.ceil(height / cell), math.ceil(width / cell)), np.uint8)
    mask = np.kron(cells, np.ones((cell, cell), np.uint8))[:height, :width]
    return Sample(np.repeat(20 * mask[..., None] + 20, bands, 2), mask, "painted", "group")


def augment(steps: Mapping[str, Any], sample: Sample, crop: tuple[int, int] | None, seed: int) -> Sample:
    return Augment(steps)([sample], 0, crop, np.random.default_rng(seed))


def expected_image(mask: np.ndarray, bands: int = 3) -> np.ndarray:
    return np.repeat(np.where(mask == VOID, 0, 20 * mask.astype(int) + 20)[..., None], bands, 2)


def inner(mask: np.ndarray, border: int = 2) -> np.ndarray:
    """Where nothing was interpolated: all neighbours have the same label, and the edge of the picture is far."""
    low, high = (change(mask, np.ones((2 * border + 1, 2 * border + 1))) for change in (cv2.erode, cv2.dilate))
    flat = low == high
    flat[:border] = flat[-border:] = flat[:, :border] = flat[:, -border:] = False
    return flat


def assert_together(sample: Sample, *, least: float = 0.3, wrong: float = 0.0, tolerance: int = 1) -> None:
    """The image is the colour of its mask, away from where it is interpolated between two labels."""
    flat = inner(sample.mask)
    assert flat.mean() > least
    difference = np.abs(sample.image.astype(float) - expected_image(sample.mask, sample.image.shape[2])).max(2)
    assert (difference[flat] > tolerance).mean() <= wrong
