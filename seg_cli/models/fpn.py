"""Semantic FPN: Kirillov, Girshick, He, Dollar (2019), arXiv:1901.02446, on Lin et al. (2017), arXiv:1612.03144.

A pathway from the deepest map down to stride 4 gives every resolution the meaning of the deep ones (the pyramid); each
level is then brought up to stride 4 by itself, and the levels are summed.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from seg_cli.models.blocks import Head, crop_to, init_decoder
from seg_cli.models.encoder import Encoder


class FPN(nn.Module):
    """Semantic FPN on any encoder.

    Args:
        encoder: gives feature maps; those of stride 4 and deeper are used.
        num_classes: channels of the logits.
        pyramid_channels: of the pyramid's maps.
        channels: of the maps that are summed at stride 4; a multiple of 32, the groups of the norm.
        smooth: Lin's 3x3 convolution on each map of the pyramid. SMP's FPN leaves it out and is the same network
            without: with 256 channels and four levels these are 2.4 million parameters, 9% on a ResNet-50.
        upsample: one of ``upsample.KINDS``, for every step up; null is the papers': nearest in the pyramid, bilinear
            behind it.

    Raises:
        ValueError: if ``channels`` is no multiple of 32.
        UserError: if the encoder cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        pyramid_channels: int = 256,
        channels: int = 128,
        smooth: bool = True,
        upsample: str | None = None,
    ) -> None:
        super().__init__()
        if channels % GROUPS or channels < GROUPS:
            raise ValueError(f"channels={channels}: a multiple of {GROUPS} is allowed, the groups of the group norm.")
        self.encoder = encoder
        self.decoder = Decoder(encoder, pyramid_channels, channels, smooth, upsample)
        up = encoder.upsampling(upsample or "bilinear", num_classes, self.decoder.stride, 1)
        self.head = Head(channels, num_classes, up=up)
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features, positions)  # (N, 128, H/4, W/4)
        return crop_to(self.head(x, positions), images)


GROUPS = 32


class Decoder(nn.Module):
    """The pyramid, and the sum of its levels at the finest of them.

    Attributes:
        stride: of what comes out.
    """

    def __init__(
        self, encoder: Encoder, pyramid_channels: int, channels: int, smooth: bool, upsample: str | None
    ) -> None:
        super().__init__()
        self.first = next(i for i, stride in enumerate(encoder.strides) if stride >= 4)
        strides, inputs = encoder.strides[self.first :], encoder.channels[self.first :]
        self.stride = strides[0]
        self.laterals = nn.ModuleList(nn.Conv2d(count, pyramid_channels, 1) for count in inputs)
        self.downs = nn.ModuleList(  # one for each map but the deepest, from the map below it
            encoder.upsampling(upsample or "nearest", pyramid_channels, deep, shallow)
            for shallow, deep in pairwise(strides)
        )
        self.smooths = nn.ModuleList(
            nn.Conv2d(pyramid_channels, pyramid_channels, 3, padding=1) if smooth else nn.Identity() for _ in inputs
        )
        self.levels = nn.ModuleList(
            Level(encoder, strides[: i + 1], pyramid_channels, channels, upsample or "bilinear")
            for i in range(len(strides))
        )

    def forward(self, features: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """Feature maps, shallow to deep, and positions by stride -> (N, channels, H/stride, W/stride)."""
        maps = features[self.first :]  # H/4 .. H/32
        x = self.laterals[-1](maps[-1])  # (N, 256, H/32, W/32)
        total = self.levels[-1](self.smooths[-1](x), positions)  # (N, 128, H/4, W/4)
        for i in reversed(range(len(maps) - 1)):
            x = self.laterals[i](maps[i]) + self.downs[i](x, positions)  # (N, 256, H/16, W/16) .. H/4
            total = total + self.levels[i](self.smooths[i](x), positions)
        return total


class Level(nn.Module):
    """Convolution, group norm and ReLU before each step up to the finest stride; one of them where there is no step.

    Args:
        strides: from the finest to this level's.
    """

    def __init__(self, encoder: Encoder, strides: Sequence[int], inputs: int, outputs: int, upsample: str) -> None:
        super().__init__()
        steps = [(deep, shallow) for shallow, deep in pairwise(strides) if deep > shallow][::-1]
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1, bias=False),
                nn.GroupNorm(GROUPS, outputs),
                nn.ReLU(inplace=True),
            )
            for i in range(max(1, len(steps)))
        )
        self.ups = nn.ModuleList(encoder.upsampling(upsample, outputs, *step) for step in steps)

    def forward(self, x: Tensor, positions: Mapping[int, Tensor]) -> Tensor:
        """(N, inputs, h, w) of a level, and positions by stride -> (N, outputs, h0, w0) at the finest stride."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i < len(self.ups):
                x = self.ups[i](x, positions)
        return x
