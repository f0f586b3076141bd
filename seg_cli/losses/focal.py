"""Focal loss: Lin, Goyal, Girshick, He, Dollar (2017), arXiv:1708.02002."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seg_cli.losses.class_weights import ClassWeights
from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.settings import check_choice, check_number


class Focal(Term):
    """Mean over the valid pixels of ``-w (1 - p)^gamma log p`` (equations 4 and 5).

    With ``form=softmax``, p is the probability given to the true class. With ``form=sigmoid`` each class is a yes or no
    of its own, as in the paper, and the mean runs over pixels and classes. Where labels overlap, both are the latter.

    Args:
        gamma: how strongly easy pixels are discounted; 0 is cross-entropy.
        alpha: weight of yes, 1 - alpha being that of no; for the sigmoid form. The paper takes 0.25.
        weights: of the classes, as in cross-entropy; the mean is the weighted one.
        form: ``softmax`` or ``sigmoid``.

    Raises:
        ValueError: if gamma is negative, alpha is outside 0..1 or given with the softmax form, or the weights or the
            form are not among the choices.
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        weights: Sequence[float] | str | None = None,
        form: str = "softmax",
    ) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma)
        self.form = check_choice("form", form, ("softmax", "sigmoid"))
        self.alpha = None if alpha is None else check_number("alpha", alpha, high=1)
        self.weights = ClassWeights(weights)
        if self.alpha is not None and form == "softmax":
            raise ValueError(
                f"alpha={alpha}: it weighs yes against no, and the softmax form has neither. Choose form=sigmoid, or "
                "weigh the classes instead: weights=[1,2,...]."
            )

    def compute(self, evidence: Evidence) -> Tensor:
        if self.form == "sigmoid":
            evidence = evidence.one_vs_all()
        # The power of an exact 0 has an infinite gradient for gamma < 1.
        doubt = evidence.doubt if self.gamma >= 1 or not self.gamma else evidence.doubt.clamp(min=1e-7)
        losses = doubt**self.gamma * evidence.true_log_prob
        weights = self.weights.values
        if weights is None:
            count = evidence.valid_count
        else:
            of_entries = evidence.weigh(weights)
            losses, count = losses * of_entries, of_entries.sum()
        total = losses.sum()
        if self.alpha is not None:
            of_yes = evidence.sum_over_truth(losses).sum()
            total = self.alpha * of_yes + (1 - self.alpha) * (total - of_yes)
        return -total / torch.where(count > 0, count, 1)
