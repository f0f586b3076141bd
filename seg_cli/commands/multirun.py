"""A job of a matrix (``segrun -m``), where it is run: made, gone on with, or left alone because it is done.

What is decided here holds whoever started the job: the matrix, one that was started a second time, or another sweeper.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from seg_cli.commands.composing import resolve
from seg_cli.commands.identity import Identifier
from seg_cli.config.explain import explain
from seg_cli.config.schema import validate
from seg_cli.config.sweeps import job_number
from seg_cli.errors import SegrunError
from seg_cli.models.classical import is_classical
from seg_cli.runs.claims import Note, Place, holding, record, take
from seg_cli.runs.fingerprint import fingerprint as fingerprint_of
from seg_cli.runs.heartbeat import beating, silence
from seg_cli.runs.jobs import GOING_ON, Job, Jobs, running, score_of, wait_for_decision
from seg_cli.runs.requeue import is_queued_again
from seg_cli.runs.run import Run
from seg_cli.runs.runner import rank, who_runs
from seg_cli.training.signals import obey_at_once

_identifier = Identifier()

_OTHERS = 20.0
"""Seconds that an interrupted job waits for those beside it, which were told to save when it was."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a run that there may be already.

    Attributes:
        action: ``begin`` it, ``resume`` it, or ``leave`` it.
        job: what the job has come to, where it is left.
        run: the run that there is.
    """

    action: Literal["begin", "resume", "leave"]
    job: Job
    run: Run | None = None


def run(cfg: DictConfig) -> float | None:
    """Do the job that this process was given. Returns the mIoU on test, for sweepers; None where it is left alone.

    Raises:
        Exception: what the run raises; its record says so too.
    """
    jobs, job = _find_place()
    if rank() != 0:
        return _follow(cfg, jobs, job)
    with obey_at_once(("SIGTERM",)), _recorded(jobs, job) as keep:
        validate(cfg)
        config = resolve(cfg)
        fingerprint = identify(config)
        claim = take(Place.of(config), fingerprint)
        if isinstance(claim, Note):
            job = _busy(job, claim)
            print(_left(job), flush=True)
            keep(job)
            return None
        with holding(claim):
            verdict = judge(job, run_at(claim.run), fingerprint, again=config["retry"] == "failed")
            job = replace(verdict.job, decision=verdict.action, turn=_turn())
            if verdict.action == "leave":
                print(_left(job), flush=True)
                keep(job)
                return job.score
            jobs.write(running(job))
            now = job
            claim.also_note = lambda run: jobs.write(running(replace(now, run=str(run))))
            try:
                score = _resume(verdict.run) if verdict.run is not None else _train(config)
            finally:
                job = replace(job, run=str(claim.run) if claim.run else None)
                keep(job)
            keep(replace(job, state="finished", score=score))
            return score


def identify(config: Mapping[str, Any]) -> str:
    """The fingerprint of a job; that of its settings alone where data or weights cannot be read, which making the run
    will say better."""
    try:
        return _identifier.identify(config)
    except Exception as error:  # users' datasets raise what they like
        return fingerprint_of(config, data=f"unknown: {error}", pretrained="unknown")


def judge(job: Job, found: Run | None, fingerprint: str, *, again: bool) -> Verdict:
    """What is to be done about the run that a job asks for.

    Args:
        job: the job.
        found: the run directory that a claim or a look around has led to.
        fingerprint: what the job asks for.
        again: whether failed runs are tried again.
    """
    status = {} if found is None else _status(found)
    if found is None or status.get("fingerprint") != fingerprint:
        return Verdict("begin", job)
    job = replace(job, run=str(found.folder))
    state = status["state"]
    if state == "finished":
        try:
            return Verdict("leave", replace(job, state="finished", score=score_of(found), remark="before"), found)
        except SegrunError:
            return Verdict("begin", job)  # without a result, it is of no use
    runner = who_runs(status, silent=silence(found.folder))
    if runner is not None:
        return Verdict("leave", replace(job, state="elsewhere", reason=runner), found)
    if state == "failed" and not again:
        reason = str(status.get("reason") or "it does not say why")
        return Verdict("leave", replace(job, state="failed", reason=reason, remark="before"), found)
    if is_classical(found.config):
        return Verdict("begin", job)  # it has no epochs to go on with
    return Verdict("resume", replace(job, remark="resumed"), found)


def look_up(
    job: Job,
    config: Mapping[str, Any],
    fingerprint: str,
    place: Place,
    notes: Mapping[str, Note],
    runs: Mapping[str, Run],
) -> Job:
    """What is known of a job before it is sent off, from claims and the runs that there are."""
    note = notes.get(fingerprint)
    if note is not None and note.busy:
        who = f"process {note.process['pid']} on {note.process['host']}"
        return replace(job, state="elsewhere", run=str(note.run) if note.run else None, reason=who)
    found = runs.get(fingerprint) or (run_at(note.run) if note else None)
    verdict = judge(job, found, fingerprint, again=config["retry"] == "failed")
    if verdict.action == "leave":
        return verdict.job
    if verdict.run is not None and (note is None or note.run != verdict.run.folder):
        record(place, fingerprint, verdict.run.folder)  # whoever takes the job finds it there
    return job


def _find_place() -> tuple[Jobs, Job]:
    """The matrix that this job belongs to, and its record as it begins.

    A launcher numbers the jobs that it is given; from here on the job's number in the matrix is Hydra's, too.
    """
    hydra = HydraConfig.get()
    jobs = Jobs(Path(hydra.sweep.dir))
    number = job_number(jobs.folder, hydra.job.num)
    job: Any = hydra.job  # in truth a DictConfig
    with read_write(job), open_dict(job):
        job.num = number
    return jobs, Job(number, overrides=[str(text) for text in hydra.overrides.task])


@contextmanager
def _recorded(jobs: Jobs, job: Job) -> Iterator[Callable[[Job], None]]:
    """Keep a job's record true, with signs of life. The block says what the job has come to, or raises."""
    jobs.write(running(job))
    latest = job

    def keep(now: Job) -> None:
        nonlocal latest
        latest = now

    with beating(jobs.path(job.number)):
        try:
            yield keep
        except BaseException as error:
            decided = latest if latest.decision else replace(latest, decision="leave", turn=_turn())
            jobs.write(replace(decided, **_end(error)))
            if isinstance(error, KeyboardInterrupt):
                _let_others_save(jobs, job)
            raise
        jobs.write(latest)


