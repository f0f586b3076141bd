"""Cross-entropy over the hardest pixels.

Shrivastava, Gupta, Girshick (2016), arXiv:1604.03540; Wu, Shen, van den Hengel (2016), arXiv:1605.06885.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seg_cli.losses.class_weights import ClassWeights
from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.settings import check_number


class HardPixels(Term):
    """Mean of ``-w log p`` over the pixels of the batch that the model gets most wrong.

    Kept are the pixels whose true class is given a probability below ``threshold`` (online hard example mining), and if
    they are fewer than the share ``keep`` of the valid pixels, then that share of them, the hardest (top-k, online
    bootstrapping; what ``threshold=0`` does alone). Pixels as hard as the last that is kept are kept too.

    Args:
        threshold: probability of the true class below which a pixel is hard, 0 to 1.
        keep: the share of the valid pixels that is kept at least, above 0.
        weights: of the classes, as in cross-entropy; which pixels are kept does not depend on them.

    Raises:
        ValueError: for a threshold or share outside these, or weights that are not among the choices.
    """

    def __init__(
        self, *, threshold: float = 0.7, keep: float = 0.1, weights: Sequence[float] | str | None = None
    ) -> None:
        super().__init__()
        self.threshold = check_number("threshold", threshold, high=1)
        self.keep = check_number("keep", keep, high=1, above=True)
        self.weights = ClassWeights(weights)

    def compute(self, evidence: Evidence) -> Tensor:
        log_prob = evidence.true_log_prob
        # At void log p is 0, the easiest there is; the count of valid pixels stays on the device.
        hardest = log_prob.detach().masked_fill(evidence.valid == 0, math.inf).flatten().sort().values
        last = (self.keep * evidence.valid_count).ceil().long() - 1
        limit = hardest.gather(0, last.view(1))
        if self.threshold:
            limit = limit.clamp(min=math.log(self.threshold))
        kept = (log_prob <= limit) * evidence.valid
        if self.weights.values is not None:
            kept = kept * evidence.weigh(self.weights.values)
        count = kept.sum()
        return -(log_prob * kept).sum() / torch.where(count > 0, count, 1)
