"""Focal loss: Lin, Goyal, Girshick, He, Dollar (2017), arXiv:1708.02002, equation 4, in its softmax form."""

import math

from torch import Tensor

from seg_cli.errors import UserError
from seg_cli.losses.evidence import Evidence, Term


class Focal(Term):
    """Mean over the valid pixels of ``-(1 - p)^gamma log p``, p being the probability given to the true class.

    Args:
        gamma: how strongly easy pixels are discounted; 0 is cross-entropy.

    Raises:
        UserError: if gamma is negative or not finite.
    """

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise UserError(f"loss.terms.focal.gamma={gamma}: gamma must be 0 or more.")
        self.gamma = gamma

    def compute(self, evidence: Evidence) -> Tensor:
        # Rounding can put p a hair above 1, and a fractional power of a negative number is NaN; the power of an exact 0
        # has an infinite gradient for gamma < 1.
        doubt = (1 - evidence.true_prob).clamp(min=1e-7)
        return -(doubt**self.gamma * evidence.true_log_prob).sum() / evidence.valid_count
