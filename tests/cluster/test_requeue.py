"""A job of SLURM that is told to make room, goes back into the queue, and goes on with its run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seg_cli.runs.run import Run
from tests.e2e.test_resume import OPTIONS, left_behind

pytestmark = pytest.mark.slurm


def _slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _wait(until: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.3)


def test_a_job_that_is_put_back_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = " ".join([*OPTIONS, "data.train=40", "trainer.max_epochs=8", "name=queued"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "seg_cli", *options.split(), "run_dir=alone"], check=True, env=environment)
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nsrun {sys.executable} -m seg_cli {options}\n")
    submit = ["sbatch", "--parsable", "--requeue", "--open-mode=append", "--output=said.txt", str(script)]
    job = subprocess.run(submit, capture_output=True, text=True, check=True, env=environment).stdout.strip()
    try:
        metrics = tmp_path / "outputs" / "queued"
        _wait(lambda: bool(list(metrics.glob("*/metrics.csv"))), "the job trains an epoch")
        _slurm("scancel", "--signal=USR1", job)
        (folder,) = metrics.iterdir()
        run = Run.open(folder)
        _wait(lambda: run.status["state"] == "interrupted", "the run is saved")
        assert run.status["reason"] == "SIGUSR1"
        stopped_at = run.status["step"]
        assert 0 < stopped_at < 160, "it was stopped on its way"

        time.sleep(5)  # a machine refuses a job that begins anew in the second in which it was ended

        def again() -> bool:
            # SLURM has jobs that were put back wait for two minutes, which a test need not.
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)
            return run.status["state"] == "finished"

        _wait(again, "the job goes on by itself and finishes the run")
        assert list(metrics.iterdir()) == [folder], "it is still one run"
        said = Path("said.txt").read_text()
        assert f"Job {job} is back in SLURM's queue." in said
        assert f"resuming {folder} after" in said
        assert [sitting["step"] for sitting in run.environment["resumed"]] == [stopped_at]
        assert left_behind(str(folder)) == left_behind("alone")
    finally:
        subprocess.run(["scancel", job], capture_output=True)
