"""Checkpoints: best and last, whole or not there, and read without executing anything."""

import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import TinyModel, make_data, make_run, make_task, make_trainer
from torch import nn

from seg_cli.errors import RunFailed, UserError
from seg_cli.metrics.confusion import score
from seg_cli.runs import atomic
from seg_cli.runs.run import Run
from seg_cli.training import task as task_module
from seg_cli.training.checkpoints import AtomicCheckpointIO, Checkpoints, load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:Detected pickle protocol")


class Biases(pl.Callback):
    """Of the last layer, after each epoch."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_validation_end(self, trainer: pl.Trainer, task: Any) -> None:
        self.found.append(task.model.head.bias.detach().clone())


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function: the mIoU that the next validations find, in place of their own."""

    def set_scores(*miou: float) -> None:
        coming = iter(miou)
        monkeypatch.setattr(task_module, "score", lambda matrix: replace(score(matrix), miou=next(coming)))

    return set_scores


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


def test_best_is_that_of_the_highest_score_and_last_that_of_the_last_epoch(
    run: Run, script: Callable[..., None]
) -> None:
    script(0.1, 0.6, 0.6, 0.2)
    biases, checkpoints = Biases(), Checkpoints(run)
    make_trainer(run.folder, biases, checkpoints, max_epochs=4).fit(make_task(), datamodule=make_data())
    assert (checkpoints.best_epoch, checkpoints.best_miou) == (1, pytest.approx(0.6))
    for path, epoch in ((run.best_checkpoint, 1), (run.last_checkpoint, 3)):
        model = TinyModel()
        load_model(model, path)
        torch.testing.assert_close(model.head.bias.detach(), biases.found[epoch])
    assert sorted(path.name for path in run.best_checkpoint.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_best_holds_weights_alone_and_last_what_is_needed_to_go_on(run: Run) -> None:
    make_trainer(run.folder, Checkpoints(run)).fit(make_task(), datamodule=make_data())
    best = torch.load(run.best_checkpoint, weights_only=True)
    last = torch.load(run.last_checkpoint, weights_only=True)
    assert "optimizer_states" not in best
    assert {"optimizer_states", "lr_schedulers", "loops", "callbacks"} <= set(last)
    assert set(best["state_dict"]) == {f"model.{key}" for key in TinyModel().state_dict()}


def test_what_was_best_is_remembered_over_an_interruption(run: Run, script: Callable[..., None]) -> None:
    script(0.9, 0.3)
    make_trainer(run.folder, Checkpoints(run), max_epochs=1).fit(make_task(), datamodule=make_data())
    best = run.best_checkpoint.read_bytes()
    again = Checkpoints(run)
    trainer = make_trainer(run.folder, again, max_epochs=2)
    trainer.fit(make_task(), datamodule=make_data(), ckpt_path=run.last_checkpoint)
    assert (again.best_epoch, again.best_miou) == (0, pytest.approx(0.9))
    assert run.best_checkpoint.read_bytes() == best


def test_without_any_score_the_first_epoch_is_as_good_as_any(run: Run, script: Callable[..., None]) -> None:
    script(math.nan, math.nan)
    checkpoints = Checkpoints(run)
    make_trainer(run.folder, checkpoints).fit(make_task(), datamodule=make_data())
    assert checkpoints.best_epoch == 0
    assert run.best_checkpoint.is_file()


def test_an_interrupted_first_epoch_leaves_a_checkpoint(run: Run) -> None:
    class Interrupt(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_trainer(run.folder, Interrupt(), Checkpoints(run)).fit(make_task(), datamodule=make_data())
    load_model(TinyModel(), run.last_checkpoint)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to write to")
def test_a_full_disk_leaves_the_checkpoint_that_was_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.last_checkpoint
    state = {"state_dict": {"weight": torch.zeros(100_000)}}
    AtomicCheckpointIO().save_checkpoint(state, path)
    before = path.read_bytes()
    open_file = os.fdopen
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(atomic.os, "fdopen", lambda handle, mode: os.close(handle) or open_file(full, mode))
    with pytest.raises(RunFailed, match=r"last\.ckpt: no space is left on the disk"):
        AtomicCheckpointIO().save_checkpoint(state, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# ---- loading


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best.ckpt"
    weights = {f"model.{key}": value for key, value in TinyModel().state_dict().items()}
    torch.save({"state_dict": weights | {"loss.something": torch.zeros(1)}}, path)
    return path


def test_a_checkpoint_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.ckpt: this run has no such checkpoint"):
        load_model(TinyModel(), tmp_path / "gone.ckpt")


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_a_damaged_checkpoint_is_said(checkpoint: Path, kept: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=r"best\.ckpt: the checkpoint cannot be read \("):
        load_model(TinyModel(), checkpoint)


@pytest.mark.parametrize("content", [{}, {"state_dict": 3}, [1]])
def test_what_is_no_checkpoint_is_said(checkpoint: Path, content: object) -> None:
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=r"best\.ckpt: the checkpoint "):
        load_model(TinyModel(), checkpoint)


@pytest.mark.parametrize("other", [lambda: TinyModel(classes=3), lambda: nn.Linear(2, 2)])
def test_a_checkpoint_of_another_model_is_said(checkpoint: Path, other: Callable[[], nn.Module]) -> None:
    with pytest.raises(UserError, match=r"the checkpoint is of another model than config\.yaml says"):
        load_model(other(), checkpoint)


class Malicious:
    """What unpickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_that_executes_code_is_not_executed(
    checkpoint: Path, tmp_path: Path, save: Callable[[Any, Path], object]
) -> None:
    save({"state_dict": {}, "extra": Malicious(tmp_path / "executed")}, checkpoint)
    with pytest.raises(UserError, match="the checkpoint cannot be read"):
        load_model(TinyModel(), checkpoint)
    assert not (tmp_path / "executed").exists()
