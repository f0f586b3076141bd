"""Who runs a run: status.json says it, so that nobody goes on with a run that is still going.

A process on this machine is looked at. One on another machine is heard of: it touches a file every 15 seconds (see
``heartbeat``), and counts as gone when that is a minute old, by the clock of the file system that both write to.
"""

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds without a word after which a process on another machine, which cannot be looked at, is taken to be gone."""


def describe_runner() -> dict[str, Any]:
    """This process, for status.json.

    ``born`` tells it from a later process with the same number; ``job`` is the SLURM job, ``tries`` how often that was
    begun again.
    """
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID")
    return {"host": socket.gethostname(), "pid": pid, "born": _own_birth(pid), "job": job, "tries": _tries()}


def rank() -> int:
    """The number of this process among those that train together, as far as the environment tells before they meet."""
    return int(next((os.environ[key] for key in ("RANK", "SLURM_PROCID") if key in os.environ), 0))


def named_process(value: object) -> Mapping[str, Any] | None:
    """What a file says of a process, as ``describe_runner`` writes it; None where it is nothing of the kind.

    A file may be damaged, or somebody else's, and processes are sent signals.
    """
    if not isinstance(value, Mapping) or not {"host", "pid", "born", "job", "tries"} <= value.keys():
        return None
    numbers = all(isinstance(value[key], int) and not isinstance(value[key], bool) for key in ("pid", "tries"))
    # To the system, 0 and numbers below it are all processes of a group, or all that a user has.
    return value if numbers and value["pid"] > 0 else None


def lives(process: Mapping[str, Any], *, silent: float) -> bool:
    """Whether a process is still there, as far as can be told from here.

    Args:
        process: what ``describe_runner`` gave there.
        silent: seconds since it was heard of.
    """
    if process["job"] and process["job"] == os.environ.get("SLURM_JOB_ID") and process["tries"] < _tries():
        return False  # this job was put back into the queue, and that process ended with its earlier try
    if process["host"] != socket.gethostname():
        return silent < PATIENCE
    return _is_alive(process["pid"]) and process["born"] == _born(process["pid"])


def who_runs(status: Mapping[str, Any], *, silent: float) -> str | None:
    """Who else runs a run now, in words; None if nobody does.

    Args:
        status: what status.json holds.
        silent: seconds since its process was heard of.
    """
    process = named_process(status.get("process"))
    if status.get("state") != "running" or process is None or not lives(process, silent=silent):
        return None
    if process["host"] != socket.gethostname():
        return (
            f"process {process['pid']} on {process['host']}, heard of {round(silent)} seconds ago. From here it cannot "
            f"be seen whether it is still there; go on from that machine, or in {round(PATIENCE - silent) + 1} seconds"
        )
    return None if process["pid"] == os.getpid() else f"process {process['pid']} on this machine"


def seconds_since(path: Path) -> float:
    """Seconds since a file was written or touched, by the clock of its file system; infinite if it is not there."""
    try:
        with path.open("rb") as file:  # opening it is what makes NFS ask its server
            then = os.fstat(file.fileno()).st_mtime
    except OSError:
        return float("inf")
    return max(0.0, _clock(path.parent) - then)


def _clock(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder, which may be another machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # a folder that is not ours to write to
        return time.time()


def _tries() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return _state(pid) != "Z"  # ended, and nobody has asked yet how


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not tell."""
    fields = _fields(pid)
    return int(fields[19]) if fields else None


@cache
def _own_birth(pid: int) -> int | None:
    """Of this process, which is asked for at every sign of life; by its number, since it may be a fork of another."""
    return _born(pid)


def _state(pid: int) -> str | None:
    fields = _fields(pid)
    return fields[0] if fields else None


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, those behind the name, which may hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
