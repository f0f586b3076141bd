"""Scores besides the standard ones on the page of a run: whatever a metric has written, as tables, and some curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seg_cli.reports import charts
from seg_cli.reports.page import NOTHING, Cell, Table, mapping

_STANDARD = frozenset(
    (
        *("miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "fw_iou", "classes", "labels", "confusion"),
        *("images", "void", "absent_classes"),
    )
)
_DEEPEST = 3


@dataclass(frozen=True)
class Extra:
    """Other scores.

    Attributes:
        tables: of each metric: its name -> tables.
        graphs: name -> chart.
    """

    tables: dict[str, list[Table]] = field(default_factory=dict)
    graphs: dict[str, charts.Chart | None] = field(default_factory=dict)


def other_metrics(scores: Mapping[str, Any]) -> Extra:
    """The scores of a split that are none of the standard ones."""
    extra = Extra()
    loose = {}
    for name, found in scores.items():
        if name in _STANDARD:
            continue
        if not isinstance(found, Mapping):
            loose[name] = found
            continue
        tables = list(_tables(name, found))
        if tables:
            extra.tables[name] = tables
    if loose and (tables := list(_tables("others", loose))):
        extra.tables["others"] = tables
    curve = mapping(scores.get("calibration")).get("curve")
    if isinstance(curve, list) and curve and all(map(_is_point, curve)):
        alt = "Accuracy over confidence; a model that is as sure as it is right lies on the dashed line."
        extra.graphs["calibration"] = charts.reliability(curve, alt=alt)
    return extra


def _is_point(row: object) -> bool:
    """Whether a bin of a reliability curve is whole: without pixels it has no other number."""
    numbers = [mapping(row).get(key) for key in ("pixels", "confidence", "accuracy")]
    return isinstance(numbers[0], int | float) and (
        numbers[0] == 0 or all(isinstance(number, int | float) for number in numbers)
    )


def _tables(name: str, found: Mapping[str, Any], depth: int = 0) -> Iterator[Table]:
    """What a metric says: its numbers, lists of numbers row by row, those of classes, and so on within."""
    numbers = {key: value for key, value in found.items() if _is_plain(value)}
    if numbers:
        rows = [[Cell(key), _cell(value)] for key, value in numbers.items()]
        yield Table(name, ("score", "value"), rows, sortable=False)
    for key, value in found.items():
        label = f"{name}, {key}"
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            yield _rows(label, [(None, row) for row in value])
        elif isinstance(value, Mapping) and value:
            of = list(value.items())
            if all(isinstance(row, Mapping) and all(map(_is_plain, row.values())) for _, row in of):
                yield _rows(label, of)
            elif depth < _DEEPEST:
                yield from _tables(label, value, depth + 1)


def _rows(caption: str, rows: Sequence[tuple[str | None, Mapping[str, Any]]]) -> Table:
    keys = list(dict.fromkeys(key for _, row in rows for key, value in row.items() if _is_plain(value)))
    named = any(name is not None for name, _ in rows)
    cells = [[*([Cell(str(name))] if named else []), *(_cell(row.get(key)) for key in keys)] for name, row in rows]
    return Table(caption, [*(["class"] if named else []), *keys], cells, text=int(named))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)


def _cell(value: object) -> Cell:
    if value is None:
        return Cell(NOTHING)
    if isinstance(value, bool | str):
        return Cell(str(value))
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell(f"{value:.4g}", float(value)) if isinstance(value, float) else Cell(str(value))
