"""Cross-entropy in its forms: softmax or sigmoid by the kind of target, weighted by class, smoothed, balanced.

Szegedy et al. (2016), arXiv:1512.00567, for the smoothing; Xie, Tu (2015), arXiv:1504.06375, for the balance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seg_cli.losses.class_weights import ClassWeights
from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.settings import check_number


class CrossEntropy(Term):
    """Weighted mean over the valid pixels of ``-w log p``, p being the probability given to the true class.

    The sum of ``-w log p`` is divided by the sum of w, as PyTorch does. Where labels overlap, p is that of the yes or
    no of each class, and the mean runs over pixels and classes.

    Args:
        weights: of the classes: none, one number for each, or ``balanced``, ``median_frequency``, ``enet``,
            ``effective_number`` (see ``ClassWeights``).
        label_smoothing: the share of the truth that is spread evenly over all classes (Szegedy 2016, arXiv:1512.00567,
            section 7); where labels overlap, over yes and no.

    Raises:
        ValueError: for weights that are none of these, or a share outside 0..1.
    """

    def __init__(self, *, weights: Sequence[float] | str | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = ClassWeights(weights)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, high=1)

    def compute(self, evidence: Evidence) -> Tensor:
        weights = self.weights.values
        if weights is None:
            total, count = evidence.true_log_prob.sum(), evidence.valid_count
        else:
            of_entries = evidence.weigh(weights)
            total, count = (of_entries * evidence.true_log_prob).sum(), of_entries.sum()
        if self.label_smoothing:
            smooth = evidence.smooth_log_prob(weights).sum()
            total = (1 - self.label_smoothing) * total + self.label_smoothing * smooth
        # A batch may hold nothing but void, or classes of weight 0.
        return -total / torch.where(count > 0, count, 1)


class BinaryCrossEntropy(Term):
    """Each class as a yes or no of its own: mean over pixels and classes of ``-b log p`` where it is yes, p being the
    probability of yes, and of ``-(1 - b) log (1 - p)`` where it is no.

    Xie and Tu (2015), arXiv:1504.06375, equation 2, for the balance. Its sigmoid is taken for either kind of target;
    the class with the largest probability is the same with and without it.

    Args:
        beta: the weight of yes, and 1 - beta that of no; ``balanced`` takes, for each class, the share of no among the
            pixels of the batch, so that yes and no weigh the same in total. None weighs each pixel 1, the plain binary
            cross-entropy.

    Raises:
        ValueError: for a beta outside 0..1.
    """

    def __init__(self, *, beta: float | str | None = None) -> None:
        super().__init__()
        if beta not in (None, "none", "balanced"):
            beta = check_number("beta", beta, high=1)  # type: ignore[arg-type]
        self.beta = None if beta == "none" else beta

    def compute(self, evidence: Evidence) -> Tensor:
        evidence = evidence.one_vs_all()
        if self.beta is None:
            return -evidence.true_log_prob.sum() / evidence.valid_count
        of_yes = evidence.sum_over_truth(evidence.true_log_prob).sum(0)  # (C,)
        of_no = evidence.true_log_prob.sum((0, 2, 3)) - of_yes
        if self.beta == "balanced":
            counts = evidence.valid.sum((0, 2, 3))
            beta: Tensor | float = 1 - evidence.true_counts.sum(0) / counts.clamp(min=1)
        else:
            beta = float(self.beta)
        return -(beta * of_yes + (1 - beta) * of_no).sum() / evidence.valid_count
