"""Soft dice: Milletari, Navab, Ahmadi (2016), arXiv:1606.04797; generalised: Sudre et al. (2017), arXiv:1707.03237."""

from torch import Tensor

from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.regions import Regions, ratio
from seg_cli.losses.settings import check_number


class Dice(Term):
    """One minus the mean over classes of ``(2 I + smooth) / (P + T + smooth)``.

    I is the sum of a class's probability over its own pixels, P over all valid pixels, and T the number of its pixels.

    Args:
        smooth: added to numerator and denominator.
        squared: P sums the squares of the probabilities, as in Milletari's section 3; the plain sum is more common.
        over: ``batch`` or ``image``: what is summed over.
        classes: ``present`` or ``all``: what the mean runs over.

    Raises:
        ValueError: if smooth is negative or not finite, or a choice is none of these.
    """

    def __init__(
        self, *, smooth: float = 1.0, squared: bool = False, over: str = "batch", classes: str = "present"
    ) -> None:
        super().__init__()
        self.smooth, self.squared = check_number("smooth", smooth), squared
        self.regions = Regions(over, classes)

    def compute(self, evidence: Evidence) -> Tensor:
        predicted = evidence.probs.square().sum((2, 3)) if self.squared else evidence.prob_sums
        overlap = self.regions.sums(evidence.intersections)
        size = self.regions.sums(predicted + evidence.true_counts)
        return self.regions.mean(1 - ratio(2 * overlap + self.smooth, size + self.smooth), evidence)


class GeneralizedDice(Term):
    """One minus ``2 sum_c w_c I_c / sum_c w_c (P_c + T_c)`` with ``w_c = 1 / T_c^2`` (Sudre 2017, section 2.1).

    I, P and T are those of ``Dice``. A small class weighs as much as a large one; one that does not occur has no
    weight.

    Args:
        over: ``batch`` or ``image``: what is summed over. With ``image``, the mean runs over the images.

    Raises:
        ValueError: if it is neither.
    """

    def __init__(self, *, over: str = "batch") -> None:
        super().__init__()
        self.regions = Regions(over, "all")

    def compute(self, evidence: Evidence) -> Tensor:
        counts = self.regions.sums(evidence.true_counts)
        weights = (counts > 0) / counts.clamp(min=1).square()
        overlap = (weights * self.regions.sums(evidence.intersections)).sum(1, keepdim=True)
        size = (weights * (self.regions.sums(evidence.prob_sums) + counts)).sum(1, keepdim=True)
        seen = (size > 0).to(size.dtype)
        return ((1 - 2 * overlap / size.clamp(min=1e-30)) * seen).sum() / seen.sum().clamp(min=1)
