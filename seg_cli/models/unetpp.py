"""UNet++: Zhou, Siddiquee, Tajbakhsh, Liang (2018), arXiv:1807.10165, and the longer paper of 2019, arXiv:1912.05074.

Between encoder and decoder stand U-Nets of every depth, nested: node X(i, j) of resolution i sees all nodes before it
in its row and the upsampled node below. Each U-Net is supervised, so that the deeper ones can be left out afterwards.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.blocks import Head, crop_to, init_decoder
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.unet import double_conv, step_up
from seg_cli.models.upsample import Interpolate, Upsample


class UNetPlusPlus(nn.Module):
    """UNet++ on any encoder.

    Row i of nodes has the resolution of the encoder's map i, which is X(i, 0); the U-Net of level j ends in X(0, j).
    Nodes have as many channels as the encoder has in their row, and those of the deepest U-Net ``decoder_channels``.
    Where the encoder starts below the image's resolution, the deepest U-Net goes one step up without a skip.

    Args:
        encoder: gives the feature maps, L + 1 of them; a ResNet has L = 4.
        num_classes: channels of the logits.
        decoder_channels: of the deepest U-Net, deep to shallow, as in ``UNet``.
        upsample: one of ``upsample.KINDS``, for every step up, and for the logits of the deepest U-Net. Those of the
            others are interpolated bilinearly to the image's size.
        aux_weight: of the losses of levels 1 to L - 1 beside that of level L; the paper weighs all alike. 0 leaves
            their heads out.
        average: in evaluation, logits are the mean of all levels' up to ``prune``, the paper's accurate mode.
        prune: in evaluation, the level at which the network ends, 1 to L - 1; deeper nodes are not computed. null: L.

    Raises:
        UserError: if there are fewer ``decoder_channels`` than steps, or the encoder cannot serve this ``upsample``.
        ValueError: if there is no such level, or it has no head.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        upsample: str = "bilinear",
        aux_weight: float = 1.0,
        average: bool = False,
        prune: int | None = None,
    ) -> None:
        super().__init__()
        levels = len(encoder.channels) - 1
        if prune is not None and not 1 <= prune < levels:
            raise ValueError(
                f"prune={prune}: with this encoder, allowed are {', '.join(map(str, range(1, levels)))}, the levels at "
                "which the network may end early, and null."
            )
        if aux_weight < 0:
            raise ValueError(f"aux_weight={aux_weight}: it must be at least 0.")
        if aux_weight == 0 and (prune is not None or average):
            setting = "average=true" if average else f"prune={prune}"
            raise ValueError(f"{setting}: it needs the heads of all levels, and model.aux_weight=0 leaves them out.")
        self.levels, self.prune, self.average, self.aux_weight = levels, prune, average, aux_weight
        self.encoder = encoder
        self.decoder = Decoder(encoder, decoder_channels, upsample)
        self.head = Heads(encoder, self.decoder, num_classes, upsample, early=levels - 1 if aux_weight else 0)
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W); in training those of every level."""
        level = self.levels if self.training or self.prune is None else self.prune
        features, positions = self.encoder.with_positions(images, depth=level + 1)
        ends = self.decoder(features, positions, level)  # X(0, 1) .. X(0, level)
        every = self.average or (self.training and self.aux_weight > 0)
        logits = [
            crop_to(self.head(end, j, positions), images) for j, end in enumerate(ends, start=1) if every or j == level
        ]
        if self.training:
            return Outputs(logits[-1], aux=tuple(logits[:-1])) if self.aux_weight > 0 else logits[-1]
        return torch.stack(logits).mean(0) if self.average else logits[-1]


class Decoder(nn.Module):
    """The nodes X(i, j), j >= 1.

    Attributes:
        stride, channels: of the end of the deepest U-Net.
    """

    def __init__(self, encoder: Encoder, channels: Sequence[int], upsample: str) -> None:
        super().__init__()
        strides, rows = encoder.strides, encoder.channels  # shallow to deep
        self.levels = levels = len(rows) - 1
        steps = levels + (strides[0] % 2 == 0)
        if len(channels) < steps:
            raise UserError(
                f"model.decoder_channels: this encoder needs {steps} numbers, one a step up, not {len(channels)}."
            )
        self.stride, self.channels = (strides[0] // 2 if steps > levels else strides[0]), channels[steps - 1]

        def width(i: int, j: int) -> int:
            return channels[j - 1] if j and i + j == levels else rows[i]

        self.nodes = nn.ModuleDict()
        for j in range(1, levels + 1):
            for i in range(levels - j + 1):
                up = encoder.upsampling(upsample, width(i + 1, j - 1), strides[i + 1], strides[i])
                self.nodes[_name(i, j)] = Node(up, width(i + 1, j - 1), j * rows[i], width(i, j))
        self.last: Node | None = None
        if steps > levels:
            up = encoder.upsampling(upsample, channels[levels - 1], strides[0], self.stride)
            self.last = Node(up, channels[levels - 1], 0, self.channels)

    def forward(self, features: Sequence[Tensor], positions: Mapping[int, Tensor], level: int) -> list[Tensor]:
        """X(0, 1) to X(0, level), the last after the step without a skip if it is that of the deepest U-Net."""
        rows = [[feature] for feature in features[: level + 1]]
        for j in range(1, level + 1):
            for i, (row, below) in enumerate(pairwise(rows[: level - j + 2])):
                row.append(self.nodes[_name(i, j)](below[j - 1], row, positions))
        ends = rows[0][1:]  # (N, C0, H/2, W/2) each, where the encoder starts at stride 2
        if self.last is not None and level == self.levels:
            ends[-1] = self.last(ends[-1], [], positions)  # (N, 16, H, W)
        return ends


def _name(i: int, j: int) -> str:
    return f"x{i}_{j}"


class Node(nn.Module):
    """The node below, upsampled, and the nodes before in the row, through two 3x3 convolutions.

    Args:
        up: for the node below.
        below: channels of the node below.
        before: channels of the nodes before, in sum.
        outputs: channels.
    """

    def __init__(self, up: Upsample, below: int, before: int, outputs: int) -> None:
        super().__init__()
        self.up = up
        self.convs = double_conv(below + before, outputs)

    def forward(self, below: Tensor, before: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """The map (N, C, h/2, w/2) below, those (N, C', h, w) before, and positions by stride -> (N, outputs, h, w)."""
        return step_up(self.up, self.convs, below, before, positions)


class Heads(nn.Module):
    """A classifier for every level.

    Args:
        encoder, decoder: whose maps come in.
        num_classes: channels of the logits.
        upsample: one of ``upsample.KINDS``, for the logits of the deepest U-Net.
        early: how many of the other levels have a classifier.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, num_classes: int, upsample: str, *, early: int) -> None:
        super().__init__()
        up = encoder.upsampling(upsample, num_classes, decoder.stride, 1)
        self.final = Head(decoder.channels, num_classes, kernel=3, up=up)
        self.early = nn.ModuleList(
            nn.Sequential(nn.Conv2d(encoder.channels[0], num_classes, 1), Interpolate(encoder.strides[0], "bilinear"))
            for _ in range(early)
        )

    def forward(self, x: Tensor, level: int, positions: Mapping[int, Tensor]) -> Tensor:
        """X(0, level) -> logits (N, num_classes, H', W') of the padded image."""
        return self.early[level - 1](x) if level <= len(self.early) else self.final(x, positions)
