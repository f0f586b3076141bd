"""Labels that overlap: a yes or no for each class, predicted by a threshold and counted class by class."""

import math

import torch
from torch import Tensor

from seg_cli.metrics import confusion


def predict_labels(logits: Tensor, threshold: float | Tensor = 0.5) -> Tensor:
    """(N, C, H, W) logits -> (N, C, H, W) booleans: whether the sigmoid is above the threshold.

    Args:
        threshold: a probability in 0..1, or a (C,) tensor of one for each class. It is moved to the scale of logits,
            where 0.5 is exactly 0, and half precision is compared in float32.

    Raises:
        ValueError: if a number is not in 0..1, or a tensor is not (C,).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if isinstance(threshold, Tensor):
        if threshold.shape != logits.shape[1:2]:
            raise ValueError(f"one threshold for each of {logits.shape[1]} classes; got {tuple(threshold.shape)}")
        return logits > threshold.to(logits, non_blocking=True).logit().view(-1, 1, 1)
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold is a probability in 0..1, not {threshold}")
    if threshold in (0, 1):
        return logits > (math.inf if threshold else -math.inf)
    return logits > math.log(threshold / (1 - threshold))


def count(predictions: Tensor, masks: Tensor, *, void_is_wrong: bool = False) -> Tensor:
    """How often yes and no are right and wrong, for each image and class; on the masks' device, without waiting for it.

    Args:
        predictions: (N, C, H, W) booleans, or integers of 0 and 1.
        masks: (N, C, H, W) of 0 and 1, 255 for void, which is not counted.
        void_is_wrong: count a yes on void as a wrong one.

    Returns:
        (N, C, 2, 2) int64: rows truth (no, yes), columns prediction, so ``[[tn, fp], [fn, tp]]``.
    """
    # To an image of two classes each of its planes is an image of its own.
    counts = confusion.count(predictions.flatten(0, 1), masks.flatten(0, 1), 2, void_row=void_is_wrong)
    if void_is_wrong:
        on_void = counts[:, 2, 1]
        counts = counts[:, :2].clone()
        counts[:, 0, 1] += on_void
    return counts.unflatten(0, masks.shape[:2])
