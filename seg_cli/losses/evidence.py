"""What the terms of a loss share: one log-softmax for all of them, and quantities derived from it once."""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from seg_cli.data.labels import VOID


class Evidence:
    """A batch of logits with its target, and what follows from the two, computed when first asked for.

    Half precision is computed in float32, since sums over a million pixels overflow or stall in it.

    Args:
        logits: (N, C, H, W), any floating type; float32 and float64 are computed as they are.
        target: (N, H, W), integer class indices, 255 for void.

    Raises:
        ValueError: if the shapes do not belong together.
    """

    def __init__(self, logits: Tensor, target: Tensor) -> None:
        if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"logits are (N, C, H, W) and targets (N, H, W); got {tuple(logits.shape)} and {tuple(target.shape)}"
            )
        self.logits = logits
        self.target = target.long()

    @cached_property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    @cached_property
    def valid(self) -> Tensor:
        """(N, H, W) bool: pixels that count."""
        return self.target != VOID

    @cached_property
    def valid_count(self) -> Tensor:
        """Number of pixels that count, at least 1, so that a batch of void alone gives 0 and not 0/0."""
        return self.valid.sum().clamp(min=1)

    @cached_property
    def classes(self) -> Tensor:
        """(N, H, W) class indices; void pixels carry class 0 and must be masked by ``valid``."""
        return self.target.masked_fill(~self.valid, 0)

    @cached_property
    def log_probs(self) -> Tensor:
        """(N, C, H, W) log-probabilities."""
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        return torch.log_softmax(logits, 1)

    @cached_property
    def probs(self) -> Tensor:
        """(N, C, H, W) probabilities."""
        return self.log_probs.exp()

    @cached_property
    def true_log_prob(self) -> Tensor:
        """(N, H, W) log-probability of the true class; 0, and without gradient, at void pixels."""
        picked = self.log_probs.gather(1, self.classes.unsqueeze(1)).squeeze(1)
        return picked.masked_fill(~self.valid, 0)

    @cached_property
    def true_prob(self) -> Tensor:
        """(N, H, W) probability of the true class; 0, and without gradient, at void pixels."""
        return self.true_log_prob.exp() * self.valid

    @cached_property
    def true_counts(self) -> Tensor:
        """(C,) number of pixels of each class."""
        return self._sum_by_class(self.valid.to(self.log_probs.dtype))

    @cached_property
    def prob_sums(self) -> Tensor:
        """(C,) sum of the predicted probability of each class over the pixels that count."""
        return torch.einsum("nchw,nhw->c", self.probs, self.valid.to(self.probs.dtype))

    @cached_property
    def intersections(self) -> Tensor:
        """(C,) sum of the predicted probability of each class over that class's own pixels."""
        return self._sum_by_class(self.true_prob)

    def _sum_by_class(self, values: Tensor) -> Tensor:
        """(N, H, W) values, 0 at void -> (C,) their sum over the pixels of each class.

        Each row of pixels is summed apart, and the rows then: added one by one, millions of values drift by percents.
        """
        sums = values.new_zeros(self.target.shape[0] * self.target.shape[1] * self.num_classes)
        return sums.index_add(0, self._row_and_class, values.flatten()).view(-1, self.num_classes).sum(0)

    @cached_property
    def _row_and_class(self) -> Tensor:
        """(N * H * W,) for each pixel: C times its row, counted through the batch, plus its class."""
        images, height, _ = self.target.shape
        rows = torch.arange(images * height, device=self.target.device).view(images, height, 1)
        return (rows * self.num_classes + self.classes).flatten()


class Term(nn.Module, ABC):
    """One loss: a function of the evidence, that can also be called alone with (logits, target)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W) logits and (N, H, W) class indices with 255 for void -> a scalar."""
        return self.compute(Evidence(logits, target))

    @abstractmethod
    def compute(self, evidence: Evidence) -> Tensor:
        """The loss of evidence that other terms may share."""
