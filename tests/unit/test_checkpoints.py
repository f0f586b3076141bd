"""Checkpoints: best, last and the one before, whole or not there, and read without executing anything."""

import errno
import io
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from tiny import TinyModel, make_data, make_run, make_task, train
from torch import nn

from seg_cli.errors import RunFailed, UserError
from seg_cli.runs import atomic
from seg_cli.runs.run import Run
from seg_cli.training import checkpoints, loop
from seg_cli.training.averaging import Ema, Swa
from seg_cli.training.checkpoints import (
    FORMAT,
    keep_last,
    load_model,
    read_checkpoint,
    read_latest,
    write_checkpoint,
)
from seg_cli.training.loop import Loop

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

CONTENT = {"state_dict": {"weight": torch.arange(2000.0)}, "epoch": 3, "who": "me"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function: the mIoU that the next scorings find, in place of their own."""
    score = loop.score

    def set_scores(*miou: float) -> None:
        coming = iter(miou)
        monkeypatch.setattr(loop, "score", lambda matrix: replace(score(matrix), miou=next(coming)))

    return set_scores


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path)


@pytest.fixture
def biases(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Of the last layer, after each epoch."""
    found: list[torch.Tensor] = []
    end = Loop._end

    def ended(loop: Loop, *arguments: Any) -> None:
        found.append(loop.task.model.head.bias.detach().clone())  # type: ignore[union-attr,operator]
        end(loop, *arguments)

    monkeypatch.setattr(Loop, "_end", ended)
    return found


# ---- what is kept


def test_best_is_that_of_the_highest_score_last_that_of_the_last_epoch(
    tmp_path: Path, script: Callable[..., None], biases: list[torch.Tensor]
) -> None:
    script(0.1, 0.6, 0.6, 0.2)
    done = train(tmp_path, epochs=4)
    assert (done.fitted.best_epoch, done.fitted.epochs) == (2, 4)
    run = done.run
    for path, epoch in ((run.best_checkpoint, 1), (run.last_checkpoint, 3), (run.previous_checkpoint, 2)):
        model = TinyModel()
        load_model(model, path)
        assert torch.equal(model.head.bias.detach(), biases[epoch])
    names = sorted(path.name for path in run.best_checkpoint.parent.iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert read_checkpoint(run.best_checkpoint)["epoch"] == 1


def test_best_holds_weights_and_last_what_is_needed_to_go_on(tmp_path: Path) -> None:
    run = train(tmp_path, identity={"classes": ["a"], "loggers": {"wandb": "x1"}}).run
    best, last = read_checkpoint(run.best_checkpoint), read_checkpoint(run.last_checkpoint)
    weights = {f"model.{key}" for key in TinyModel().state_dict()}
    assert set(best["state_dict"]) == set(last["state_dict"]) == weights
    assert set(best) == {"format", "state_dict", "epoch", "classes", "loggers"}
    assert {"stepper", "average", "schedule", "position", "processes"} <= set(last)
    for content in (best, last):
        assert (content["format"], content["classes"], content["loggers"]) == (FORMAT, ["a"], {"wandb": "x1"})


@pytest.mark.parametrize("average", [Ema(decay=0.5), Swa(start=0.0, recalibrate=1)])
def test_best_holds_the_averaged_weights(tmp_path: Path, script: Callable[..., None], average: Any) -> None:
    script(0.1, 0.2, 0.3)
    run = train(tmp_path, epochs=3, average=average).run
    best, last = read_checkpoint(run.best_checkpoint)["state_dict"], read_checkpoint(run.last_checkpoint)
    averaged = last["average"]["model"]
    assert all(torch.equal(best[f"model.{key}"], averaged[key]) for key in averaged)
    assert not torch.equal(best["model.head.weight"], last["state_dict"]["model.head.weight"])


def test_what_was_best_is_remembered_over_an_interruption(tmp_path: Path, script: Callable[..., None]) -> None:
    script(0.9, 0.3)
    data = make_data()
    first = train(tmp_path, data=data, epochs=1).run
    best = first.best_checkpoint.read_bytes()
    again = train(tmp_path, data=data, epochs=2, checkpoint=read_checkpoint(first.last_checkpoint))
    assert (again.fitted.best_epoch, again.fitted.epochs) == (1, 2)
    assert first.best_checkpoint.read_bytes() == best


def test_without_any_score_the_first_epoch_is_as_good_as_any(tmp_path: Path, script: Callable[..., None]) -> None:
    script(math.nan, math.nan)
    done = train(tmp_path)
    assert done.fitted.best_epoch == 1
    assert done.run.best_checkpoint.is_file()


def test_the_seconds_of_all_sittings_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000, 10))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(ticks)))
    first = train(tmp_path, epochs=1)
    content = read_checkpoint(first.run.last_checkpoint)
    again = train(tmp_path, epochs=2, checkpoint=content)
    assert first.fitted.seconds >= 10
    assert again.fitted.seconds >= first.fitted.seconds + 10
    assert content["position"]["seconds"] == first.fitted.seconds


