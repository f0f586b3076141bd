"""Losses beside those of PyTorch, torchvision, SMP and MONAI, value and gradient, where the definitions agree.

Each test says by which settings they do. The last two are of the ``bench`` extra, and not needed by anybody else.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import random_batch, value_and_gradient
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from seg_cli.data.labels import VOID
from seg_cli.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    GeneralizedDice,
    Jaccard,
    Lovasz,
    Tversky,
)
from seg_cli.losses.evidence import Term

Loss = Callable[[Tensor, Tensor], Tensor]
VOIDS = pytest.mark.parametrize("void", [0, 0.3])


@pytest.fixture(scope="module")
def smp() -> Any:
    return pytest.importorskip("segmentation_models_pytorch.losses")


@pytest.fixture(scope="module")
def monai() -> Any:
    return pytest.importorskip("monai.losses")


def agree(ours: Term, theirs: Loss, kind: str = "exclusive", void: float = 0.0, seed: int = 0) -> None:
    """Ours is given uint8, and theirs int64, or floats where labels overlap."""
    logits, target = random_batch(kind, seed, void)
    for_them = target.float() if kind == "overlapping" else target.long()
    found, expected = value_and_gradient(ours, logits, target), value_and_gradient(theirs, logits, for_them)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)


# ---- PyTorch and torchvision


@pytest.mark.parametrize("kind", ["two", "exclusive"])
@given(
    seed=st.integers(0, 1000), void=st.floats(0, 0.9), smoothing=st.sampled_from([0.0, 0.1, 1.0]), weigh=st.booleans()
)
@settings(max_examples=20, deadline=None)
def test_cross_entropy_is_that_of_pytorch(kind: str, seed: int, void: float, smoothing: float, weigh: bool) -> None:
    classes = {"two": 2, "exclusive": 4}[kind]
    weights = [0.5, 2.0, 1.0, 0.1][:classes] if weigh else None

    def theirs(logits: Tensor, target: Tensor) -> Tensor:
        weight = torch.tensor(weights) if weights else None
        return F.cross_entropy(logits, target, weight, ignore_index=VOID, label_smoothing=smoothing)

    agree(CrossEntropy(weights=weights, label_smoothing=smoothing), theirs, kind, void, seed)


@pytest.mark.parametrize("make", [CrossEntropy, BinaryCrossEntropy])
@VOIDS
def test_binary_cross_entropy_is_that_of_pytorch_over_valid_entries(make: type[Term], void: float) -> None:
    def theirs(logits: Tensor, target: Tensor) -> Tensor:
        valid = target != VOID
        return F.binary_cross_entropy_with_logits(logits[valid], target[valid])

    agree(make(), theirs, "overlapping", void)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.5), (None, 3.0)])
@VOIDS
def test_sigmoid_focal_is_that_of_torchvision_over_valid_entries(
    alpha: float | None, gamma: float, void: float
) -> None:
    """Its alpha of -1 is none."""

    def theirs(logits: Tensor, target: Tensor) -> Tensor:
        valid = target != VOID
        weight = -1 if alpha is None else alpha
        return sigmoid_focal_loss(logits[valid], target[valid], alpha=weight, gamma=gamma, reduction="mean")

    agree(Focal(gamma=gamma, alpha=alpha, form="sigmoid"), theirs, "overlapping", void)


# ---- SMP


MODES = {"exclusive": "multiclass", "two": "multiclass", "overlapping": "multilabel"}


@pytest.mark.parametrize("kind", MODES)
@VOIDS
def test_regions_are_those_of_smp(smp: Any, kind: str, void: float) -> None:
    """Its smooth is half of ours in dice. Classes that do not occur are zeros in its mean; here all occur."""
    mode = {"mode": MODES[kind], "ignore_index": VOID}
    agree(Dice(smooth=2), smp.DiceLoss(**mode, smooth=1), kind, void)
    agree(Dice(smooth=0), smp.DiceLoss(**mode), kind, void)
    if not void:  # SMP's other two know no void
        del mode["ignore_index"]
        agree(Jaccard(smooth=1), smp.JaccardLoss(**mode, smooth=1), kind)
        agree(Tversky(smooth=1), smp.TverskyLoss(**mode, smooth=1, alpha=0.3, beta=0.7), kind)


@VOIDS
@pytest.mark.parametrize(("over", "per_image"), [("batch", False), ("image", True)])
def test_lovasz_softmax_is_that_of_smp(smp: Any, over: str, per_image: bool, void: float) -> None:
    """Its mean over images of means over classes is ours where all classes occur in each image."""
    agree(Lovasz(over=over), smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=VOID), void=void)


@VOIDS
def test_focal_of_several_classes_is_sigmoid_in_smp(smp: Any, void: float) -> None:
    """With alpha it agrees too, both for classes that exclude one another and, without void, for those that overlap."""
    for alpha in (None, 0.25):
        ours = Focal(gamma=2, alpha=alpha, form="sigmoid")
        agree(ours, smp.FocalLoss("multiclass", alpha=alpha, gamma=2.0, ignore_index=VOID), void=void)
    agree(Focal(), smp.FocalLoss("multilabel", gamma=2.0), "overlapping")


# ---- MONAI


def with_channel(loss: Loss) -> Loss:
    """MONAI takes labels of (N, 1, H, W), and here makes a one-hot tensor of them."""
    return lambda logits, target: loss(logits, target if target.ndim == 4 else target.unsqueeze(1))


HOW = {
    "exclusive": {"to_onehot_y": True, "softmax": True},
    "two": {"to_onehot_y": True, "softmax": True},
    "overlapping": {"sigmoid": True},
}


@pytest.mark.parametrize("kind", HOW)
@pytest.mark.parametrize(("over", "batch"), [("batch", True), ("image", False)])
def test_regions_are_those_of_monai(monai: Any, kind: str, over: str, batch: bool) -> None:
    """Its mean is over all classes. In its Jaccard the smoothing of 2 is ours of 1; it knows no void."""
    how = HOW[kind] | {"batch": batch}
    same = {"smooth_nr": 1, "smooth_dr": 1}
    for ours, theirs in (
        (Dice(over=over, classes="all"), monai.DiceLoss(**how, **same)),
        (Dice(over=over, classes="all", squared=True), monai.DiceLoss(**how, **same, squared_pred=True)),
        (Jaccard(over=over, classes="all"), monai.DiceLoss(**how, smooth_nr=2, smooth_dr=2, jaccard=True)),
        (Tversky(over=over, classes="all"), monai.TverskyLoss(**how, **same, alpha=0.3, beta=0.7)),
        (GeneralizedDice(over=over), monai.GeneralizedDiceLoss(**how, smooth_nr=0, smooth_dr=0)),
    ):
        agree(ours, with_channel(theirs), kind)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_that_of_monai(monai: Any, gamma: float) -> None:
    """Its softmax form is divided by the number of classes too."""
    softmax = monai.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)
    agree(Focal(gamma=gamma), with_channel(lambda logits, target: 4 * softmax(logits, target)))
    sigmoid = monai.FocalLoss(to_onehot_y=True, gamma=gamma, alpha=0.25)
    agree(Focal(gamma=gamma, alpha=0.25, form="sigmoid"), with_channel(sigmoid))
    agree(Focal(gamma=gamma), monai.FocalLoss(gamma=gamma), "overlapping")
