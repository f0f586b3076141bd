"""The page of many runs: methods and their statistics, a leaderboard, curves, what varies, two runs image by image.

The page's scripts draw its charts, because what they show is chosen by whoever looks at them.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.reports import table as tables
from seg_cli.reports.page import NOTHING, Cell, Table, render, when
from seg_cli.reports.page_evidence import Evidence, read_evidence
from seg_cli.reports.page_varying import Axis, axes_of, label_of, text_of, varying_keys
from seg_cli.reports.table_columns import Column, available, column_of, value_of
from seg_cli.runs.collection import Record, collect
from seg_cli.runs.watch import is_lost

_SHOWN = ("miou", "pixel_accuracy", "mean_dice", "parameters", "images_per_second", "train_seconds")
"""Columns of the leaderboard that are there without asking for them."""

_MOST_CELLS = 20_000  # of the columns of classes
_MOST_OPTIONS = 40  # of a filter


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        keys: what varies between the runs, and the seed.
        columns: their numbers.
        shown: ids of the columns that are there from the beginning.
        rows: best first: (number of the run, its folder, cells of keys, cells of columns).
        options: key -> its values, to filter by.
    """

    keys: list[str]
    columns: list[Column]
    shown: list[str]
    rows: list[tuple[int, str, list[Cell], list[Cell]]]
    options: dict[str, list[str]]


def make_runs_page(folder: Path, *, split: str | None = None) -> str:
    """The page of all runs below a folder, as HTML.

    Args:
        folder: which holds run directories, at any depth.
        split: whose scores; None takes test, or val where no run has test.

    Raises:
        UserError: if there is no run below the folder, or none with scores on that split.
    """
    found = collect([folder])
    if not found.records:
        raise UserError(f"{folder}: there is no run directory in it or below. A run is made with: segrun model=unet")
    split, records = _scored(found.records, split)
    records.sort(key=lambda record: -(_score(record, split) or 0.0))
    keys = varying_keys(records)
    names = [str(record.folder.relative_to(folder)) for record in records]
    evidence = read_evidence(records, split)
    methods, why_not = _methods(folder, split) if records else (None, "")
    scores = [_score(record, split) for record in records]
    axes = axes_of(records, [*keys, "seed"], scores, f"mIoU on {split}")
    scored = {id(record) for record in records}
    runs = [
        {"name": name, "label": label_of(record, keys) or name, "score": score, **own}
        for record, name, score, own in zip(records, names, scores, evidence.runs, strict=True)
    ]
    return render(
        "runs.html.j2",
        data={
            "charts": {},
            "runs": runs,
            "sets": evidence.sets,
            "pictures": evidence.pictures,
            "axes": _of_axes(axes),
        },
        title=f"{folder.resolve().name}: {len(found.records)} runs",
        name=folder.resolve().name,
        folder=str(folder.absolute()),
        split=split,
        states=Counter(_state(record) for record in found.records).most_common(),
        runs=runs,
        board=_board(records, names, keys, split),
        methods=methods,
        method_notes=methods.notes if methods else [],
        why_not=why_not,
        others=_others([record for record in found.records if id(record) not in scored], folder, split),
        problems=[*found.unreadable, *evidence.problems],
        unseen=_unseen(evidence),
        curves=list(dict.fromkeys(key for run in runs for key in run["curve"] if key != "epoch")),
    )


def _scored(found: Sequence[Record], split: str | None) -> tuple[str, list[Record]]:
    """The split, and the finished runs that have scores on it."""
    finished = [record for record in found if record.finished]
    splits = list(dict.fromkeys(name for record in finished for name in (record.results or {})["splits"]))
    if split is None:
        split = next((name for name in ("test", "val", *splits) if name in splits), "test")
    elif finished and split not in splits:
        raise UserError(
            f"--split {split}: no run has scores on it.{did_you_mean(split, splits)} There are: {', '.join(splits)}."
        )
    return split, [record for record in finished if split in (record.results or {})["splits"]]


def _score(record: Record, split: str) -> float | None:
    return value_of(record, split, "miou")


def _state(record: Record) -> str:
    if record.problem:
        return "damaged"
    return "lost" if record.state == "running" and is_lost(record.folder) else record.state


# ---- what the page shows


def _board(records: Sequence[Record], names: Sequence[str], keys: Sequence[str], split: str) -> Board:
    ids = list(dict.fromkeys(name for record in records[:200] for name in available(record, split)))
    classes = [name for name in ids if name.startswith("iou:")]
    general = [name for name in ids if ":" not in name]
    order = [*(name for name in _SHOWN if name in general), *(name for name in general if name not in _SHOWN)]
    if len(classes) * len(records) <= _MOST_CELLS:
        order += classes
    columns = [column_of(name) for name in order]
    seeds = len({text_of(record, "seed") for record in records}) > 1
    named = [*keys, *(["seed"] if seeds else [])]
    rows = []
    for number, (record, name) in enumerate(zip(records, names, strict=True)):
        numbers = [value_of(record, split, column.id) for column in columns]
        cells = [Cell(column.written(value), value) for column, value in zip(columns, numbers, strict=True)]
        rows.append((number, name, [_cell(text_of(record, key)) for key in named], cells))
    options = {key: sorted({text_of(record, key) for record in records}) for key in named}
    options = {key: values for key, values in options.items() if 1 < len(values) <= _MOST_OPTIONS}
    return Board(named, columns, [name for name in _SHOWN if name in general], rows, options)


def _cell(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text or NOTHING)


@dataclass(frozen=True)
class _Methods:
    """The benchmark table of the runs.

    Attributes:
        table: a row a method.
        notes: what must be said of it.
        command: that makes it again.
    """

    table: Table
    notes: list[str]
    command: str


def _methods(folder: Path, split: str) -> tuple[_Methods | None, str]:
    """The runs as ``segrun table`` shows them; or why they are no such table."""
    request = tables.Request(split=split)
    try:
        made = tables.make_table([folder], request)
    except UserError as error:
        return None, str(error)
    rows = [[Cell(cell.text, bold=cell.bold) for cell in row] for row in made.cells]
    text = len(made.request.rows)
    table = Table(f"Methods on {split}, best first", made.headings, rows, text=text, sortable=False)
    command = ["segrun", "table", str(folder), "--rows", ",".join(made.request.rows), "--split", split]
    return _Methods(table, made.notes, shlex.join(command)), ""


def _others(records: Sequence[Record], folder: Path, split: str) -> Table | None:
    """The runs without scores, and why."""
    rows = []
    for record in records:
        reason = record.problem or record.reason or ""
        if record.finished:
            reason = f"no scores on {split}"
        name = str(record.folder.relative_to(folder))
        rows.append([Cell(name), Cell(_state(record)), Cell(reason or NOTHING), Cell(when(record.dates[0]))])
    headings = ("run", "state", "reason", "started")
    return Table("Runs without scores", headings, rows, text=4) if rows else None


def _of_axes(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    places = [[None if place is None else round(place, 4) for place in axis.places] for axis in axes]
    return [{"name": axis.name, "places": of, "ticks": axis.ticks} for axis, of in zip(axes, places, strict=True)]


def _unseen(evidence: Evidence) -> str:
    """Of how many runs pictures are left out, as a sentence."""
    if not evidence.left_out:
        return ""
    return f"To keep this file small, pictures of the {evidence.left_out} runs with the lowest mIoU are left out."
