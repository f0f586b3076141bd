"""The jobs of a matrix, in ``outputs/.sweeps/<time>/jobs/``: what each of them came to, written by whoever ran it.

``order.json`` says which job a launcher's number means, since a launcher is only given those that are still to be done,
and ``<job>.json`` is a job's record. ``plan.json`` has all jobs as they were before any began. Jobs count from 0.
"""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from seg_cli.config.secrets import mask_secrets, mask_settings
from seg_cli.config.sweeps import ORDER
from seg_cli.config.yaml_text import to_yaml
from seg_cli.errors import UserError
from seg_cli.runs.atomic import write_json, write_text
from seg_cli.runs.heartbeat import silence
from seg_cli.runs.run import Run
from seg_cli.runs.runner import describe_runner, lives, named_process, seconds_since

_PLAN = "plan.json"

GOING_ON = "SEGRUN_GOING_ON"
"""Environment variable: the run that the processes which a job starts are to go on with."""

JobState = Literal["waiting", "running", "finished", "failed", "interrupted", "lost", "elsewhere"]


@dataclass(frozen=True)
class Job:
    """What a job has come to.

    Attributes:
        number: of the job.
        overrides: what it varies, as ``["model=unet", "seed=0"]``.
        state: ``waiting`` for its turn; ``running``; ``finished``; ``failed``; ``interrupted``; ``lost``, whose process
            is gone without a word; ``elsewhere``, where somebody else is making the same run.
        run: its run directory, as a path.
        score: mIoU on test.
        reason: why it did not finish.
        remark: whether it was done ``before``, ``resumed``, or the ``same as job 3``.
        wrong: whether the request was at fault, and not the run.
        process: who runs it, see ``describe_runner``.
        decision: of the first of several processes, for the others: ``begin``, ``resume`` or ``leave``.
        turn: which begin of the job that was decided for.
    """

    number: int
    overrides: Sequence[str] = ()
    state: JobState = "waiting"
    run: str | None = None
    score: float | None = None
    reason: str | None = None
    remark: str | None = None
    wrong: bool = False
    process: Mapping[str, Any] | None = None
    decision: str | None = None
    turn: str | None = None


@dataclass(frozen=True)
class Jobs:
    """The records of a matrix.

    Attributes:
        folder: of the matrix, ``hydra.sweep.dir``.
    """

    folder: Path

    def write_request(self, settings: Any) -> None:
        """Write multirun.yaml: what was asked for, as Hydra composed it, without secrets."""
        write_text(self.folder / "multirun.yaml", to_yaml(mask_settings(settings)))

    def write_order(self, order: Sequence[int]) -> None:
        """Say which jobs a launcher's numbers 0, 1, ... mean; ``config.sweeps.job_number`` reads it."""
        self._records.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / ORDER, list(order))

    def write(self, job: Job) -> None:
        """Write a job's record."""
        self._records.mkdir(parents=True, exist_ok=True)
        # Not to the disk at once: after a power cut, a job without a record is looked up by its claim and its run.
        write_json(self._records / f"{job.number}.json", _written(job), flush=False)

    def read(self, number: int) -> Job:
        """A job's record. A running one whose process is gone comes as ``lost``."""
        path = self._records / f"{number}.json"
        try:
            job = Job(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Job(number)
        job = replace(job, process=named_process(job.process))
        if job.state != "running" or job.process is None:
            return job
        silent = seconds_since(path)
        if job.run is not None:
            silent = min(silent, silence(Path(job.run)))
        if lives(job.process, silent=silent):
            return job
        return replace(job, state="lost", reason=_gone(job.process))

    def write_plan(self, jobs: Sequence[Job]) -> None:
        """Write down all jobs as they are before any is sent off, and which process is the matrix."""
        plan = {"process": describe_runner(), "jobs": [_written(job) for job in jobs]}
        write_json(self.folder / _PLAN, plan)

    def read_all(self) -> list[Job]:
        """All jobs: what was planned, and of those that have begun their records.

        Raises:
            UserError: if the folder is not that of a matrix.
        """
        planned = [Job(**job) for job in self._plan["jobs"]]
        begun = {int(path.stem) for path in self._records.glob("[0-9]*.json")}
        return [
            replace(self.read(job.number), overrides=job.overrides) if job.number in begun else job for job in planned
        ]

    @property
    def matrix(self) -> Mapping[str, Any] | None:
        """The process that sends the jobs off, see ``describe_runner``, while it lives, as far as can be told."""
        process = named_process(self._plan.get("process"))
        if process is None or process["host"] != socket.gethostname():
            return None
        return process if lives(process, silent=0.0) else None

    @property
    def _plan(self) -> dict[str, Any]:
        path = self.folder / _PLAN
        try:
            plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return plan
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: the file cannot be read ({error}).") from None

    @property
    def is_there(self) -> bool:
        """Whether the folder is that of a matrix."""
        return (self.folder / _PLAN).is_file()

    @property
    def _records(self) -> Path:
        return self.folder / "jobs"

    def path(self, number: int) -> Path:
        """The file of a job's record, whose time is a sign of life."""
        return self._records / f"{number}.json"


def running(job: Job) -> Job:
    """The job in the hands of this process."""
    return replace(job, state="running", process=describe_runner())


def wait_for_decision(jobs: Jobs, number: int, turn: str, *, patience: float = 900.0, every: float = 0.5) -> Job:
    """What the first of several processes decided on a job, once it has.

    Args:
        jobs: of the matrix.
        number: of the job.
        turn: in which they are, so that the decision of an earlier one is not taken for it.
        patience: seconds after which the first process is taken to be gone.
        every: seconds between two looks.

    Raises:
        TimeoutError: if it never does.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        job = jobs.read(number)
        if job.turn == turn and job.decision is not None:
            return job
        time.sleep(every)
    raise TimeoutError(f"job {number + 1}: its first process has not begun within {patience:.0f} seconds")


def score_of(run: Run) -> float | None:
    """mIoU on test of a finished run. Raises UserError if its results.json is not there or damaged."""
    score = run.results.get("splits", {}).get("test", {}).get("miou")
    return None if score is None else float(score)


def _written(job: Job) -> dict[str, Any]:
    """A job's record: what it is shown by, and so without the secrets of who typed it."""
    return {**vars(job), "overrides": [mask_secrets(text) for text in job.overrides]}


def _gone(process: Mapping[str, Any]) -> str:
    return f"process {process['pid']} on {process['host']} is gone without a word"
