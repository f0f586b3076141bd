"""Label maps to score, and a metric run over them in batches of any size."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.metrics.metric import Metric

M = TypeVar("M", bound=Metric)
Maps = tuple[Tensor, Tensor]
CPU = torch.device("cpu")


def run(
    metric: M,
    predictions: Tensor,
    masks: Tensor,
    *,
    classes: int,
    logits: Tensor | None = None,
    batch: int = 100,
    names: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
) -> M:
    """The metric after one pass over the images; ``names`` are of the classes, ``images`` of the samples."""
    images = images or [f"image {i}" for i in range(len(masks))]
    if logits is None:
        logits = torch.zeros(len(masks), classes, *masks.shape[-2:])
    metric.start(classes, names or [f"class {i}" for i in range(classes)], CPU)
    for start in range(0, len(masks), batch):
        part = slice(start, start + batch)
        metric.update(logits[part], predictions[part], masks[part], images[part])
    return metric


def regions(seed: int, classes: int, void: float, *, images: int = 3, overlapping: bool = False) -> Maps:
    """Predictions and masks of patches, some pixels of which are wrong, and void.

    (images, 13, 17) each, int64 and uint8; where labels overlap (images, classes, 13, 17), booleans and uint8.
    """
    rng = np.random.default_rng(seed)
    shape = (images, classes) if overlapping else (images,)
    values = 2 if overlapping else classes
    truth = rng.integers(0, values, (*shape, 4, 5)).repeat(4, -2).repeat(4, -1)[..., :13, :17]
    predicted = np.where(rng.random(truth.shape) < 0.1, rng.integers(0, values, truth.shape), np.roll(truth, 1, -1))
    truth[rng.random(truth.shape) < void] = VOID
    masks = torch.from_numpy(truth.astype(np.uint8))
    return torch.from_numpy(predicted.astype(bool if overlapping else np.int64)), masks


def planes(labels: Tensor, classes: int) -> list[list[np.ndarray]]:
    """For each image and class its pixels, (H, W) booleans, of label maps of either kind."""
    if labels.ndim == 4:
        return [[plane.numpy() == 1 for plane in image] for image in labels]
    return [[image.numpy() == index for index in range(classes)] for image in labels]


def void_planes(masks: Tensor, classes: int) -> list[list[np.ndarray]]:
    """For each image and class what is void, (H, W) booleans."""
    if masks.ndim == 4:
        return [[plane.numpy() == VOID for plane in image] for image in masks]
    return [[image.numpy() == VOID] * classes for image in masks]


def refilled(predictions: Tensor, masks: Tensor) -> Tensor:
    """The same predictions but for what they say of void pixels."""
    other = ~predictions if predictions.dtype == torch.bool else torch.zeros_like(predictions)
    return torch.where(masks == VOID, other, predictions)


def check_that_only_the_images_matter(metric: Metric, maps: Maps, classes: int, logits: Tensor | None = None) -> None:
    """Batches of any size, in any order, of any processes, and whatever is predicted of void: the same integers."""
    predictions, masks = maps
    if logits is None:
        logits = torch.zeros(len(masks), classes, *masks.shape[-2:])

    def state(predictions: Tensor, masks: Tensor, logits: Tensor, batch: int = 100) -> Tensor:
        return run(metric, predictions, masks, classes=classes, logits=logits, batch=batch).state().clone()

    whole = state(predictions, masks, logits)
    assert whole.dtype == torch.int64
    assert whole.any()
    assert torch.equal(whole, state(predictions, masks, logits, batch=1))
    assert torch.equal(whole, state(predictions.flip(0), masks.flip(0), logits.flip(0), batch=2))
    assert torch.equal(whole, state(refilled(predictions, masks), masks, logits))
    halves = [state(predictions[part], masks[part], logits[part]) for part in (slice(0, 1), slice(1, None))]
    assert torch.equal(whole, halves[0] + halves[1])
    expected = run(metric, predictions, masks, classes=classes, logits=logits).results()
    run(metric, predictions[:1], masks[:1], classes=classes, logits=logits[:1])
    metric.state().add_(halves[1])  # as an all-reduce would
    assert metric.results() == expected
