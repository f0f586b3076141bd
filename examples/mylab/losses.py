"""A loss of one's own. Poly-1: Leng et al. (2022), arXiv:2204.12511."""

from torch import Tensor

from seg_cli.losses.evidence import Evidence, Term


class Poly1(Term):
    """Cross-entropy, whose first polynomial term weighs more: the mean of ``-log p + epsilon (1 - p)``.

    Args:
        epsilon: what is added to the weight of that term, 1.
    """

    def __init__(self, *, epsilon: float = 1.0) -> None:
        super().__init__()
        self.epsilon = epsilon

    def compute(self, evidence: Evidence) -> Tensor:
        pixels = self.epsilon * evidence.doubt - evidence.true_log_prob  # (N, H, W); 0 at void
        return pixels.sum() / evidence.valid_count
