"""U-Net: Ronneberger, Fischer, Brox (2015), arXiv:1505.04597.

A decoder climbs back to the image's resolution in steps of two, and at each step sees the encoder's feature map of that
resolution beside its own. This is the form on any encoder; the encoder's deepest map takes the place of the bottleneck.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.blocks import ConvNormAct, Head, crop_to, init_decoder
from seg_cli.models.encoder import Encoder
from seg_cli.models.upsample import Upsample, convolve_nearest


class UNet(nn.Module):
    """U-Net on any encoder.

    Args:
        encoder: gives the feature maps.
        num_classes: channels of the logits.
        decoder_channels: of each step up, deep to shallow: one for each feature map but the deepest, and one for the
            last step, by 2 and without a skip, where the encoder starts below the image's resolution.
        upsample: one of ``upsample.KINDS``, for every step up and for the logits.

    Raises:
        UserError: if there are fewer ``decoder_channels`` than steps, or the encoder cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder, decoder_channels, upsample)
        end, channels = self.decoder.stride, self.decoder.channels
        self.head = Head(channels, num_classes, kernel=3, up=encoder.upsampling(upsample, num_classes, end, 1))
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)  # H/2 .. H/32
        x = self.decoder(features, positions)  # H; or H/2 where the encoder starts at stride 4
        return crop_to(self.head(x, positions), images)


class Decoder(nn.Module):
    """The way up.

    Attributes:
        stride, channels: of what comes out.
    """

    def __init__(self, encoder: Encoder, channels: Sequence[int], upsample: str) -> None:
        super().__init__()
        strides = encoder.strides[::-1]  # deep to shallow
        skips = encoder.channels[-2::-1]
        if strides[-1] % 2 == 0:
            strides, skips = [*strides, strides[-1] // 2], [*skips, 0]
        if len(channels) < len(skips):
            raise UserError(
                f"model.decoder_channels: this encoder needs {len(skips)} numbers, one a step up, not {len(channels)}."
            )
        self.stride, self.channels = strides[-1], channels[len(skips) - 1]
        inputs = [encoder.channels[-1], *channels]
        self.ups = nn.ModuleList(
            encoder.upsampling(upsample, below, *step) for below, step in zip(inputs, pairwise(strides), strict=False)
        )
        self.convs = nn.ModuleList(
            double_conv(below + skip, here) for below, skip, here in zip(inputs, skips, channels, strict=False)
        )

    def forward(self, features: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """Feature maps, shallow to deep, and positions by stride -> (N, self.channels, H/stride, W/stride)."""
        x, skips = features[-1], features[-2::-1]  # x: (N, C5, H/32, W/32)
        steps: Any = zip(self.ups, self.convs, strict=True)
        for i, (up, convs) in enumerate(steps):
            x = step_up(up, convs, x, skips[i : i + 1], positions)  # H/16 up to H/2, and the last step
        return x


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, what the paper does at each resolution."""
    return nn.Sequential(ConvNormAct(inputs, outputs), ConvNormAct(outputs, outputs))


def step_up(
    up: Upsample, convs: nn.Sequential, x: Tensor, beside: Sequence[Tensor], positions: Mapping[int, Tensor]
) -> Tensor:
    """Upsample, put other maps beside, convolve twice.

    Args:
        up: to the size of the maps beside.
        convs: a ``double_conv``.
        x: (N, C, h, w).
        beside: (N, C', h', w') each; there may be none.
        positions: by stride, for ``max_unpool`` alone.
    """
    first: Any
    first, second = convs
    conv, norm, act = first
    if conv.training and _is_faster_in_one(up, x):
        own, others = conv.weight.split((x.shape[1], conv.in_channels - x.shape[1]), 1)
        x = convolve_nearest(x, own)
        if beside:
            x = x + F.conv2d(_side_by_side(beside), others, padding=1)
    else:
        x = conv(_side_by_side((up(x, positions), *beside)))
    return second(act(norm(x)))


def _side_by_side(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(maps), 1) if len(maps) > 1 else maps[0]


def _is_faster_in_one(up: Upsample, x: Tensor) -> bool:
    """Whether the two work for upsampling and the convolution after it are better done at once.

    On CPUs it takes 0.4 to 0.9 of the time of a training step; with fewer pixels, preparing the weights takes longer
    than is saved. Elsewhere it is not measured. Prediction keeps to the layers as they are counted and exported.
    """
    pixels = x.numel() // x.shape[1]
    return up.kind in ("nearest", "area") and up.factor == 2 and x.device.type == "cpu" and pixels >= 1500
