"""The trials of a search as a table: for the terminal, and as a CSV file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from seg_cli.config.space import written
from seg_cli.config.visible import no_formula, visible

SHOWN = 20
"""Trials in the terminal; the file has all."""

_PIECE = 12  # letters of a line of a heading


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: of the trial.
        state: ``complete``, ``pruned``, ``failed`` or ``running``.
        values: of the objectives; None where it did not get so far.
        best: whether no other one is better, in every objective.
        drawn: name of a parameter -> its value; those whose conditions did not hold are not there.
        epochs: that were scored; (epoch, score on val) each.
        seconds: that it took; None while it runs.
        run: its run directory, or empty.
        note: why it failed, was pruned, or took no time.
    """

    number: int
    state: str
    values: tuple[float, ...] | None
    best: bool
    drawn: dict[str, Any]
    epochs: tuple[tuple[int, float], ...]
    seconds: float | None
    run: str
    note: str


def ranked(trials: Sequence[Trial], *, maximize: bool) -> list[Trial]:
    """Complete ones from the best to the worst by the first objective, then pruned, running and failed ones."""
    order = ("complete", "pruned", "running", "failed")
    sign = -1 if maximize else 1

    def place(trial: Trial) -> tuple[int, bool, float, int]:
        value = sign * trial.values[0] if trial.values else 0.0
        return order.index(trial.state), not trial.best, value, trial.number

    return sorted(trials, key=place)


def search_table(trials: Sequence[Trial], objectives: Sequence[str], parameters: Sequence[str]) -> Table:
    """The table for the terminal: the best first, at most ``SHOWN``; the best ones in green."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in objectives:
        table.add_column(Text("\n".join(_pieces(name))), justify="right", no_wrap=True)
    for name in parameters:
        head = _pieces(name)
        table.add_column(Text("\n".join(head)), overflow="fold", min_width=min(_PIECE, max(map(len, head))))
    scored = any(trial.epochs for trial in trials)
    if scored:
        table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for trial in trials[:SHOWN]:
        values = trial.values or (None,) * len(objectives)
        table.add_row(
            str(trial.number),
            trial.state,
            *(Text(_rounded(value), style="bold green" if trial.best else "") for value in values),
            *(Text(_shown(trial.drawn, name)) for name in parameters),
            *([str(trial.epochs[-1][0]) if trial.epochs else ""] if scored else []),
            "" if trial.seconds is None else f"{trial.seconds:.0f}",
        )
    return table


def search_csv(trials: Sequence[Trial], objectives: Sequence[str], parameters: Sequence[str]) -> str:
    """All trials, one a row. No cell is read as a formula by a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["trial", "state", "best", *map(_cell, objectives), *map(_cell, parameters), "seconds", "run", "note"]
    )
    for trial in trials:
        values = trial.values or ("",) * len(objectives)
        drawn = [_cell(trial.drawn[name]) if name in trial.drawn else "" for name in parameters]
        seconds = "" if trial.seconds is None else round(trial.seconds, 1)
        row = [
            trial.number,
            trial.state,
            int(trial.best),
            *values,
            *drawn,
            seconds,
            _cell(trial.run),
            _cell(trial.note),
        ]
        writer.writerow(row)
    return buffer.getvalue()


def _shown(drawn: dict[str, Any], name: str) -> str:
    if name not in drawn:
        return "–"
    value = drawn[name]
    return f"{value:.4g}" if isinstance(value, float) else visible(written(value))


def _rounded(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _cell(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return no_formula(written(value))


def _pieces(name: str) -> list[str]:
    """A long name in pieces: behind its dots, and behind underscores where a piece is long still."""
    pieces = visible(name).replace(".", ".\n").split("\n")
    return [
        part for piece in pieces for part in (piece.replace("_", "_\n") if len(piece) > _PIECE else piece).split("\n")
    ]
