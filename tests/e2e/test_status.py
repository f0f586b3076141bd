"""``segrun status`` and ``segrun cancel``, on matrices written by hand and on one that runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from seg_cli.commands.status import summary
from seg_cli.runs.atomic import write_json
from seg_cli.runs.jobs import Job, Jobs, running
from seg_cli.runs.runner import describe_runner
from seg_cli.runs.watch import look
from tests.e2e.conftest import Outcome
from tests.e2e.test_multirun import TINY

GONE = {"host": "elsewhere", "pid": 7, "born": 1, "job": "12", "tries": 0}


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def write_run(folder: Path, state: str, *, epochs: int = 10, done: int = 2, process: Any = None) -> None:
    """A run whose sitting began 100 seconds ago, and whose newest epoch ended 20 seconds ago."""
    folder.mkdir(parents=True)
    chosen = {"model": "unet", "loss": folder.name, "experiment": None}
    config = {"choices": chosen, "seed": 0, "trainer": {"max_epochs": epochs}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "environment.json", {})
    rows = [f"{epoch},{epoch / 10}" for epoch in range(1, done + 1)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val/miou", *rows]) + "\n")
    times = {"started": "2026-01-31T12:00:00+00:00", "ended": None}
    write_json(
        folder / "status.json", {"state": state, "reason": None, "epoch": 0, "step": 0, **times, "process": process}
    )
    age(folder / "environment.json", 100)
    age(folder / "metrics.csv", 20)


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """One job of each kind: finished before, running, lost, failed, and not begun; the matrix itself is gone."""
    folder = tmp_path / "outputs" / ".sweeps" / "2026-01-31_12-00-00"
    jobs = Jobs(folder)
    folder.mkdir(parents=True)
    runs = tmp_path / "outputs" / "shapes"
    planned = [Job(number, overrides=[f"seed={number}", "model=unet"]) for number in range(5)]
    planned[0] = replace(planned[0], state="finished", run=str(runs / "a"), score=0.5, remark="before")
    jobs.write_plan(planned)
    plan = json.loads((folder / "plan.json").read_text())
    write_json(folder / "plan.json", plan | {"process": GONE | {"job": None}})
    jobs.write_order([1, 2, 3, 4])
    write_run(runs / "a", "finished")
    write_run(runs / "b", "running", process=describe_runner())
    write_run(runs / "c", "running", process=GONE)
    age(runs / "c" / "status.json", 90)
    jobs.write(running(Job(1, run=str(runs / "b"))))
    jobs.write(Job(2, state="running", run=str(runs / "c"), process=GONE))
    age(jobs.path(2), 90)
    jobs.write(Job(3, state="failed", reason="The loss is \x1b[31mnan[/red]."))
    return folder


def test_how_far_the_jobs_of_a_matrix_are(matrix: Path) -> None:
    finished, going, lost, failed, waiting = look(matrix)
    assert [run.job.state for run in (finished, going, lost, failed, waiting)] == [
        *("finished", "running", "lost", "failed", "waiting"),
    ]
    assert finished.job.score == 0.5
    assert (going.epoch, going.epochs, going.val) == (2, 10, 0.2)
    # 8 epochs of 40 seconds are left, of which 20 seconds have passed.
    assert going.seconds_left == pytest.approx(300, abs=5)
    assert going.silent is not None
    assert going.silent < 15
    assert lost.silent == pytest.approx(90, abs=10)
    assert lost.seconds_left is None
    assert waiting.job.overrides == ["seed=4", "model=unet"]
    assert "nobody sends off the rest" in summary(matrix, look(matrix))


def test_what_was_lost_goes_on_by_the_same_command_whatever_is_in_the_queue(
    matrix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_cli.commands.status.in_queue", lambda folder: ["7_4"])
    said = summary(matrix, look(matrix))
    assert "1 in SLURM's queue; nobody sends off the rest; the same command again goes on" in said
    others = [run for run in look(matrix) if run.job.state != "lost"]
    assert "nobody" not in summary(matrix, others), "SLURM has the one that waits"


def test_a_run_that_went_on_is_timed_by_its_own_sitting(matrix: Path) -> None:
    run = matrix.parents[1] / "shapes" / "b"
    write_json(run / "environment.json", {"resumed": [{"epoch": 1, "step": 3}]})
    age(run / "environment.json", 100)
    # One epoch in 80 seconds: 8 of them, less the 20 seconds since.
    assert look(matrix)[1].seconds_left == pytest.approx(620, abs=5)


def test_the_table(segrun: Callable[..., Outcome], matrix: Path) -> None:
    done = segrun("status")
    assert done.status == 0
    head, *lines = [line.split() for line in done.out.splitlines() if line.strip() and "─" not in line]
    assert head == [*("job", "seed", "state", "epoch", "val", "test", "left", "where", "heard", "of"), *head[10:]]
    assert lines[0][:4] == ["1", "0", "finished", "0"]
    assert lines[1][:7] == ["2", "1", "running", "2/10", "0.2000", "5", "min"]
    assert lines[2][:3] == ["3", "2", "lost"]
    assert "elsewhere 7, SLURM job 12" in done.out
    assert "The loss is \\x1b[31mnan[/red]." in done.out, "what a terminal would obey is spelled out"
    assert "1 finished, 1 running, 1 lost, 1 failed, 1 not begun" in done.out
    of_runs = segrun("status", "outputs/shapes")
    assert "outputs/shapes: 1 finished, 1 running, 1 lost" in of_runs.out
    head, *lines = [line.split() for line in of_runs.out.splitlines() if line.strip() and "─" not in line]
    assert head[:3] == ["run", "loss", "state"], "what varies"
    assert [line[1] for line in lines[:3]] == ["a", "b", "c"]
    alone = segrun("status", "outputs/shapes/a").out
    assert alone.count("finished") == 2
    assert alone.split()[:4] == ["run", "model", "loss", "state"]


def test_what_a_finished_run_had_no_use_for(tmp_path: Path) -> None:
    """As the loss of a classical method, which its config.yaml has, and its results do not."""
    folder = tmp_path / "outputs" / "shapes" / "dice"
    write_run(folder, "finished")
    write_json(folder / "results.json", {"choices": {"model": "threshold", "loss": "none"}})
    assert look(folder)[0].job.overrides == ["model=threshold", "loss=none", "seed=0"]


def test_following_ends_when_nothing_runs(segrun: Callable[..., Outcome], matrix: Path) -> None:
    Jobs(matrix).write(Job(1, state="finished", score=0.25))
    done = segrun("status", str(matrix), "--follow")
    assert done.status == 0
    assert "2 finished, 1 lost, 1 failed, 1 not begun" in done.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("status",), "there is no matrix in outputs/.sweeps"),
        (("status", "nowhere"), "nowhere: there is no such folder"),
        (("status", "a", "b"), "one folder at a time"),
        (("status", "--folow"), "Did you mean '--follow'?"),
        (("status", "."), ".: there are no runs in it"),
        (("cancel",), "cancel: of what?"),
    ],
)
def test_bad_input(segrun: Callable[..., Outcome], arguments: tuple[str, ...], sentence: str) -> None:
    done = segrun(*arguments)
    assert done.status == 2
    assert sentence in done.err


def test_they_answer_without_torch(matrix: Path) -> None:
    code = "import sys; from seg_cli import cli; cli.run(['status']); cli.run(['cancel', 'outputs/shapes/a'])"
    code += "; print('torch' in sys.modules, 'hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=matrix.parents[2])
    assert done.stdout.splitlines()[-1].startswith("False"), done.stderr
    assert "nothing is running" in done.stdout


def test_what_cannot_be_reached_is_named(segrun: Callable[..., Outcome], matrix: Path) -> None:
    runs = matrix.parents[1] / "shapes"
    write_run(runs / "d", "running", process=GONE | {"job": None})
    asked = segrun("cancel", "outputs/shapes/d")
    assert asked.status == 2
    assert "1 running. Type segrun cancel DIR --yes" in asked.err
    done = segrun("cancel", "outputs/shapes/d", "--yes")
    assert done.status == 1
    assert "Still running: process 7 on elsewhere. End them there, with kill." in done.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "ray"])
def test_a_matrix_is_cancelled_and_gone_on_with(tmp_path: Path, launcher: str) -> None:
    if launcher != "basic":
        pytest.importorskip({"joblib": "hydra_plugins.hydra_joblib_launcher"}.get(launcher, launcher))
    own = {"joblib": ["hydra.launcher.n_jobs=2"], "ray": ["hydra.launcher.num_cpus=1"], "basic": []}[launcher]
    options = ["-m", *TINY, f"hydra/launcher={launcher}", *own, "trainer.max_epochs=150", "seed=0,1"]
    command = [sys.executable, "-m", "seg_cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "said.txt").open("wb") as file:
        process = subprocess.Popen(
            [*command, *options], cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    end = time.monotonic() + 200
    while not list(tmp_path.glob("outputs/shapes/*/metrics.csv")):
        assert time.monotonic() < end, (tmp_path / "said.txt").read_text()
        time.sleep(0.3)
    done = subprocess.run(
        [*command, "cancel", "outputs/.sweeps", "--yes"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "interrupted" in done.stdout
    assert process.wait(120) == 130, (tmp_path / "said.txt").read_text()
    again = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("outputs/shapes/*/status.json")]
    assert states == ["finished", "finished"], "nothing was done twice"
