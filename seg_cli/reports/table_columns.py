"""The columns of a table: what they are called, where their numbers stand in results.json, how they are written."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.runs.collection import Record

_OF_CLASS = ("iou", "dice", "precision", "recall", "pixels")
_OF_RUN = ("best_epoch", "epochs")


@dataclass(frozen=True)
class Column:
    """A number of a run.

    Attributes:
        id: what --columns calls it.
        heading: what stands above it.
        scale: what it is multiplied by to be shown.
        digits: behind the point.
        spread: whether ± is shown; a number that is the same for every seed has none.
        falls: whether less is better.
    """

    id: str
    heading: str
    scale: float = 1.0
    digits: int = 3
    spread: bool = True
    falls: bool = False

    def written(self, value: float | None) -> str:
        """The number as a cell shows it, without a sign of minus zero."""
        if value is None or value != value:
            return "–"
        text = f"{value * self.scale:.{self.digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


_KNOWN = (
    Column("miou", "mIoU"),
    Column("pixel_accuracy", "pixel acc."),
    Column("mean_accuracy", "mean acc."),
    Column("mean_dice", "mean Dice"),
    Column("fw_iou", "fw IoU"),
    Column("parameters", "params (M)", 1e-6, 2, spread=False, falls=True),
    Column("flops", "GFLOPs", 1e-9, 2, spread=False, falls=True),
    Column("images_per_second", "images/s", digits=1),
    Column("train_seconds", "training (min)", 1 / 60, 1, falls=True),
    Column("peak_memory_bytes", "memory (GB)", 1e-9, 2, falls=True),
    Column("data_wait", "data wait", falls=True),
    Column("best_epoch", "best epoch", digits=1),
    Column("epochs", "epochs", digits=1),
)
_BY_ID = {column.id: column for column in _KNOWN}
_FALLS = ("ece", "brier", "nll", "hausdorff", "surface_distance", "missed", "invented")


def split_names(text: str) -> list[str]:
    """``a,b`` taken apart; a name with a comma stands in double quotes: ``miou,"iou:Road, wet"``."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip()]


def make_columns(ids: Sequence[str], records: Sequence[Record], split: str) -> list[Column]:
    """The columns of these names.

    Raises:
        UserError: for one that no run has.
    """
    columns = []
    for name in ids:
        if not any(value_of(record, split, name) is not None for record in records):
            known = list(dict.fromkeys(found for record in records[:50] for found in available(record, split)))
            general = [found for found in known if ":" not in found]
            raise UserError(
                f"--columns {name}: no run has such a number.{did_you_mean(name, known)} There are: "
                f"{', '.join(general)}; and of a class as in iou:{_some_class(records[0], split)}."
            )
        columns.append(column_of(name))
    return columns


def column_of(name: str) -> Column:
    """How a number is called and written."""
    if name in _BY_ID:
        return _BY_ID[name]
    what, _, class_name = name.partition(":")
    if class_name and what in _OF_CLASS:
        label = {"iou": "IoU", "dice": "Dice"}.get(what, what)
        return Column(name, f"{label} {class_name}", digits=0 if what == "pixels" else 3)
    return Column(name, name, falls=name.rpartition(".")[2] in _FALLS)


def value_of(record: Record, split: str, name: str) -> float | None:
    """The number of a run; None where it has none."""
    results = record.results or {}
    scores = results.get("splits", {}).get(split, {})
    what, _, class_name = name.partition(":")
    if class_name and what in _OF_CLASS:
        return _as_number(scores.get("classes", {}).get(class_name, {}).get(what))
    for place in (scores, results.get("cost") or {}, results if name in _OF_RUN else {}):
        node: Any = place
        for part in [name] if name in place else name.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if (found := _as_number(node)) is not None:
            return found
    return None


def available(record: Record, split: str) -> Iterator[str]:
    """The names of all numbers of a run."""
    results = record.results or {}
    scores = results.get("splits", {}).get(split, {})
    yield from _numbers({key: value for key, value in scores.items() if key not in ("classes", "images")})
    yield from _numbers(results.get("cost") or {})
    yield from (key for key in _OF_RUN if key in results)
    for class_name, values in scores.get("classes", {}).items():
        yield from (f"{what}:{class_name}" for what in _OF_CLASS if what in values)


def class_names(record: Record, split: str) -> list[str]:
    """In the order of the dataset."""
    return list((record.results or {})["splits"][split]["classes"])


def _some_class(record: Record, split: str) -> str:
    return next(iter(class_names(record, split)), "NAME")


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif _as_number(value) is not None:
            yield prefix + key


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
