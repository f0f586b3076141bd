"""Images through a model in one piece, or by windows that slide over them and overlap.

Windows stand on a grid, so that the weights with which they overlap are products of those along either axis, known
before anything is computed: each window comes with weights that sum to 1 with those of its neighbours, and what is
summed is the result. Row by row of windows, all above the next row is finished, whatever the height of the image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Protocol

import torch
from torch import Tensor

from seg_cli.inference.memory import Portions, on_disk

BLENDS = ("uniform", "gaussian")
PLACES = ("device", "cpu", "disk")

Predict = Callable[[Tensor], Tensor]
"""(N, B, H, W) images -> (N, C, H, W) logits."""

Read = Callable[[int, slice, slice], Tensor]
"""Number of an image, rows and columns -> (1, B, height, width) of what is there, on the device."""


class Inference(Protocol):
    """How images of any size go through a model."""

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """(N, C, H, W) logits of images (N, B, H, W)."""
        ...


class Whole:
    """The whole image at once."""

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        return predict(images)


class Sliding:
    """Windows that overlap, and the mean of their logits where they do.

    Along an axis where the image is smaller than a window, the window is as long as the image. Windows stand at equal
    distances, the first and the last at the borders, and overlap by what was asked for or more.

    Args:
        window: [height, width] in pixels, or one number for both.
        overlap: of neighbours, as a share of the window, 0 or more and below 1.
        blend: ``uniform`` weights, or a ``gaussian`` about the centre of each window, of which an eighth of the window
            is the standard deviation (Isensee 2021, nnU-Net), since at its borders a window lacks context.
        batch_size: windows that the model sees at once; halved when memory does not do.
        scores: where the scores of the whole image are put together: on the ``device``, the ``cpu``, or on ``disk``.

    Raises:
        ValueError: if a setting is not allowed.
    """

    def __init__(
        self,
        *,
        window: int | Sequence[int],
        overlap: float = 0.5,
        blend: str = "gaussian",
        batch_size: int = 4,
        scores: str = "device",
    ) -> None:
        sides = [window, window] if isinstance(window, int) else list(window)
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"window={window}: [height,width] in pixels is allowed, or one number for both.")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap={overlap}: a share of the window is allowed, from 0 to below 1.")
        if blend not in BLENDS:
            raise ValueError(f"blend={blend}: {' and '.join(BLENDS)} are allowed.")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: 1 or more is allowed.")
        if scores not in PLACES:
            raise ValueError(f"scores={scores}: {', '.join(PLACES)} are allowed.")
        self.window, self.overlap, self.blend, self.scores = sides, overlap, blend, scores
        self._portions = Portions(batch_size)

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        def read(image: int, rows: slice, columns: slice) -> Tensor:
            return images[image : image + 1, :, rows, columns]

        height, width = images.shape[-2:]
        scores: Tensor | None = None
        for top, band in self.bands(predict, read, (height, width), images=len(images)):
            if scores is None:
                scores = self._room((*band.shape[:2], height, width), band)
            scores[..., top : top + band.shape[-2], :] = band
        assert scores is not None
        return scores

    def windows(self, size: Sequence[int]) -> list[tuple[int, int]]:
        """The first row and column of each window over an image of (height, width), row by row."""
        (tops, _), (lefts, _) = self._axes(size)
        return [*product(tops, lefts)]

    def bands(
        self, predict: Predict, read: Read, size: Sequence[int], *, images: int = 1
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits of images of any height, from top to bottom, as soon as they are finished.

        Memory is that of a row of windows, whatever the height.

        Args:
            predict: is given windows.
            read: is asked for one window after another, row by row.
            size: (height, width) of the images.
            images: N.

        Yields:
            The first row of a band, and its (N, C, rows, width) float32 logits, which the next step writes over.
        """
        (tops, weights_down), (lefts, weights_right) = self._axes(size)
        high, wide = len(weights_down[0]), len(weights_right[0])
        places = [*product(range(images), zip(lefts, weights_right, strict=True))]
        band: Tensor | None = None
        for (top, following), down in zip(pairwise([*tops, size[0]]), weights_down, strict=True):

            def look(some: Sequence[tuple[int, tuple[int, Tensor]]], top: int = top) -> Tensor:
                rows = slice(top, top + high)
                seen = [read(image, rows, slice(left, left + wide)) for image, (left, _) in some]
                return predict(seen[0] if len(seen) == 1 else torch.cat(seen))

            for some, logits in self._portions.run(places, look):
                if band is None:
                    band = _band(logits, images, size[1])
                down = down.to(band.device, non_blocking=True)
                for (image, (left, right)), part in zip(some, logits.to(band.dtype), strict=True):
                    weight = down[:, None] * right.to(band.device, non_blocking=True)
                    band[image, :, :, left : left + wide].addcmul_(part, weight)
            assert band is not None
            done = following - top
            yield top, band[..., :done, :]
            _move_up(band, done)

    def _axes(self, size: Sequence[int]) -> Iterator[tuple[list[int], list[Tensor]]]:
        for length, side in zip(size, self.window, strict=True):
            yield grid(length, side, overlap=self.overlap, blend=self.blend)

    def _room(self, shape: Sequence[int], band: Tensor) -> Tensor:
        if self.scores == "disk":
            return on_disk(shape)
        return torch.empty(
            shape,
            device=band.device if self.scores == "device" else "cpu",
            memory_format=_memory_order(band),
        )


def grid(length: int, side: int, *, overlap: float, blend: str) -> tuple[list[int], list[Tensor]]:
    """Windows along an axis.

    Args:
        length: of the axis, in pixels.
        side: of the windows; at most ``length`` is used.
        overlap: of neighbours, at least, as a share of ``side``.
        blend: how weights fall off from the centre of a window, see ``BLENDS``.

    Returns:
        The first pixel of each window, and the weights of its (side,) pixels, float32. At each pixel of the axis the
        weights of all windows sum to 1.
    """
    side = min(side, length)
    step = max(1, math.floor(side * (1 - overlap)))
    count = math.ceil((length - side) / step) + 1
    firsts = [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
    weights = torch.ones(side, dtype=torch.float64)
    if blend == "gaussian":
        places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        weights = torch.exp(-0.5 * (places / (side / 8)) ** 2)
    total = torch.zeros(length, dtype=torch.float64)
    for first in firsts:
        total[first : first + side] += weights
    return firsts, [(weights / total[first : first + side]).float() for first in firsts]


def _band(logits: Tensor, images: int, width: int) -> Tensor:
    """Zeros for the sums of a row of windows, in the memory order of the logits, which adding to them likes best."""
    shape = (images, logits.shape[1], logits.shape[2], width)
    return torch.zeros(shape, device=logits.device).contiguous(memory_format=_memory_order(logits))


def _move_up(band: Tensor, rows: int) -> None:
    """Put the unfinished rows at the top, and zeros below them."""
    left = band.shape[-2] - rows
    if left > 0:
        kept = band[..., rows:, :]
        band[..., :left, :] = kept.clone() if left > rows else kept
    band[..., left:, :].zero_()


def _memory_order(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
