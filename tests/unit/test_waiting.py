"""The share of the training time in which there was nothing to train on, told by a clock that the tests wind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_data, train

from seg_cli.data.datamodule import DataModule
from seg_cli.data.loading import Batch
from seg_cli.training import waiting
from seg_cli.training.loop import Loop
from seg_cli.training.step import Stepper
from seg_cli.training.waiting import DataWait


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "_now", lambda device: clock.now)
    return clock


def epoch(wait: DataWait, clock: Clock, *steps: tuple[float, float]) -> float | None:
    """Steps, each with the seconds that its batch and that it takes."""
    wait.begin_epoch()
    for data, step in steps:
        clock.now += data
        wait.begin_step()
        clock.now += step
        wait.end_step()
    return wait.end_epoch()


def test_the_share_is_that_of_the_gaps_between_steps(clock: Clock) -> None:
    wait = DataWait(torch.device("cpu"))
    assert wait.share is None
    assert epoch(wait, clock, (3, 1), (1, 1), (0, 2)) == 4 / 8
    assert wait.share == 4 / 8  # there is no other
    clock.now += 100  # a scoring
    assert epoch(wait, clock, (1, 3)) == 1 / 4
    assert epoch(wait, clock, (0, 6)) == 0
    assert wait.share == 1 / 10  # without the first, in which workers start


def test_an_epoch_without_a_step_says_nothing(clock: Clock) -> None:
    wait = DataWait(torch.device("cpu"))
    assert epoch(wait, clock) is None
    assert wait.share is None
    assert epoch(wait, clock, (1, 1)) == 0.5


def test_an_epoch_that_took_no_time_is_no_error(clock: Clock) -> None:
    assert epoch(DataWait(torch.device("cpu")), clock, (0, 0)) == 0


def test_a_run_tells_its_share(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 3 s and steps of 1 s in the first epoch, of 1 s and 4 s after it; scoring and saving do not count."""
    given, step, end = DataModule.training_batches, Stepper.step, Loop._end
    shares: list[float | None] = []

    def slow_data(data: DataModule, number: int, *arguments: Any) -> Iterator[Batch]:
        for batch in given(data, number, *arguments):
            clock.now += 3 if number == 0 else 1
            yield batch

    def slow_step(stepper: Stepper, *arguments: Any, **settings: Any) -> Any:
        clock.now += 1 if clock.now < 12 else 4
        return step(stepper, *arguments, **settings)

    def slow_end(loop: Loop, *arguments: Any) -> None:
        shares.append(loop.data_wait)
        clock.now += 1000
        end(loop, *arguments)

    monkeypatch.setattr(DataModule, "training_batches", slow_data)
    monkeypatch.setattr(Stepper, "step", slow_step)
    monkeypatch.setattr(Loop, "_end", slow_end)
    done = train(tmp_path, data=make_data(), epochs=3)
    assert shares == [0.75, 0.2, 0.2]
    assert done.fitted.data_wait == 0.2


def test_the_clock_of_a_cpu_is_that_of_the_wall() -> None:
    first = waiting._now(torch.device("cpu"))
    assert 0 <= waiting._seconds(first, waiting._now(torch.device("cpu"))) < 1
