"""The confusion matrix of a split, or one a class where labels overlap, and every standard score that follows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def predict_labels(logits: Tensor) -> Tensor:
    """(N, C, H, W) logits -> (N, H, W) int64 class indices; the first of equal ones."""
    # The indices of max are several times faster than argmax on a CPU, and the same.
    return logits.max(1).indices


def count(predictions: Tensor, masks: Tensor, num_classes: int, *, void_row: bool = False) -> Tensor:
    """Confusion counts of each image, on the device of the masks and without waiting for it.

    Args:
        predictions: (N, H, W) integer class indices.
        masks: (N, H, W) class indices, 255 for void, which is not counted.
        num_classes: C.
        void_row: count in one more row what is predicted on void.

    Returns:
        (N, C, C) int64: rows truth, columns prediction; (N, C + 1, C) with ``void_row``.
    """
    images = masks.shape[0]
    cells = (num_classes + 1) * num_classes
    # Void is the row after the last class, and that row is dropped: no boolean indexing, which would have to wait for
    # the device to say how many pixels are left. int32 halves the memory traffic.
    index = masks.to(torch.int32, copy=True).clamp_(max=num_classes).mul_(num_classes).add_(predictions)
    if images > 1:
        index += torch.arange(0, images * cells, cells, dtype=torch.int32, device=index.device).view(-1, 1, 1)
    index = index.flatten()
    if index.is_cuda:
        # bincount asks the device for the largest value, and so waits for it; adding integers is exact in any order.
        counts = torch.zeros(images * cells, dtype=torch.int64, device=index.device)
        counts.scatter_add_(0, index.long(), torch.ones_like(index, dtype=torch.int64))
    else:
        counts = torch.bincount(index, minlength=images * cells)
    counts = counts.view(images, num_classes + 1, num_classes)
    return counts if void_row else counts[:, :num_classes]


def pixels_of_classes(counts: Tensor, *, overlapping: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each class in truth and prediction, in the truth, and in the prediction, each (..., C).

    Args:
        counts: (..., C, C) confusion matrices, or where labels overlap (..., C, 2, 2), one for each class. One more row
            holds what was predicted on void, and is counted as predicted wrongly.
    """
    if overlapping:
        return counts[..., 1, 1], counts[..., 1, :].sum(-1), counts[..., 1].sum(-1)
    return counts.diagonal(dim1=-2, dim2=-1), counts.sum(-1)[..., : counts.shape[-1]], counts.sum(-2)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; per-class arrays are (C,) float64 with NaN where a score is not defined.

    Attributes:
        pixel_accuracy: share of pixels that are right; where labels overlap, of the yes and no of all classes.
        mean_accuracy: mean over the classes that occur of the share of their pixels that are right.
        miou: mean IoU over the classes that occur in truth or prediction.
        mean_dice: mean dice over the same classes.
        fw_iou: IoU weighted by the frequency of the classes in the truth.
        iou, dice, precision, recall: of each class.
        pixels: (C,) int64, pixels of each class in the truth.
    """

    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    mean_dice: float
    fw_iou: float
    iou: np.ndarray
    dice: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    pixels: np.ndarray


def score(matrix: np.ndarray) -> Scores:
    """Scores of integer counts: rows truth, columns prediction.

    A class that is absent from both has no IoU and is left out of the means. A matrix without any pixel gives NaN.

    Args:
        matrix: (C, C), the confusion matrix, or (C + 1, C) with what was predicted on void, which is wrong there but
            is no pixel that accuracy counts; where labels overlap (C, 2, 2), the ``[[tn, fp], [fn, tp]]`` of each
            class.
    """
    matrix = np.asarray(matrix, np.int64)
    counts = pixels_of_classes(torch.from_numpy(matrix), overlapping=matrix.ndim == 3)
    hits, truth, predicted = (pixels.numpy() for pixels in counts)
    union = truth + predicted - hits
    right = np.trace(matrix, axis1=-2, axis2=-1).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, dice = hits / union, 2 * hits / (truth + predicted)
        precision, recall = hits / predicted, hits / truth
        frequency = truth / truth.sum()
        pixel_accuracy = float(right / matrix[: matrix.shape[-1] if matrix.ndim == 2 else None].sum())
    return Scores(
        pixel_accuracy=pixel_accuracy,
        mean_accuracy=_mean(recall),
        miou=_mean(iou),
        mean_dice=_mean(dice),
        fw_iou=float(np.nansum(frequency * iou)) if truth.sum() else float("nan"),
        iou=iou,
        dice=dice,
        precision=precision,
        recall=recall,
        pixels=truth,
    )


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
