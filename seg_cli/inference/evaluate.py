"""Scoring a model on a split: one pass, exact counts of the split, and those of every image for the statistics."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seg_cli.data.loading import Batch, collate_by_size
from seg_cli.data.sample import Split, to_rgb
from seg_cli.metrics.confusion import score
from seg_cli.metrics.counting import Counting
from seg_cli.metrics.metric import Metric


@dataclass(frozen=True)
class Evaluation:
    """What a pass over a split found.

    Attributes:
        matrix: (C, C) int64 confusion matrix of the split, rows truth, columns prediction; where labels overlap
            (C, 2, 2), the ``[[tn, fp], [fn, tp]]`` of each class.
        names, groups: one an image, in the order of the split.
        intersections, unions: (images, C) int64, pixels of each class in truth and prediction, in truth or prediction.
        seconds: wall-clock time of the pass, reading included.
        thresholds: one a class, where they were chosen class by class.
        metrics: name -> what other metrics found, see ``metrics.metric``.
        columns: what they found of each image: name -> (images,) float64.
    """

    matrix: np.ndarray
    names: list[str]
    groups: list[str]
    intersections: np.ndarray
    unions: np.ndarray
    seconds: float
    thresholds: list[float] | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def image_miou(self) -> np.ndarray:
        """(images,) mIoU of each image over the classes that occur in its truth or prediction; NaN without any."""
        present = self.unions > 0
        iou = np.where(present, self.intersections / np.maximum(self.unions, 1), 0)
        counted = present.sum(1)
        return np.where(counted > 0, iou.sum(1) / np.maximum(counted, 1), np.nan)


@dataclass(frozen=True)
class Example:
    """An image with its truth and what the model made of it, to be looked at.

    Attributes:
        name: of the sample.
        image: (H, W, 3) uint8, however many bands the model was given.
        truth, prediction: (H, W) uint8 class indices; where labels overlap (C, H, W) uint8 of 0 and 1. Void is 255 in
            the truth.
        miou: of this image alone; None where it has no pixel that counts.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    miou: float | None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Mixed precision in ``dtype`` on ``device``; None computes in float32."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[list[Batch]],
    *,
    counting: Counting,
    device: torch.device,
    dtype: torch.dtype | None,
    metrics: Mapping[str, Metric] | None = None,
    class_names: Sequence[str] = (),
) -> Evaluation:
    """Score ``model`` on the batches of a scoring loader.

    ``counting`` says how logits become labels: ``Counting.of(dataset.labels)``. The model is put into eval mode on
    ``device`` and left there. The device is waited for once, at the end, but by metrics that say so.

    Args:
        metrics: name -> a metric to compute in the same pass.
        class_names: as in the label space, for them.
    """
    model.eval().to(device)
    metrics = metrics or {}
    for metric in metrics.values():
        metric.start(counting.num_classes, class_names, device)
    names: list[str] = []
    groups: list[str] = []
    counts: list[Tensor] = []
    matrix = counting.nothing(device)
    started = time.perf_counter()
    for sizes in batches:
        for cpu_batch in sizes:
            batch = cpu_batch.to(device)
            with autocast(device, dtype):
                logits = model(batch.images)
                predictions = counting.predict(logits)
            for metric in metrics.values():
                metric.update(logits, predictions, batch.masks, batch.names)
            confusion = counting.count(predictions, batch.masks)  # (N, C, C) or (N, C, 2, 2)
            matrix += confusion.sum(0)
            counts.append(torch.stack(counting.overlaps(confusion), 1))  # (N, 2, C)
            names += batch.names
            groups += batch.groups
    per_image = torch.cat(counts).cpu().numpy()
    seconds = time.perf_counter() - started
    return Evaluation(
        matrix.cpu().numpy(),
        names,
        groups,
        per_image[:, 0],
        per_image[:, 1],
        seconds,
        thresholds=counting.threshold.tolist() if isinstance(counting.threshold, Tensor) else None,
        metrics={name: metric.results() for name, metric in metrics.items()},
        columns={key: values for metric in metrics.values() for key, values in metric.per_image().items()},
    )


@torch.inference_mode()
def predict_examples(
    model: nn.Module,
    split: Split,
    indices: Sequence[int],
    *,
    counting: Counting,
    device: torch.device,
    dtype: torch.dtype | None,
) -> list[Example]:
    """Predictions for chosen samples of a split, one at a time."""
    model.eval().to(device)
    examples = []
    for index in indices:
        sample = split[index]
        batch = collate_by_size([sample])[0].to(device)
        with autocast(device, dtype):
            prediction = counting.predict(model(batch.images))
        miou = score(counting.count(prediction, batch.masks)[0].cpu().numpy()).miou
        examples.append(
            Example(
                name=sample.name,
                image=to_rgb(sample.image),
                truth=sample.mask,
                prediction=prediction[0].to(torch.uint8).cpu().numpy(),
                miou=None if np.isnan(miou) else miou,
            )
        )
    return examples


def best_median_worst(image_miou: np.ndarray, each: int = 2) -> list[int]:
    """Indices of the best, the middle and the worst images by mIoU, best first; images without a score are left out."""
    order = [int(i) for i in np.argsort(-image_miou, kind="stable") if not np.isnan(image_miou[i])]
    if len(order) <= 3 * each:
        return order
    middle = (len(order) - each) // 2
    return order[:each] + order[middle : middle + each] + order[-each:]
