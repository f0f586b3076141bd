"""Gated-SCNN: Takikawa, Acuna, Jampani, Fidler (2019), arXiv:1907.05740.

Beside the encoder runs a shallow stream of high resolution that is to know shapes alone: gates, opened by what the
encoder has recognised, let boundaries between classes through. Its edge map joins the ASPP.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.models.blocks import ConvNormAct, Head, crop_to, init_decoder, resize
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs


class GSCNN(nn.Module):
    """Gated-SCNN on any encoder.

    It learns its edges from the loss ``edge``, and ``dual_task`` makes them agree with the classes; with the weights
    of the paper, ``loss=ce+20*edge+dual_task``.

    What differs from the paper: the shape stream has the resolution of the encoder's first map, which is the image's
    only where the encoder starts there (VGG, and the paper's WideResNet; stride 2 for ResNet): at full resolution it
    would take more memory than all the rest. The image's gradients are Sobel magnitudes on the device of the model,
    instead of OpenCV's Canny edges on the CPU. The pooled branch of the ASPP has no batch norm, so that one image makes
    a batch.

    Args:
        encoder: gives feature maps, of which the gates look at strides 4, 8 and the deepest; the paper's output stride
            is 8.
        num_classes: channels of the logits.
        channels: of the ASPP's branches and the decoder.
        low_level_channels: to which the features of stride 4 are reduced for the decoder.
        shape_channels: of the shape stream: at its start, and behind each of the three gates.
        rates: of the atrous convolutions; by default 6, 12, 18 at output stride 16, and in proportion at others.
        upsample: one of ``upsample.KINDS``, from the ASPP to stride 4 and for the logits; the paper's is bilinear.
            The gates and the edges are bilinear always.

    Raises:
        UserError: if the encoder has no feature maps of strides 4 and 8, or cannot serve this ``upsample``.
        ValueError: for other than four shape channels.
    """

    gives_edges = True

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        channels: int = 256,
        low_level_channels: int = 48,
        shape_channels: Sequence[int] = (64, 32, 16, 8),
        rates: Sequence[int] | None = None,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if len(shape_channels) != 4 or min(shape_channels) < 1:
            raise ValueError(f"shape_channels={list(shape_channels)}: it must be four numbers of 1 or more.")
        if rates is None:
            rates = [rate * 16 // encoder.strides[-1] for rate in (6, 12, 18)]
        self.encoder = encoder
        self.decoder = Decoder(encoder, channels, low_level_channels, shape_channels, rates, upsample)
        self.head = Head(channels, num_classes, up=encoder.upsampling(upsample, num_classes, 4, 1))
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W); in training with the edges' logits."""
        features, positions = self.encoder.with_positions(images)
        first = self.encoder.strides[0]
        padded = (features[0].shape[-2] * first, features[0].shape[-1] * first)
        gradients = F.max_pool2d(gradient_magnitude(images, padded), first)  # (N, 1, H/2, W/2)
        x, edges = self.decoder(features, positions, gradients)
        logits = crop_to(self.head(x, positions), images)
        if not self.training:
            return logits
        return Outputs(logits, edges=crop_to(resize(edges, padded), images))


class Decoder(nn.Module):
    """The shape stream, the ASPP that takes its edges in, and the decoder of DeepLabV3+."""

    def __init__(
        self,
        encoder: Encoder,
        channels: int,
        low_level_channels: int,
        shape_channels: Sequence[int],
        rates: Sequence[int],
        upsample: str,
    ) -> None:
        super().__init__()
        self.low_level = encoder.level(stride=4)
        self.gate_levels = [self.low_level, encoder.level(stride=8), len(encoder.strides) - 1]
        self.shape = ShapeStream(encoder.channels[0], [encoder.channels[i] for i in self.gate_levels], shape_channels)
        self.join = nn.Conv2d(2, 1, 1)
        self.shrink = encoder.strides[-1] // encoder.strides[0]
        self.aspp = ASPP(encoder.channels[-1], channels, rates)
        self.up = encoder.upsampling(upsample, channels, encoder.strides[-1], 4)
        self.reduce = ConvNormAct(encoder.channels[self.low_level], low_level_channels, 1)
        self.refine = nn.Sequential(
            ConvNormAct(channels + low_level_channels, channels),
            ConvNormAct(channels, channels),
        )

    def forward(
        self, features: Sequence[Tensor], positions: Mapping[int, Tensor], gradients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features for the classes, and the edges that they were found with.

        Args:
            features: of the encoder, shallow to deep.
            positions: by stride, for ``max_unpool`` alone.
            gradients: (N, 1, H/2, W/2), how steep the image is.

        Returns:
            (N, channels, H/4, W/4), and (N, 1, H/2, W/2) logits of the edges.
        """
        edges = self.shape(features[0], [features[i] for i in self.gate_levels])  # (N, 1, H/2, W/2) logits
        boundary = self.join(torch.cat((edges.sigmoid(), gradients.to(edges.dtype)), 1)).sigmoid()
        x = self.aspp(features[-1], F.avg_pool2d(boundary, self.shrink))  # (N, 256, H/8, W/8)
        low = self.reduce(features[self.low_level])  # (N, 48, H/4, W/4)
        return self.refine(torch.cat((self.up(x, positions), low), 1)), edges


class ShapeStream(nn.Module):
    """Residual blocks with a gate behind each (section 3.1).

    Args:
        first: channels of the encoder's first map, where the stream starts.
        gates: channels of the three maps that open the gates.
        channels: of the stream, before the first gate and behind each.
    """

    def __init__(self, first: int, gates: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(first, channels[0], 1)
        self.residuals = nn.ModuleList(Residual(here) for here in channels[:-1])
        self.narrow = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairwise(channels))
        self.seen = nn.ModuleList(nn.Conv2d(deep, 1, 1) for deep in gates)
        self.gates = nn.ModuleList(GatedConv(here) for here in channels[1:])
        self.edges = nn.Conv2d(channels[-1], 1, 1)

    def forward(self, first: Tensor, deep: Sequence[Tensor]) -> Tensor:
        """(N, C, h, w) of the first map, and the deeper maps of the gates -> (N, 1, h, w) logits of edges."""
        s, size = self.enter(first), first.shape[-2:]  # (N, 64, H/2, W/2)
        for residual, narrow, seen, gate, r in zip(
            self.residuals, self.narrow, self.seen, self.gates, deep, strict=True
        ):
            s = gate(narrow(residual(s)), resize(seen(r), size))  # 32, 16 and 8 channels
        return self.edges(s)


class GatedConv(nn.Module):
    """The gated convolution, equations 1 and 2: ``conv(s * attention + s)``, the attention being of s and r together.

    Args:
        channels: of s, and of what comes out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.BatchNorm2d(channels + 1),
            nn.Conv2d(channels + 1, channels + 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels + 1, 1, 1, bias=False),
            nn.BatchNorm2d(1),
            nn.Sigmoid(),
        )
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, s: Tensor, r: Tensor) -> Tensor:
        """(N, channels, h, w) and (N, 1, h, w) -> (N, channels, h, w)."""
        return self.conv(s * (1 + self.attention(torch.cat((s, r), 1))))


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, as in ResNet-18."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        return F.relu(self.convs(x) + x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with the edges as one more branch (section 3.1, fusion module)."""

    def __init__(self, inputs: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [ConvNormAct(inputs, channels, 1), *(ConvNormAct(inputs, channels, dilation=r) for r in rates)]
        )
        # No batch norm here: it cannot be estimated from a batch of one image's mean.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, channels, 1), nn.ReLU(inplace=True))
        self.of_edges = ConvNormAct(1, channels, 1)
        self.merge = ConvNormAct((len(rates) + 3) * channels, channels, 1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """(N, inputs, h, w) and (N, 1, h, w) -> (N, channels, h, w)."""
        pooled = self.pooled(x).expand(-1, -1, *x.shape[-2:])
        return self.merge(torch.cat([*(branch(x) for branch in self.branches), pooled, self.of_edges(edges)], 1))


def gradient_magnitude(images: Tensor, size: Sequence[int]) -> Tensor:
    """How steep the grey value is, by Sobel's filters: 0 where it is constant, and at most 1.

    Args:
        images: (N, C, H, W) pixel values in 0..255.
        size: (height, width) to which the border is repeated at the bottom and right, at least H and W.

    Returns:
        (N, 1, height, width) float32.
    """
    bottom, right = size[0] - images.shape[-2], size[1] - images.shape[-1]
    grey = images.float().mean(1, keepdim=True) / 255
    grey = F.pad(grey, (1, 1 + right, 1, 1 + bottom), mode="replicate")
    rows = grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]
    columns = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    across, down = rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]
    # Each is at most 4; the small number keeps the root's gradient finite where an image is constant.
    return ((across.square() + down.square()) / 32 + 1e-12).sqrt()
