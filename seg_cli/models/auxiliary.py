"""A second head on a shallower map, whose loss helps the training of a deep encoder (Zhao 2017, arXiv:1612.01105)."""

from collections.abc import Sequence

from torch import Tensor, nn

from seg_cli.models.blocks import ConvNormAct, resize
from seg_cli.models.encoder import Encoder


class AuxiliaryHead(nn.Sequential):
    """A second way to logits, from the map before the deepest one; it serves the training alone.

    A 3x3 convolution to a quarter of the channels and one to the classes; bilinear to the padded image's size.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        inputs = encoder.channels[-2]
        super().__init__(ConvNormAct(inputs, inputs // 4), nn.Dropout2d(0.1), nn.Conv2d(inputs // 4, num_classes, 1))
        self.stride = encoder.strides[-2]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, shallow to deep -> (N, num_classes, H, W) logits, H and W those of the padded image."""
        x = super().forward(features[-2])  # (N, num_classes, H/8, W/8)
        return resize(x, [self.stride * side for side in x.shape[-2:]])


def check_aux_weight(aux_weight: float) -> None:
    """Raises ValueError if it is negative."""
    if aux_weight < 0:
        raise ValueError(f"aux_weight={aux_weight}: 0 (no second head) or more is allowed.")
