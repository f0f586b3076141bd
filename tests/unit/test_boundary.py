"""Boundary and Hausdorff losses: by hand, against scipy and MONAI, void, gradients, precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses.boundary import Boundary
from seg_cli.losses.evidence import Term
from seg_cli.losses.hausdorff import HausdorffDT

each_term = pytest.mark.parametrize("term", [Boundary(), HausdorffDT()], ids=["boundary", "hausdorff_dt"])
each_kind = pytest.mark.parametrize("overlapping", [False, True], ids=["exclusive", "overlapping"])

BLOCK = torch.zeros(1, 5, 5, dtype=torch.uint8)
BLOCK[0, 1:4, 1:4] = 1
CENTRE = torch.zeros(1, 5, 5, dtype=torch.uint8)
CENTRE[0, 2, 2] = 1


def logits_of(foreground: Tensor) -> Tensor:
    """(N, H, W) probabilities of class 1 of two -> logits (N, 2, H, W)."""
    return torch.stack((1 - foreground, foreground), 1).clamp(min=1e-30).log()


def random_batch(
    seed: int = 0, *, overlapping: bool = False, void: float = 0.2, classes: int = 4
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, 6, 7, generator=generator, dtype=torch.float64)
    shape, high = ((2, classes, 6, 7), 2) if overlapping else ((2, 6, 7), classes)
    target = torch.randint(0, high, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < void] = VOID
    return logits, target.to(torch.uint8)


def regions_of(target: Tensor, index: int, overlapping: bool) -> np.ndarray:
    return (target[:, index] == 1 if overlapping else target == index).numpy()


def to_boundary(region: np.ndarray) -> np.ndarray:
    if not region.any() or region.all():
        return np.zeros(region.shape)
    return distance_transform_edt(region) + distance_transform_edt(~region)


# ---- boundary by hand


def test_boundary_of_a_right_and_of_a_wrong_answer() -> None:
    """The block's signed distances are 0 but for -1 in its centre; those of the ring 0 but for 1 - sqrt 2 in 4 corners.

    From the ring the block is 1 pixel away, from the corners sqrt 2; from the block the ring is 1, from the centre 2.
    """
    truth, root = BLOCK.double(), math.sqrt(2)
    assert float(Boundary()(logits_of(truth), BLOCK)) == pytest.approx((-1 + 4 * (1 - root)) / 25)
    assert float(Boundary()(logits_of(1 - truth), BLOCK)) == pytest.approx((12 + 4 * root + 8 + 2) / 25)


def test_boundary_counts_a_farther_mistake_more() -> None:
    """A pixel of background is claimed with 0.9; its class 1 is 1 or 2 away, and 0 costs it 0 or -1 where it is."""
    for column, (to_class, to_own) in {3: (1, 0), 4: (2, -1)}.items():
        foreground = CENTRE.double()
        sure = float(Boundary()(logits_of(foreground), CENTRE))
        foreground[0, 2, column] = 0.9
        claimed = float(Boundary()(logits_of(foreground), CENTRE))
        assert claimed - sure == pytest.approx(0.9 * (to_class - to_own) / 25)


def test_boundary_is_0_for_a_class_that_the_image_has_not() -> None:
    logits = torch.full((1, 3, 5, 5), -100.0)
    logits[:, 2] = 100
    assert float(Boundary()(logits, BLOCK)) == pytest.approx(0, abs=1e-6)


# ---- Hausdorff by hand


@pytest.mark.parametrize(("alpha", "weight"), [(2.0, 2**2 + 1), (1.0, 2 + 1), (3.0, 2**3 + 1)])
def test_hausdorff_of_one_false_pixel(alpha: float, weight: float) -> None:
    """It is wrong by 0.8 for both classes; the true boundary is 2 away, that of the prediction (0.8 > 0.5) 1."""
    foreground = CENTRE.double()
    foreground[0, 2, 4] = 0.8
    value = HausdorffDT(alpha=alpha)(logits_of(foreground), CENTRE)
    assert float(value) == pytest.approx(2 * 0.8**2 * weight / 25)


@pytest.mark.parametrize(("claim", "of_background", "of_foreground"), [(0.4, 2, 2), (0.5, 1, 2)])
def test_hausdorff_takes_no_prediction_from_a_half_or_less(
    claim: float, of_background: int, of_foreground: int
) -> None:
    """With 0.4 the prediction is the truth, and all boundaries are 2 away; with 0.5 the pixel is of neither class."""
    foreground = CENTRE.double()
    foreground[0, 2, 4] = claim
    expected = claim**2 * (2**2 + of_background**2 + 2**2 + of_foreground**2) / 25
    assert float(HausdorffDT()(logits_of(foreground), CENTRE)) == pytest.approx(expected)


def test_hausdorff_of_an_empty_prediction_has_the_distances_of_the_truth() -> None:
    """Foreground 0.3 everywhere: its map is 0, and so is that of the background, which fills the image."""
    foreground = torch.full((1, 5, 5), 0.3, dtype=torch.float64)
    squares = sum((x - 2) ** 2 + (y - 2) ** 2 for x in range(5) for y in range(5))
    expected = 2 * (0.3**2 * squares + 0.7**2 * 1) / 25
    assert float(HausdorffDT()(logits_of(foreground), CENTRE)) == pytest.approx(expected)


def test_hausdorff_is_over_the_classes_of_the_truth() -> None:
    """Class 2 is predicted at a pixel of class 0 and does not occur: the error of class 0 there counts alone."""
    probs = torch.full((1, 3, 5, 5), 1e-30, dtype=torch.float64)
    probs[:, :2] = torch.stack((1 - CENTRE, CENTRE), 1)
    probs[0, :, 2, 4] = torch.tensor([0.0, 0.0, 1.0])
    # Of class 0 the prediction has its boundary 1 away from that pixel, the truth 2.
    assert float(HausdorffDT()(probs.clamp(min=1e-30).log(), CENTRE)) == pytest.approx((1 + 4) / 25)


@pytest.mark.parametrize("alpha", [0, -1, math.inf, math.nan])
def test_hausdorff_wants_a_power_above_0(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha="):
        HausdorffDT(alpha=alpha)


# ---- the formulas, and MONAI's


@each_kind
@given(st.integers(0, 1000), st.sampled_from([0, 0.3]))
@settings(max_examples=20, deadline=None)
def test_boundary_is_its_formula(overlapping: bool, seed: int, void: float) -> None:
    logits, target = random_batch(seed, overlapping=overlapping, void=void)
    probs = (logits.sigmoid() if overlapping else logits.softmax(1)).numpy()
    total = 0.0
    for index in range(4):
        valid = (target[:, index] if overlapping else target).numpy() != VOID
        for image, region in enumerate(regions_of(target, index, overlapping)):
            signed = to_boundary(region) * np.where(region, -1, 1) + (region & (not region.all()))
            total += (signed * probs[image, index] * valid[image]).sum()
    expected = total / int((target != VOID).sum())
    assert float(Boundary()(logits, target)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@each_kind
@given(st.integers(0, 1000), st.sampled_from([0, 0.3]), st.sampled_from([1.0, 2.0]))
@settings(max_examples=20, deadline=None)
def test_hausdorff_is_its_formula(overlapping: bool, seed: int, void: float, alpha: float) -> None:
    logits, target = random_batch(seed, overlapping=overlapping, void=void)
    probs = (logits.sigmoid() if overlapping else logits.softmax(1)).numpy()
    total = 0.0
    for index in range(4):
        valid = (target[:, index] if overlapping else target).numpy() != VOID
        for image, region in enumerate(regions_of(target, index, overlapping)):
            if region.any():
                p = probs[image, index] * valid[image]
                distances = to_boundary(region) ** alpha + to_boundary(p > 0.5) ** alpha
                total += ((p - region) ** 2 * distances).sum()
    expected = total / int((target != VOID).sum())
    assert float(HausdorffDT(alpha=alpha)(logits, target)) == pytest.approx(expected, rel=1e-5)


@each_kind
def test_hausdorff_is_that_of_monai(overlapping: bool) -> None:
    """Without void and with each class in each image; MONAI takes the mean over the classes too."""
    losses = pytest.importorskip("monai.losses")
    logits, target = random_batch(1, overlapping=overlapping, void=0)
    theirs = losses.HausdorffDTLoss(
        include_background=True, to_onehot_y=not overlapping, sigmoid=overlapping, softmax=not overlapping
    )
    mean = theirs(logits, target.double() if overlapping else target.unsqueeze(1))
    torch.testing.assert_close(HausdorffDT()(logits, target), mean * (1 if overlapping else 4), rtol=1e-5, atol=0)


# ---- what every term must keep


@each_term
@each_kind
def test_void_changes_neither_value_nor_gradient(term: Term, overlapping: bool) -> None:
    logits, target = random_batch(overlapping=overlapping)
    void = (target == VOID) if overlapping else (target == VOID).unsqueeze(1).expand_as(logits)
    values, gradients = [], []
    for other in (0.0, 5.0, -30.0):
        changed = (logits + other * torch.arange(logits.numel()).view_as(logits).cos() * void).requires_grad_()
        value = term(changed, target)
        value.backward()
        values.append(value.detach())
        assert changed.grad is not None
        assert not changed.grad[void].any()
        assert changed.grad.any()
        gradients.append(changed.grad)
    for value, gradient in zip(values[1:], gradients[1:], strict=True):
        torch.testing.assert_close(value, values[0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-15)


@each_term
@each_kind
def test_all_void_is_0_with_a_finite_gradient(term: Term, overlapping: bool) -> None:
    logits, target = random_batch(overlapping=overlapping)
    logits.requires_grad_()
    value = term(logits, torch.full_like(target, VOID))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@each_term
@each_kind
def test_the_gradient_is_the_derivative(term: Term, overlapping: bool) -> None:
    logits, target = random_batch(overlapping=overlapping)
    assert torch.autograd.gradcheck(lambda x: term(x, target), logits.requires_grad_())


@each_term
@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(term: Term, overlapping: bool, dtype: torch.dtype) -> None:
    logits, target = random_batch(overlapping=overlapping)
    half = logits.to(dtype).requires_grad_()
    value = term(half, target)
    value.backward()
    assert value.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.isfinite().all()
    torch.testing.assert_close(value, term(half.detach().float(), target))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(term(half.detach(), target), value)


@each_term
def test_the_order_of_the_classes_does_not_matter(term: Term) -> None:
    logits, target = random_batch()
    order = torch.tensor([2, 0, 3, 1])  # class order[i] becomes class i
    renamed = torch.where(target == VOID, VOID, order.argsort()[target.long().clamp(max=3)])
    torch.testing.assert_close(term(logits[:, order], renamed), term(logits, target))


@each_term
def test_it_leads_to_the_truth(term: Term) -> None:
    """With a little start, since both are meant to finish what another loss begins."""
    logits = logits_of(0.4 + 0.2 * BLOCK.double()).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        term(logits, BLOCK).backward()
        optimizer.step()
    assert torch.equal(logits.argmax(1).to(torch.uint8), BLOCK)


@pytest.mark.gpu
@each_term
def test_on_a_gpu_it_is_the_same_each_time(term: Term) -> None:
    logits, target = random_batch()
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            on_gpu = logits.cuda().requires_grad_()
            value = term(on_gpu, target.cuda())
            value.backward()
            assert on_gpu.grad is not None
            runs.append((value.detach(), on_gpu.grad))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    torch.testing.assert_close(runs[0][0].cpu(), term(logits, target))
