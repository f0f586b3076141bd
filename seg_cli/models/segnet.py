"""SegNet: Badrinarayanan, Kendall, Cipolla (2015), arXiv:1511.00561.

The decoder mirrors the encoder, and instead of feature maps it is handed where each max pooling found its maxima: every
value goes back there, and convolutions fill in the zeros between. Also SegNet-Basic, the small form of section 3.1.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.blocks import ConvNormAct, Normalize, crop_to, init_decoder, pad_to_multiple
from seg_cli.models.encoder import Encoder
from seg_cli.models.upsample import max_unpool


class SegNet(nn.Module):
    """SegNet on VGG: 29.45 M parameters with the paper's VGG-16 and 11 classes (arXiv:1606.02147 counts 29.46 M).

    As in section 3.1, convolutions of the decoder have no biases, which the authors' released network has.

    Args:
        encoder: a network with a max pooling by 2 before every map but the first: ``vgg16_bn`` and its kin.
        num_classes: channels of the logits.

    Raises:
        UserError: if the encoder is no such network.
    """

    def __init__(self, *, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        stages = mirrored(encoder, "SegNet")
        inputs, _ = stages[-1].pop()  # the mirror of the first convolution leads to the classes
        self.encoder = encoder
        self.decoder = UnpoolingDecoder(encoder, stages, ConvNormAct)
        self.head = nn.Conv2d(inputs, num_classes, 3, padding=1)
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features[-1], positions)  # (N, 64, H, W)
        return crop_to(self.head(x), images)


def mirrored(encoder: Encoder, architecture: str) -> list[list[tuple[int, int]]]:
    """The convolutions of a plain network backwards: for each unpooling, those after it as (inputs, outputs).

    Args:
        encoder: a chain of convolutions and max poolings by 2.
        architecture: who asks, for the error.

    Raises:
        UserError: if the encoder is another network.
    """
    stages: list[list[tuple[int, int]]] = [[]]
    for layer in encoder.body.children():
        if isinstance(layer, nn.Conv2d):
            stages[-1].append((layer.out_channels, layer.in_channels))
        elif isinstance(layer, nn.MaxPool2d):
            stages.append([])
    if encoder.strides[0] != 1 or list(encoder.pools) != encoder.strides[1:] or not all(stages[:-1]):
        raise UserError(
            f"encoder.name={encoder.name}: {architecture} undoes the max poolings of a plain network of convolutions, "
            "one at every step, and this encoder is none. Type encoder=vgg16_bn, or encoder.name=vgg11_bn, vgg13_bn or "
            "vgg19_bn."
        )
    return [stage[::-1] for stage in stages[-2::-1]]  # nothing comes after the last pooling


class UnpoolingDecoder(nn.Module):
    """For each pooling of the encoder, deepest first: values go back to where the maxima were, then convolutions.

    Args:
        encoder: what is mirrored.
        stages: of ``mirrored``.
        layer: (inputs, outputs) -> a convolution that keeps the size, with what follows it.
    """

    def __init__(
        self, encoder: Encoder, stages: Sequence[Sequence[tuple[int, int]]], layer: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        steps = pairwise(encoder.strides[::-1])
        self.unpools = nn.ModuleList(
            encoder.upsampling("max_unpool", encoder.pools[start], start, end) for start, end in steps
        )
        self.convs = nn.ModuleList(nn.Sequential(*(layer(*channels) for channels in stage)) for stage in stages)

    def forward(self, x: Tensor, positions: Mapping[int, Tensor]) -> Tensor:
        """(N, C, H/32, W/32), and positions by stride -> (N, channels, H, W)."""
        for unpool, convs in zip(self.unpools, self.convs, strict=True):
            x = convs(unpool(x, positions))  # H/16 up to H
        return x


class SegNetBasic(nn.Module):
    """SegNet-Basic: four 7x7 convolutions down and four up, 1.416 M parameters (the paper's table 1: 1.425 M).

    It starts from random weights. The authors normalise the contrast of the image locally; here pixel values are scaled
    to -1..1 and the first batch norm does the rest. Convolutions have no biases, as in section 3.1.

    Args:
        num_classes: channels of the logits.
        in_channels: of the image.
        channels: of every convolution.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, channels: int = 64) -> None:
        super().__init__()
        self.encoder = BasicEncoder(in_channels, channels)
        self.decoder = BasicDecoder(channels)
        self.head = nn.Conv2d(channels, num_classes, 1)
        init_decoder(self.encoder, self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        x, positions = self.encoder(images)  # (N, 64, H/16, W/16)
        return crop_to(self.head(self.decoder(x, positions)), images)


STEPS = 4  # of SegNet-Basic down, and up


class BasicEncoder(nn.Module):
    """Convolution, batch norm, ReLU and max pooling, four times."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.normalize = Normalize([0.5] * in_channels, [0.5] * in_channels)
        counts = [in_channels] + [channels] * STEPS
        self.convs = nn.ModuleList(ConvNormAct(inputs, outputs, 7) for inputs, outputs in pairwise(counts))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, in_channels, H, W) -> (N, channels, H'/16, W'/16), and where each pooling found its maxima.

        H' and W' are H and W, rounded up to multiples of 16; the border is repeated at the bottom and right.
        """
        x, positions = pad_to_multiple(self.normalize(images), 2**STEPS), []
        for conv in self.convs:
            x, where = F.max_pool2d(conv(x), 2, return_indices=True)
            positions.append(where)
        return x, positions


class BasicDecoder(nn.Module):
    """Unpooling, convolution and batch norm, four times, without ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 7, padding=3, bias=False), nn.BatchNorm2d(channels))
            for _ in range(STEPS)
        )

    def forward(self, x: Tensor, positions: Sequence[Tensor]) -> Tensor:
        """(N, channels, H'/16, W'/16), and the positions of each pooling, shallow to deep -> (N, channels, H', W')."""
        for conv, where in zip(self.convs, reversed(positions), strict=True):
            x = conv(max_unpool(x, where))  # H/8 up to H
        return x
