"""Averages of weights: against their closed forms, torch's and timm's own, and hand-made batch statistics."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from timm.utils import ModelEmaV2
from torch import Tensor, nn
from torch.optim import swa_utils

from seg_cli.commands.build import build
from seg_cli.errors import UserError
from seg_cli.training.averaging import AveragedModel, Ema, Swa


def make_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(dropout), nn.Conv2d(4, 2, 1))


def walk(model: nn.Module, steps: int) -> Iterator[int]:
    """The model after each of so many steps of training."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        model.train()
        optimizer.zero_grad()
        model(torch.randn(4, 3, 5, 5)).square().mean().backward()
        optimizer.step()
        yield step


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


# ---- exponential


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_ema_equals_its_closed_form(decay: float) -> None:
    model = make_model()
    averaged = AveragedModel(model, Ema(decay=decay))
    states = []
    for step in walk(model, 30):
        averaged.update(model, 0.0, epoch_ends=False)
        states.append(snapshot(model))
        decays = [min(decay, (1 + n) / (10 + n)) for n in range(1, step + 1)]
        # the state k is in it with the share that entered, times all later decays; the first one enters whole
        shares = [
            (1 - decays[k - 1] if k else 1.0) * torch.tensor(decays[k:], dtype=torch.float64).prod().item()
            for k in range(step + 1)
        ]
        assert sum(shares) == pytest.approx(1)
    assert averaged.averaged == 30
    found = averaged.model.state_dict()
    for key, value in found.items():
        if value.is_floating_point():
            closed = sum(share * state[key].double() for share, state in zip(shares, states, strict=True))
            torch.testing.assert_close(value.double(), closed, rtol=1e-5, atol=1e-6)
        else:
            assert value == states[-1][key] == 30


def test_ema_agrees_with_timms_once_its_decay_is_reached() -> None:
    model = make_model()
    averaged = AveragedModel(model, Ema(decay=0.15))  # which 2 / 11 is above already
    theirs = None
    for _ in walk(model, 12):
        averaged.update(model, 0.0, epoch_ends=False)
        if theirs is None:
            theirs = ModelEmaV2(model, decay=0.15)
        else:
            theirs.update(model)
    assert theirs is not None
    floats = {key: value for key, value in theirs.module.state_dict().items() if value.is_floating_point()}
    ours = averaged.model.state_dict()
    torch.testing.assert_close({key: ours[key] for key in floats}, floats)


def test_ema_agrees_with_torchs() -> None:
    model = make_model()
    averaged = AveragedModel(model, Ema(decay=0.15))
    average = swa_utils.get_ema_multi_avg_fn(0.15)
    theirs = swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    for _ in walk(model, 12):
        averaged.update(model, 0.0, epoch_ends=False)
        theirs.update_parameters(model)
    floats = {key: value for key, value in theirs.module.state_dict().items() if value.is_floating_point()}
    ours = averaged.model.state_dict()
    torch.testing.assert_close({key: ours[key] for key in floats}, floats)


def test_an_average_scores_and_learns_nothing() -> None:
    model = make_model()
    averaged = AveragedModel(model, Ema())
    assert averaged.averaged == 0
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())
    before = snapshot(averaged.model)
    for _ in walk(model, 2):
        pass
    torch.testing.assert_close(averaged.model.state_dict(), before, rtol=0, atol=0)  # it is a copy
    averaged.update(model, 0.0, epoch_ends=False)
    torch.testing.assert_close(averaged.model.state_dict(), model.state_dict(), rtol=0, atol=0)


# ---- stochastic


def test_swa_equals_the_mean_of_the_ends_of_the_last_epochs() -> None:
    model = make_model()
    averaged = AveragedModel(model, Swa(start=0.5, recalibrate=1))
    theirs = swa_utils.AveragedModel(model, use_buffers=True)
    states = []
    for step in walk(model, 24):  # epochs of 3 steps; those that end at 15/24, 18/24, 21/24 and 1 count
        ends = step % 3 == 2
        averaged.update(model, (step + 1) / 24, epoch_ends=ends)
        if ends and step + 1 > 12:
            states.append(snapshot(model))
            theirs.update_parameters(model)
    assert averaged.averaged == len(states) == 4
    for key, value in averaged.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack([state[key] for state in states]).mean(0))
            torch.testing.assert_close(value, theirs.module.state_dict()[key])


