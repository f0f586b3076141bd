"""What dice, Jaccard and Tversky losses have in common: sums over regions, and the mean over classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seg_cli.losses.evidence import Evidence
from seg_cli.losses.settings import check_choice


@dataclass(frozen=True)
class Regions:
    """How sums over pixels are taken, and over which classes the loss is averaged.

    Args:
        over: ``batch`` (one sum over all images, steadier) or ``image`` (one for each, so that a small object counts as
            much as a large one).
        classes: ``present`` (those that occur there: for one that does not, the intersection is 0 whatever is
            predicted, and the other classes say already that its probability should shrink) or ``all``.

    Raises:
        ValueError: for another choice.
    """

    over: str
    classes: str

    def __post_init__(self) -> None:
        check_choice("over", self.over, ("batch", "image"))
        check_choice("classes", self.classes, ("present", "all"))

    def sums(self, of_images: Tensor) -> Tensor:
        """(N, C) sums over images -> (N, C), or (1, C) over the batch."""
        return of_images.sum(0, keepdim=True) if self.over == "batch" else of_images

    def mean(self, losses: Tensor, evidence: Evidence) -> Tensor:
        """(N or 1, C) losses -> their mean over the classes that count; 0 where all is void."""
        if self.classes == "present":
            counted = self.sums(evidence.true_counts) > 0
        else:
            counted = (self.sums(evidence.valid_counts) > 0).expand_as(losses)
        return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient; the clamp keeps 0/0, of a class that is nowhere, out of the gradient."""
    return numerator / denominator.clamp(min=1e-7)
