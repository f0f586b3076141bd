"""A run that was stopped anywhere, and gone on with, ends bit for bit as the one that never was."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyModel, Trained, make_data, make_task, train, train_in_sittings
from torch import Tensor

from seg_cli.data.datamodule import DataModule
from seg_cli.training.averaging import Ema, Swa
from seg_cli.training.checkpoints import read_checkpoint
from seg_cli.training.finetune import Gradual, Phases
from seg_cli.training.loop import Loop
from seg_cli.training.position import Position
from seg_cli.training.schedules import OneCycle, Plateau
from seg_cli.training.stages import Progressive
from seg_cli.training.task import SegmentationTask

STAGES = [{"size": 0.5, "epochs": 1}, {"size": 1.0, "epochs": 2, "lr_factor": 0.5}]


def dropping(*, norm: bool = True, **changes: Any) -> Callable[[], SegmentationTask]:
    """A task whose steps depend on torch's generator; schedules remember scores, so that each task has its own."""
    return lambda: make_task(lambda: TinyModel(dropout=0.3, norm=norm), **deepcopy(changes))


def data(**changes: Any) -> Callable[[], DataModule]:
    return lambda: make_data(**changes)


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


def slow(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Too slow for any score to rise."""
    return torch.optim.AdamW(groups, lr=1e-6)


def gradual() -> Gradual:
    return Gradual(start=0.3, end=0.6, layer_decay=0.5, warmup=0.8)


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"task": dropping()},
    "workers": {"task": dropping(), "data": data(workers=2)},
    "sgd": {"task": dropping(make_optimizer=sgd, schedule=OneCycle()), "gradient_clip": 0.5},
    "bf16": {"task": dropping(), "mode": "bf16"},
    "accumulate": {"task": dropping(), "data": data(train=20), "accumulate": 2},
    "limited": {"task": dropping(), "limit_batches": 2, "validate_every": 2},
    "ema": {"task": dropping(), "average": Ema(decay=0.5)},
    "swa": {"task": dropping(), "average": Swa(start=0.3, recalibrate=2)},
    "plateau": {
        "task": dropping(norm=False, make_optimizer=slow, schedule=Plateau(patience=1)),
        "epochs": 5,
        "early_stop": 2,
    },
    "progressive": {
        "task": dropping(),
        "data": data(train=16, size=(64, 64)),
        "resize": Progressive(stages=STAGES, warmup=0.5),
    },
    "freeze": {"task": dropping(finetune=Phases(phases=[{"epochs": 2, "frozen": ["encoder"]}]))},
    "gradual": {"task": dropping(finetune=gradual())},
    "all": {
        "task": dropping(finetune=gradual(), schedule=Plateau(patience=1, warmup=0.3)),
        "data": data(train=20, size=(64, 64)),
        "resize": Progressive(stages=STAGES, warmup=0.5),
        "average": Ema(decay=0.5),
        "accumulate": 2,
        "gradient_clip": 0.5,
    },
    "all with swa": {
        "task": dropping(finetune=gradual(), schedule=Plateau(patience=1)),
        "data": data(train=20, size=(64, 64), workers=1),
        "resize": Progressive(stages=STAGES, warmup=0.5),
        "average": Swa(start=0.1, recalibrate=2),
        "accumulate": 2,
    },
}


def settings_of(name: str) -> dict[str, Any]:
    return {"data": make_data, "epochs": 3} | RUNS[name]


class Stops:
    """Asks for an end at places of a run, at each of them once.

    Args:
        at: (what, number) -> whether to ask there. After step 1, 2, ..., in the scoring after epoch 0, 1, ..., and at
            the end of epoch 0, 1, ...
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: Callable[[str, int], bool]) -> None:
        self.at, self.asked = at, set[tuple[str, int]]()
        step, validate, end = Loop._step, Loop._validate, Loop._end

        def step_(loop: Loop, *arguments: Any) -> None:
            step(loop, *arguments)
            self.ask(loop, "step", loop.at.step)

        def validate_(loop: Loop, epoch: int) -> dict[str, float]:
            self.ask(loop, "scoring", epoch)
            return validate(loop, epoch)

        def end_(loop: Loop, epoch: int, scores: dict[str, float]) -> None:
            self.ask(loop, "end", epoch)
            end(loop, epoch, scores)

        monkeypatch.setattr(Loop, "_step", step_)
        monkeypatch.setattr(Loop, "_validate", validate_)
        monkeypatch.setattr(Loop, "_end", end_)

    def ask(self, loop: Loop, what: str, number: int) -> None:
        if self.at(what, number) and (what, number) not in self.asked:
            self.asked.add((what, number))
            loop.stop.received = "SIGTERM"


