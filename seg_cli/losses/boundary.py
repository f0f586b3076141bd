"""Boundary loss: Kervadec, Bouchtiba, Desrosiers, Granger, Dolz, Ben Ayed (2019), arXiv:1812.07032.

The distance between two boundaries, written as an integral over the regions: a wrong pixel costs its distance from the
true boundary, and a right one earns it. Also called surface loss.
"""

from torch import Tensor

from seg_cli.losses.distances import signed_distances
from seg_cli.losses.evidence import Evidence, Term


class Boundary(Term):
    """Mean over the valid pixels of ``sum_c phi_c p_c``, phi_c being the signed distance to class c in pixels.

    Equation 5, for several classes: where each pixel has one label, it is the mean signed distance from the class that
    is predicted, whatever the number of classes. (The paper's code takes the mean over the classes too.) Where labels
    overlap, the mean runs over the pixels of all labels. phi_c is negative inside class c and 0 for a class that does
    not occur in the image (``distances.signed_distances``), so the value can be negative, and lower is better.

    The background is a class like any other. Of two classes both say the same, so that the gradient is twice that of
    the paper's, which takes the foreground alone, but for half a pixel.

    It is meant for a sum with a loss of regions, such as ``dice``, since it has next to no gradient where nothing of a
    class is predicted, and with a weight that grows while training goes on: ``loss.weights.boundary={_target_:
    seg_cli.losses.Ramp, start: 0.01, end: 0.1, epochs: 20}``. Its values are pixels: a weight of 1 drowns the other
    loss unless objects are small. The maps are computed on the CPU.
    """

    def compute(self, evidence: Evidence) -> Tensor:
        distances = signed_distances(evidence.target, evidence.num_classes).to(evidence.dtype)  # (N, C, H, W)
        return (evidence.probs * distances).sum() / evidence.valid_count
