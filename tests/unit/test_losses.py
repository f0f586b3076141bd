"""Losses: values computed by hand, void, precision, and sums."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.losses import CrossEntropy, Dice, Focal, Sum
from seg_cli.losses.evidence import Evidence, Term

TERMS: dict[str, Callable[[], Term]] = {
    "ce": CrossEntropy,
    "dice": Dice,
    "dice without smoothing": lambda: Dice(smooth=0),
    "focal": Focal,
    "focal 0.5": lambda: Focal(gamma=0.5),
}
each_term = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS.keys())

TRUTH = torch.tensor([[[0, 1, 0], [0, 1, 0], [0, 1, 0]]])
FOREGROUND = torch.tensor([[[0, 0.9, 0], [0, 1, 0.8], [0, 0.3, 0.6]]], dtype=torch.float64)


def logits_of(foreground: Tensor) -> Tensor:
    """(N, H, W) probabilities of class 1 of two -> logits (N, 2, H, W)."""
    return torch.stack((1 - foreground, foreground), 1).clamp(min=1e-30).log()


def random_batch(seed: int = 0, classes: int = 4, void: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, 6, 7, generator=generator)
    target = torch.randint(0, classes, (2, 6, 7), generator=generator)
    target[torch.rand(2, 6, 7, generator=generator) < void] = VOID
    return logits, target.to(torch.uint8)


# ---- values


def test_the_ingredients_of_dice_by_hand() -> None:
    evidence = Evidence(logits_of(FOREGROUND), TRUTH)
    np.testing.assert_allclose(evidence.intersections, [1 + 1 + 1 + 0.2 + 1 + 0.4, 0.9 + 1 + 0.3])
    np.testing.assert_allclose(evidence.prob_sums, [9 - 3.6, 0.9 + 1 + 0.8 + 0.3 + 0.6])
    np.testing.assert_array_equal(evidence.true_counts, [6, 3])


def test_dice_by_hand() -> None:
    """Background 2 * 4.6 / (5.4 + 6), foreground 2 * 2.2 / (3.6 + 3)."""
    assert float(Dice(smooth=0)(logits_of(FOREGROUND), TRUTH)) == pytest.approx(1 - (9.2 / 11.4 + 4.4 / 6.6) / 2)
    assert float(Dice(smooth=1)(logits_of(FOREGROUND), TRUTH)) == pytest.approx(1 - (10.2 / 12.4 + 5.4 / 7.6) / 2)


def test_dice_is_over_the_classes_that_occur() -> None:
    foreground_only = torch.where(TRUTH == 1, 1, VOID)
    assert float(Dice(smooth=0)(logits_of(FOREGROUND), foreground_only)) == pytest.approx(1 - 4.4 / (2.2 + 3))


def test_cross_entropy_and_focal_by_hand() -> None:
    """Five pixels are right for sure; the others give their truth 0.9, 0.2, 0.3 and 0.4."""
    logits, sure = logits_of(FOREGROUND), [0.9, 0.2, 0.3, 0.4]
    assert float(CrossEntropy()(logits, TRUTH)) == pytest.approx(-sum(map(math.log, sure)) / 9)
    for gamma in (0.5, 1, 2):
        expected = -sum((1 - p) ** gamma * math.log(p) for p in sure) / 9
        assert float(Focal(gamma=gamma)(logits, TRUTH)) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 1000), st.floats(0, 0.9))
@settings(max_examples=30, deadline=None)
def test_cross_entropy_is_that_of_pytorch(seed: int, void: float) -> None:
    logits, target = random_batch(seed, void=void)
    expected = F.cross_entropy(logits, target.long(), ignore_index=VOID)
    torch.testing.assert_close(CrossEntropy()(logits, target), expected)


def test_focal_with_gamma_0_is_cross_entropy_with_its_gradient() -> None:
    logits, target = random_batch()
    gradients = []
    for term in (Focal(gamma=0), CrossEntropy()):
        leaf = logits.clone().requires_grad_()
        value = term(leaf, target)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    for focal, cross_entropy in zip(*gradients, strict=True):
        torch.testing.assert_close(focal, cross_entropy, rtol=1e-6, atol=1e-6)


# ---- void


@each_term
@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_what_is_predicted_at_void_changes_neither_value_nor_gradient(make: Callable[[], Term], seed: int) -> None:
    logits, target = random_batch(seed)
    void = (target == VOID).unsqueeze(1)
    noise = 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed + 1))
    found = []
    for variant in (logits, logits + noise * void):
        leaf = variant.clone().requires_grad_()
        value = make()(leaf, target)
        value.backward()
        assert leaf.grad is not None
        assert not leaf.grad[void.expand_as(logits)].any()
        found.append((value, leaf.grad))
    torch.testing.assert_close(*found)


@each_term
def test_void_alone_gives_0_and_finite_gradients(make: Callable[[], Term]) -> None:
    logits = random_batch()[0].requires_grad_()
    value = make()(logits, torch.full((2, 6, 7), VOID))
    value.backward()
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


# ---- precision and gradients


@each_term
def test_gradients_are_those_of_the_values(make: Callable[[], Term]) -> None:
    logits, target = random_batch(classes=3)
    leaf = logits[:, :, :3, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: make()(x, target[:, :3, :3]), leaf)


@each_term
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(make: Callable[[], Term], dtype: torch.dtype) -> None:
    logits, target = random_batch()
    value = make()(logits.to(dtype), target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, make()(logits, target), rtol=0.02, atol=0.01)
    torch.testing.assert_close(value, make()(logits.to(dtype).float(), target))


@each_term
@pytest.mark.parametrize("confidence", [80.0, 1e4])
def test_certainty_right_or_wrong_is_finite(make: Callable[[], Term], confidence: float) -> None:
    target = torch.randint(0, 3, (1, 5, 5), generator=torch.Generator().manual_seed(0))
    for shift in (0, 1):
        logits = confidence * F.one_hot((target + shift) % 3, 3).permute(0, 3, 1, 2).float()
        logits.requires_grad_()
        value = make()(logits, target)
        value.backward()
        assert value.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert (float(value.detach()) < 0.01) == (shift == 0)


@each_term
@given(order=st.permutations(range(4)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_classes_does_not_matter(make: Callable[[], Term], order: list[int]) -> None:
    logits, target = random_batch()
    renumbered = torch.full((256,), VOID)
    renumbered[:4] = torch.tensor(order).argsort()
    torch.testing.assert_close(make()(logits[:, order], renumbered[target.long()]), make()(logits, target))


@each_term
def test_memory_order_does_not_matter(make: Callable[[], Term]) -> None:
    logits, target = random_batch()
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(make()(channels_last, target), make()(logits, target))


def test_sums_over_millions_of_pixels_stay_exact_enough() -> None:
    """Two million pixels of one class, each given the same small probability."""
    logits = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 1024, 2048)
    evidence = Evidence(logits, torch.zeros(1, 1024, 2048, dtype=torch.uint8))
    expected = 1024 * 2048 / (1 + math.exp(2))
    assert float(evidence.intersections[0]) == pytest.approx(expected, rel=1e-3)
    assert float(evidence.prob_sums[0]) == pytest.approx(expected, rel=1e-3)
    assert float(evidence.true_counts[0]) == 1024 * 2048


# ---- sums


def test_a_sum_is_weighted_and_tells_each_terms_own_value() -> None:
    logits, target = random_batch()
    terms = {"ce": CrossEntropy(), "dice": Dice(), "focal": Focal()}
    total, values = Sum(terms, {"ce": 1, "dice": 2, "focal": 0.5})(logits, target)
    for name, term in terms.items():
        torch.testing.assert_close(values[name], term(logits, target))
    torch.testing.assert_close(total, values["ce"] + 2 * values["dice"] + 0.5 * values["focal"])


def test_the_gradient_of_a_sum_is_the_sum_of_gradients() -> None:
    logits, target = random_batch()
    leaf = logits.clone().requires_grad_()
    Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1, "dice": 2})(leaf, target)[0].backward()
    expected = torch.zeros_like(logits)
    for weight, term in ((1, CrossEntropy()), (2, Dice())):
        alone = logits.clone().requires_grad_()
        (weight * term(alone, target)).backward()
        assert alone.grad is not None
        expected += alone.grad
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("weights", [{}, {"ce": 1}, {"ce": 1, "dice": 1, "focal": 1}])
def test_terms_and_weights_must_have_the_same_names(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"the terms are ce, dice and the weights are for .* loss\.weights\.<term>="):
        Sum({"ce": CrossEntropy(), "dice": Dice()}, weights)


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="the terms are none and the weights are for none"):
        Sum({}, {})


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
def test_wrong_weights_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match=r"loss\.weights\.ce=.*: a weight must be 0 or more"):
        Sum({"ce": CrossEntropy()}, {"ce": weight})


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_wrong_settings_are_refused(wrong: float) -> None:
    with pytest.raises(UserError, match=r"loss\.terms\.dice\.smooth="):
        Dice(smooth=wrong)
    with pytest.raises(UserError, match=r"loss\.terms\.focal\.gamma="):
        Focal(gamma=wrong)


@pytest.mark.parametrize(
    ("logits", "target"), [((2, 3, 4, 4), (2, 4, 5)), ((3, 4, 4), (3, 4)), ((2, 3, 4, 4), (2, 1, 4, 4))]
)
def test_wrong_shapes_are_refused(logits: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits are \(N, C, H, W\) and targets \(N, H, W\); got "):
        CrossEntropy()(torch.zeros(logits), torch.zeros(target, dtype=torch.long))
