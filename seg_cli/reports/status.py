"""How far runs are, in the terminal: what ``segrun status`` shows."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from seg_cli.config.visible import visible
from seg_cli.reports.jobs import COLORS, WORDS, varied
from seg_cli.runs.watch import GOING, Progress

_ALWAYS = ("model", "loss")
"""Shown where nothing varies."""


def status_table(runs: Sequence[Progress], heading: str) -> Table:
    """A line a run: what it varies, its state, epochs, scores, time left, where it is run, when it was heard of.

    Args:
        runs: all of them.
        heading: of their numbers, ``job`` or ``run``.
    """
    names = varied([run.job for run in runs]) or [name for name in _ALWAYS if any(name in _chosen(run) for run in runs)]
    several = len(runs) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(heading, justify="right")
    for name in names:
        table.add_column(Text(visible(name)), overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("epoch", "val", "test", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    table.add_column("heard of", justify="right", no_wrap=True)
    table.add_column("run directory", overflow="fold")
    if any(run.job.reason for run in runs):
        table.add_column("reason", overflow="fold")
    for run in runs:
        job = run.job
        values = _chosen(run)
        state = Text(WORDS.get(job.state, job.state), style=COLORS.get(job.state, ""))
        cells = [
            *(Text(visible(values.get(name, ""))) for name in names),
            state,
            Text(_epochs(run)),
            Text("" if run.val is None else f"{run.val:.4f}"),
            Text("" if job.score is None else f"{job.score:.4f}"),
            Text("" if run.seconds_left is None else duration(run.seconds_left)),
            Text(visible(_where(run))),
            Text("" if run.silent is None else f"{duration(run.silent)} ago"),
            Text(visible(job.run or "")),
        ]
        if any(other.job.reason for other in runs):
            cells.append(Text(visible(" ".join((job.reason or "").split()))))
        table.add_row(str(job.number + 1) if several else "", *cells)
    return table


def _chosen(run: Progress) -> dict[str, str]:
    return dict(text.lstrip("+").partition("=")[::2] for text in run.job.overrides)


def duration(seconds: float) -> str:
    """``35 s``, ``12 min``, ``3:05 h``, ``2 days``; ``long`` where it is not known."""
    if seconds == float("inf"):
        return "long"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02d} h" if hours < 48 else f"{hours // 24} days"


def _epochs(run: Progress) -> str:
    if run.epoch is None:
        return ""
    return str(run.epoch) if run.epochs is None else f"{run.epoch}/{run.epochs}"


def _where(run: Progress) -> str:
    if run.process is None or run.job.state not in (*GOING, "lost"):
        return ""
    job = f", SLURM job {run.process['job']}" if run.process["job"] else ""
    return f"{run.process['host']} {run.process['pid']}{job}"
