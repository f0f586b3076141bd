"""Soft dice loss: Milletari, Navab, Ahmadi (2016), arXiv:1606.04797, plain denominator, for several classes."""

import math

from torch import Tensor

from seg_cli.errors import UserError
from seg_cli.losses.evidence import Evidence, Term


class Dice(Term):
    """One minus the mean over classes of ``(2 I + smooth) / (P + T + smooth)``.

    I is the sum of a class's probability over its own pixels, P over all valid pixels of the batch, and T the number of
    its pixels. The mean runs over the classes that occur in the batch: for one that does not, I is 0 whatever is
    predicted, and its term would only say that its probability should shrink, which the other classes say already.

    Args:
        smooth: added to numerator and denominator.

    Raises:
        UserError: if smooth is negative or not finite.
    """

    def __init__(self, *, smooth: float = 1.0) -> None:
        super().__init__()
        if not 0 <= smooth < math.inf:
            raise UserError(f"loss.terms.dice.smooth={smooth}: smooth must be 0 or more.")
        self.smooth = smooth

    def compute(self, evidence: Evidence) -> Tensor:
        present = evidence.true_counts > 0
        size = evidence.prob_sums + evidence.true_counts
        # An absent class of a batch that is all void has size 0; the clamp keeps 0/0 out of its gradient.
        score = (2 * evidence.intersections + self.smooth) / (size + self.smooth).clamp(min=1e-7)
        return ((1 - score) * present).sum() / present.sum().clamp(min=1)
