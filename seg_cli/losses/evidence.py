"""What the terms of a loss share: one softmax for all of them, and what follows from it, computed once."""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from seg_cli.data.labels import VOID


class Evidence(ABC):
    """A batch of logits with its target, and what follows from the two, each computed when it is first asked for.

    There are two kinds, for the two kinds of target, and a term need not know which of them it has: an *entry* is a
    pixel where each has one label, and a pixel of one class where labels overlap.

    Half precision is computed in float32, since sums over a million pixels overflow or stall in it. Masks are 0 or 1 in
    the floating type of the computation: arithmetic with them is many times faster on a CPU than with booleans.

    Args:
        logits: (N, C, H, W), any floating type; float32 and float64 are computed as they are.
        target: integers; 255 is void.
        edges: (N, 1, H, W) logits of a boundary between classes, of models that look for it.
    """

    overlapping: bool

    def __init__(self, logits: Tensor, target: Tensor, edges: Tensor | None = None) -> None:
        self.logits, self.target, self.edges = logits, target, edges
        self.num_classes = logits.shape[1]
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32

    @cached_property
    def valid(self) -> Tensor:
        """1 at entries that count, 0 at void ones; shape of the target."""
        return (VOID - 0.5 - self.target.to(self.dtype)).clamp(0, 1)

    @cached_property
    def valid_count(self) -> Tensor:
        """Number of entries that count, at least 1, so that a batch of void alone gives 0 and not 0/0."""
        return self.valid.sum().clamp(min=1)

    @cached_property
    def intersections(self) -> Tensor:
        """(N, C) sum of the predicted probability of each class over that class's own pixels."""
        return self.true_counts - self.sum_over_truth(self.doubt)

    @cached_property
    def true_counts(self) -> Tensor:
        """(N, C) number of pixels of each class."""
        return self.sum_over_truth(self.valid)

    @property
    @abstractmethod
    def valid_counts(self) -> Tensor:
        """(N, C) number of entries that count for each class."""

    @property
    @abstractmethod
    def true_log_prob(self) -> Tensor:
        """Log-probability of what is true; 0, and without gradient, at void; shape of the target."""

    @property
    @abstractmethod
    def doubt(self) -> Tensor:
        """One minus the probability of what is true, exact where it is small; 0 at void; shape of the target."""

    @property
    @abstractmethod
    def probs(self) -> Tensor:
        """(N, C, H, W) probabilities; 0, and without gradient, at void."""

    @property
    @abstractmethod
    def prob_sums(self) -> Tensor:
        """(N, C) sum of the predicted probability of each class over the entries that count."""

    @abstractmethod
    def sum_over_truth(self, values: Tensor) -> Tensor:
        """Values in the target's shape, 0 at void -> (N, C) their sums over the pixels of each class."""

    @abstractmethod
    def truth(self, index: int) -> Tensor:
        """(N, H, W) 1 at the pixels of a class, 0 elsewhere and at void."""

    @abstractmethod
    def validity(self, index: int) -> Tensor:
        """(N, H, W) 1 at the pixels that count for a class."""

    @abstractmethod
    def weigh(self, weights: Tensor) -> Tensor:
        """(C,) weights of classes -> the weight of each entry; 0 at void; shape of the target."""

    @abstractmethod
    def smooth_log_prob(self, weights: Tensor | None) -> Tensor:
        """Mean over all answers that an entry can have of ``weight * log p``; 0 at void; shape of the target."""

    @abstractmethod
    def one_vs_all(self) -> "Overlapping":
        """The same logits and target, each class seen as a yes or no of its own."""