@given(st.floats(0, 0.99), st.integers(1, 30))
@settings(deadline=None)
def test_swa_always_averages_something_in_the_end(start: float, epochs: int) -> None:
    average = Swa(start=start)
    taken, shares = 0, []
    for epoch in range(1, epochs + 1):
        share = average.share(taken, epoch / epochs, epoch_ends=True)
        if share is not None:
            taken += 1
            shares.append(share)
        assert average.share(taken, epoch / epochs, epoch_ends=False) is None
    assert shares == pytest.approx([1 / (n + 1) for n in range(len(shares))])
    assert len(shares) == sum(epoch / epochs > start for epoch in range(1, epochs + 1)) >= 1


# ---- batch statistics


def test_recalibrated_norms_have_the_mean_statistics_of_the_batches() -> None:
    averaged = AveragedModel(make_model(), Swa(recalibrate=3))
    torch.manual_seed(2)
    batches = [torch.randn(n, 3, 4, 5) * 3 + 1 for n in (4, 4, 2)]
    weights = snapshot(averaged.model)
    averaged.recalibrate(batches)
    convolution, norm, *_ = averaged.model.children()
    with torch.no_grad():
        maps = [convolution(batch).transpose(0, 1).flatten(1) for batch in batches]  # (4, pixels) each
    torch.testing.assert_close(norm.running_mean, torch.stack([m.mean(1) for m in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([m.var(1) for m in maps]).mean(0))
    assert norm.num_batches_tracked == 3
    assert norm.momentum == 0.1
    for key, value in averaged.model.state_dict().items():
        if "running" not in key and "tracked" not in key:
            assert torch.equal(value, weights[key])


def test_recalibration_agrees_with_torchs() -> None:
    averaged, theirs = AveragedModel(make_model(), Swa()), make_model()
    batches = [torch.randn(4, 3, 4, 5) for _ in range(3)]
    averaged.recalibrate(batches)
    swa_utils.update_bn(batches, theirs)
    assert_same(averaged.model, theirs)


def test_recalibration_draws_nothing_of_the_trainings_random_numbers() -> None:
    averaged = AveragedModel(make_model(dropout=0.5), Swa())
    torch.manual_seed(5)
    averaged.recalibrate([torch.randn(2, 3, 4, 4, generator=torch.Generator())])
    found = torch.rand(())
    torch.manual_seed(5)
    assert found == torch.rand(())


def test_a_model_without_batch_norms_sees_no_batch_again() -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError("a batch was asked for")
        yield torch.empty(0)

    AveragedModel(nn.Linear(1, 1), Swa()).recalibrate(never())


# ---- going on


@pytest.mark.parametrize("average", [Ema(decay=0.9), Swa(start=0.2)])
def test_going_on_from_a_state_is_as_if_nothing_had_happened(average: Any) -> None:
    model = make_model()
    whole, first = AveragedModel(model, average), AveragedModel(model, average)
    second: AveragedModel | None = None
    for step in walk(model, 10):
        if step == 6:
            second = AveragedModel(make_model(), average)
            for parameter in second.model.parameters():
                parameter.data.fill_(7)
            second.load_state_dict(first.state_dict())
        for each in (whole, first if second is None else second):
            each.update(model, (step + 1) / 10, epoch_ends=step % 2 == 1)
    assert second is not None
    assert second.averaged == whole.averaged
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


# ---- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ema(decay=1), r"average\.decay=1: it must be 0 or more and below 1"),
        (lambda: Ema(decay=-0.1), r"average\.decay=-0\.1"),
        (lambda: Ema(decay=float("nan")), r"average\.decay=nan"),
        (lambda: Swa(start=1), r"average\.start=1: it is a share of the run, 0 or more and less than 1"),
        (lambda: Swa(start=-1), r"average\.start=-1"),
        (lambda: Swa(start=float("nan")), r"average\.start=nan"),
        (lambda: Swa(recalibrate=0), r"average\.recalibrate=0: it is a number of batches, 1 or more"),
        (lambda: Swa(recalibrate=1.5), r"average\.recalibrate=1\.5"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(("name", "kind"), [("none", type(None)), ("ema", Ema), ("swa", Swa)])
def test_the_shipped_choices(name: str, kind: type, compose_config: Callable[..., DictConfig]) -> None:
    config: Any = OmegaConf.to_container(compose_config(f"average={name}"), resolve=True)
    assert isinstance(build(config, "average"), kind)
