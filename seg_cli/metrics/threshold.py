"""The threshold of each class at which overlapping labels are predicted best: found on one split, used on another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.metrics.metric import sums_by_cell

_BINS = 200


class ThresholdSweep:
    """Counts how often each probability is given to pixels that are of a class and to pixels that are not.

    From these counts follow the IoU at each of 199 thresholds 0.005, 0.01 ... 0.995, of the whole split and not as a
    mean over batches. Memory does not grow with the pixels.
    """

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        self._names = list(names)
        self._state = torch.zeros(num_classes, 2 * _BINS, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        for image, mask in zip(logits, masks, strict=True):
            bins = image.float().sigmoid().mul_(_BINS).long().clamp_(max=_BINS - 1)
            cells = torch.where(mask == VOID, 2 * _BINS, bins + _BINS * (mask == 1))  # the last cell is void
            self._state += sums_by_cell(cells, cells.new_ones(()), 2 * _BINS + 1)[:, :-1]

    def state(self) -> Tensor:
        return self._state

    def best(self) -> np.ndarray:
        """(C,) float64: the threshold of the highest IoU of each class; the middle one of equal ones."""
        no, yes = self._state.view(-1, 2, _BINS).cpu().numpy().swapaxes(0, 1)
        # At threshold t/_BINS all bins from t on are predicted.
        hits = yes[:, ::-1].cumsum(1)[:, ::-1]
        predicted = hits + no[:, ::-1].cumsum(1)[:, ::-1]
        union = predicted + yes.sum(1, keepdims=True) - hits
        iou = (hits / np.maximum(union, 1))[:, 1:]
        found = [np.flatnonzero(row == row.max()) for row in iou]
        return np.array([(places[len(places) // 2] + 1) / _BINS for places in found])

    def results(self) -> dict[str, Any]:
        return dict(zip(self._names, self.best().tolist(), strict=True))

    def per_image(self) -> Mapping[str, np.ndarray]:
        return {}
