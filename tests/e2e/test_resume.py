"""``segrun resume``: stopped and killed runs that end as if they had been left alone, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seg_cli.commands import train
from seg_cli.runs.run import Run
from seg_cli.runs.runner import describe_runner
from seg_cli.training.loop import Loop
from seg_cli.training.signals import Interrupted
from tests.e2e.conftest import TINY, Outcome

Segrun = Callable[..., Outcome]
ENCODER = ("encoder.name=test_resnet.r160_in1k", "model.decoder_channels=[8,8,8,8,8]")
OPTIONS = (
    *(option for option in TINY if not option.startswith(("encoder", "model.decoder"))),
    *ENCODER,
    *("data=shapes", "data.train=6", "data.val=2", "data.test=2", "data.size=[32,40]", "trainer.max_epochs=2"),
)
STEPS = 6  # three an epoch


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """A function: have this process sent a signal once, after so many steps."""

    def plan(steps: int, name: str) -> None:
        step = Loop._step

        def stepping(loop: Loop, *arguments: object) -> None:
            step(loop, *arguments)  # type: ignore[arg-type]
            if loop.at.step == steps:
                monkeypatch.setattr(Loop, "_step", step)
                os.kill(os.getpid(), getattr(signal, name))

        monkeypatch.setattr(Loop, "_step", stepping)

    return plan


def left_behind(folder: str) -> tuple[object, ...]:
    """What is the same after any number of interruptions."""
    run = Run.open(folder)
    weights = torch.load(run.best_checkpoint, weights_only=True)["state_dict"]
    scores = run.results["splits"], run.results["best_epoch"], run.results["epochs"]
    files = (run.folder / "metrics.csv").read_bytes(), (run.folder / "per_image.csv").read_bytes()
    return [(key, value.tolist()) for key, value in weights.items()], scores, files


def test_a_stopped_run_goes_on_to_the_same_end(
    segrun: Segrun, stop_after: Callable[[int, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert segrun(*OPTIONS, "run_dir=alone").status == 0

    stop_after(2, "SIGTERM")
    stopped = segrun(*OPTIONS, "run_dir=r")
    assert stopped.status == 130
    assert stopped.err == "interrupted. To go on: segrun resume r\n"
    run = Run.open("r")
    status = run.status
    assert (status["state"], status["reason"], status["epoch"], status["step"]) == ("interrupted", "SIGTERM", 0, 2)
    assert status["process"]["pid"] == os.getpid()

    stop_after(STEPS, "SIGUSR1")  # after the last step, before val is scored
    (run.folder / "checkpoints" / ".last.ckpt.x.tmp").write_bytes(b"half")  # as a kill leaves it
    again = segrun("resume", "r")
    assert again.status == 130
    assert "resuming r after 0 epochs and 4 samples, 2 steps" in again.out
    assert run.status["reason"] == "SIGUSR1"
    assert not list(run.folder.glob("checkpoints/.*"))

    score = train._score
    monkeypatch.setattr(train, "_score", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert segrun("resume", "r", "loader.workers=1").status == 130
    assert (run.status["state"], run.status["reason"], run.status["epoch"]) == ("interrupted", "SIGINT", 2)
    monkeypatch.setattr(train, "_score", score)

    monkeypatch.setattr(Loop, "_step", lambda *_: pytest.fail("there is nothing left to train"))
    end = segrun("resume", "r")
    assert end.status == 0, end.err
    assert left_behind("r") == left_behind("alone")
    assert Run.open("r").config.loader.workers == 1
    assert [sitting["step"] for sitting in run.environment["resumed"]] == [2, STEPS, STEPS]


def test_what_is_refused_and_what_may_be_accepted(segrun: Segrun, stop_after: Callable[[int, str], None]) -> None:
    stop_after(4, "SIGINT")
    assert segrun(*OPTIONS, "run_dir=r").status == 130
    run = Run.open("r")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}

    for arguments, sentence in {
        ("seed=1", "tags=[x]"): "r: seed was 0 and is 1 now. That changes what comes of the run.",
        ("trainer.max_epochs=9",): "r: trainer.max_epochs was 2 and is 9 now.",
        ("trainer.max_epohcs=9",): "has no such setting. Did you mean 'trainer.max_epochs'?",
        ("loader.workers=x",): "loader.workers=x: it must be auto or a whole number >= 0.",
        (
            "model=fpn",
        ): "model=fpn: a run goes on with the model that it began with; of groups, only logger and trainer",
        ("logger=nope",): "logger=nope: there is no logger 'nope'.",
        ("loader.workers=1,2",): "loader.workers=1,2: a run goes on with one value of a setting",
        ("data.train=8", "--accept-changes"): "data.train was 6 and is 8 now. A checkpoint does not fit another data",
    }.items():
        refused = segrun("resume", "r", *arguments)
        assert (refused.status, sentence in refused.err) == (2, True), refused.err
    config = (run.folder / "config.yaml").read_text()
    (run.folder / "config.yaml").write_text(config.replace("accumulate: 1", "accumulate: 2"))
    edited = segrun("resume", "r")
    assert (edited.status, "trainer.accumulate was 1 and is 2 now" in edited.err) == (2, True)
    (run.folder / "config.yaml").write_text(config)
    assert {path: path.read_bytes() for path in before} == before, "a refusal leaves the run as it was"

    run.write_status("running", process=describe_runner() | {"pid": os.getppid(), "born": None})
    run.write_status("running", process=describe_runner() | {"host": "elsewhere"})
    still = segrun("resume", "r")
    assert (still.status, "still going" in still.err, "on elsewhere" in still.err) == (2, True, True)

    # It was killed; last.ckpt is damaged, and what is longer than asked for has to be accepted.
    run.write_status("running", process=describe_runner() | {"born": 1})
    run.last_checkpoint.write_bytes(run.last_checkpoint.read_bytes()[:-1000])
    longer = segrun("resume", "r", "trainer.max_epochs=3", "logger=csv", "trainer=cpu_ddp", "trainer.devices=1")
    assert longer.status == 2
    longer = segrun("resume", "r", "trainer.max_epochs=3", "logger=csv", "--accept-changes")
    assert longer.status == 0, longer.err
    assert "last.ckpt: the checkpoint" in longer.out
    assert "resuming r after 1 epochs, 3 steps" in longer.out
    assert "accepted: trainer.max_epochs=3 instead of 2" in longer.out
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3]
    assert (run.folder / "csv").is_dir()
    assert (run.folder / "checkpoints" / "broken.ckpt").exists()

    finished = segrun("resume", "r")
    assert finished.status == 2
    assert "r: this run is finished, after 3 epochs. To score it again: segrun eval run=r." in finished.err
    assert "segrun resume r trainer.max_epochs=6 --accept-changes" in finished.err
    assert segrun("resume", "r", "--accept-changes").status == 2


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_wandb_goes_on_with_its_run(
    segrun: Segrun, stop_after: Callable[[int, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(loop: Loop) -> None:
        raise Interrupted("SIGTERM")

    begin = Loop.run
    monkeypatch.setattr(Loop, "run", interrupted)
    assert segrun(*OPTIONS, "logger=wandb", "run_dir=r").status == 130
    monkeypatch.setattr(Loop, "run", begin)
    stop_after(2, "SIGINT")
    anew = segrun("resume", "r")
    assert "resuming r: it has no checkpoint yet, and begins anew" in anew.out
    end = segrun("resume", "r")
    assert end.status == 0, end.err
    ids = [path.stem.removeprefix("run-") for path in Path("r/wandb").glob("offline-run-*/*.wandb")]
    assert len(ids) == 3
    assert len(set(ids)) == 2, "both sittings with a checkpoint between them are one run of W&B"
    assert Run.open("r").config.logger.wandb.run_id is None


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "bench" / "kills.py"
    command = [sys.executable, str(script), "--kills", "2", "--seed", str(os.getpid())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n2/2 in " in done.stdout


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(tmp_path: Path) -> None:
    segrun = [sys.executable, "-m", "seg_cli"]
    options = [*OPTIONS, "trainer=cpu_ddp", "data.train=60", "trainer.max_epochs=50", "run_dir=r"]
    with subprocess.Popen([*segrun, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "r" / "metrics.csv").exists():
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    run = Run.open(tmp_path / "r")
    assert (run.status["state"], run.status["reason"]) == ("interrupted", "SIGTERM")
    assert "To go on: segrun resume r" in err
    config = (run.folder / "config.yaml").read_text()
    (run.folder / "config.yaml").write_text(config.replace("max_epochs: 50", f"max_epochs: {run.status['epoch'] + 1}"))
    command = [*segrun, "resume", "r", "trainer.devices=1", "trainer.strategy=auto", "--accept-changes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "it was trained by 2 processes and goes on with 1" in done.stdout
    assert json.loads((run.folder / "status.json").read_text())["state"] == "finished"