class Exclusive(Evidence):
    """One label a pixel: softmax over the classes.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W), class indices, 255 for void.
    """

    overlapping = False

    @cached_property
    def valid_counts(self) -> Tensor:
        return self.valid.sum((1, 2)).unsqueeze(1).expand(-1, self.num_classes)

    @cached_property
    def classes(self) -> Tensor:
        """(N, H, W) int64 class indices; 0 at void, where ``valid`` is 0 too."""
        return self._labels.long()

    @cached_property
    def true_log_prob(self) -> Tensor:
        return self._of_two[0] if self.num_classes == 2 else self._softmax[1]

    @cached_property
    def doubt(self) -> Tensor:
        return self._of_two[1] if self.num_classes == 2 else -torch.expm1(self.true_log_prob)

    @cached_property
    def probs(self) -> Tensor:
        if self.num_classes == 2:
            one = self._labels + self._against * self.doubt
            return torch.stack((self.valid - one, one), 1)
        return self._softmax[0]

    @cached_property
    def prob_sums(self) -> Tensor:
        if self.num_classes == 2:
            # What a pixel does not give to its own class it gives to the other.
            return self.intersections + self.sum_over_truth(self.doubt).flip(1)
        return self.probs.sum((2, 3))

    def sum_over_truth(self, values: Tensor) -> Tensor:
        # Each row of pixels is summed apart, and the rows then: added one by one, millions of values drift by percents.
        if self.num_classes == 2:
            one = (values * self._labels).sum(2).sum(1)
            return torch.stack((values.sum(2).sum(1) - one, one), 1)
        rows = values.new_zeros(*values.shape[:2], self.num_classes)
        return rows.scatter_add(2, self.classes, values).sum(1)

    def truth(self, index: int) -> Tensor:
        return (self.target == index).to(self.dtype)

    def validity(self, index: int) -> Tensor:
        return self.valid

    def weigh(self, weights: Tensor) -> Tensor:
        return weights.to(self.dtype)[self.classes] * self.valid

    def smooth_log_prob(self, weights: Tensor | None) -> Tensor:
        # log p_c = x_c - lse, and lse = x_true - log p_true: no second log-softmax is needed.
        logits = self.logits.to(self.dtype)
        lse = logits.gather(1, self.classes.unsqueeze(1)).squeeze(1) - self.true_log_prob
        if weights is None:
            total = logits.sum(1) - self.num_classes * lse
        else:
            weights = weights.to(self.dtype)
            total = (logits * weights.view(1, -1, 1, 1)).sum(1) - weights.sum() * lse
        return total * self.valid / self.num_classes

    def one_vs_all(self) -> "Overlapping":
        target = torch.stack([self.target == index for index in range(self.num_classes)], 1).to(torch.uint8)
        return Overlapping(self.logits, target.masked_fill((self.target == VOID).unsqueeze(1), VOID))

    @cached_property
    def _softmax(self) -> tuple[Tensor, Tensor]:
        return _Softmax.apply(self.logits, self.classes, self.valid, self.dtype)

    @cached_property
    def _of_two(self) -> tuple[Tensor, Tensor]:
        """Two classes are one logit, their difference."""
        zero, one = self.logits.to(self.dtype).unbind(1)
        return _Sigmoid.apply(one - zero, self._against, self.valid)

    @cached_property
    def _labels(self) -> Tensor:
        """The class indices in the floating type; 0 at void."""
        return self.target.to(self.dtype) * self.valid

    @cached_property
    def _against(self) -> Tensor:
        """Of two classes: -1 at pixels of class 1 and 1 at those of class 0; 0 at void."""
        return torch.sub(self.valid, self._labels, alpha=2)


class Overlapping(Evidence):
    """Labels that overlap: a yes or no for each class, by a sigmoid.

    Args:
        logits: (N, C, H, W).
        target: (N, C, H, W), 0 or 1, 255 for void.
    """

    overlapping = True

    @cached_property
    def valid_counts(self) -> Tensor:
        return self.valid.sum((2, 3))

    @cached_property
    def true_log_prob(self) -> Tensor:
        return self._sigmoid[0]

    @cached_property
    def doubt(self) -> Tensor:
        return self._sigmoid[1]

    @cached_property
    def probs(self) -> Tensor:
        return self._yes + self._against * self.doubt

    @cached_property
    def prob_sums(self) -> Tensor:
        return self.true_counts + (self.doubt * self._against).sum((2, 3))

    def sum_over_truth(self, values: Tensor) -> Tensor:
        return (values * self._yes).sum((2, 3))

    def truth(self, index: int) -> Tensor:
        return self._yes[:, index]

    def validity(self, index: int) -> Tensor:
        return self.valid[:, index]

    def weigh(self, weights: Tensor) -> Tensor:
        return weights.to(self.dtype).view(1, -1, 1, 1) * self.valid

    def smooth_log_prob(self, weights: Tensor | None) -> Tensor:
        # log p + log(1 - p) = 2 log p_true + x, x being the logit against what is true
        mean = (self.true_log_prob + self.logits.to(self.dtype) * self._against / 2) * self.valid
        return mean if weights is None else mean * self.weigh(weights)

    def one_vs_all(self) -> "Overlapping":
        return self

    @cached_property
    def _sigmoid(self) -> tuple[Tensor, Tensor]:
        return _Sigmoid.apply(self.logits.to(self.dtype), self._against, self.valid)

    @cached_property
    def _yes(self) -> Tensor:
        return self.target.to(self.dtype) * self.valid

    @cached_property
    def _against(self) -> Tensor:
        """-1 where it is yes and 1 where it is no; 0 at void."""
        return torch.sub(self.valid, self._yes, alpha=2)


