"""Scoring a model on splits of a dataset, and putting what was found into the form of the run directory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seg_cli.commands.build import build
from seg_cli.data.loading import scoring_loader, worker_count
from seg_cli.data.sample import Dataset
from seg_cli.errors import UserError
from seg_cli.inference.evaluate import Evaluation, evaluate
from seg_cli.inference.postprocess import Postprocess
from seg_cli.inference.predictor import Predictor
from seg_cli.inference.sliding import Inference
from seg_cli.inference.tta import Tta
from seg_cli.metrics.confusion import score
from seg_cli.metrics.counting import Counting
from seg_cli.metrics.metric import Metric, number
from seg_cli.metrics.threshold import ThresholdSweep
from seg_cli.reports.figures_metrics import miou_by_crop, reliability
from seg_cli.training.progress import track

INFERENCE_GROUPS = ("inference", "tta", "postprocess")


@dataclass(frozen=True)
class Scoring:
    """How splits are scored.

    Attributes:
        metrics: name -> metric, besides the standard ones.
        void: ``ignored`` or ``false_positive``, see ``Counting``.
        threshold: of the sigmoid where labels overlap; ``best`` takes the best of each class on val.
        inference, tta, postprocess: how scores come about, see ``Predictor``.
    """

    metrics: dict[str, Metric]
    void: str = "ignored"
    threshold: float | str = 0.5
    inference: Inference | None = None
    tta: Tta | None = None
    postprocess: Postprocess | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], dataset: Dataset) -> "Scoring":
        """What a config asks for; metrics are tried on the dataset's classes.

        Raises:
            UserError: for a threshold where labels do not overlap, or a metric that does not suit the classes.
        """
        labels, threshold = dataset.labels, config.get("threshold", 0.5)
        if threshold != 0.5 and not labels.overlapping:
            raise UserError(
                f"threshold={threshold}: the labels of this dataset exclude each other, and the most probable class is "
                "predicted. A threshold is for labels that overlap, as with data.multilabel=true."
            )
        metrics = {name: build(config["metrics"], name) for name in config.get("metrics") or {}}
        for metric in metrics.values():
            metric.start(labels.num_classes, labels.names, torch.device("cpu"))
        how = {group: build(config, group) for group in INFERENCE_GROUPS if config.get(group)}
        return cls(metrics, config.get("void", "ignored"), threshold, **how)

    def predictor(self, model: nn.Module, counting: Counting) -> Predictor:
        """The model with windows, test-time augmentation and post-processing around it."""
        return Predictor(model, counting=counting, inference=self.inference, tta=self.tta, postprocess=self.postprocess)


def score_splits(
    model: nn.Module,
    dataset: Dataset,
    splits: Iterable[str],
    *,
    scoring: Scoring,
    loader: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype | None,
    limit_batches: int | None = None,
) -> dict[str, Evaluation]:
    """Score each split in turn, with a progress bar.

    Args:
        scoring: how.
        loader: ``eval_batch_size`` and ``workers``.
        limit_batches: use only the first so many batches; None for all.
    """
    labels = dataset.labels
    threshold: float | torch.Tensor = 0.5 if isinstance(scoring.threshold, str) else scoring.threshold

    def score_one(name: str, doing: str, metrics: Mapping[str, Metric]) -> Evaluation:
        batches = scoring_loader(
            dataset.splits[name], batch_size=loader["eval_batch_size"], workers=worker_count(loader["workers"])
        )
        total = len(batches) if limit_batches is None else min(limit_batches, len(batches))
        counting = Counting.of(labels, threshold, scoring.void)
        return evaluate(
            scoring.predictor(model, counting),
            track(islice(batches, total), f"{doing} {name}", total=total),
            counting=counting,
            device=device,
            dtype=dtype,
            metrics=metrics,
            class_names=labels.names,
        )

    if scoring.threshold == "best":
        sweep = ThresholdSweep()
        score_one("val", "finding thresholds on", {"threshold": sweep})
        threshold = torch.from_numpy(sweep.best())
    scored: dict[str, Evaluation] = {}
    for name in splits:
        # Where the test set is not public, test is val, and is scored once.
        same = next((other for other in scored if dataset.splits[other] is dataset.splits[name]), None)
        scored[name] = scored[same] if same else score_one(name, "scoring", scoring.metrics)
    return scored


def split_results(evaluation: Evaluation, class_names: Iterable[str], *, void: str = "ignored") -> dict[str, Any]:
    """A split's entry in results.json."""
    scores = score(evaluation.matrix)
    per_class = {"iou": scores.iou, "dice": scores.dice, "precision": scores.precision, "recall": scores.recall}
    names = list(class_names)
    return {
        "miou": number(scores.miou),
        "pixel_accuracy": number(scores.pixel_accuracy),
        "mean_accuracy": number(scores.mean_accuracy),
        "mean_dice": number(scores.mean_dice),
        "fw_iou": number(scores.fw_iou),
        "classes": {
            name: {key: number(values[i]) for key, values in per_class.items()} | {"pixels": int(scores.pixels[i])}
            for i, name in enumerate(names)
        },
        "labels": "overlapping" if evaluation.matrix.ndim == 3 else "exclusive",
        "confusion": evaluation.matrix.tolist(),
        "images": len(evaluation.names),
        "void": void,
        "absent_classes": [name for i, name in enumerate(names) if np.isnan(scores.iou[i])],
        **(
            {}
            if evaluation.thresholds is None
            else {"thresholds": dict(zip(names, evaluation.thresholds, strict=True))}
        ),
        **evaluation.metrics,
    }


def per_image_table(scored: Mapping[str, Evaluation], class_names: Iterable[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of per_image.csv: an image of a split each, with its pixels of every class."""
    columns = ["split", "name", "group"]
    columns += [f"{what}/{name}" for name in class_names for what in ("intersection", "union")]
    columns += list(dict.fromkeys(column for found in scored.values() for column in found.columns))
    rows = []
    for split, found in scored.items():
        counts = np.stack((found.intersections, found.unions), 2).reshape(len(found.names), -1).tolist()
        more = np.stack([*found.columns.values()], 1) if found.columns else np.zeros((len(found.names), 0))
        others = [[number(value) for value in row] for row in more]
        parts = zip(found.names, found.groups, counts, others, strict=True)
        rows += [[split, name, group, *row, *other] for name, group, row, other in parts]
    return columns, rows


def draw_metrics(found: Evaluation, model: str, folder: Path, *, split: str = "test") -> None:
    """The pictures of those metrics that have one."""
    if "calibration" in found.metrics:
        reliability(found.metrics["calibration"], folder / "reliability.png", split=split)
    if "distance" in found.metrics:
        miou_by_crop({model: found.metrics["distance"]}, folder / "miou_by_crop.png", split=split)
