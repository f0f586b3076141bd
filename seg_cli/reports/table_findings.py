"""What the images say about the rows of a table: their counts read from per_image.csv, intervals and tests of them.

Findings are kept in the user's cache folder; a table that is made again of the same runs computes nothing.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seg_cli.reports.table_columns import class_names, value_of
from seg_cli.reports.table_rows import Row
from seg_cli.runs.collection import Record, cache_file, keep, recall

if TYPE_CHECKING:
    from seg_cli.reports.statistics import Counts

MOST = 40
"""Rows that are compared with one another; below them, the sixth hundred of comparisons would say nothing."""

Finding = dict[str, Any]
"""The fields of ``statistics.Finding``."""


@dataclass(frozen=True)
class Findings:
    """What was found out.

    Attributes:
        of: column -> a finding for each row; None for a row that was not tested.
        notes: how, as sentences.
        images, groups: of the split; 0 groups where every image stands alone.
        untested: why rows were not tested, as sentences.
        seeds_note: what so many seeds can say.
    """

    of: dict[str, list[Finding | None]]
    notes: list[str]
    images: int
    groups: int
    untested: list[str]
    seeds_note: str


@dataclass(frozen=True)
class ImageCounts:
    """per_image.csv of a split.

    Attributes:
        names, groups: of the images.
        intersections, unions: (images, C) int64.
    """

    names: list[str]
    groups: list[str]
    intersections: np.ndarray
    unions: np.ndarray


def metric_of(name: str, record: Record, split: str) -> str | None:
    """What ``statistics.analyse`` calls a column; None where it does not follow from the counts of images."""
    what, _, class_name = name.partition(":")
    names = class_names(record, split)
    if what in ("iou", "dice") and class_name in names:
        return f"{what}:{names.index(class_name)}"
    if name == "pixel_accuracy":
        scores = (record.results or {})["splits"][split]
        plain = scores.get("labels", "exclusive") == "exclusive" and scores.get("void", "ignored") == "ignored"
        return name if plain else None
    return name if name in ("miou", "mean_dice") else None


def find(rows: Sequence[Row], columns: Sequence[str], split: str, *, level: float) -> Findings:
    """Test the first ``MOST`` rows against one another.

    Args:
        rows: best first.
        columns: those that follow from counts are tested.
        split: whose images.
        level: of the intervals, 0 to 1.
    """
    known = rows[0].runs[0]
    metrics = {name: metric for name in columns if (metric := metric_of(name, known, split))}
    runs = [[[str(run.folder.resolve()), run.stamp] for run in row.runs] for row in rows[:MOST]]
    kept = cache_file(
        "findings",
        runs,
        split,
        metrics,
        level,
        known.evaluation,
        [len(rows), min(len(row.runs) for row in rows)],
        _method(),
    )
    found = recall(kept)
    if set(found) != set(Findings.__dataclass_fields__):
        found = asdict(_find(rows, metrics, split, level))
        keep(kept, found)
    return Findings(**found)


def _method() -> str:
    """A hash of how findings come about."""
    files = (Path(__file__).with_name(name) for name in ("table_findings.py", "statistics.py", "resampling.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _find(rows: Sequence[Row], metrics: dict[str, str], split: str, level: float) -> Findings:
    from seg_cli.reports.statistics import analyse, notes, seeds_note  # brings scipy and statsmodels, so only here

    said = seeds_note(min(len(row.runs) for row in rows))
    if not metrics:
        return Findings({}, [], 0, 0, [], said)
    tested, first, untested = counts_of_rows(rows, split)
    if first is None:
        return Findings({}, [], 0, 0, untested, said)
    groups = first.groups if any(first.groups) else None
    of: dict[str, list[Finding | None]] = {}
    for name, metric in metrics.items():
        column: list[Finding | None] = [None] * len(rows)
        findings = analyse(list(tested.values()), metric, groups=groups, level=level)
        for number, finding in zip(tested, findings, strict=True):
            column[number] = asdict(finding)
        of[name] = column
    how = notes(images=len(first.names), groups=groups, methods=len(tested), level=level)
    return Findings(of, how, len(first.names), len(set(first.groups) - {""}), untested, said)


def counts_of_rows(rows: Sequence[Row], split: str) -> tuple[dict[int, "Counts"], ImageCounts | None, list[str]]:
    """The counts of the first ``MOST`` rows, images in the same order.

    Returns:
        Number of a row -> its counts; those of one run, for names and groups of the images (None where no row has any);
        and why rows are missing, as sentences.
    """
    found: dict[int, Counts] = {}
    missing: list[str] = []
    first: ImageCounts | None = None
    for number, row in enumerate(rows[:MOST]):
        try:
            counts = [read_counts(run, split) for run in row.runs]
            found[number] = _together(row, counts, first or counts[0])
            first = first or counts[0]
        except ValueError as error:
            missing.append(f"Not tested: {row.name} ({error}).")
    if len(rows) > MOST:
        missing.append(f"Not tested: the {len(rows) - MOST} rows behind the first {MOST}.")
    return found, first, missing


def _together(row: Row, of_seeds: Sequence[ImageCounts], first: ImageCounts) -> "Counts":
    """The counts of all seeds, with the images in the order of ``first``. Raises ValueError if they are others."""
    from seg_cli.reports.statistics import Counts

    inter, union = [], []
    for run, counts in zip(row.runs, of_seeds, strict=True):
        place = {name: i for i, name in enumerate(counts.names)}
        other = next((name for name in first.names if name not in place), None)
        if other is not None or len(place) != len(first.names):
            extra = next((name for name in counts.names if name not in set(first.names)), other)
            raise ValueError(f"its images are not those of the first row: '{extra}' is in one of them alone")
        if counts.intersections.shape[1] != first.intersections.shape[1]:
            raise ValueError(f"{run.per_image}: it has other classes")
        order = [place[name] for name in first.names]
        inter.append(counts.intersections[order])
        union.append(counts.unions[order])
    return Counts(np.stack(inter), np.stack(union))


def read_counts(record: Record, split: str) -> ImageCounts:
    """The counts of a run's images.

    Raises:
        ValueError: if they are missing, damaged, or not those that the scores in results.json come from.
    """
    path, classes = record.per_image, class_names(record, split)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = [row for row in reader if row and row[0] == split]
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    try:
        places = [[header.index(f"{what}/{name}") for name in classes] for what in ("intersection", "union")]
        numbers = [np.array([[row[place] for place in of] for row in rows], np.int64) for of in places]
        names = [row[header.index("name")] for row in rows]
        groups = [row[header.index("group")] for row in rows]
    except (ValueError, IndexError, OverflowError):
        raise ValueError(f"{path} is damaged") from None
    if not rows or len(set(names)) != len(names):
        raise ValueError(f"{path} has no images of '{split}'" if not rows else f"{path} has an image twice")
    intersections, unions = numbers
    _check(record, split, path, intersections.sum(0), unions.sum(0))
    return ImageCounts(names, groups, intersections, unions)


def _check(record: Record, split: str, path: Path, intersections: np.ndarray, unions: np.ndarray) -> None:
    present = unions > 0
    miou = float((intersections[present] / unions[present]).mean()) if present.any() else None
    said = value_of(record, split, "miou")
    if (miou is None) != (said is None) or (miou is not None and said is not None and abs(miou - said) > 1e-6):
        raise ValueError(f"{path} does not give the mIoU of results.json: {miou} and {said}")
