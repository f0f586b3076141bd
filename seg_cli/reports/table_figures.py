"""The pictures of a table, as PNG and PDF: which rows cannot be told apart by rank, and quality against speed."""

import math
from pathlib import Path

from seg_cli.config.visible import visible
from seg_cli.errors import UserError
from seg_cli.reports.figures_tables import Point, critical_difference, speed_quality
from seg_cli.reports.statistics import rank
from seg_cli.reports.table import Table
from seg_cli.reports.table_columns import column_of, value_of
from seg_cli.reports.table_findings import counts_of_rows, metric_of
from seg_cli.reports.table_rows import Row

_KINDS = (".png", ".pdf")


def draw_figures(table: Table, folder: Path) -> list[str]:
    """Draw ``critical_difference`` and ``speed_quality`` of the column that rows are sorted by, or of the first tested.

    Returns:
        For each what was written, or why it was not, as a line.

    Raises:
        UserError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--figures {folder}: the folder cannot be made ({error.strerror}).") from None
    known, split = table.rows[0].runs[0], str(table.request.split)
    ids = sorted((column.id for column in table.columns), key=lambda name: name != table.request.sort)
    chosen = next((name for name in ids if metric_of(name, known, split)), None)
    if chosen is None:
        return [f"{folder}: no picture; none of the columns follows from the counts of images."]
    return [_ranks(table, chosen, folder), _speeds(table, chosen, folder)]


def _ranks(table: Table, chosen: str, folder: Path) -> str:
    split = str(table.request.split)
    counts, first, _ = counts_of_rows(table.rows, split)
    metric = metric_of(chosen, table.rows[0].runs[0], split)
    groups = first.groups if first is not None and any(first.groups) else None
    ranking = rank(list(counts.values()), str(metric), groups=groups, level=table.request.level) if counts else None
    if ranking is None:
        return f"{folder}: no critical_difference; it takes two rows that were tested on two images or more."
    names = [_name(table.rows[number]) for number in counts]
    title = f"{column_of(chosen).heading} on {split}"
    for kind in _KINDS:
        path = folder / f"critical_difference{kind}"
        critical_difference(names, ranking, path, title=visible(title), units="groups" if groups else "images")
    return f"written: {folder / 'critical_difference'} {' '.join(_KINDS)}"


def _speeds(table: Table, chosen: str, folder: Path) -> str:
    split, points = str(table.request.split), []
    for number, (row, numbers) in enumerate(zip(table.rows, table.data["rows"], strict=True)):
        speeds = [speed for run in row.runs if (speed := value_of(run, split, "images_per_second"))]
        of = numbers["scores"][chosen]
        if speeds and of["mean"] is not None:
            finding = (table.findings.of.get(chosen) or [None] * (number + 1))[number] or {}
            low, high = (finding.get(key, math.nan) for key in ("low", "high"))
            points.append(Point(_name(row), sum(speeds) / len(speeds), of["mean"], low, high))
    if not points:
        return f"{folder}: no speed_quality; no run has images_per_second."
    hardware = sorted({str(run.environment.get("hardware") or "") for row in table.rows for run in row.runs})
    where = hardware[0] if len(hardware) == 1 else "on different hardware, so not comparable"
    title = f"{column_of(chosen).heading} on {split}"
    for kind in _KINDS:
        speed_quality(points, folder / f"speed_quality{kind}", metric=visible(title), hardware=visible(where))
    return f"written: {folder / 'speed_quality'} {' '.join(_KINDS)}"


def _name(row: Row) -> str:
    return visible(" ".join(row.values.values()))
