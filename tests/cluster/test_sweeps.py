"""Matrices on a real SLURM: nothing is lost and nothing done twice, whatever is killed, and results are the local ones.

``SLURM_ACCT=1 make test-cluster`` does the same on a SLURM with accounting.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seg_cli.runs import slurm
from tests.e2e.test_multirun import TINY

pytestmark = pytest.mark.slurm

ON_SLURM = (
    *("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"),
    *("hydra.launcher.gpus_per_node=0", "hydra.launcher.timeout_min=30", "trainer.accelerator=cpu"),
)
RUNS = Path("outputs/shapes")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


class Matrix:
    """A matrix in a process of its own, and what it says."""

    def __init__(self, *options: str) -> None:
        self.path = Path(f"said_{time.monotonic_ns()}.txt")
        with self.path.open("wb") as file:
            command = [sys.executable, "-m", "seg_cli", "-m", *TINY, *options]
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self.path.read_text(errors="replace")

    def finish(self, status: int = 0) -> str:
        assert self.process.wait(600) == status, self.said
        return self.said


def statuses() -> dict[str, dict[str, Any]]:
    """Name of each run directory -> its status."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(RUNS.glob("*/status.json"))}


def scores(folder: Path = Path()) -> dict[int, Any]:
    """Seed -> all that was counted on both splits; fails where a seed was run twice."""
    found: dict[int, Any] = {}
    for path in (folder / RUNS).glob("*/results.json"):
        results = json.loads(path.read_text())
        assert results["seed"] not in found, "it was done twice"
        found[results["seed"]] = results["splits"]
    return found


def wait(until: Callable[[], Any], what: str, seconds: float = 300.0) -> float:
    """Wait for something; returns how many seconds it took."""
    began = time.monotonic()
    while not until():
        assert time.monotonic() - began < seconds, what
        time.sleep(0.3)
    return time.monotonic() - began


def trained(count: int = 1) -> bool:
    """Whether so many runs have an epoch behind them."""
    return len(list(RUNS.glob("*/metrics.csv"))) >= count


def submitted() -> list[str]:
    """All jobs of SLURM that were sent off from here."""
    return [job for path in sorted(Path("outputs/.sweeps").glob("*")) for job in slurm.submitted(path)]


def test_a_matrix_of_eight_is_the_local_one_and_is_not_done_again(folder: Path) -> None:
    said = Matrix(*ON_SLURM, "seed=range(8)").finish()
    assert "SLURM has taken 8 jobs" in said
    assert [status["state"] for status in statuses().values()] == ["finished"] * 8
    again = Matrix(*ON_SLURM, "seed=range(9)").finish()
    assert "9 jobs: 8 finished before, 1 to do" in again
    assert len(submitted()) == 9
    local = folder / "local"
    local.mkdir()
    os.chdir(local)
    Matrix("trainer.accelerator=cpu", "seed=range(9)").finish()
    assert scores(folder) == scores(local)


def test_a_job_that_is_killed_hard_is_noticed_and_done_again() -> None:
    matrix = Matrix(*ON_SLURM, "seed=0,1", "trainer.max_epochs=60")
    wait(lambda: trained(2), "both train")
    victim = next(iter(statuses().values()))["process"]
    assert victim["job"], "it runs in a job of SLURM"
    os.kill(victim["pid"], signal.SIGKILL)
    assert wait(lambda: "lost: job 1 " in matrix.said, "it is noticed") < 60
    said = matrix.finish()
    assert "job 1 was lost; it is gone on with, alone" in said
    assert [status["state"] for status in statuses().values()] == ["finished"] * 2
    assert len(submitted()) == 3


def test_a_matrix_that_is_killed_and_begun_again_does_nothing_twice() -> None:
    options = (*ON_SLURM, "hydra.launcher.array_parallelism=2", "seed=range(4)", "trainer.max_epochs=40")
    matrix = Matrix(*options)
    wait(lambda: trained(2), "two of four train")
    matrix.process.kill()
    matrix.process.wait()
    said = Matrix(*options).finish()
    assert "4 jobs: 2 running before, 2 to do" in said
    wait(lambda: not slurm.queued(submitted()), "all jobs of both have left the queue")
    assert [status["state"] for status in statuses().values()] == ["finished"] * 4
    assert sorted(scores()) == [0, 1, 2, 3]
    assert "4 jobs: 4 finished before, 0 to do" in Matrix(*options).finish()


def test_a_job_that_makes_room_goes_back_into_the_queue_and_goes_on() -> None:
    matrix = Matrix(*ON_SLURM, "hydra.launcher.partition=main", "seed=0", "trainer.max_epochs=100")
    wait(trained, "it trains")
    (name,) = statuses()
    # All cores of both machines, for as long as it takes to see what happens.
    urgent = ["sbatch", "--parsable", "-p", "high", "-N", "2", "--exclusive", "--mem=0", "--wrap", "sleep 300"]
    job = subprocess.run([*urgent, "-o", "/dev/null"], check=True, capture_output=True, text=True).stdout.strip()
    try:
        wait(lambda: statuses()[name]["state"] == "interrupted", "it makes room")
        stopped_at = statuses()[name]["step"]
        assert statuses()[name]["reason"] == "SIGUSR1"
        assert matrix.process.poll() is None, "the matrix waits for it"
    finally:
        subprocess.run(["scancel", job], check=True)

    def again() -> bool:
        # SLURM has jobs that were put back wait for two minutes, which a test need not.
        for one in submitted():
            subprocess.run(["scontrol", "update", f"JobId={one}", "StartTime=now"], capture_output=True)
        return matrix.process.poll() is not None

    wait(again, "it goes on and finishes")
    matrix.finish()
    assert list(statuses()) == [name]
    assert statuses()[name]["state"] == "finished"
    resumed = json.loads((RUNS / name / "environment.json").read_text())["resumed"]
    assert [sitting["step"] for sitting in resumed] == [stopped_at]
    assert 0 < stopped_at < 200


def test_jobs_of_a_matrix_span_two_machines() -> None:
    said = Matrix(*ON_SLURM, "hydra.launcher.nodes=2", "trainer=ddp_slurm", "seed=0,1", "data.train=8").finish()
    assert "SLURM has taken 2 jobs" in said
    assert [status["state"] for status in statuses().values()] == ["finished"] * 2
    logs = [path.read_text() for path in Path("outputs/.sweeps").glob("*/.submitit/*/*_0_log.out")]
    assert len(logs) == 2
    assert all("2 processes" in log for log in logs)


def test_a_matrix_is_cancelled_and_gone_on_with() -> None:
    options = (*ON_SLURM, "hydra.launcher.array_parallelism=1", "seed=0,1", "trainer.max_epochs=60")
    matrix = Matrix(*options)
    wait(trained, "the first trains")
    done = subprocess.run(
        [sys.executable, "-m", "seg_cli", "cancel", "outputs/.sweeps", "--yes"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "1 interrupted, 1 not begun" in done.stdout
    assert not slurm.queued(submitted())
    matrix.finish(130)
    Matrix(*options).finish()
    assert [status["state"] for status in statuses().values()] == ["finished"] * 2
