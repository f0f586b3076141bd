"""``segrun cancel DIR [--yes]``: end what is running there; what it has done is saved, and can be gone on with."""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seg_cli.commands.arguments import Parser
from seg_cli.commands.status import in_queue
from seg_cli.errors import RunFailed, UserError
from seg_cli.reports.jobs import count_states
from seg_cli.runs import slurm
from seg_cli.runs.jobs import Jobs
from seg_cli.runs.runner import lives
from seg_cli.runs.watch import Progress, find, look

_GRACE = 120.0
"""Seconds that runs have to save."""

_LOOK = 0.5


def main(argv: Sequence[str]) -> int:
    """End it; returns the exit status."""
    parser = Parser("cancel")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--yes", action="store_true")
    asked = parser.parse_intermixed_args(list(argv))
    if len(asked.folders) != 1:
        newest = _newest()
        raise UserError(
            f"cancel: of what? Type segrun cancel {newest or 'outputs/.sweeps/<time>'} for "
            f"{'the newest' if newest else 'a'} matrix, or segrun cancel outputs/<name>."
        )
    folder = find(asked.folders[0])
    going = _going(look(folder))
    matrix = Jobs(folder).matrix if Jobs(folder).is_there else None
    queue = in_queue(folder)
    if not going and not queue and matrix is None:
        print(f"{folder}: nothing is running ({count_states([run.job for run in look(folder)])}).")
        return 0
    _confirm(f"{folder}: {len(going)} running{f', {len(queue)} SLURM jobs in the queue' if queue else ''}", asked.yes)
    unreached = _ask_to_end(matrix, going, queue)
    _wait(folder, {run.job.number for run in unreached})
    runs = look(folder)
    print(f"{folder}: {count_states([run.job for run in runs])}. To go on: the same command again.")
    left = _going(runs)
    if left:
        where = sorted({_named(run.process) for run in left})
        raise RunFailed(f"Still running: {'; '.join(where)}. End them there, with kill.")
    return 0


def _newest() -> Path | None:
    try:
        return find(None)
    except UserError:
        return None


def _going(runs: Sequence[Progress]) -> list[Progress]:
    return [run for run in runs if run.job.state == "running" and run.process]


def _confirm(what: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{what}. Type segrun cancel DIR --yes to end them without being asked.")
    if input(f"{what}. End them? They can be gone on with. [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("cancel: nothing was ended.")


def _ask_to_end(matrix: Mapping[str, Any] | None, going: Sequence[Progress], queue: Sequence[str]) -> list[Progress]:
    """Have no more jobs begin, and those that run save and end. Returns those that cannot be reached from here."""
    if matrix is not None:
        _terminate(matrix)
    if queue:
        slurm.cancel(queue, "--state=PENDING")
        # Without a signal of its own, SLURM kills a job half a minute later, whether it has saved or not.
        slurm.cancel(queue, "--signal=TERM")
    unreached = []
    for run in going:
        process = run.process or {}
        if process["job"]:
            if slurm.is_there():
                if not queue:
                    slurm.cancel([process["job"]], "--signal=TERM")
            else:
                unreached.append(run)
        elif process["host"] == socket.gethostname():
            if matrix is None or process["pid"] != matrix["pid"]:  # which runs its jobs itself
                _terminate(process)
        else:
            unreached.append(run)
    return unreached


def _wait(folder: Path, unreached: set[int]) -> None:
    """Come back when nothing runs any more that was asked to end, or the time to save is over: what is in SLURM's queue
    is then killed."""

    def saving() -> bool:
        return any(run.job.number not in unreached for run in _going(look(folder)))

    end = time.monotonic() + _GRACE
    while time.monotonic() < end:
        queue = in_queue(folder)
        if not saving() and not queue:
            return
        if queue and not saving():
            slurm.cancel(queue)  # one that had not begun to train when it was asked to end
        time.sleep(_LOOK)
    slurm.cancel(in_queue(folder))


def _terminate(process: Mapping[str, Any]) -> None:
    """SIGTERM, unless the process is gone and another one has its number."""
    if lives(process, silent=0.0):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process["pid"], signal.SIGTERM)


def _named(process: Mapping[str, Any] | None) -> str:
    return "" if process is None else f"process {process['pid']} on {process['host']}"
