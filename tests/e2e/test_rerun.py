"""``segrun rerun``: runs made again that are the same bit for bit, and what is said of those that are not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seg_cli.data.shapes import Shapes
from seg_cli.runs import environment
from seg_cli.runs.run import Run
from seg_cli.training.checkpoints import read_checkpoint, write_checkpoint
from seg_cli.training.loop import Loop
from tests.e2e.conftest import TINY, Outcome

Segrun = Callable[..., Outcome]
OPTIONS = (
    *(option for option in TINY if not option.startswith(("encoder", "model.decoder"))),
    *("encoder.name=test_resnet.r160_in1k", "model.decoder_channels=[8,8,8,8,8]", "augment=geometry+color"),
    *("data=shapes", "data.train=6", "data.val=2", "data.test=2", "data.size=[32,40]", "trainer.max_epochs=2"),
)


@pytest.fixture(autouse=True)
def _one_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code does not change while a test runs, whatever is done to the files."""
    monkeypatch.setattr(environment, "_describe_git", lambda folder: {"commit": "abc", "diff_sha256": "0"})


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_run_made_again_is_the_same_bit_for_bit_and_what_is_not_is_named(
    segrun: Segrun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segrun(*OPTIONS, "name=first", "run_dir=r").status == 0
    before, threads = contents(Path("r")), torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # as OMP_NUM_THREADS may have it
    done = segrun("rerun", "r", "--verify", "loader.workers=1")
    torch.set_num_threads(threads)
    assert done.status == 0, done.err + done.out
    assert contents(Path("r")) == before, "the original is only read"
    (again,) = Path("outputs/first").iterdir()
    lines = [line.split(maxsplit=1) for line in done.out.splitlines()]
    assert f"{again} compared with r" in done.out
    assert "environment: the same\nexpected: the same bits\n" in done.out
    assert ["steps.csv", "same          6 steps"] in lines
    assert ["verified:", "r comes out the same, bit for bit"] in lines
    kept = json.loads((again / "verification.json").read_text())
    assert (kept["verified"], kept["expected"]) == (True, "the same bits")
    assert {part["verdict"] for part in kept["parts"]} == {"same"}
    assert len(kept["parts"]) == 7

    # The same comparison of one that is not: its weights, a step, an epoch and an image are others.
    other = Path("other")
    shutil.copytree(again, other)
    checkpoint = read_checkpoint(other / "checkpoints" / "best.ckpt")
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name][0] += 0.5
    write_checkpoint(other / "checkpoints" / "best.ckpt", checkpoint)
    steps = (other / "steps.csv").read_text().splitlines()
    (other / "steps.csv").write_text("\n".join([*steps[:5], "5,0.25", *steps[6:], ""]))
    differs = segrun("rerun", "r", "--verify", "--against", "other")
    assert differs.status == 1
    assert "not verified: steps.csv, first in step 5 of 6 (epoch 2): loss 0.25 instead of " in differs.out
    assert f"first {name.removeprefix('model.')}, by 0.5 at most" in differs.out
    assert "  metrics.csv                 same          2 epochs\n" in differs.out

    # Elsewhere, where bits may differ, these are no failure.
    place = json.loads((other / "environment.json").read_text())
    place["packages"]["torch"] = "9.9"
    (other / "environment.json").write_text(json.dumps(place))
    elsewhere = segrun("rerun", "r", "--verify", "--against", "other")
    assert elsewhere.status == 0, elsewhere.out
    assert "environment: torch 9.9 instead of " in elsewhere.out
    assert "expected: the loss of the first step within 1% and scores within 0.02, since they were not" in elsewhere.out
    assert "verified: r comes out the same within the tolerances" in elsewhere.out

    # Data that has changed is found out before there is a directory.
    monkeypatch.setattr(Shapes, "fingerprint", lambda self: "0" * 64)
    changed = segrun("rerun", "r", "--verify", "run_dir=new")
    assert (changed.status, Path("new").exists()) == (2, False)
    assert "r: the data has changed since." in changed.err


def test_a_method_that_is_fitted_in_one_go_is_made_again_too(segrun: Segrun, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [option for option in OPTIONS if option.startswith("data")]
    assert segrun("model=threshold", *data, "logger=none", "fit.images=4", "run_dir=r").status == 0
    before = contents(Path("r"))
    done = segrun("rerun", "r", "--verify", "run_dir=again")
    assert done.status == 0, done.err + done.out
    assert contents(Path("r")) == before
    lines = [line.strip() for line in done.out.splitlines()]
    assert "weights of best.ckpt        same          2 tensors" in lines
    assert "verified: r comes out the same, bit for bit" in lines
    assert not any("steps.csv" in line for line in lines), "there are no steps, and none are missed"
    monkeypatch.setattr(Shapes, "fingerprint", lambda self: "0" * 64)
    changed = segrun("rerun", "r", "--verify", "run_dir=new")
    assert (changed.status, Path("new").exists()) == (2, False)
    assert "r: the data has changed since." in changed.err


@pytest.mark.slow
def test_a_run_in_two_sittings_started_from_another_and_interrupted_when_made_again(
    segrun: Segrun, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Loop._step

    def stop_after(steps: int) -> None:
        def stepping(loop: Loop, *arguments: object) -> None:
            step(loop, *arguments)  # type: ignore[arg-type]
            if loop.at.step == steps:
                monkeypatch.setattr(Loop, "_step", step)
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Loop, "_step", stepping)

    assert segrun(*OPTIONS, "trainer.max_epochs=1", "run_dir=begin").status == 0
    stop_after(4)
    assert segrun(*OPTIONS, "start=begin", "run_dir=r").status == 130
    unfinished = segrun("rerun", "r", "--verify")
    assert "r: its state is 'interrupted', and only finished runs can be compared. To go on" in unfinished.err
    assert segrun("resume", "r").status == 0
    stop_after(2)
    interrupted = segrun("rerun", "r", "--verify", "run_dir=again")
    assert interrupted.status == 130
    hint = "To go on: segrun resume again. Then compare: segrun rerun r --verify --against again\n"
    assert interrupted.err.endswith(hint)
    assert segrun("resume", "again").status == 0
    done = segrun("rerun", "r", "--verify", "--against", "again")
    assert done.status == 0, done.out
    assert "verified: r comes out the same, bit for bit" in done.out

    shutil.rmtree("begin")
    gone = segrun("rerun", "r")
    assert gone.status == 2
    assert "start=begin: there is no such run or checkpoint" in gone.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("trainer=cpu_ddp", "trainer.devices=2"),
        ("trainer.auto_batch_size=true",),
        ("model=pspnet", "loss=ce+dice", "precision=bf16", "trainer.accumulate=2", "loader.workers=2"),
        ("average=ema", "scheduler=poly", "optimizer=sgd", "finetune=gradual"),
        ("resize=progressive", "loader.crop=[32,32]", "trainer.max_epochs=4"),
    ],
    ids=lambda options: options[0],
)
def test_runs_of_many_kinds_are_made_again_to_the_bit(tmp_path: Path, options: tuple[str, ...]) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "seg_cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    models = any(option.startswith("model=") for option in options)
    asked = [option for option in OPTIONS if not (models and option.startswith("model"))]
    run(*asked, *options, "run_dir=r")
    said = run("rerun", "r", "--verify", "run_dir=again")
    assert "verified: r comes out the same, bit for bit" in said
    processes = [len(read_checkpoint(Run(tmp_path / name).last_checkpoint)["processes"]) for name in ("r", "again")]
    assert processes == [2, 2] if "trainer.devices=2" in options else [1, 1]
