"""What a metric is, and what metrics share: counting by class on the device, and sums that are exact in any order."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.metrics.confusion import count

SCALE = 2**20
"""Sums of fractions are kept as integers of this many parts, so that no order, batch or process changes them."""


class Metric(Protocol):
    """Scores of a split that do not follow from its confusion matrix; ``metrics=a+b`` builds several.

    ``start`` comes before a pass over a split, ``update`` with every batch, ``results`` and ``per_image`` after it.
    Memory does not grow with the images but for the numbers of ``per_image``.
    """

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        """Forget what was seen, and get ready for the classes of a dataset."""
        ...

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        """Add a batch.

        Args:
            logits: (N, C, H, W).
            predictions: (N, H, W) class indices; where labels overlap (N, C, H, W) booleans.
            masks: (N, H, W) uint8 class indices; where labels overlap (N, C, H, W) uint8 of 0 and 1. 255 is void.
            names: of the samples.
        """
        ...

    def state(self) -> Tensor:
        """All that was counted, int64, on the device. Where several processes each saw a part of the split, the sum of
        their states, written into this tensor, is what one process would have counted."""
        ...

    def results(self) -> dict[str, Any]:
        """The scores as results.json has them; None where a score is not defined."""
        ...

    def per_image(self) -> Mapping[str, np.ndarray]:
        """Columns of per_image.csv, (images,) each, in the order seen by this process; NaN where not defined."""
        ...


def fixed(values: Tensor) -> Tensor:
    """Fractions as int64 in units of 1 / SCALE; NaN and infinity are 0."""
    return values.nan_to_num(0, 0, 0).mul(SCALE).round().long()


def sums_by_cell(cells: Tensor, values: Tensor, num_cells: int) -> Tensor:
    """Sums of the values that fall into each cell, without waiting for the device.

    Args:
        cells: (..., rows, L) int64 in 0..num_cells-1.
        values: int64 that expands to the same shape.

    Returns:
        (..., num_cells) int64.
    """
    # A row has sums of its own, so that on a GPU not all pixels queue for the same few numbers. They lie in one long
    # vector, for which scatter_add_ is there in PyTorch's deterministic mode too.
    rows = cells.numel() // max(cells.shape[-1], 1)
    sums = torch.zeros(rows * num_cells, dtype=torch.int64, device=cells.device)
    first = torch.arange(0, rows * num_cells, num_cells, device=cells.device).view(*cells.shape[:-1], 1)
    sums.scatter_add_(0, (cells + first).flatten(), values.expand_as(cells).flatten())
    return sums.view(*cells.shape[:-1], num_cells).sum(-2)


def pixels_by_class(labels: Tensor, num_classes: int) -> Tensor:
    """(N, H, W) labels -> (N, C) int64, pixels of each class; labels of C and more, as void, are not counted."""
    if labels.is_cuda:
        cells = labels.long().clamp_(max=num_classes)
        return sums_by_cell(cells, cells.new_ones(()), num_classes + 1)[:, :num_classes]
    counts = [torch.bincount(image.flatten(), minlength=256)[:num_classes] for image in labels.to(torch.uint8)]
    return torch.stack(counts)


def overlaps(predictions: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class in truth and prediction, and in truth or prediction, for each image.

    Args:
        predictions, masks: as in ``Metric.update``.

    Returns:
        (N, 2, C) int64.
    """
    if masks.ndim == 4:
        truth, predicted = masks == 1, predictions.bool() & (masks != VOID)
        both, either = (truth & predicted).flatten(2).sum(2), (truth | predicted).flatten(2).sum(2)
        return torch.stack((both, either), 1)
    matrices = count(predictions, masks, num_classes)  # (N, C, C)
    hits = matrices.diagonal(dim1=1, dim2=2)
    return torch.stack((hits, matrices.sum(1) + matrices.sum(2) - hits), 1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Float64 quotients, NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / np.asarray(denominator, np.float64), np.nan)


def mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of what is defined along an axis, NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis), defined.sum(axis))


def number(value: float | np.ndarray) -> float | None:
    """A score as JSON has it: null where it is not defined."""
    return None if np.isnan(value) else float(value)


def by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    """One number for each class, under its name."""
    return {name: number(value) for name, value in zip(names, values, strict=True)}
