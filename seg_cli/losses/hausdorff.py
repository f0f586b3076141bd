"""Hausdorff distance loss by distance transforms: Karimi and Salcudean (2019), arXiv:1904.10030.

Squared errors weigh more, the farther they lie from the boundaries of the truth and of the prediction: a smooth
stand-in for the largest distance between the two.
"""

import torch
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses.distances import boundary_distances, occurring
from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.settings import check_number


class HausdorffDT(Term):
    """Mean over the valid pixels of the sum over classes of ``(p - q)^2 (d_p^alpha + d_q^alpha)``.

    Equation 8: q is 1 on the class and 0 elsewhere, and d_q and d_p are the distances, in pixels, to the boundary of
    the class in the truth and in the prediction, where the prediction is what has p above 0.5
    (``distances.boundary_distances``; no gradient goes through them). The sum runs over the classes that occur in the
    image's truth. Where labels overlap, the mean runs over the pixels of all labels.

    With alpha 2 it grows with the square of the image's size, to thousands for a poor prediction, and is meant for a
    sum with a loss of regions in which its weight is small. The maps are computed on the CPU, up to twice as many as
    ``boundary`` needs.

    Args:
        alpha: how much more far errors weigh.

    Raises:
        ValueError: if alpha is not a number above 0.
    """

    def __init__(self, *, alpha: float = 2.0) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, above=True)

    def compute(self, evidence: Evidence) -> Tensor:
        classes = occurring(evidence.target, evidence.num_classes)
        weights = boundary_distances(evidence.target, classes).to(evidence.dtype).pow_(self.alpha)  # (N, C, H, W)
        weights += boundary_distances(predicted(evidence), classes).to(evidence.dtype).pow_(self.alpha)
        total = evidence.valid_count.new_zeros(())
        # By class, so that the truth is never a tensor of the logits' size.
        for index, probs in enumerate(evidence.probs.unbind(1)):
            error = probs - evidence.truth(index)  # (N, H, W), 0 at void
            total = total + (error.square() * weights[:, index]).sum()
        return total / evidence.valid_count


def predicted(evidence: Evidence) -> Tensor:
    """What has a probability above 0.5, as a target: (N, H, W) with 255 where nothing has, or (N, C, H, W)."""
    probs = evidence.probs.detach()
    if evidence.overlapping:
        return probs > 0.5
    best, labels = probs.max(1)
    return torch.where(best > 0.5, labels, VOID)
