"""How scores fall with distance: mIoU in crops that shrink toward the vanishing point.

Takikawa, Acuna, Jampani, Fidler (2019), arXiv:1907.05740, section 4: in a picture taken from a car, what is far away
is near the vanishing point, so a small crop around it weighs far and small objects more.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg_cli.losses.settings import check_number
from seg_cli.metrics.metric import by_name, mean, number, overlaps, ratio


class Distance:
    """IoU over crops of several sizes around one point, each over the whole split.

    A crop of size s has s times the height and s times the width of the image, rounded to whole pixels, 1 or more. Its
    centre is ``center``, and it is moved inside where it would reach over the border. The paper takes c pixels off the
    top and the bottom of 2048x1024 images and 2c off the left and the right, c = 0, 100, 200, 300, 400, which are sizes
    of 1, 0.80, 0.61, 0.41, 0.22; shares of the size mean the same for images of other sizes.

    Args:
        sizes: each above 0 and at most 1.
        center: of the crops, as shares of the height and of the width, from the top left.

    Raises:
        ValueError: for settings outside these bounds, or a size that stands there twice.
    """

    def __init__(
        self, *, sizes: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2), center: Sequence[float] = (0.5, 0.5)
    ) -> None:
        self.sizes = [check_number("sizes", size, high=1, above=True) for size in sizes]
        self.center = [check_number("center", share, high=1) for share in center]
        if len(set(self.sizes)) < len(self.sizes) or not self.sizes:
            raise ValueError(f"sizes={list(sizes)}: there must be one or more, and none twice.")
        if len(self.center) != 2:
            raise ValueError(f"center={list(center)}: it must be two shares, of the height and of the width.")

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        self._names = list(names)
        self._state = torch.zeros(len(self.sizes), 2, num_classes, dtype=torch.int64, device=device)

    def state(self) -> Tensor:
        return self._state

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        for size, sums in zip(self.sizes, self._state, strict=True):
            rows, columns = (_window(masks.shape[axis - 2], size, self.center[axis]) for axis in (0, 1))
            crops = predictions[..., rows, columns], masks[..., rows, columns]
            sums += overlaps(*crops, len(self._names)).sum(0)

    def results(self) -> dict[str, Any]:
        return {
            "center": self.center,
            "crops": [
                {"size": size, "miou": number(mean(ratio(*sums))), "classes": by_name(self._names, ratio(*sums))}
                for size, sums in zip(self.sizes, self._state.cpu().numpy(), strict=True)
            ],
        }

    def per_image(self) -> dict[str, np.ndarray]:
        return {}


def _window(length: int, size: float, center: float) -> slice:
    """The pixels of one side of a crop."""
    pixels = max(1, int(size * length + 0.5))
    start = min(max(0, math.floor(center * length - pixels / 2)), length - pixels)
    return slice(start, start + pixels)
