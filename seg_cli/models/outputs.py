"""What a model returns in training where it returns more than logits."""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """The logits, and what other heads say; in evaluation a model returns its logits alone.

    Attributes:
        logits: (N, num_classes, H, W) at the image's size.
        aux: logits of auxiliary heads, each like ``logits``; the loss of each is weighed by the model's ``aux_weight``.
        edges: (N, 1, H, W) logits of there being a boundary between classes, of models that look for them.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()
    edges: Tensor | None = None
