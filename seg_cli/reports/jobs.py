"""The jobs of a matrix in the terminal: what each of them came to, where it is, and why it failed."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from seg_cli.config.secrets import mask_secrets
from seg_cli.config.visible import visible
from seg_cli.runs.jobs import Job

COLORS = {"finished": "green", "failed": "red", "lost": "red", "interrupted": "yellow", "elsewhere": "cyan"}
WORDS = {"waiting": "not begun", "elsewhere": "running"}


def job_table(jobs: Sequence[Job], names: Sequence[str]) -> Table:
    """A line a job.

    Args:
        jobs: all of them.
        names: what they vary, as ``model``; the values are read from their overrides.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", justify="right")
    for name in names:
        table.add_column(Text(visible(name)), overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("mIoU", justify="right")
    table.add_column("run directory", overflow="fold")
    if any(job.reason or job.remark for job in jobs):
        table.add_column("remark", overflow="fold")
    for job in jobs:
        values = dict(text.lstrip("+").partition("=")[::2] for text in job.overrides)
        cells = [str(job.number + 1), *(values.get(name, "") for name in names)]
        state = Text(WORDS.get(job.state, job.state), style=COLORS.get(job.state, ""))
        score = "" if job.score is None else f"{job.score:.4f}"
        said = ": ".join(text for text in (job.remark, job.reason) if text)
        row = [*(Text(visible(cell)) for cell in cells), state, Text(score), Text(visible(job.run or ""))]
        table.add_row(*row, *([Text(visible(" ".join(said.split())))] if len(table.columns) > len(row) else []))
    return table


def end_line(job: Job, *, ended: int, of: int) -> str:
    """``finished: job 5 model=fpn seed=1, mIoU 0.4213 (12 of 24 ended)``: that a job has ended, and how."""
    score = "" if job.score is None else f", mIoU {job.score:.4f}"
    reason = f": {job.reason}" if job.reason else ""
    state, what = WORDS.get(job.state, job.state), mask_secrets(" ".join(job.overrides))
    return visible(f"{state}: job {job.number + 1} {what}{score} ({ended} of {of} ended){reason}".replace("\n", " "))


def known_line(jobs: Sequence[Job], *, todo: int) -> str:
    """What is known of jobs before any of a matrix is sent off; empty where nothing is."""
    known = [job for job in jobs if job.state != "waiting"]
    if not known:
        return ""
    failed = any(job.state == "failed" for job in known)
    hint = " (retry=failed tries those again that failed)" if failed else ""
    return f"{len(jobs)} jobs: {count_states(known)} before{hint}, {todo} to do"


def count_states(jobs: Sequence[Job]) -> str:
    """``5 finished, 1 failed``."""
    counts = Counter(WORDS.get(job.state, job.state) for job in jobs)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def varied(jobs: Sequence[Job]) -> list[str]:
    """Keys that jobs set to different values, in the order of the overrides."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for text in job.overrides:
            key, _, value = text.lstrip("+").partition("=")
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]
