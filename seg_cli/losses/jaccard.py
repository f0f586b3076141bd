"""Soft Jaccard, or IoU, loss: Rahman and Wang (2016), doi:10.1007/978-3-319-50835-1_22."""

from torch import Tensor

from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.regions import Regions, ratio
from seg_cli.losses.settings import check_number


class Jaccard(Term):
    """One minus the mean over classes of ``(I + smooth) / (P + T - I + smooth)``.

    I is the sum of a class's probability over its own pixels, P over all valid pixels, and T the number of its pixels
    (equation 3). Without smoothing each class's score is ``d / (2 - d)``, d being its dice.

    Args:
        smooth: added to numerator and denominator.
        over: ``batch`` or ``image``: what is summed over.
        classes: ``present`` or ``all``: what the mean runs over.

    Raises:
        ValueError: if smooth is negative or not finite, or a choice is none of these.
    """

    def __init__(self, *, smooth: float = 1.0, over: str = "batch", classes: str = "present") -> None:
        super().__init__()
        self.smooth = check_number("smooth", smooth)
        self.regions = Regions(over, classes)

    def compute(self, evidence: Evidence) -> Tensor:
        overlap = self.regions.sums(evidence.intersections)
        union = self.regions.sums(evidence.prob_sums + evidence.true_counts) - overlap
        return self.regions.mean(1 - ratio(overlap + self.smooth, union + self.smooth), evidence)
