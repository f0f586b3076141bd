"""Workers of a search: which GPUs each has, and jobs of a launcher that say for themselves whether they are there."""

import os
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from seg_cli.commands import tune_workers
from seg_cli.commands.tune_workers import at_work, is_orphan, is_worker, share_of
from seg_cli.errors import UserError
from seg_cli.runs.jobs import Job, Jobs, running

FOUR = ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("count", "devices", "gpus", "shares"),
    [
        (2, 1, FOUR, ["0", "1"]),
        (2, 2, FOUR, ["0 1", "2 3"]),
        (4, "auto", FOUR, ["0", "1", "2", "3"]),
        (2, "auto", FOUR, ["0 1", "2 3"]),
        (3, 1, ["GPU-a", "GPU-b"], ["GPU-a", "GPU-b", "GPU-a"]),  # more workers than GPUs share
        (2, 2, ["0", "1", "2"], ["0 1", "2 0"]),
        (2, 8, ["0", "1"], ["0 1", "0 1"]),  # more than there are, as the run itself will say
    ],
)
def test_workers_use_gpus_of_their_own(count: int, devices: int | str, gpus: list[str], shares: list[str]) -> None:
    assert [" ".join(share_of(number, count, devices, gpus)) for number in range(count)] == shares


def test_a_worker_knows_whether_its_parent_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_worker()
    assert not is_orphan()
    monkeypatch.setenv("SEGRUN_TUNE_WORKER", f"0 2 {os.getppid()}")
    assert is_worker()
    assert not is_orphan()
    monkeypatch.setenv("SEGRUN_TUNE_WORKER", f"0 2 {os.getpid()}")
    assert is_orphan()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """This process as job 1 of a launcher."""
    hydra: Any = OmegaConf.create({"job": {"num": 1}, "sweep": {"dir": str(tmp_path / "jobs")}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    return Jobs(tmp_path / "jobs")


def test_a_job_says_that_it_is_there_and_how_it_ended(job: Jobs) -> None:
    assert job.read(1).state == "waiting"
    with at_work():
        assert job.read(1).state == "running"
    assert job.read(1).state == "finished"
    with pytest.raises(UserError), at_work():
        raise UserError("There is no such thing.")
    assert (job.read(1).state, job.read(1).reason) == ("failed", "There is no such thing.")


def test_a_job_that_is_back_in_the_queue_is_waited_for(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_workers, "is_queued_again", lambda: True)
    with pytest.raises(KeyboardInterrupt), at_work():
        raise KeyboardInterrupt("SIGUSR1")
    assert job.read(1).state == "waiting"


def test_jobs_that_a_launcher_waits_for_in_vain_are_not_waited_for(job: Jobs) -> None:
    assert tune_workers._going(job, 2, launched=True)  # they are in the queue
    assert not tune_workers._going(job, 2, launched=False)
    with at_work():
        assert tune_workers._going(job, 2, launched=False)
    dead = running(Job(0))
    job.write(Job(0, state="running", process={**(dead.process or {}), "born": 1}))  # killed without a word
    assert job.read(0).state == "lost"
    assert not tune_workers._going(job, 2, launched=True)
