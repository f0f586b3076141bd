"""The benchmark table: rows of runs, their scores with spread, intervals and tests, and what must be said of them.

``make_table`` finds the runs and says everything; ``table_formats`` writes it down.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.reports.table_columns import Column, class_names, column_of, make_columns, value_of
from seg_cli.reports.table_findings import Findings, find
from seg_cli.reports.table_notes import notes_of
from seg_cli.reports.table_rows import (
    NOTHING,
    Row,
    check_comparable,
    default_keys,
    filtered,
    make_rows,
)
from seg_cli.runs.collection import Collection, Record, collect

SHOWN = ("std", "ci", "difference", "p")
"""What may stand beside a mean: its spread over seeds, and of the column that rows are sorted by its interval, its
difference to the best and the p of that."""

SCHEMA = 1
"""Of the JSON form."""


@dataclass(frozen=True)
class Request:
    """What a table is asked to be; None and () take what suits the runs.

    Attributes:
        rows: what makes a row: choices, settings, ``pretrained``.
        columns: numbers of runs.
        split: of the dataset; None takes test, or val where no run has test.
        sort: a column (best first) or one of the rows.
        show: of ``SHOWN``.
        per_class: the IoU of every class instead of ``columns``.
        underline_second: whether the second best is underlined.
        filters: ``key=value``.
        allow: differences that are taken, see ``table_rows.ALLOWED``.
        evaluation: scores of ``RUN/eval/NAME``.
        level: of intervals.
    """

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    split: str | None = None
    sort: str | None = None
    show: tuple[str, ...] = SHOWN
    per_class: bool = False
    underline_second: bool = False
    filters: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    evaluation: str | None = None
    level: float = 0.95


@dataclass(frozen=True)
class Cell:
    """What stands at a place of a table."""

    text: str
    bold: bool = False
    underlined: bool = False


@dataclass(frozen=True)
class Table:
    """A table, to be written down.

    Attributes:
        request: with everything filled in that was left open.
        headings: of all columns; the first ``len(request.rows)`` say what a row is.
        cells: one list a row.
        notes: sentences that belong below it.
        data: all numbers, for machines; what the JSON form is.
        columns, rows, findings: what it was made of.
    """

    request: Request
    headings: list[str]
    cells: list[list[Cell]]
    notes: list[str]
    data: dict[str, Any]
    columns: list[Column]
    rows: list[Row]
    findings: Findings


def make_table(folders: Sequence[str | Path], request: Request) -> Table:
    """Find the runs, put them into rows, compare and describe them.

    Raises:
        UserError: if there is nothing to show, if the request does not fit the runs, or if runs cannot be compared.
    """
    found = collect(folders, evaluation=request.evaluation)
    return _table_of(filtered(found, request.filters), folders, request)


def make_tables(folders: Sequence[str | Path], request: Request) -> list[Table]:
    """A table for each dataset, since scores on different ones cannot be compared; one where ``allow`` has ``data``.

    Raises UserError as ``make_table`` does.
    """
    found = filtered(collect(folders, evaluation=request.evaluation), request.filters)
    datasets = dict.fromkeys(record.choices.get("data", "") for record in found.records if record.finished)
    if len(datasets) < 2 or "data" in (*request.allow, *request.rows):
        return [_table_of(found, folders, request)]
    own = [f"data={name}" for name in sorted(datasets)]
    return [
        _table_of(filtered(found, [one]), folders, replace(request, filters=(*request.filters, one))) for one in own
    ]


def _table_of(found: Collection, folders: Sequence[str | Path], request: Request) -> Table:
    split, records = _scored(found, request.split, folders, request.evaluation)
    for key in request.rows:
        Collection(records, []).check_key(key, f"--rows {key}")
    keys = request.rows or tuple(default_keys(records, request.allow))
    rows, older = make_rows(records, keys, allow=request.allow)
    names = request.columns or _default_columns(records, split, request.per_class)
    columns = make_columns(names, records, split)
    allowed = check_comparable(rows, split, keys, request.allow)
    sort = request.sort or columns[0].id
    rows = _sorted(rows, sort, keys, columns, split)
    request = replace(request, rows=keys, columns=tuple(names), split=split, sort=sort)
    findings = find(rows, [column.id for column in columns], split, level=request.level)
    notes = notes_of(found, rows, columns, findings, request, allowed=allowed, older=older)
    numbers = [
        {column.id: _numbers(row, column, split, findings, i) for column in columns} for i, row in enumerate(rows)
    ]
    headings, cells = _write(rows, columns, numbers, request)
    data = {
        "schema": SCHEMA,
        "request": asdict(request),
        "rows": [
            {
                "row": row.values,
                "runs": [str(run.folder) for run in row.runs],
                "seeds": [run.seed for run in row.runs],
                "scores": of,
            }
            for row, of in zip(rows, numbers, strict=True)
        ],
        "notes": notes,
    }
    return Table(request, headings, cells, notes, data, columns, rows, findings)


# ---- what is in it


def _scored(
    found: Collection, split: str | None, folders: Sequence[str | Path], evaluation: str | None
) -> tuple[str, list[Record]]:
    """The split, and the finished runs that have scores on it."""
    finished = [record for record in found.records if record.finished]
    where = ", ".join(map(str, folders)) + (f" (eval/{evaluation})" if evaluation else "")
    if not finished:
        states = Counter("damaged" if record.problem else record.state for record in found.records)
        there = ", ".join(f"{count} {state}" for state, count in states.items()) or "no run at all"
        if evaluation and any(record.state == "finished" for record in found.records):
            raise UserError(
                f"--eval {evaluation}: no run has such scores. They are made with: "
                f"segrun eval run=RUN name={evaluation}"
            )
        raise UserError(
            f"{where}: there is no finished run to show; there is {there}. A run is made with: segrun model=unet"
        )
    splits = list(dict.fromkeys(name for record in finished for name in (record.results or {})["splits"]))
    if split is None:
        split = next((name for name in ("test", "val") if name in splits), splits[0] if splits else "test")
    records = [record for record in finished if split in (record.results or {})["splits"]]
    if not records:
        raise UserError(
            f"--split {split}: no run has scores on it.{did_you_mean(split, splits)} There are: {', '.join(splits)}."
        )
    return split, records


def _default_columns(records: Sequence[Record], split: str, per_class: bool) -> tuple[str, ...]:
    if per_class:
        names = tuple(f"iou:{name}" for name in class_names(records[0], split))
        there = [name for name in names if any(value_of(record, split, name) is not None for record in records)]
        return ("miou", *there)
    return tuple(
        name
        for name in ("miou", "pixel_accuracy")
        if any(value_of(record, split, name) is not None for record in records)
    ) or ("miou",)


def _values(row: Row, name: str, split: str) -> list[float]:
    """Of each seed that has one."""
    return [value for run in row.runs if (value := value_of(run, split, name)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def _sorted(rows: list[Row], sort: str, keys: Sequence[str], columns: Sequence[Column], split: str) -> list[Row]:
    """Best first, or by name; rows without the number come last."""
    if sort in keys:
        return sorted(rows, key=lambda row: row.values[sort])
    if all(value_of(run, split, sort) is None for row in rows for run in row.runs):
        known = [*(column.id for column in columns), *keys]
        raise UserError(f"--sort {sort}: no run has that.{did_you_mean(sort, known)} There are: {', '.join(known)}.")
    sign = 1 if column_of(sort).falls else -1

    def place(row: Row) -> tuple[bool, float, str]:
        mean = _mean(_values(row, sort, split))
        return mean is None, sign * (mean or 0.0), row.name

    return sorted(rows, key=place)


def _numbers(row: Row, column: Column, split: str, findings: Findings, number: int) -> dict[str, Any]:
    """What is known of a row in a column."""
    values = _values(row, column.id, split)
    of: dict[str, Any] = {"mean": _mean(values), "std": _std(values), "seeds": len(values)}
    finding = findings.of.get(column.id, [None] * (number + 1))[number]
    if finding is not None:
        names = ("low", "high", "difference", "difference_low", "difference_high", "p", "p_corrected", "best", "tied")
        of |= {name: None if finding[name] != finding[name] else finding[name] for name in names}
    return of


# ---- how it is written


def _write(
    rows: Sequence[Row], columns: Sequence[Column], numbers: Sequence[dict[str, Any]], request: Request
) -> tuple[list[str], list[list[Cell]]]:
    first = sorted((column.id for column in columns), key=lambda name: name != request.sort)
    detailed = next((name for name in first if any("tied" in of[name] for of in numbers)), first[0])
    tested = [of for of in numbers if "tied" in of[detailed]]
    extra = [name for name in request.show if name != "std" and tested]
    if len(tested) < 2:
        extra = [name for name in extra if name == "ci"]
    headings = [*request.rows, *([] if "seed" in request.rows else ["seeds"])]
    titles = {"ci": f"{request.level * 100:g}% interval", "difference": "Δ best", "p": "p"}
    for column in columns:
        headings += [column.heading, *(titles[name] for name in extra if column.id == detailed)]
    cells = []
    for row, of in zip(rows, numbers, strict=True):
        line = [Cell(row.values[key]) for key in request.rows]
        line += [] if "seed" in request.rows else [Cell(str(len(row.runs)))]
        for column in columns:
            second = request.underline_second and _is_second(of, numbers, column.id)
            line.append(_score(column, of[column.id], "std" in request.show, len(tested) > 1, second))
            if column.id == detailed:
                line += [Cell(_extra(column, of[column.id], name)) for name in extra]
        cells.append(line)
    return headings, cells


def _score(column: Column, of: dict[str, Any], std: bool, bold: bool, underlined: bool) -> Cell:
    text = column.written(of["mean"])
    if std and column.spread and of["std"] is not None:
        text += f" ± {column.written(of['std'])}"
    return Cell(text, bold=bold and bool(of.get("tied")), underlined=underlined)


def _is_second(of: dict[str, Any], numbers: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a row has the second highest mean of a tested column; several may, where they are equal."""
    means = sorted({other[name]["mean"] for other in numbers if "tied" in other[name]} - {None}, reverse=True)
    return len(means) > 1 and "tied" in of[name] and of[name]["mean"] == means[1]


def _extra(column: Column, of: dict[str, Any], name: str) -> str:
    if "tied" not in of or of["mean"] is None:
        return NOTHING
    if name == "ci":
        return NOTHING if of["low"] is None else f"{column.written(of['low'])}–{column.written(of['high'])}"
    if of["best"]:
        return "best" if name == "difference" else NOTHING
    if name == "difference":
        return column.written(of["difference"])
    return NOTHING if of["p_corrected"] is None else written_p(of["p_corrected"])


def written_p(p: float) -> str:
    """A p-value; one below a thousandth is said to be that."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
