"""``segrun status [DIR] [--follow]``: how far the runs of a matrix are, or those in a folder."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from seg_cli.commands.arguments import Parser
from seg_cli.errors import UserError
from seg_cli.reports.jobs import count_states
from seg_cli.reports.status import status_table
from seg_cli.runs import slurm
from seg_cli.runs.jobs import Jobs
from seg_cli.runs.watch import GOING, Progress, find, look

_EVERY = 2.0
"""Seconds between two looks."""


def main(argv: Sequence[str]) -> int:
    """Show it; returns the exit status."""
    parser = Parser("status")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--follow", action="store_true")
    asked = parser.parse_intermixed_args(list(argv))
    if len(asked.folders) > 1:
        raise UserError("status: one folder at a time, as in segrun status outputs/camvid.")
    folder = find(asked.folders[0] if asked.folders else None)
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 1000)
    if asked.follow:
        _follow(folder, console)
        return 0
    runs = look(folder)
    console.print(_table(folder, runs))
    console.print(summary(folder, runs), markup=False, highlight=False)
    return 0


def _table(folder: Path, runs: Sequence[Progress]) -> Table:
    return status_table(runs, "job" if Jobs(folder).is_there else "run")


def summary(folder: Path, runs: Sequence[Progress]) -> str:
    """``outputs/.sweeps/...: 5 finished, 1 running``, and who else is at work on it."""
    said = [f"{folder}: {count_states([run.job for run in runs])}"]
    jobs = Jobs(folder)
    if jobs.is_there:
        matrix = jobs.matrix
        if matrix is not None:
            said.append(f"sent off by process {matrix['pid']}")
        stuck = {"lost", "interrupted"}
        if queued := in_queue(folder):
            said.append(f"{len(queued)} in SLURM's queue")
        else:
            stuck.add("waiting")
        if matrix is None and any(run.job.state in stuck for run in runs):
            said.append("nobody sends off the rest; the same command again goes on")
    return "; ".join(said)


def in_queue(folder: Path) -> list[str]:
    """The jobs of SLURM that were sent off for a matrix and have not ended; none if SLURM does not answer."""
    jobs = slurm.submitted(folder)
    return sorted(slurm.queued(jobs) or ()) if jobs and slurm.is_there() else []


def _follow(folder: Path, console: Console) -> None:
    """Show it until everything has ended; in a file or pipe, a line each time that the states change."""
    before = ""
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            runs = look(folder)
            if console.is_terminal:
                live.update(_table(folder, runs), refresh=True)
            elif (line := count_states([run.job for run in runs])) != before:
                console.print(line)
                before = line
            if not any(run.job.state in GOING for run in runs) and not _is_sent_off(folder):
                break
            time.sleep(_EVERY)
        if not console.is_terminal:
            live.update(_table(folder, runs))
    console.print(summary(folder, runs), markup=False, highlight=False)


def _is_sent_off(folder: Path) -> bool:
    """Whether somebody still has jobs begin."""
    jobs = Jobs(folder)
    return jobs.is_there and (jobs.matrix is not None or bool(in_queue(folder)))
