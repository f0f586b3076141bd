"""The scores of a run on its page: large figures, each class with its interval, and what was taken for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seg_cli.reports import charts
from seg_cli.reports.page import NOTHING, Cell, Table, count, mapping, number, percent
from seg_cli.reports.table_findings import read_counts
from seg_cli.runs.collection import collect

Interval = tuple[float, float]

_TILES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_dice": "mean Dice",
    "fw_iou": "fw IoU",
}
_LARGEST_CONFUSIONS = 12


@dataclass(frozen=True)
class Tile:
    """A number in large figures, with a line below it."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Intervals:
    """95% intervals over images; see ``statistics.analyse``.

    Attributes:
        miou: of the mIoU.
        classes: of the IoU of each class that has one.
        notes: how they were found.
    """

    miou: Interval | None = None
    classes: Mapping[str, Interval] = field(default_factory=dict)
    notes: Sequence[str] = ()


def find_intervals(folder: Path, split: str, scores: Mapping[str, Any]) -> Intervals:
    """The intervals of a run's scores.

    Raises ValueError where the counts of its images are missing, damaged, or others than those of the scores.
    """
    from seg_cli.reports.statistics import Counts, analyse, notes  # brings scipy and statsmodels

    counts = read_counts(collect([folder]).records[0], split)
    classes, images = list(scores["classes"]), len(counts.names)
    both = Counts(counts.intersections[None], counts.unions[None])
    groups = counts.groups if any(counts.groups) else None
    resamples = int(np.clip(3e8 / (len(classes) * images), 1000, 10_000))

    def interval(metric: str) -> Interval | None:
        found = analyse([both], metric, groups=groups, resamples=resamples)[0]
        return (found.low, found.high) if np.isfinite([found.low, found.high]).all() else None

    of_classes = {name: pair for i, name in enumerate(classes) if (pair := interval(f"iou:{i}"))}
    said = notes(images=images, groups=groups, methods=1, resamples=resamples)
    return Intervals(interval("miou"), of_classes, said)


def what_is_wrong(results: Mapping[str, Any]) -> str | None:
    """Which value of results.json should be a number and is none; None where all is well."""
    places = [("cost", mapping(results.get("cost")))]
    for split, scores in results["splits"].items():
        general = {key: scores.get(key) for key in ("miou", "images", *_TILES)}
        places.append((f"splits.{split}", general))
        places += [(f"splits.{split}.classes.{name}", of) for name, of in scores["classes"].items()]
    for place, values in places:
        for key, value in values.items():
            if not (value is None or isinstance(value, int | float)):
                return f"{place}.{key} is {str(value)[:40]!r}, and no number"
    return None


def tiles_of(results: Mapping[str, Any], scores: Mapping[str, Any], intervals: Intervals, split: str) -> list[Tile]:
    pair = intervals.miou
    span = f"95% interval {pair[0]:.3f} to {pair[1]:.3f}" if pair else ""
    cost = mapping(results.get("cost"))
    tiles = [Tile(number(scores.get("miou")).text, f"mIoU on {split}", span)]
    tiles += [Tile(number(scores[key]).text, label) for key, label in _TILES.items() if scores.get(key) is not None]
    if parameters := cost.get("parameters"):
        operations = f"{cost['flops'] / 1e9:.1f} GFLOPs an image" if (cost.get("flops") or 0) >= 5e7 else ""
        size = f"{parameters / 1e6:.1f} M" if parameters >= 1e5 else f"{parameters:,}"
        tiles.append(Tile(size, "parameters", operations))
    if cost.get("train_seconds") is not None:
        speed = cost.get("images_per_second")
        tiles.append(
            Tile(_rough(cost["train_seconds"]), "of training", f"scores {speed:.0f} images/s" if speed else "")
        )
    return tiles


