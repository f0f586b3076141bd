"""Every loss term, and small random batches of every kind, for the tests of losses."""

from collections.abc import Callable

import torch
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    GeneralizedDice,
    HardPixels,
    Jaccard,
    Lovasz,
    Tversky,
)
from seg_cli.losses.boundary import Boundary
from seg_cli.losses.evidence import Term
from seg_cli.losses.hausdorff import HausdorffDT

Make = Callable[[], Term]

REGIONS: dict[str, Make] = {
    "dice": Dice,
    "dice of images": lambda: Dice(over="image"),
    "dice squared": lambda: Dice(squared=True),
    "dice without smoothing": lambda: Dice(smooth=0),
    "dice of all": lambda: Dice(classes="all", over="image"),
    "generalized dice": GeneralizedDice,
    "generalized dice of images": lambda: GeneralizedDice(over="image"),
    "jaccard": Jaccard,
    "jaccard of all": lambda: Jaccard(classes="all", smooth=0.5),
    "lovasz": Lovasz,
    "lovasz of images": lambda: Lovasz(over="image"),
    "tversky": Tversky,
    "focal tversky": lambda: Tversky(gamma=4 / 3, over="image"),
}
"""Those that lie between 0 and 1."""

TERMS: dict[str, Make] = {
    **REGIONS,
    "ce": CrossEntropy,
    "ce smoothed": lambda: CrossEntropy(label_smoothing=0.1),
    "bce": BinaryCrossEntropy,
    "bce weighted": lambda: BinaryCrossEntropy(beta=0.8),
    "bce balanced": lambda: BinaryCrossEntropy(beta="balanced"),
    "focal": Focal,
    "focal of a half": lambda: Focal(gamma=0.5),
    "focal sigmoid": lambda: Focal(alpha=0.25, form="sigmoid"),
    "ohem": HardPixels,
    "topk": lambda: HardPixels(threshold=0, keep=0.3),
    "boundary": Boundary,
    "hausdorff": HausdorffDT,
}

KINDS = {"two": 2, "exclusive": 4, "overlapping": 3}
"""Number of classes; two that exclude one another have formulas of their own."""


def random_batch(kind: str, seed: int = 0, void: float = 0.2, images: int = 2) -> tuple[Tensor, Tensor]:
    """Logits (N, C, 6, 7) float32 and a target of uint8, some of it void."""
    generator = torch.Generator().manual_seed(seed)
    classes, size = KINDS[kind], (6, 7)
    logits = 3 * torch.randn(images, classes, *size, generator=generator)
    overlapping = kind == "overlapping"
    shape = (images, classes, *size) if overlapping else (images, *size)
    target = torch.randint(0, 2 if overlapping else classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < void] = VOID
    return logits, target.to(torch.uint8)


def value_and_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the logits."""
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad
