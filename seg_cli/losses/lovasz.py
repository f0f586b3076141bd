"""Lovasz-softmax: Berman, Triki, Blaschko (2018), arXiv:1705.08790."""

import torch
from torch import Tensor

from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.settings import check_choice


class Lovasz(Term):
    """The convex extension of ``1 - IoU``, averaged over the classes that occur (equations 8 and 9, algorithm 1).

    A class's error at a pixel is the distance of its probability from 0 or 1. The errors are sorted, the largest first,
    and each is weighed by how much the Jaccard index falls when its pixel joins those that are wrong.

    Args:
        over: ``batch`` or ``image``: over which pixels the index is taken. With ``image``, the mean runs over the pairs
            of an image and a class that occurs in it.

    Raises:
        ValueError: if it is neither.
    """

    def __init__(self, *, over: str = "batch") -> None:
        super().__init__()
        self.over = check_choice("over", over, ("batch", "image"))

    def compute(self, evidence: Evidence) -> Tensor:
        losses, present = [], []
        for index in range(evidence.num_classes):
            truth, valid = evidence.truth(index), evidence.validity(index)  # (N, H, W)
            errors = (truth - evidence.probs[:, index]).abs() * valid
            rows = (1, -1) if self.over == "batch" else (len(errors), -1)
            losses.append(_extension(errors.reshape(rows), truth.reshape(rows)))
            present.append(truth.reshape(rows).amax(1))
        counted = torch.stack(present)
        return (torch.stack(losses) * counted).sum() / counted.sum().clamp(min=1)


def _extension(errors: Tensor, truth: Tensor) -> Tensor:
    """(M, P) errors and truth of 0 and 1 -> (M,). Void pixels have error 0 and are not true: they cost nothing."""
    errors, order = errors.sort(dim=1, descending=True)
    truth = truth.gather(1, order).to(torch.int64)  # integers, whose running sum is exact and deterministic everywhere
    total = truth.sum(1, keepdim=True)
    hits = truth.cumsum(1)
    ranks = torch.arange(1, truth.shape[1] + 1, device=truth.device)
    # With the first k pixels wrong, intersection is total - hits, and union is total + the k - hits that are not true.
    jaccard = 1 - (total - hits).to(errors.dtype) / (total + ranks - hits).to(errors.dtype)
    steps = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    return (errors * steps).sum(1)
