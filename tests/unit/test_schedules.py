"""Learning-rate schedules: functions of the share of training done, against torch's own schedulers."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from tiny import make_data, make_task, train
from torch.optim import lr_scheduler

from seg_cli.commands.build import build, build_partial
from seg_cli.errors import UserError
from seg_cli.training.schedules import Constant, Cosine, OneCycle, Plateau, Poly, Schedule
from seg_cli.training.stages import Progressive

COMPARE = settings(max_examples=60, deadline=None)


def torchs(make: Callable[[torch.optim.Optimizer], Any], steps: int, lr: float = 1.0) -> list[float]:
    """The learning rate of each step under a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, found = make(optimizer), []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return found


def test_poly_warms_up_and_decays_to_0() -> None:
    schedule = Poly(power=0.9, warmup=0.1)
    assert schedule(0) == 0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == 1
    assert schedule(0.55) == pytest.approx(0.5**0.9)
    assert schedule(1) == 0


def test_poly_without_warm_up_starts_at_1() -> None:
    assert Poly()(0) == 1
    assert Poly(power=0)(0.7) == 1


@given(st.integers(2, 200), st.floats(0, 3))
@COMPARE
def test_poly_is_torchs(steps: int, power: float) -> None:
    expected = torchs(lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=power), steps)
    assert [Poly(power=power)(step / steps) for step in range(steps)] == pytest.approx(expected, abs=1e-9)


@given(st.integers(2, 200), st.floats(0, 1))
@COMPARE
def test_cosine_is_torchs(steps: int, end: float) -> None:
    expected = torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=end), steps + 1)
    schedule = Cosine(warmup=0, end=end)
    assert [schedule(step / steps) for step in range(steps + 1)] == pytest.approx(expected, abs=1e-9)


def test_cosine_by_hand() -> None:
    schedule = Cosine(warmup=0.2, end=0.1)
    assert [schedule(0), schedule(0.1), schedule(0.2)] == pytest.approx([0, 0.5, 1])
    assert schedule(0.6) == pytest.approx(0.55)  # half-way down
    assert schedule(1) == pytest.approx(0.1)


def test_constant_warms_up_and_stays() -> None:
    assert [Constant()(progress) for progress in (0, 0.5, 1)] == [1, 1, 1]
    assert [Constant(warmup=0.4)(progress) for progress in (0, 0.1, 0.4, 1)] == [0, 0.25, 1, 1]


def test_one_cycle_goes_up_and_down_along_cosines() -> None:
    schedule = OneCycle(warmup=0.2, start=0.04, end=1e-4)
    assert schedule(0) == pytest.approx(0.04)
    assert schedule(0.1) == pytest.approx((1 + 0.04) / 2)
    assert schedule(0.2) == 1
    assert schedule(0.6) == pytest.approx((1 + 1e-4) / 2)
    assert schedule(1) == pytest.approx(1e-4)


def test_one_cycle_is_torchs() -> None:
    """Theirs counts so that the last of n steps is at the end of the cycle, and its peak is at pct_start * n - 1."""
    steps, peak = 101, 30
    expected = torchs(
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=1.0,
            total_steps=steps,
            pct_start=(peak + 1) / steps,
            div_factor=25,
            final_div_factor=400,
            cycle_momentum=False,
        ),
        steps - 1,
    )
    schedule = OneCycle(warmup=peak / (steps - 1), start=0.04, end=1e-4)
    assert [schedule(step / (steps - 1)) for step in range(steps - 1)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "schedule",
    [
        Poly(),
        Poly(warmup=0.3),
        OneCycle(),
        OneCycle(warmup=0),
        Cosine(),
        Cosine(warmup=0, end=0.2),
        Constant(warmup=0.3),
    ],
)
def test_every_factor_is_from_0_to_1_and_the_peak_is_1(schedule: Schedule) -> None:
    factors = [schedule(i / 1000) for i in range(1001)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=1e-4)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


# ---- plateau


