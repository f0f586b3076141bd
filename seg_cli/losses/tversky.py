"""Tversky: Salehi, Erdogmus, Gholipour (2017), arXiv:1706.05721; focal: Abraham and Khan (2018), arXiv:1810.07842."""

from torch import Tensor

from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.regions import Regions, ratio
from seg_cli.losses.settings import check_number


class Tversky(Term):
    """Mean over classes of ``(1 - t)^(1 / gamma)`` with ``t = (I + s) / (I + alpha FP + beta FN + s)``, s being smooth.

    I is the sum of a class's probability over its own pixels; FP is its sum over the other pixels, FN what is missing
    on its own (Salehi 2017, equation 4; Abraham 2018, equation 4, whose alpha is the weight of FN). alpha = beta = 0.5
    is dice with twice the smoothing, and alpha = beta = 1 is Jaccard.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; larger than alpha favours recall.
        gamma: above 1, classes that are nearly right keep a share in the gradient; 1 is the plain Tversky loss.
        smooth: added to numerator and denominator.
        over: ``batch`` or ``image``: what is summed over.
        classes: ``present`` or ``all``: what the mean runs over.

    Raises:
        ValueError: if a number is negative or not finite, gamma is 0, or a choice is none of these.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 1.0,
        over: str = "batch",
        classes: str = "present",
    ) -> None:
        super().__init__()
        self.alpha, self.beta = check_number("alpha", alpha), check_number("beta", beta)
        self.gamma = check_number("gamma", gamma, above=True)
        self.smooth = check_number("smooth", smooth)
        self.regions = Regions(over, classes)

    def compute(self, evidence: Evidence) -> Tensor:
        overlap = self.regions.sums(evidence.intersections)
        false_positives = self.regions.sums(evidence.prob_sums) - overlap
        false_negatives = self.regions.sums(evidence.true_counts) - overlap
        union = overlap + self.alpha * false_positives + self.beta * false_negatives
        losses = 1 - ratio(overlap + self.smooth, union + self.smooth)
        if self.gamma != 1:
            # The root of 0 has an infinite gradient, and rounding can put 0 a hair below.
            losses = losses.clamp(min=1e-7) ** (1 / self.gamma)
        return self.regions.mean(losses, evidence)
