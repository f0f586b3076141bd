"""Who runs a run: status.json says it, so that nobody goes on with a run that is still going."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATIENCE = 30 * 60
"""Seconds without a word after which a process on another machine, which cannot be looked at, is taken to be gone."""


def describe_runner() -> dict[str, Any]:
    """This process, for status.json.

    ``born`` tells it from a later process with the same number; ``job`` is the SLURM job, ``tries`` how often that was
    begun again.
    """
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID")
    return {"host": socket.gethostname(), "pid": pid, "born": _born(pid), "job": job, "tries": _tries()}


def who_runs(status: Mapping[str, Any], *, silent: float) -> str | None:
    """Who runs a run now, in words; None if nobody does.

    Args:
        status: what status.json holds.
        silent: seconds since it was written.
    """
    process = status.get("process")
    if status.get("state") != "running" or not isinstance(process, Mapping):
        return None
    if process["job"] and process["job"] == os.environ.get("SLURM_JOB_ID") and process["tries"] < _tries():
        return None  # this job was put back into the queue, and that process ended with its earlier try
    if process["host"] != socket.gethostname():
        if silent >= PATIENCE:
            return None
        minutes = round((PATIENCE - silent) / 60) + 1
        return (
            f"process {process['pid']} on {process['host']}, heard of {round(silent / 60)} minutes ago. From here it "
            f"cannot be seen whether it is still there; go on from that machine, or in {minutes} minutes"
        )
    pid = process["pid"]
    if pid == os.getpid() or not _is_alive(pid) or process["born"] != _born(pid):
        return None
    return f"process {pid} on this machine"


def seconds_since(path: Path) -> float:
    """Seconds since a file was written."""
    return max(0.0, time.time() - path.stat().st_mtime)


def _tries() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _is_alive(pid: int) -> bool:
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


def _state(pid: int) -> str | None:
    fields = _fields(pid)
    return fields[0] if fields else None


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, those behind the name, which may hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