def evidence_of(logits: Tensor, target: Tensor, edges: Tensor | None = None) -> Evidence:
    """The evidence of the kind that the target's shape asks for.

    Raises:
        ValueError: if the shapes do not belong together, or (checked on the CPU alone, where it is free of a wait for
            the device) the target holds a value that is no class and not void.
    """
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.ndim != 4 or tuple(target.shape) not in (expected, tuple(logits.shape)):
        raise ValueError(
            "a loss takes logits (N, C, H, W) with targets (N, H, W), or (N, C, H, W) where labels overlap; "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"a target holds integers, class indices or 255 for void; got {target.dtype}")
    overlapping = target.ndim == 4
    if target.device.type == "cpu" and target.numel():
        classes = 2 if overlapping else logits.shape[1]
        low, high = torch.aminmax(target)
        # Void becomes 0 and class 0 becomes 1: the largest class without a mask, which costs more than all the rest.
        if low < 0 or high > VOID or (target.to(torch.uint8) + 1).max() > classes:
            raise ValueError(
                f"a target holds {'0 and 1' if overlapping else f'the classes 0 to {classes - 1}'} and 255 for void; "
                f"this one has {', '.join(str(int(value)) for value in target.unique()[-4:])}"
            )
    return Overlapping(logits, target, edges) if overlapping else Exclusive(logits, target, edges)


def no_autocast(logits: Tensor) -> torch.autocast:
    """A context in which sums stay in the precision of the evidence, whatever the model was run in."""
    return torch.autocast(logits.device.type, enabled=False)


class Term(nn.Module, ABC):
    """One loss: a function of the evidence, that can also be called alone with (logits, target)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """(N, C, H, W) logits and (N, H, W) class indices, or (N, C, H, W) zeros and ones, 255 for void -> a scalar."""
        with no_autocast(logits):
            return self.compute(evidence_of(logits, target))

    @abstractmethod
    def compute(self, evidence: Evidence) -> Tensor:
        """The loss of evidence that other terms may share."""


class _Sigmoid(torch.autograd.Function):
    """Logits -> log-probability of what is true, and one minus its probability.

    ``against`` is -1 where a yes is true, 1 where a no is true, 0 at void.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, against: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        wrong = logits * against
        doubt = wrong.sigmoid().mul_(valid)
        ctx.save_for_backward(doubt, against)
        ctx.set_materialize_grads(False)
        return nn.functional.softplus(wrong).mul_(valid).neg_(), doubt

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_true: Tensor | None, of_doubt: Tensor | None):  # type: ignore[no-untyped-def]
        # With d the doubt and x the logit against the truth: d log p / d x = -d, and d d / d x = d (1 - d).
        doubt, against = ctx.saved_tensors  # both 0 at void, so nothing is left there
        if of_doubt is None:
            return None if of_true is None else (doubt * of_true).mul_(against).neg_(), None, None
        gradient = (1 - doubt).mul_(of_doubt)
        if of_true is not None:
            gradient.sub_(of_true)
        return gradient.mul_(doubt).mul_(against), None, None


class _Softmax(torch.autograd.Function):
    """Probabilities, and the log-probability of the true class, that together keep one tensor of the logits' size.

    Composed of PyTorch's own operations the same would keep two, and make three more on the way back. Backward needs
    one more, the gradient.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, classes: Tensor, valid: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        log_probs = torch.log_softmax(logits, 1, dtype=dtype)
        true_log_prob = log_probs.gather(1, classes.unsqueeze(1)).squeeze(1) * valid
        probs = log_probs.exp_().mul_(valid.unsqueeze(1))
        ctx.save_for_backward(probs, classes, valid)
        ctx.logits_dtype = logits.dtype
        ctx.set_materialize_grads(False)
        return probs, true_log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_probs: Tensor | None, of_true: Tensor | None):  # type: ignore[no-untyped-def]
        # d p_i / d x_j = p_i ([i = j] - p_j), and d log p_t / d x_j = [t = j] - p_j. With p = 0 at void, every product
        # with p leaves nothing there.
        probs, classes, valid = ctx.saved_tensors
        if of_probs is None and of_true is None:
            return None, None, None, None
        common = torch.zeros_like(valid) if of_true is None else of_true * valid
        if of_probs is None:
            gradient = probs * -common.unsqueeze(1)
        else:
            dot = common.clone()
            for index in range(probs.shape[1]):  # by class, so that no product of the logits' size is made
                dot.addcmul_(probs[:, index], of_probs[:, index])
            gradient = (of_probs - dot.unsqueeze(1)).mul_(probs)
        if of_true is not None:
            gradient.scatter_add_(1, classes.unsqueeze(1), common.unsqueeze(1))
        return gradient.to(ctx.logits_dtype), None, None, None