def _rough(seconds: float) -> str:
    """A duration in two digits or three."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def notes_of(scores: Mapping[str, Any], intervals: Intervals) -> list[str]:
    if not scores:
        return []
    void = {"ignored": "void pixels are not counted", "false_positive": "what is predicted on void counts as wrong"}
    lines = [f"{scores.get('images', 0):,} images; {void.get(str(scores.get('void')), str(scores.get('void')))}."]
    if scores.get("labels") == "overlapping":
        lines.append("Labels overlap: each class is a yes or no of its own.")
    if scores.get("absent_classes"):
        absent = ", ".join(map(str, scores["absent_classes"]))
        lines.append(f"In neither truth nor prediction, and in no mean: {absent}.")
    lines += intervals.notes
    return lines


def class_table(scores: Mapping[str, Any], intervals: Intervals, split: str) -> Table:
    rows = []
    pixels = sum(of.get("pixels") or 0 for of in scores["classes"].values()) or 1
    for name, of in scores["classes"].items():
        pair = intervals.classes.get(name)
        span = Cell(f"{pair[0]:.3f} – {pair[1]:.3f}", pair[1] - pair[0]) if pair else Cell(NOTHING)
        others = [number(of.get(key)) for key in ("dice", "precision", "recall")]
        rows.append([Cell(name), number(of.get("iou")), span, *others, percent((of.get("pixels") or 0) / pixels)])
    headings = ("class", "IoU", "95% interval", "Dice", "precision", "recall", "of pixels")
    return Table(f"Scores of each class on {split}", headings, rows)


def summary_of(results: Mapping[str, Any]) -> Table | None:
    """All splits, where there are several."""
    splits = results.get("splits") or {}
    keys = ("miou", *_TILES)
    rows = [
        [Cell(name), *(number(of.get(key)) for key in keys), count(of.get("images"))] for name, of in splits.items()
    ]
    headings = ("split", "mIoU", *_TILES.values(), "images")
    return Table("Scores of all splits", headings, rows, sortable=False) if len(rows) > 1 else None


def _matrix(scores: Mapping[str, Any]) -> np.ndarray | None:
    """(C, C), or (C, 2, 2) where labels overlap; without a row of void."""
    try:
        matrix = np.array(scores.get("confusion"), np.int64)
    except (TypeError, ValueError):
        return None
    classes = len(scores["classes"])
    matrix = matrix[:classes]
    return matrix if matrix.shape in ((classes, classes), (classes, 2, 2)) and scores.get("labels") else None


def score_charts(scores: Mapping[str, Any], intervals: Intervals, split: str) -> dict[str, charts.Chart | None]:
    names, matrix = list(scores["classes"]), _matrix(scores)
    found: dict[str, charts.Chart | None] = {
        "classes": charts.bars(
            names,
            [of.get("iou") for of in scores["classes"].values()],
            [intervals.classes.get(name) for name in names],
            alt=f"IoU of each class on {split} with its 95% interval; the same numbers are in the table.",
        )
    }
    if matrix is not None and scores.get("labels") == "overlapping":
        alt = f"Which share of the union of each class on {split} is right, missed and wrongly found."
        found["confusion"] = charts.right_and_wrong(matrix, names, alt=alt)
    elif matrix is not None:
        alt = f"Confusion matrix on {split}: for each true class, which share of its pixels was predicted as what."
        found["confusion"] = charts.heat_map(matrix, names, alt=alt)
    return found


def confusion_table(scores: Mapping[str, Any]) -> Table | None:
    """The largest confusions, by share of the true class."""
    names, matrix = list(scores["classes"]), _matrix(scores)
    if matrix is None or scores.get("labels") == "overlapping":
        return None
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:_LARGEST_CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in order]
    rows = [
        [Cell(names[row]), Cell(names[column]), percent(shares[row, column]), count(int(matrix[row, column]))]
        for row, column in pairs
        if shares[row, column] > 0
    ]
    return Table("The largest confusions", ("truth", "taken for", "of the class", "pixels"), rows, text=2)
