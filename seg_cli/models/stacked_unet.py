"""Stacked U-Nets (SUNet): Shah, Ghosh, Davis, Goldstein (2018), arXiv:1804.10343.

A residual network whose blocks are small U-Nets: each block sees far and gives back a map of the size it got, so that
little resolution has to be given up. For segmentation the last blocks dilate instead of striding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seg_cli.models.blocks import ConvNormAct, Head, Normalize, crop_to, init_decoder, pad_to_multiple
from seg_cli.models.upsample import Upsample

LEVELS = (2, 2, 2, 1)  # halvings of the resolution inside a block, by stage


class StackedUNet(nn.Module):
    """SUNet: a stem to stride 4, four stages of U-Net blocks with average pooling between them, a 1x1 classifier.

    The authors' three networks, by ``channels``, ``blocks`` and ``outputs``, and their parameters with 1000 classes.
    Biases in front of batch norms, which do nothing, are left out. SUNet-7-128 is as in the authors' code, 3.6 % above
    the count that is given for it; 1792 instead of 2048 channels would give that count.

    ===========  ========  ============  ========================  =======  =========
    network      channels  blocks        outputs                   here     the paper
    ===========  ========  ============  ========================  =======  =========
    SUNet-64     64        [2, 4, 4, 1]  [256, 512, 768, 1024]     6.89 M   6.9 M
    SUNet-128    128       [2, 4, 4, 1]  [512, 1024, 1536, 2048]   24.67 M  24.6 M
    SUNet-7-128  128       [2, 7, 7, 1]  [512, 1280, 2048, 2304]   39.06 M  37.7 M
    ===========  ========  ============  ========================  =======  =========

    Args:
        num_classes: channels of the logits.
        in_channels: of the image.
        channels: inside the U-Nets.
        blocks: U-Nets a stage.
        outputs: channels that each stage's U-Nets give.
        output_stride: 8, 16 or 32: image pixels a pixel of the last map. Below 32 the last stages do not pool, and
            their U-Nets dilate where they would stride, by more the further in (multi-grid): up to 8.
        degrid: two 3x3 convolutions of 512 channels, the first with dilation 2, between the stages and the classifier;
            they remove the grid pattern that dilation leaves.
        upsample: one of ``upsample.KINDS`` but ``max_unpool``, for the logits; the paper's is bilinear. The U-Nets have
            transposed convolutions of their own.

    Raises:
        ValueError: if there is no such ``output_stride``, there are not four stages, or ``upsample`` is ``max_unpool``.
        UserError: if there is no such ``upsample``.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        channels: int = 64,
        blocks: Sequence[int] = (2, 4, 4, 1),
        outputs: Sequence[int] = (256, 512, 768, 1024),
        output_stride: int = 8,
        degrid: bool = False,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={output_stride}: allowed are 8, 16 and 32.")
        for name, numbers in (("blocks", blocks), ("outputs", outputs)):
            if len(numbers) != len(LEVELS) or min(numbers) < 1:
                raise ValueError(f"{name}={list(numbers)}: it must be four positive numbers, one a stage.")
        if upsample == "max_unpool":
            raise ValueError("upsample=max_unpool: this network has no max pooling to undo. Choose another.")
        self.encoder = Stages(in_channels, channels, blocks, outputs, output_stride)
        last = 512 if degrid else outputs[-1]
        self.decoder = nn.Sequential(nn.BatchNorm2d(outputs[-1]), nn.ReLU(inplace=True))
        if degrid:
            self.decoder.extend([ConvNormAct(outputs[-1], last, dilation=2), ConvNormAct(last, last)])
        self.head = Head(last, num_classes, up=Upsample(upsample, num_classes, output_stride))
        init_decoder(self.encoder, self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        x = self.decoder(self.encoder(images))  # (N, outputs[-1], H/8, W/8)
        return crop_to(self.head(x), images)


class Stages(nn.Module):
    """Stem and U-Nets: images -> (N, outputs[-1], H'/output_stride, W'/output_stride), H' a multiple of 32 or 64."""

    def __init__(
        self, in_channels: int, channels: int, blocks: Sequence[int], outputs: Sequence[int], output_stride: int
    ) -> None:
        super().__init__()
        self.normalize = Normalize([0.5] * in_channels, [0.5] * in_channels)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
            Residual(64, 128),
        )
        self.stages = nn.ModuleList()
        inputs, stride, dilation = 128, 4, 1
        self.multiple = stride
        for i, (count, here, levels) in enumerate(zip(blocks, outputs, LEVELS, strict=True)):
            stage = nn.Sequential()
            if i and stride < output_stride:
                stage.append(nn.AvgPool2d(2))
                stride *= 2
            elif i:
                dilation *= 2
            for _ in range(count):
                stage.append(UNetBlock(inputs, channels, here, levels, dilation))
                inputs = here
            if dilation == 1:
                self.multiple = max(self.multiple, stride * 2**levels)
            self.stages.append(stage)

    def forward(self, images: Tensor) -> Tensor:
        """(N, B, H, W) images in 0..255 -> (N, outputs[-1], H'/output_stride, W'/output_stride)."""
        x = self.stem(pad_to_multiple(self.normalize(images), self.multiple))  # (N, 128, H/4, W/4)
        for stage in self.stages:
            x = stage(x)  # (N, 256, H/4, W/4), (N, 512, H/8, W/8), then as output_stride says
        return x