# ---- writing


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, CONTENT)
    found = read_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], torch.arange(2000.0))
    assert {key: found[key] for key in ("epoch", "who", "format")} == {"epoch": 3, "who": "me", "format": FORMAT}
    assert torch.load(path, weights_only=True)["who"] == "me"  # torch alone reads it too


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk has room for half of a file."""

    def write_half(path: Path, data: memoryview) -> None:
        def write(file: BinaryIO) -> None:
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        atomic.write_file(path, write)

    monkeypatch.setattr(checkpoints, "write_bytes", write_half)


def test_a_full_disk_leaves_the_checkpoints_that_were_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_last(run, {"epoch": 1})
    keep_last(run, {"epoch": 2})
    before = {path: path.read_bytes() for path in run.last_checkpoint.parent.iterdir()}
    full(monkeypatch)
    with pytest.raises(RunFailed, match=r"last\.ckpt.*: no space is left on the disk"):
        keep_last(run, {"epoch": 3})
    assert {path: path.read_bytes() for path in run.last_checkpoint.parent.iterdir()} == before
    assert read_latest(run)[0] == {"format": FORMAT, "epoch": 2}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to write to")
def test_a_disk_that_is_really_full_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_last(run, CONTENT)
    open_file = os.fdopen
    device = os.open("/dev/full", os.O_WRONLY)

    def open_full(handle: int, mode: str) -> Any:
        os.close(handle)
        return open_file(device, mode)

    monkeypatch.setattr(atomic.os, "fdopen", open_full)
    with pytest.raises(RunFailed, match="no space is left on the disk"):
        keep_last(run, CONTENT)
    assert [path.name for path in run.last_checkpoint.parent.iterdir()] == ["last.ckpt"]


def test_a_run_whose_disk_fills_up_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", epochs=3)
    save = Loop._save

    def save_until_full(loop: Loop) -> None:
        if loop.at.epoch == 2:
            full(monkeypatch)
        save(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save", save_until_full)
        with pytest.raises(RunFailed, match="no space"):
            train(tmp_path / "again", epochs=3)
    monkeypatch.undo()
    content, complaints = read_latest(Run(tmp_path / "again" / "run"))
    assert not complaints
    assert content is not None
    assert content["position"]["epoch"] == 1
    again = train(tmp_path / "again", epochs=3, checkpoint=content)
    assert again.run.metrics == whole.run.metrics


def test_a_disk_that_gives_back_something_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wrongly(path: Path, data: memoryview) -> None:
        wrong = bytearray(data)
        wrong[len(wrong) // 2] ^= 1
        path.write_bytes(wrong)

    monkeypatch.setattr(checkpoints, "write_bytes", write_wrongly)
    with pytest.raises(RunFailed, match=r"a\.ckpt: the disk does not give back what was written to it"):
        write_checkpoint(tmp_path / "a.ckpt", CONTENT)


# ---- what is broken


def flip(data: bytes, place: float) -> bytes:
    wrong = bytearray(data)
    wrong[min(len(wrong) - 1, int(place * len(wrong)))] ^= 0xFF
    return bytes(wrong)


HARM: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a third": lambda data: data[: len(data) // 3],
    "without its hash": lambda data: data[:-20],
    "without its last byte": lambda data: data[:-1],
    "first byte": lambda data: flip(data, 0),
    "a weight": lambda data: flip(data, 0.5),
    "directory": lambda data: data[:-300] + flip(data[-300:], 0.2),
    "hash": lambda data: flip(data, 1),
    "zeros": lambda data: bytes(len(data)),
    "longer": lambda data: data + b"more",
}


@pytest.mark.parametrize("harm", HARM)
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(run: Run, harm: str) -> None:
    keep_last(run, CONTENT | {"epoch": 1})
    keep_last(run, CONTENT | {"epoch": 2})
    run.last_checkpoint.write_bytes(HARM[harm](run.last_checkpoint.read_bytes()))
    content, complaints = read_latest(run)
    assert content is not None
    assert content["epoch"] == 1
    (complaint,) = complaints
    assert complaint.startswith(f"{run.last_checkpoint}: the checkpoint ")

    run.previous_checkpoint.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"last\.ckpt: .*previous\.ckpt: .*There is no other to go on from\."):
        read_latest(run)


def test_no_byte_of_a_checkpoint_can_change_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, {"state_dict": {"weight": torch.arange(50.0)}})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(UserError):
            read_checkpoint(path)


def test_a_run_goes_on_from_the_checkpoint_before_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", epochs=3)
    first = train(tmp_path / "again", epochs=2, checkpoint_minutes=0)
    first.run.last_checkpoint.write_bytes(first.run.last_checkpoint.read_bytes()[:1000])
    content, complaints = read_latest(first.run)
    assert content is not None
    assert len(complaints) == 1
    assert (content["position"]["epoch"], content["position"]["seen"]) == (1, 12)  # before the last scoring
    again = train(tmp_path / "again", epochs=3, checkpoint=content)
    # The schedule went along two epochs and not three, so that rows differ; but every epoch is there once.
    assert [row["step"] for row in again.run.metrics] == [row["step"] for row in whole.run.metrics] == [3, 6, 9]


@pytest.mark.parametrize("kept", [(), ("previous",), ("last",)])
def test_of_a_kill_between_two_checkpoints_one_is_left(run: Run, kept: tuple[str, ...]) -> None:
    for name in kept:
        write_checkpoint(run.folder / "checkpoints" / f"{name}.ckpt", {"who": name})
    content, complaints = read_latest(run)
    assert not complaints
    assert (content or {}).get("who") == (kept[0] if kept else None)


# ---- reading


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best.ckpt"
    weights = {f"model.{key}": value for key, value in TinyModel().state_dict().items()}
    torch.save({"state_dict": weights | {"loss.something": torch.zeros(1)}}, path)  # as the first version wrote them
    return path


def test_a_checkpoint_of_the_first_version_is_read(checkpoint: Path) -> None:
    model = make_task().model
    load_model(model, checkpoint)
    assert torch.equal(model.head.bias, torch.load(checkpoint)["state_dict"]["model.head.bias"])


def test_a_checkpoint_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.ckpt: this run has no such checkpoint"):
        load_model(TinyModel(), tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match=r"gone\.ckpt: there is no such checkpoint"):
        read_checkpoint(tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match="the checkpoint cannot be read"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_a_damaged_checkpoint_is_said(checkpoint: Path, kept: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=r"best\.ckpt: the checkpoint cannot be read \("):
        load_model(TinyModel(), checkpoint)


@pytest.mark.parametrize("content", [{}, {"state_dict": 3}, [1], 7])
def test_what_is_no_checkpoint_is_said(checkpoint: Path, content: object) -> None:
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=r"best\.ckpt: the checkpoint |best\.ckpt: the file is no checkpoint of segrun"):
        load_model(TinyModel(), checkpoint)


@pytest.mark.parametrize("other", [lambda: TinyModel(classes=3), lambda: nn.Linear(2, 2)])
def test_a_checkpoint_of_another_model_is_said(checkpoint: Path, other: Callable[[], nn.Module]) -> None:
    with pytest.raises(UserError, match=r"the checkpoint is of another model than config\.yaml says"):
        load_model(other(), checkpoint)


def test_a_newer_format_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FORMAT", FORMAT + 1)
    keep_last(run, CONTENT)
    monkeypatch.undo()
    said = f"a checkpoint of format {FORMAT + 1}, and this version of segrun reads up to {FORMAT}"
    with pytest.raises(UserError, match=said):
        read_checkpoint(run.last_checkpoint)


class Malicious:
    """What unpickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def with_a_right_hash(value: Any, path: Path) -> None:
    """As an attacker would, who knows the form of our files."""
    write_checkpoint(path, value)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)), with_a_right_hash]
)
@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_checkpoint_that_executes_code_is_not_executed(
    run: Run, tmp_path: Path, save: Callable[[Any, Path], object], name: str
) -> None:
    path = run.folder / "checkpoints" / name
    save({"state_dict": {}, "position": Malicious(tmp_path / "executed")}, path)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UserError, match="the checkpoint cannot be read"):
        load_model(TinyModel(), path)
    if name == "last.ckpt":
        with pytest.raises(UserError, match="the checkpoint cannot be read"):
            read_latest(run)
    assert not (tmp_path / "executed").exists()
    buffer = io.BytesIO()
    torch.save(Malicious(tmp_path / "executed"), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=False)
    assert (tmp_path / "executed").exists()  # it would have worked
