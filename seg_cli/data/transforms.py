"""Augmentation: what happens to a training sample between the file and the batch.

Geometry and colour are kept apart. All geometric steps of an augmentation are composed into one affine matrix, and
image and mask are resampled once, straight into the crop: nothing outside the crop is ever computed, nothing is
interpolated twice, and whatever the geometry leaves empty is void in every step alike. Colour steps then see only the
crop.
"""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np

from seg_cli.data.labels import VOID
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError

Size = tuple[int, int]


class Geometry(Protocol):
    """A random affine map."""

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        """(2, 2) float64: where a point goes, seen from the centre of the image, x before y."""
        ...


class Color(Protocol):
    """A random change of pixel values."""

    def recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> (H, W, 3) uint8."""
        ...


class Augment:
    """A sum of steps, applied in the order written, followed by a random crop.

    Args:
        steps: name -> step. ``augment=geometry+color`` merges the steps of both files.

    Raises:
        UserError: if a step is neither a geometric nor a colour step.
    """

    def __init__(self, steps: Mapping[str, Geometry | Color]) -> None:
        for name, step in steps.items():
            if not hasattr(step, "matrix") and not hasattr(step, "recolor"):
                raise UserError(
                    f"augment.steps.{name}: a {type(step).__name__} is no step; it has neither matrix() nor recolor(). "
                    "A transform of albumentations is used through seg_cli.data.transforms.Albumentation."
                )
        self.geometry = [step for step in steps.values() if hasattr(step, "matrix")]
        self.color = [step for step in steps.values() if hasattr(step, "recolor")]

    def __call__(self, split: Split, index: int, crop: Size | None, rng: np.random.Generator) -> Sample:
        """Augment one sample of a split.

        Args:
            split, index: which sample; it may have any size.
            crop: (height, width) of the result; None keeps the sample's size.
            rng: all randomness comes from here, so that a sample is a function of its seed.

        Returns:
            A new sample of size ``crop``; pixels from outside the image are 0 in the image and ``VOID`` in the mask.
        """
        sample = split[index]
        linear = np.eye(2)
        for step in self.geometry:
            linear = step.matrix(rng) @ linear
        image, mask = _crop_affine(sample.image, sample.mask, linear, crop or sample.size, rng)
        for step in self.color:
            image = step.recolor(image, rng)
        return replace(sample, image=image, mask=mask)


def _crop_affine(
    image: np.ndarray, mask: np.ndarray, linear: np.ndarray, crop: Size, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a window of size ``crop`` out of the transformed image, anywhere that it fits, else with void around it."""
    height, width = mask.shape
    source_center = np.array([(width - 1) / 2, (height - 1) / 2])
    # Only scale and mirror change how much room there is for the window; a small rotation leaves void corners.
    room = math.sqrt(abs(np.linalg.det(linear))) * np.array([width, height]) - (crop[1], crop[0])
    shift = rng.uniform(-0.5, 0.5, 2) * np.abs(room)
    target_center = np.array([(crop[1] - 1) / 2, (crop[0] - 1) / 2]) + shift
    if np.allclose(np.abs(linear), np.eye(2)):
        # A pure crop lands on whole pixels, so that it copies and does not blur.
        offset = target_center - linear @ source_center
        target_center += np.rint(offset) - offset
        if crop == (height, width):
            target_center = source_center
    matrix = np.column_stack((linear, target_center - linear @ source_center))
    size = (crop[1], crop[0])
    return (
        cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0)),
        cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST, borderValue=VOID),
    )


class HorizontalFlip:
    """Mirror left and right with probability ``p``."""

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = _probability("flip", p)

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        return np.diag([-1.0 if rng.random() < self.p else 1.0, 1.0])


class RandomScale:
    """Scale by a factor drawn log-uniformly, so that halving is as likely as doubling."""

    def __init__(self, *, low: float, high: float) -> None:
        if not 0 < low <= high:
            raise UserError(f"augment: scale needs 0 < low <= high, not low={low} high={high}.")
        self.low, self.high = math.log(low), math.log(high)

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        return np.eye(2) * math.exp(rng.uniform(self.low, self.high))


class RandomRotation:
    """Turn by an angle drawn uniformly from ``-degrees..degrees``."""

    def __init__(self, *, degrees: float) -> None:
        if not 0 <= degrees <= 180:
            raise UserError(f"augment: rotation needs 0 <= degrees <= 180, not {degrees}.")
        self.degrees = degrees

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


class Albumentation:
    """Any pixel-level transform of albumentations.

    Args:
        name: its class name, as ``ColorJitter``.
        args: its arguments. Albumentations only warns about an argument it does not know; here that is an error.
    """

    def __init__(self, *, name: str, args: Mapping[str, object]) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look online for a newer version
        import albumentations

        transform = getattr(albumentations, name, None)
        if not (isinstance(transform, type) and issubclass(transform, albumentations.ImageOnlyTransform)):
            raise UserError(f"augment: albumentations has no pixel-level transform '{name}'.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                self.transform = transform(**args)
            except (UserWarning, TypeError, ValueError) as error:
                raise UserError(f"augment: albumentations.{name} does not take these arguments: {error}") from None

    def recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # Seeding numpy does not reach albumentations; its own seed does.
        self.transform.set_random_seed(int(rng.integers(2**31)))
        result = self.transform(image=image)["image"]
        if result.shape != image.shape or result.dtype != np.uint8:
            name = type(self.transform).__name__
            raise UserError(
                f"augment: albumentations.{name} gives {result.dtype} of shape {result.shape}, and an image must stay "
                f"uint8 of shape {image.shape}. Leave it out; models normalise images themselves."
            )
        return result


def _probability(name: str, p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(f"augment: {name} needs a probability 0 <= p <= 1, not {p}.")
    return p