class UNetBlock(nn.Module):
    """A small U-Net of pre-activated convolutions, added to what it got (figure 1).

    Args:
        inputs, outputs: channels; where they differ, the shortcut is a 1x1 convolution.
        channels: inside.
        levels: halvings of the resolution, 1 or 2.
        dilation: 1, or the dilation of the first convolution that would stride; then nothing strides.
    """

    def __init__(self, inputs: int, channels: int, outputs: int, levels: int, dilation: int) -> None:
        super().__init__()
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.enter = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.reduce = nn.Conv2d(inputs, channels, 1, bias=False)
        rates = [dilation * 2**i if dilation > 1 else 1 for i in range(levels)]
        self.downs = nn.ModuleList(_down(channels, rate) for rate in rates)
        # The innermost has no skip beside it.
        self.ups = nn.ModuleList(
            _up(channels if i == levels - 1 else 2 * channels, channels, rate) for i, rate in enumerate(rates)
        )
        self.expand = _act_conv(channels, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h, w)."""
        entered = self.enter(x)
        shortcut = x if self.shortcut is None else self.shortcut(entered)
        x, skips = self.reduce(entered), []
        for down in self.downs:
            x = down(x)  # (N, channels, h/2, w/2), (N, channels, h/4, w/4); all (h, w) where dilated
            skips.append(x)
        x = self.ups[-1](x)
        for up, skip in zip(self.ups[-2::-1], skips[-2::-1], strict=True):
            x = up(torch.cat((x, skip), 1))
        return self.expand(x) + shortcut  # (N, outputs, h, w)


class Residual(nn.Module):
    """Two pre-activated 3x3 convolutions, the first of stride 2, and a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.convs = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            _act_conv(outputs, outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h/2, w/2)."""
        x = self.enter(x)
        return self.convs(x) + self.shortcut(x)


def _down(channels: int, rate: int) -> nn.Sequential:
    """Half the size; or with rate > 1 the same size, and dilation."""
    stride, inner = (1, 2 * rate) if rate > 1 else (2, 1)
    return nn.Sequential(
        _act_conv(channels, channels, stride=stride, dilation=rate),
        _act_conv(channels, channels, dilation=inner),
    )


def _up(inputs: int, outputs: int, rate: int) -> nn.Sequential:
    """Twice the size; or with rate > 1 the same size, and dilation."""
    if rate > 1:  # a transposed convolution that does not stride is a convolution
        return nn.Sequential(_act_conv(inputs, outputs, dilation=2 * rate), _act_conv(outputs, outputs, dilation=rate))
    transposed = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    nn.init.normal_(transposed.weight, std=(2 / (inputs * 9 / 4)) ** 0.5)  # 9/4 pixels meet in a value, on average
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), transposed, _act_conv(outputs, outputs))


def _act_conv(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Batch norm, ReLU, convolution without bias."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
    )
