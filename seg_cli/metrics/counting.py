"""What scoring has to know of a dataset's kind of labels: one class a pixel, or a yes or no for each class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seg_cli.data.labels import LabelSpace
from seg_cli.metrics import confusion, overlapping


@dataclass(frozen=True)
class Counting:
    """From logits to predictions, and from these to the counts that every score follows from.

    Attributes:
        num_classes: C.
        overlapping: whether a pixel may belong to several classes, or to none.
        threshold: of the sigmoid, where labels overlap: a probability, or a (C,) tensor of one for each class.
        void: ``ignored``: void pixels count nowhere; ``false_positive``: a class predicted there is predicted wrongly.
    """

    num_classes: int
    overlapping: bool = False
    threshold: float | Tensor = 0.5
    void: str = "ignored"

    @classmethod
    def of(cls, labels: LabelSpace, threshold: float | Tensor = 0.5, void: str = "ignored") -> "Counting":
        """The counting that a label space asks for."""
        return cls(labels.num_classes, labels.overlapping, threshold, void)

    @property
    def _void_is_wrong(self) -> bool:
        return self.void == "false_positive"

    def predict(self, logits: Tensor) -> Tensor:
        """(N, C, H, W) logits -> (N, H, W) int64 class indices; (N, C, H, W) booleans where labels overlap."""
        if self.overlapping:
            return overlapping.predict_labels(logits, self.threshold)
        return confusion.predict_labels(logits)

    def count(self, predictions: Tensor, masks: Tensor) -> Tensor:
        """Counts of each image: its confusion matrix (N, C, C), or where labels overlap one a class, (N, C, 2, 2).

        Where void is wrong, a confusion matrix has one more row: what was predicted on void.
        """
        if self.overlapping:
            return overlapping.count(predictions, masks, void_is_wrong=self._void_is_wrong)
        return confusion.count(predictions, masks, self.num_classes, void_row=self._void_is_wrong)

    def nothing(self, device: torch.device | None = None) -> Tensor:
        """The counts of no image, to add to: (C, C), (C + 1, C) where void is wrong, or (C, 2, 2) int64."""
        rows = self.num_classes + self._void_is_wrong
        shape = (self.num_classes, 2, 2) if self.overlapping else (rows, self.num_classes)
        return torch.zeros(shape, dtype=torch.int64, device=device)

    def overlaps(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(..., C) intersections of truth and prediction, and their unions, of counts with any leading dimensions."""
        hits, truth, predicted = confusion.pixels_of_classes(counts, overlapping=self.overlapping)
        return hits, truth + predicted - hits
