"""Sums of losses, and what is said of wrong settings and wrong input."""

import math

import pytest
import torch
from loss_cases import KINDS, TERMS, random_batch, value_and_gradient
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.losses import batch, peak_memory
from seg_cli.errors import UserError
from seg_cli.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    GeneralizedDice,
    HardPixels,
    Jaccard,
    Lovasz,
    Ramp,
    Sum,
    Tversky,
)
from seg_cli.losses.evidence import Term

# ---- sums


def test_a_sum_is_weighted_and_tells_each_terms_own_value() -> None:
    batch = random_batch("exclusive")
    terms: dict[str, Term] = {"ce": CrossEntropy(), "dice": Dice(), "focal": Focal()}
    total, values = Sum(terms, {"ce": 1, "dice": 2, "focal": 0.5})(*batch)
    for name, term in terms.items():
        torch.testing.assert_close(values[name], term(*batch))
    torch.testing.assert_close(total, values["ce"] + 2 * values["dice"] + 0.5 * values["focal"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(kind: str) -> None:
    batch = random_batch(kind)
    names = ("ce smoothed", "dice squared", "lovasz", "focal", "focal sigmoid", "tversky", "boundary")
    weights = {name: 1 + index / 4 for index, name in enumerate(names)}
    loss = Sum({name: TERMS[name]() for name in names}, weights)
    _, gradient = value_and_gradient(lambda *batch: loss(*batch)[0], *batch)
    alone = [weight * value_and_gradient(TERMS[name](), *batch)[1] for name, weight in weights.items()]
    torch.testing.assert_close(gradient, torch.stack(alone).sum(0))


class Counted(TorchDispatchMode):
    """How often each operation was run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func._overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_one_softmax_for_a_whole_sum(kind: str) -> None:
    names = [name for name in TERMS if not name.startswith("bce") and name != "focal sigmoid"]
    loss = Sum({name: TERMS[name]() for name in names}, dict.fromkeys(names, 1.0))
    with Counted() as counted:
        value_and_gradient(lambda *batch: loss(*batch)[0], *random_batch(kind))
    activations = ("_log_softmax", "_softmax", "logsumexp", "sigmoid")
    assert sum(counted.calls.get(name, 0) for name in activations) == 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_sum_takes_little_more_memory_than_its_gradient_and_probabilities(channels_last: bool) -> None:
    loss = Sum({"dice": Dice(), "focal": Focal()}, {"dice": 1.0, "focal": 1.0})
    logits, target = batch((2, 19, 64, 64), "cpu", channels_last)
    assert 2 <= peak_memory(lambda *batch: loss(*batch)[0], logits.requires_grad_(), target) <= 2.5


def test_weights_follow_their_schedules() -> None:
    batch = random_batch("exclusive")
    terms: dict[str, Term] = {"dice": Dice(), "ce": CrossEntropy()}
    loss = Sum(terms, {"dice": 1.0, "ce": Ramp(start=0.1, end=0.9, epochs=4)})
    for epoch, weight in enumerate((0.1, 0.3, 0.5, 0.7, 0.9, 0.9)):
        loss.epoch = epoch
        assert loss.current_weights() == {"dice": 1.0, "ce": pytest.approx(weight)}
        torch.testing.assert_close(loss(*batch)[0], Dice()(*batch) + weight * CrossEntropy()(*batch))


def test_a_ramp_may_go_down_and_ends_exactly() -> None:
    ramp = Ramp(start=1, end=0, epochs=3)
    assert [ramp(epoch) for epoch in (0, 3, 100)] == [1, 0, 0]
    assert ramp(1) == pytest.approx(2 / 3)


# ---- wrong settings


@pytest.mark.parametrize("weights", [{}, {"ce": 1}, {"ce": 1, "dice": 1, "focal": 1}])
def test_terms_and_weights_must_have_the_same_names(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"the terms are ce, dice and the weights are for .* loss\.weights\.<term>="):
        Sum({"ce": CrossEntropy(), "dice": Dice()}, weights)


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="the terms are none and the weights are for none"):
        Sum({}, {})


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "much"])
def test_wrong_weights_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match=r"loss\.weights\.ce=.*: a weight must be 0 or more, or a schedule"):
        Sum({"ce": CrossEntropy()}, {"ce": weight})


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "1", True, None])
def test_numbers_out_of_range_are_refused(wrong: float) -> None:
    for term, names in (
        (Dice, ["smooth"]),
        (Jaccard, ["smooth"]),
        (Focal, ["gamma"]),
        (CrossEntropy, ["label_smoothing"]),
    ):
        for name in names:
            with pytest.raises(ValueError, match=rf"^{name}={wrong}: it must be a number 0 or more"):
                term(**{name: wrong})
    for name in ("alpha", "beta", "smooth", "gamma"):
        with pytest.raises(ValueError, match=rf"^{name}={wrong}: it must be a number "):
            Tversky(**{name: wrong})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CrossEntropy(label_smoothing=1.5), r"^label_smoothing=1.5: .* at most 1"),
        (lambda: CrossEntropy(weights="balancd"), r"^weights=balancd: .*Did you mean 'balanced'"),
        (lambda: BinaryCrossEntropy(beta=1.2), r"^beta=1.2: .* at most 1"),
        (lambda: BinaryCrossEntropy(beta="balance"), r"^beta=balance: "),
        (lambda: Focal(alpha=0.25), r"^alpha=0.25: .* form=sigmoid"),
        (lambda: Focal(alpha=2, form="sigmoid"), r"^alpha=2: .* at most 1"),
        (lambda: Focal(form="sigmoit"), r"^form=sigmoit: .*Did you mean 'sigmoid'"),
        (lambda: HardPixels(keep=0), r"^keep=0: .* above 0 and at most 1"),
        (lambda: HardPixels(threshold=2), r"^threshold=2: .* at most 1"),
        (lambda: Tversky(gamma=0), r"^gamma=0: .* above 0"),
        (lambda: Dice(over="images"), r"^over=images: allowed are batch, image\. Did you mean 'image'"),
        (lambda: Jaccard(classes="some"), r"^classes=some: allowed are present, all"),
        (lambda: GeneralizedDice(over="all"), r"^over=all: allowed are batch, image"),
        (lambda: Lovasz(over="all"), r"^over=all: allowed are batch, image"),
        (lambda: Ramp(start=-1, end=1, epochs=2), r"^start=-1: it must be a number of 0 or more"),
        (lambda: Ramp(start=0, end=math.nan, epochs=2), r"^end=nan: it must be a number of 0 or more"),
        (lambda: Ramp(start=0, end=1, epochs=0), r"^epochs=0: it must be 1 or more"),
    ],
)
def test_wrong_settings_are_named(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


# ---- wrong input


@pytest.mark.parametrize(
    ("logits", "target"),
    [((2, 3, 4, 4), (2, 4, 5)), ((3, 4, 4), (3, 4)), ((2, 3, 4, 4), (2, 1, 4, 4)), ((2, 3, 4, 4), (1, 4, 4))],
)
def test_wrong_shapes_are_refused(logits: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a loss takes logits \(N, C, H, W\) with targets \(N, H, W\), or .*; got "):
        CrossEntropy()(torch.zeros(logits), torch.zeros(target, dtype=torch.long))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch.tensor([[[0, 3]]]), "the classes 0 to 2 and 255 for void; this one has 0, 3"),
        (torch.tensor([[[-1, 0]]]), "the classes 0 to 2 and 255 for void; this one has -1, 0"),
        (torch.tensor([[[0, 256]]]), "the classes 0 to 2 .* 256"),
        (torch.tensor([[[0, 254]]]), "the classes 0 to 2 .* 254"),
        (torch.tensor([[[0, 2]]] * 3).view(1, 3, 1, 2), "0 and 1 and 255 for void; this one has 0, 2"),
        (torch.tensor([[[0.0, 1.0]]]), "a target holds integers, .*float32"),
    ],
)
def test_a_target_of_something_else_is_refused(target: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CrossEntropy()(torch.zeros(1, 3, 1, 2), target)