def undisturbed(folder: Path, name: str) -> Trained:
    settings = settings_of(name)
    return train(folder, **settings | {"task": settings["task"](), "data": settings["data"]()})


def everything(trained: Trained) -> dict[str, Any]:
    """What a run leaves behind, without how long it took."""
    last, best = read_checkpoint(trained.run.last_checkpoint), read_checkpoint(trained.run.best_checkpoint)
    del last["position"]["seconds"]
    for group in last["stepper"]["optimizer"]["param_groups"]:
        del group["lr"]  # which is set before every step
    return {"last": last, "best": best, "metrics": (trained.run.folder / "metrics.csv").read_text()}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{number}]")
    else:
        assert a == b, where


@pytest.mark.parametrize("name", RUNS)
def test_stopping_after_every_step_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = undisturbed(tmp_path / "whole", name)
    stops = Stops(monkeypatch, lambda what, number: what == "step")
    again, sittings = train_in_sittings(tmp_path / "again", **settings_of(name))
    steps = int(whole.run.metrics[-1]["step"] or 0)
    assert stops.asked == {("step", number + 1) for number in range(steps)}
    assert sittings == steps + 1
    assert_same(everything(again), everything(whole))
    assert (again.fitted.best_epoch, again.fitted.epochs) == (whole.fitted.best_epoch, whole.fitted.epochs)


@pytest.mark.parametrize("name", ["plain", "workers", "swa", "plateau", "all", "all with swa"])
def test_stopping_in_every_scoring_and_at_every_end_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = undisturbed(tmp_path / "whole", name)
    stops = Stops(monkeypatch, lambda what, number: what != "step")
    again, sittings = train_in_sittings(tmp_path / "again", **settings_of(name))
    assert stops.asked == {(what, epoch) for what in ("scoring", "end") for epoch in range(3)}
    assert sittings == 7
    assert_same(everything(again), everything(whole))


@pytest.mark.parametrize("step", range(1, 8))
def test_stopping_once_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole = undisturbed(tmp_path / "whole", "all")
    Stops(monkeypatch, lambda what, number: (what, number) == ("step", step))
    again, sittings = train_in_sittings(tmp_path / "again", **settings_of("all"))
    assert sittings == 2
    assert_same(everything(again), everything(whole))


@pytest.mark.parametrize("name", ["plain", "all with swa"])
def test_saving_at_every_step_changes_nothing(tmp_path: Path, name: str) -> None:
    whole, settings = undisturbed(tmp_path / "whole", name), settings_of(name)
    task, samples = settings.pop("task")(), settings.pop("data")()
    saving = train(tmp_path / "saving", **settings, task=task, data=samples, checkpoint_minutes=0)
    assert_same(everything(saving), everything(whole))


def test_a_run_that_is_done_stays_as_it_is(tmp_path: Path) -> None:
    whole = undisturbed(tmp_path, "all")
    before = everything(whole)
    (whole.run.folder / "metrics.csv").unlink()  # as if the kill had come between last.ckpt and it
    settings = settings_of("all")
    task, samples = settings.pop("task")(), settings.pop("data")()
    again = train(tmp_path, **settings, task=task, data=samples, checkpoint=read_checkpoint(whole.run.last_checkpoint))
    assert_same(everything(again), before)
    assert again.fitted.best_epoch == whole.fitted.best_epoch


@pytest.mark.parametrize(
    ("name", "part", "inner"),
    [
        ("plain", "stepper", None),
        ("ema", "average", None),
        ("plateau", "schedule", None),
        ("plain", "processes", "losses"),
        ("plain", "processes", "torch"),
        ("freeze", "position", "thawed"),
        ("plateau", "position", "waited"),
    ],
)
def test_each_part_of_a_checkpoint_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str, inner: str | None
) -> None:
    """And the tests above would tell that it is not restored."""
    whole = undisturbed(tmp_path / "whole", name)
    Stops(monkeypatch, lambda what, number: (what, number) == ("step", 8))
    restore = Loop.restore

    def forget(loop: Loop, content: dict[str, Any]) -> None:
        own = {"losses": loop.losses.state_dict(), "torch": torch.get_rng_state()}
        fresh: dict[str, Any] = {
            "stepper": loop.stepper.state_dict(),
            "average": loop.average.state_dict() if loop.average else None,
            "schedule": {"current": 1.0, "best": -1.0, "waited": 0},
            "processes": [content["processes"][0] | {inner: own.get(inner or "")}],
            "position": content["position"] | {inner: Position().state_dict().get(inner or "")},
        }
        restore(loop, content | {part: fresh[part]})

    monkeypatch.setattr(Loop, "restore", forget)
    again, _ = train_in_sittings(tmp_path / "again", **settings_of(name))
    with pytest.raises(AssertionError):
        assert_same(everything(again), everything(whole))
