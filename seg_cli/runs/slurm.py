"""What SLURM says and does: its partitions, the jobs in its queue, and how they are ended.

Only ``sinfo``, ``squeue``, ``scontrol`` and ``scancel`` are asked, which work without accounting.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seg_cli.errors import UserError
from seg_cli.runs.atomic import write_json

_SUBMITTED = "slurm.json"
"""In the folder of a matrix: the SLURM jobs that were sent off for it."""

_JOB = re.compile(r"\d+(_\d+)?")
"""A job as files name it. What is anything else is passed to no command, which could take it for an option."""
_PATIENCE = 60.0
"""Seconds for an answer."""


@dataclass(frozen=True)
class Nodes:
    """Machines of a partition that are alike.

    Attributes:
        partition: its name.
        default: whether it is the one that jobs go to which name none.
        count: how many machines.
        gpus, cpus: of each.
        memory: of each, in MB.
        minutes: for which a job may run there; None without a limit.
    """

    partition: str
    default: bool
    count: int
    gpus: int
    cpus: int
    memory: int
    minutes: float | None


def own_job() -> str:
    """The SLURM job that this process is of, as SLURM wants it named; empty outside of SLURM.

    Of an array it is ``<array>_<task>``: the number alone of the last task would mean them all.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def is_there() -> bool:
    """Whether the commands of SLURM are installed."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def partitions() -> list[Nodes]:
    """The machines of all partitions. Raises UserError if SLURM does not answer."""
    lines = _ask("sinfo", "-h", "-o", "%P|%D|%G|%c|%m|%l").splitlines()
    return [_nodes(line) for line in lines if line.count("|") == 5]


def queued(jobs: Sequence[str]) -> set[str] | None:
    """Which of these jobs (``12`` or ``12_3``) wait, run, or are about to end; None if SLURM does not answer now."""
    heads = sorted({job.partition("_")[0] for job in jobs}, key=int)
    try:
        said = _run("squeue", "-h", "-r", "-o", "%i", "-j", ",".join(heads))
    except (OSError, subprocess.SubprocessError):
        return None
    if said.returncode and "Invalid job id" not in said.stderr:  # as of one that it has forgotten already
        return None
    return set(said.stdout.split()) & set(jobs)


def cancel(jobs: Iterable[str], *options: str) -> None:
    """``scancel`` of some jobs; those that have ended, for which it is an error, are passed over."""
    words = sorted({job for job in jobs if _JOB.fullmatch(job)})
    if words:
        with suppress(OSError, subprocess.SubprocessError):
            _run("scancel", "--quiet", *options, *words)


def note_submitted(folder: Path, jobs: Sequence[str]) -> None:
    """Note down in the folder of a matrix which SLURM jobs were sent off for it, after those that were before."""
    write_json(folder / _SUBMITTED, [*submitted(folder), *jobs])


def submitted(folder: Path) -> list[str]:
    """The SLURM jobs that were sent off for a matrix; none if there are none."""
    try:
        jobs = json.loads((folder / _SUBMITTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(job) for job in jobs if _JOB.fullmatch(str(job))] if isinstance(jobs, list) else []


def _nodes(line: str) -> Nodes:
    name, count, generic, cpus, memory, limit = line.split("|")
    # gpu:2, gpu:a100:4(S:0-1), or (null); several with commas, which stand inside the brackets too
    gpus = sum(int(number) for number in re.findall(r"(?:^|,)gpu:(?:[^,:(]+:)?(\d+)", generic))
    return Nodes(
        partition=name.rstrip("*"),
        default=name.endswith("*"),
        count=_integer(count),
        gpus=gpus,
        cpus=_integer(cpus),
        memory=_integer(memory),
        minutes=_minutes(limit),
    )


def _integer(text: str) -> int:
    """Some have a ``+`` behind them: of several kinds of machines, the smallest."""
    return int(text.strip().rstrip("+"))


def _minutes(limit: str) -> float | None:
    """Of ``days-hours:minutes:seconds`` without the parts that are not needed; None for ``infinite``."""
    days, _, rest = limit.strip().rpartition("-")
    if not rest.replace(":", "").isdigit():
        return None
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = [*parts, 0, 0][:3] if days else [*[0] * (3 - len(parts)), *parts]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _ask(*command: str) -> str:
    try:
        done = _run(*command)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{command[0]}: SLURM does not answer ({error}).") from None
    if done.returncode:
        raise UserError(f"{command[0]}: SLURM does not answer ({' '.join(done.stderr.split()) or 'without a word'}).")
    return done.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