def _let_others_save(jobs: Jobs, job: Job) -> None:
    """Wait until the jobs beside this one have ended, too: joblib kills them as soon as one of its jobs raises."""
    if "joblib" not in str(HydraConfig.get().launcher._target_).lower():
        return
    end = time.monotonic() + _OTHERS
    while time.monotonic() < end:
        if not any(other.state == "running" for other in jobs.read_all() if other.number != job.number):
            return
        time.sleep(0.2)


def _end(error: BaseException) -> dict[str, Any]:
    """State, reason and whose fault it was."""
    if is_queued_again() or isinstance(error, SystemExit):  # with which submitit leaves what it has put back
        return {"state": "waiting", "reason": "back in SLURM's queue"}
    if isinstance(error, KeyboardInterrupt):
        return {"state": "interrupted", "reason": str(error) or "SIGINT"}
    told = explain(error)
    reason = str(told) if told else f"{type(error).__name__}: {error}".rstrip(": ")
    return {"state": "failed", "reason": reason, "wrong": told is not None and told.exit_status == 2}


def _busy(job: Job, note: Note) -> Job:
    who = f"process {note.process['pid']} on {note.process['host']}"
    run = str(note.run) if note.run else None
    return replace(job, state="elsewhere", run=run, reason=who, decision="leave", turn=_turn())


def _left(job: Job) -> str:
    if job.state == "finished":
        score = "" if job.score is None else f", mIoU {job.score:.4f} on test"
        return f"finished before: {job.run}{score}"
    if job.state == "failed":
        return f"failed before: {job.run}: {job.reason} To try it again, add retry=failed."
    return f"left alone: {job.reason} is making this run{f' in {job.run}' if job.run else ''}"


def _follow(cfg: DictConfig, jobs: Jobs, job: Job) -> float | None:
    """Do what the first of several processes, which another machine may have, has decided."""
    validate(cfg)
    decided = wait_for_decision(jobs, job.number, _turn())
    if decided.decision == "leave":
        return decided.score
    return _resume(Run.open(decided.run)) if decided.decision == "resume" and decided.run else _train(resolve(cfg))


def _train(config: dict[str, Any]) -> float | None:
    from seg_cli.commands import train

    return train.begin(config)


def _resume(directory: Run) -> float | None:
    from seg_cli.commands.resume import resume_run

    os.environ[GOING_ON] = str(directory.folder)
    try:
        return resume_run(directory)
    finally:
        del os.environ[GOING_ON]


def run_at(folder: Path | None) -> Run | None:
    """The run in a folder, if there is one."""
    return Run(folder) if folder is not None and (folder / "config.yaml").is_file() else None


def _status(run: Run) -> Mapping[str, Any]:
    try:
        return run.status
    except SegrunError:
        return {}


def _turn() -> str:
    """What tells one begin of a SLURM job from the next."""
    return ":".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"))
