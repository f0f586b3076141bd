"""Whether a model is as right as it is sure: Guo, Pleiss, Sun, Weinberger (2017), arXiv:1706.04599.

Expected calibration error with its reliability curve, Brier score (1950) and negative log-likelihood, over all pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses.settings import check_number
from seg_cli.metrics.metric import SCALE, fixed, number, ratio, sums_by_cell


class Calibration:
    """Calibration of the softmax; of the sigmoid where labels overlap, whose yes and no of each class all count alike.

    ``ece``: the confidence of a pixel is the probability of the label that was predicted. Pixels are put into bins of
    equal width, (0, 1/bins], (1/bins, 2/bins] and so on; of each bin the mean confidence is compared to the share of
    right pixels (accuracy), and the absolute differences are averaged, weighed by pixels (equation 3). ``curve`` holds
    the bins. ``brier``: mean over the pixels of the sum over the classes of (p - y)^2, in 0..2; where labels overlap,
    mean of the (p - y)^2, in 0..1. ``nll``: mean of -log p of the true label. Void pixels do not count.

    The probabilities are those of the logits that are given, in float32; they are summed in units of 2^-20. Where the
    likelihood of one pixel is 0 or not a number, all scores are None.

    Args:
        bins: 1 or more.

    Raises:
        ValueError: for fewer bins.
    """

    def __init__(self, *, bins: int = 15) -> None:
        self.bins = int(check_number("bins", bins, low=1))

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        # Pixels, right pixels and confidences of each bin; then the sums of the two other scores, and the pixels that
        # have none.
        self._state = torch.zeros(3 * self.bins + 3, dtype=torch.int64, device=device)

    def state(self) -> Tensor:
        return self._state

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        for image in zip(logits, predictions, masks, strict=True):  # probabilities of one image at a time are enough
            self._add(*image)

    def _add(self, logits: Tensor, prediction: Tensor, mask: Tensor) -> None:
        """Logits (C, H, W) with prediction and mask, both (H, W), or (C, H, W) where labels overlap."""
        logits, valid = logits.float(), mask != VOID
        if mask.ndim == 3:
            chosen, truth = prediction.bool(), mask == 1
            confidence, right = torch.where(chosen, logits, -logits).sigmoid(), chosen == truth
            brier = (logits.sigmoid() - truth.float()).square()
            nll = F.softplus(torch.where(truth, -logits, logits))
        else:
            log_probs = logits.log_softmax(0)
            probs = log_probs.exp()
            prediction, label = prediction.long(), mask.long().masked_fill(~valid, 0)
            confidence, right = _pick(probs, prediction), prediction == label
            brier = probs.square().sum(0) - 2 * _pick(probs, label) + 1
            nll = -_pick(log_probs, label)
        cells = (confidence * self.bins).ceil().long().sub_(1).clamp_(0, self.bins - 1).masked_fill_(~valid, self.bins)
        in_bins = (torch.ones_like(cells), right.long(), fixed(confidence))
        sums = [sums_by_cell(cells.flatten(0, -2), values.flatten(0, -2), self.bins + 1)[:-1] for values in in_bins]
        others = (fixed(brier), fixed(nll), ~nll.isfinite())
        self._state += torch.cat((*sums, torch.stack([values.masked_fill(~valid, 0).sum() for values in others])))

    def results(self) -> dict[str, Any]:
        state = self._state.cpu().numpy()
        pixels, right, confidences = state[:-3].reshape(3, self.bins)
        brier, nll, broken = state[-3:]
        confidence, accuracy = ratio(confidences / SCALE, pixels), ratio(right, pixels)
        total = np.where(broken, 0, pixels.sum())
        gaps = np.abs(right - confidences / SCALE)
        return {
            "ece": number(ratio(gaps.sum(), total)),
            "brier": number(ratio(brier / SCALE, total)),
            "nll": number(ratio(nll / SCALE, total)),
            "accuracy": number(ratio(right.sum(), total)),
            "confidence": number(ratio(confidences.sum() / SCALE, total)),
            "curve": [
                {"pixels": int(pixels[i]), "confidence": number(confidence[i]), "accuracy": number(accuracy[i])}
                for i in range(self.bins)
            ],
        }

    def per_image(self) -> dict[str, np.ndarray]:
        return {}


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """(C, H, W) values of the labels (H, W) -> (H, W)."""
    return values.gather(0, index.unsqueeze(0)).squeeze(0)
