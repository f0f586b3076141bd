"""DeepLabV3+: Chen, Zhu, Papandreou, Schroff, Adam (2018), arXiv:1802.02611.

Atrous convolutions at several rates see the deepest feature map at several scales (ASPP), and a small decoder sharpens
the result with low-level features of stride 4. All 3x3 convolutions are depthwise separable, as in the paper.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from seg_cli.models.blocks import ConvNormAct, Head, SeparableConvNormAct, crop_to, init_decoder
from seg_cli.models.deeplabv3 import ASPP
from seg_cli.models.encoder import Encoder


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ on any encoder.

    Args:
        encoder: gives feature maps; the paper's have output stride 16 or 8, and the decoder needs one of stride 4.
        num_classes: channels of the logits.
        channels: of the ASPP's branches and the decoder.
        low_level_channels: to which the low-level features are reduced, so that they do not outweigh the rest (48).
        rates: of the atrous convolutions; by default 6, 12, 18 at output stride 16, and in proportion at others.
        dropout: share of the ASPP's channels dropped in training.
        upsample: one of ``upsample.KINDS``, from the ASPP to stride 4 and for the logits; the paper's is bilinear.

    Raises:
        UserError: if the encoder has no feature map of stride 4, or cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        channels: int = 256,
        low_level_channels: int = 48,
        rates: Sequence[int] | None = None,
        dropout: float = 0.1,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if rates is None:
            rates = [rate * 16 // encoder.strides[-1] for rate in (6, 12, 18)]
        self.encoder = encoder
        self.decoder = Decoder(encoder, channels, low_level_channels, rates, dropout, upsample)
        self.head = Head(channels, num_classes, up=encoder.upsampling(upsample, num_classes, 4, 1))
        init_decoder(self.decoder, self.head)
        self.decoder.aspp.start_from_centers()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features, positions)  # (N, 256, H/4, W/4)
        return crop_to(self.head(x, positions), images)


class Decoder(nn.Module):
    """The ASPP on the deepest map, joined at stride 4 by the low-level features."""

    def __init__(
        self,
        encoder: Encoder,
        channels: int,
        low_level_channels: int,
        rates: Sequence[int],
        dropout: float,
        upsample: str,
    ) -> None:
        super().__init__()
        self.low_level = encoder.level(stride=4)
        self.aspp = ASPP(encoder.channels[-1], channels, rates, dropout, separable=True)
        self.up = encoder.upsampling(upsample, channels, encoder.strides[-1], 4)
        self.reduce = ConvNormAct(encoder.channels[self.low_level], low_level_channels, 1)
        self.refine = nn.Sequential(
            SeparableConvNormAct(channels + low_level_channels, channels),
            SeparableConvNormAct(channels, channels),
        )

    def forward(self, features: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """Feature maps, shallow to deep, and positions by stride -> (N, channels, H/4, W/4)."""
        x = self.aspp(features[-1])  # (N, 256, H/16, W/16)
        low = self.reduce(features[self.low_level])  # (N, 48, H/4, W/4)
        return self.refine(torch.cat((self.up(x, positions), low), 1))
