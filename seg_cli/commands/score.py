"""Scoring a model on splits of a dataset, and putting what was found into the form of the run directory."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from seg_cli.data.loading import scoring_loader, worker_count
from seg_cli.data.sample import Dataset
from seg_cli.inference.evaluate import Evaluation, evaluate
from seg_cli.metrics.confusion import score
from seg_cli.metrics.counting import Counting
from seg_cli.training.progress import track


def score_splits(
    model: nn.Module,
    dataset: Dataset,
    splits: Iterable[str],
    *,
    loader: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype | None,
    limit_batches: int | None = None,
) -> dict[str, Evaluation]:
    """Score each split in turn, with a progress bar.

    Args:
        loader: ``eval_batch_size`` and ``workers``.
        limit_batches: use only the first so many batches; None for all.
    """
    scored = {}
    for name in splits:
        batches = scoring_loader(
            dataset.splits[name], batch_size=loader["eval_batch_size"], workers=worker_count(loader["workers"])
        )
        total = len(batches) if limit_batches is None else min(limit_batches, len(batches))
        progress = track(islice(batches, total), f"scoring {name}", total=total)
        scored[name] = evaluate(model, progress, counting=Counting.of(dataset.labels), device=device, dtype=dtype)
    return scored


def split_results(evaluation: Evaluation, class_names: Iterable[str]) -> dict[str, Any]:
    """A split's entry in results.json."""
    scores = score(evaluation.matrix)
    per_class = {"iou": scores.iou, "dice": scores.dice, "precision": scores.precision, "recall": scores.recall}
    names = list(class_names)
    return {
        "miou": _number(scores.miou),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "mean_accuracy": _number(scores.mean_accuracy),
        "mean_dice": _number(scores.mean_dice),
        "fw_iou": _number(scores.fw_iou),
        "classes": {
            name: {key: _number(values[i]) for key, values in per_class.items()} | {"pixels": int(scores.pixels[i])}
            for i, name in enumerate(names)
        },
        "labels": "overlapping" if evaluation.matrix.ndim == 3 else "exclusive",
        "confusion": evaluation.matrix.tolist(),
        "images": len(evaluation.names),
        "void": "ignored",
        "absent_classes": [name for i, name in enumerate(names) if np.isnan(scores.iou[i])],
    }


def per_image_table(scored: Mapping[str, Evaluation], class_names: Iterable[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of per_image.csv: an image of a split each, with its pixels of every class."""
    columns = ["split", "name", "group"]
    columns += [f"{what}/{name}" for name in class_names for what in ("intersection", "union")]
    rows = []
    for split, found in scored.items():
        counts = np.stack((found.intersections, found.unions), 2).reshape(len(found.names), -1).tolist()
        rows += [[split, name, group, *row] for name, group, row in zip(found.names, found.groups, counts, strict=True)]
    return columns, rows


def _number(value: float) -> float | None:
    """A score as JSON has it: null where it is not defined."""
    return None if np.isnan(value) else float(value)
