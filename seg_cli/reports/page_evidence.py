"""What a page of many runs holds of each: its curve, the mIoU of every image, and what it made of the fixed images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seg_cli.errors import UserError
from seg_cli.reports.gallery import Gallery, Picture, read_examples
from seg_cli.reports.page import data_uri
from seg_cli.reports.table_columns import class_names
from seg_cli.reports.table_findings import ImageCounts, read_counts
from seg_cli.runs.collection import Record
from seg_cli.runs.run import Run
from seg_cli.training.progress import track

_CURVES = ("val/miou", "val/loss", "train/loss", "lr")
_MOST_POINTS = 150  # of a curve
_MOST_BYTES = 5_000_000  # of the pictures


@dataclass
class Evidence:
    """What is known of the runs besides their scores.

    Attributes:
        runs: of each: ``curve`` (key -> values, one an epoch that was kept), ``set`` (which images; None where they
            are not known), ``images`` (their mIoU), ``pictures`` (name -> prediction).
        sets: names of the images of each set.
        pictures: of each set: name -> image and truth.
        problems: what cannot be read, as sentences.
        left_out: how many runs have pictures that are not here.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    sets: list[list[str]] = field(default_factory=list)
    pictures: list[dict[str, dict[str, str]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: int = 0


def read_evidence(records: Sequence[Record], split: str) -> Evidence:
    """Read it, with a progress line.

    Args:
        records: best first: pictures of the first ones are kept.
        split: whose images.
    """
    evidence, numbers, spent = Evidence(), dict[tuple[str, ...], int](), 0
    for record in track(records, "reading runs", total=len(records)):
        run: dict[str, Any] = {"curve": _curve(record, evidence), "set": None, "images": [], "pictures": {}}
        evidence.runs.append(run)
        try:
            counts = read_counts(record, split)
        except ValueError as error:
            evidence.problems.append(f"Not compared image by image: {error}.")
            continue
        # the order of images is that of the split, and other classes make another truth
        same = (*counts.names, "", *class_names(record, split))
        number = numbers.setdefault(same, len(numbers))
        if number == len(evidence.sets):
            evidence.sets.append(counts.names)
            evidence.pictures.append({})
        run["set"], run["images"] = number, _image_miou(counts)
        gallery = _gallery(record, evidence)
        if gallery is None or gallery.split != split:
            continue
        if spent > _MOST_BYTES:
            evidence.left_out += 1
            continue
        for picture in gallery.pictures:
            if "fixed" in picture.kinds:
                spent += _add(picture, run["pictures"], evidence.pictures[number], evidence)
    return evidence


def _curve(record: Record, evidence: Evidence) -> dict[str, list[float | None]]:
    if not (record.folder / "metrics.csv").is_file():
        return {}
    try:
        rows = Run(record.folder).metrics
    except UserError as error:
        evidence.problems.append(str(error))
        return {}
    rows = [row for row in rows if row.get("epoch")]
    if len(rows) > _MOST_POINTS:
        kept = np.unique(np.linspace(0, len(rows) - 1, _MOST_POINTS).round().astype(int))
        rows = [rows[place] for place in kept]
    keys = [key for key in ("epoch", *_CURVES) if any(row.get(key) is not None for row in rows)]
    return {key: [_short(row.get(key)) for row in rows] for key in keys}


def _image_miou(counts: ImageCounts) -> list[float | None]:
    """Of each image alone, over the classes that occur in its truth or prediction."""
    present = counts.unions > 0
    iou = np.where(present, counts.intersections / np.maximum(counts.unions, 1), 0)
    counted = present.sum(1)
    miou = iou.sum(1) / np.maximum(counted, 1)
    return [round(float(value), 4) if number else None for value, number in zip(miou, counted, strict=True)]


def _gallery(record: Record, evidence: Evidence) -> Gallery | None:
    try:
        return read_examples(record.folder / "figures" / "examples")
    except UserError as error:
        evidence.problems.append(str(error))
        return None


def _add(picture: Picture, own: dict[str, str], shared: dict[str, dict[str, str]], evidence: Evidence) -> int:
    """Take a prediction, and its image and truth where no run has shown them yet; returns bytes."""
    try:
        uris = {what: data_uri(picture.files[what]) for what in ("prediction", "image", "truth")}
    except OSError as error:
        evidence.problems.append(f"{picture.files['image'].parent}: a picture cannot be read ({error.strerror}).")
        return 0
    size = len(uris["prediction"])
    own[picture.name] = uris.pop("prediction")
    if picture.name not in shared:
        shared[picture.name] = uris
        size += sum(map(len, uris.values()))
    return size


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")