def test_plateau_falls_after_so_many_scorings_without_a_better_one() -> None:
    schedule = Plateau(factor=0.5, patience=2, least=0.2)
    found = []
    for score in (0.3, 0.4, 0.4, 0.39, 0.2, 0.5, 0.1, 0.1, 0.1, 0.1):
        schedule.observe(score)
        found.append(schedule(0.5))
    # a fall starts the waiting anew; below `least` there is no further one
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), max_size=60),
    st.integers(1, 6),
    st.sampled_from([0.1, 0.5, 0.9]),
)
@COMPARE
def test_plateau_is_torchs(scores: list[float], patience: int, factor: float) -> None:
    """Theirs falls at the first scoring beyond its patience, ours at the last one within."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=factor, patience=patience - 1, threshold=0, min_lr=1e-3, eps=0
    )
    ours = Plateau(factor=factor, patience=patience, least=1e-3)
    for score in scores:
        ours.observe(score)
        theirs.step(score)
        assert ours(0.3) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_warms_up() -> None:
    schedule = Plateau(patience=1, factor=0.5, warmup=0.5)
    assert [schedule(0), schedule(0.25), schedule(0.5)] == [0, 0.5, 1]
    schedule.observe(0.5)
    schedule.observe(0.5)
    assert schedule(0.25) == 0.25


@given(st.lists(st.floats(0, 1), max_size=20), st.lists(st.floats(0, 1), max_size=20))
@COMPARE
def test_plateau_goes_on_from_its_state(before: list[float], after: list[float]) -> None:
    whole, first, second = (Plateau(patience=2) for _ in range(3))
    for score in before:
        whole.observe(score)
        first.observe(score)
    second.load_state_dict(first.state_dict())
    for score in after:
        whole.observe(score)
        second.observe(score)
        assert second(1) == whole(1)
    assert second.state_dict() == whole.state_dict()


# ---- settings


@pytest.mark.parametrize("schedule", [Poly, OneCycle, Cosine, Constant, Plateau])
@pytest.mark.parametrize("warmup", [-0.1, 1, 5, math.nan])
def test_a_warm_up_that_is_no_share_of_training_is_refused(schedule: type, warmup: float) -> None:
    with pytest.raises(UserError, match=r"scheduler\.warmup=.*: it is a share of training, 0 or more and less than 1"):
        schedule(warmup=warmup)


@pytest.mark.parametrize("power", [-1, math.nan])
def test_a_power_that_raises_the_learning_rate_is_refused(power: float) -> None:
    with pytest.raises(UserError, match=r"scheduler\.power="):
        Poly(power=power)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [(Cosine, "end"), (OneCycle, "start"), (OneCycle, "end"), (Plateau, "factor"), (Plateau, "least")],
)
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_factor_that_is_none_is_refused(schedule: type, name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"scheduler\.{name}={value}: it is a factor on the learning rate, 0 to 1"):
        schedule(**{name: value})


@pytest.mark.parametrize("patience", [0, -1, math.nan])
def test_a_patience_of_nothing_is_refused(patience: int) -> None:
    with pytest.raises(UserError, match=r"scheduler\.patience=.*: it is a number of scorings, 1 or more"):
        Plateau(patience=patience)


@pytest.mark.parametrize("name", ["poly", "cosine", "onecycle", "plateau", "constant"])
def test_the_shipped_choices_start_and_end_between_0_and_1(
    name: str, compose_config: Callable[..., DictConfig]
) -> None:
    config: Any = OmegaConf.to_container(compose_config(f"scheduler={name}"), resolve=True)
    schedule = build(config, "scheduler")
    assert all(0 <= schedule(step / 100) <= 1 for step in range(101))
    assert max(schedule(step / 100) for step in range(101)) == 1


# ---- optimisers


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_a_shipped_optimiser_learns(name: str, compose_config: Callable[..., DictConfig]) -> None:
    config: Any = OmegaConf.to_container(compose_config(f"optimizer={name}"), resolve=True)
    weight, bias = torch.ones(3, 2, requires_grad=True), torch.ones(3, requires_grad=True)
    groups = [{"params": [weight], "lr_factor": 1.0, "part": "head"}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = build_partial(config, "optimizer")(groups)
    lr = config["optimizer"]["lr"]
    assert [group["lr"] for group in optimizer.param_groups] == [lr, lr]
    assert optimizer.param_groups[0]["part"] == "head"
    assert optimizer.param_groups[1]["weight_decay"] == 0
    for _ in range(3):
        optimizer.zero_grad()
        (weight.square().sum() + bias.square().sum()).backward()
        optimizer.step()
    assert (weight < 1).all()
    assert (bias < 1).all()
    fresh = build_partial(config, "optimizer")(groups)
    fresh.load_state_dict(optimizer.state_dict())


def test_lion_steps_by_the_sign_and_decays_apart(compose_config: Callable[..., DictConfig]) -> None:
    config: Any = OmegaConf.to_container(compose_config("optimizer=lion"), resolve=True)
    lr, decay = config["optimizer"]["lr"], config["optimizer"]["weight_decay"]
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    optimizer = build_partial(config, "optimizer")([{"params": [weight]}])
    weights, momentum = weight.detach().clone(), torch.zeros(3)
    for gradient in (torch.tensor([0.1, 5.0, -1.0]), torch.tensor([-0.9, -0.1, -1.0])):
        weight.grad = gradient
        optimizer.step()
        # Chen 2023, algorithm 2, with beta1 0.9 and beta2 0.99
        weights = weights - lr * ((0.9 * momentum + 0.1 * gradient).sign() + decay * weights)
        momentum = 0.99 * momentum + 0.01 * gradient
        torch.testing.assert_close(weight.detach(), weights)


# ---- the size of a step

STEPS: dict[str, Any] = {"accumulate": 2, "batch_size": 4, "epochs": 2, "limit_batches": 2}


@pytest.mark.parametrize(("lr_batch", "factor"), [(None, 1.0), (8, 1.0), (16, 0.5), (2, 4.0)])
def test_the_learning_rate_follows_the_samples_of_a_step(lr_batch: int | None, factor: float, tmp_path: Path) -> None:
    """Of which there are two batches of four."""
    learned = train(tmp_path / "a", lr_batch=lr_batch, **STEPS)
    task = make_task(make_optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.02 * factor, fused=True))
    by_hand = train(tmp_path / "b", task=task, **STEPS)
    assert learned.run.metrics == by_hand.run.metrics
    torch.testing.assert_close(learned.task.state_dict(), by_hand.task.state_dict(), rtol=0, atol=0)


def test_the_learning_rate_follows_the_samples_of_a_full_size_step(tmp_path: Path) -> None:
    """Stages of smaller images have more samples a batch, as many pixels, and the learning rate of the full size."""
    halves: list[dict[str, Any]] = [{"size": [32, 32], "epochs": 1}, {"size": 1, "epochs": 1}]
    settings: dict[str, Any] = {"batch_size": 2, "limit_batches": 1}
    rates = {}
    for lr_batch in (None, 4):
        task, data = make_task(schedule=Constant()), make_data(size=(64, 64))
        resize = Progressive(stages=halves, warmup=0)
        trained = train(tmp_path / str(lr_batch), task=task, data=data, resize=resize, lr_batch=lr_batch, **settings)
        rates[lr_batch] = [row["lr"] for row in trained.run.metrics]
    assert rates == {None: [0.02, 0.02], 4: [0.01, 0.01]}
