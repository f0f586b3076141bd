"""DeepLab v3: Chen, Papandreou, Schroff, Adam (2017), arXiv:1706.05587.

Two ways to see far without losing resolution: atrous convolutions of several rates side by side, with the image's mean
(ASPP), or one behind the other, as copies of the last ResNet block with growing rates (the cascade).
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.auxiliary import AuxiliaryHead, check_aux_weight
from seg_cli.models.blocks import ConvNormAct, SeparableConvNormAct, crop_to, init_decoder
from seg_cli.models.deeplabv2 import check_rates
from seg_cli.models.dilation import dilate, scale_rates, start_from_centers
from seg_cli.models.encoder import Encoder
from seg_cli.models.output_strides import TwoStrides, dilate_by_grid, fit_grid, last_blocks
from seg_cli.models.outputs import Outputs


class DeepLabV3(nn.Module):
    """DeepLab v3 with ASPP, on any encoder.

    torchvision and SMP add a 3x3 convolution behind the ASPP, which the paper has not: 0.6 million parameters more.

    Args:
        encoder: gives feature maps; the paper's have output stride 16, or 8.
        num_classes: channels of the logits.
        channels: of the ASPP's branches.
        rates: of the atrous convolutions; by default 6, 12, 18 at output stride 16, and in proportion at others.
        multi_grid: the multiples of the rate in the blocks of a ResNet's last stage. By default 1, 2, 4 on
            ResNets, and other encoders, which have no such blocks, stay as they are.
        eval_output_stride: of the encoder in evaluation, with the same weights. The paper trains at 16 and
            evaluates at 8, which is finer and dearer. By default that of training.
        dropout: share of the ASPP's channels dropped in training.
        aux_weight: of the loss of a second head in training, as torchvision has one (0.5); 0 leaves it out, as the
            paper does.
        upsample: one of ``upsample.KINDS``, for the logits; the paper's is bilinear.

    Raises:
        ValueError: if a setting is not allowed, see ``output_strides`` also.
        UserError: if the encoder has no blocks for ``multi_grid``, or cannot serve ``upsample`` or
            ``eval_output_stride``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        channels: int = 256,
        rates: Sequence[int] | None = None,
        multi_grid: Sequence[int] | None = None,
        eval_output_stride: int | None = None,
        dropout: float = 0.1,
        aux_weight: float = 0.0,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        check_aux_weight(aux_weight)
        self.strides = TwoStrides(encoder, eval_output_stride, fit_grid(encoder, multi_grid, (1, 2, 4)))
        if rates is None:
            rates = scale_rates((6, 12, 18), 16, self.strides.train)
        check_rates(rates)
        self.rates, self.aux_weight = list(rates), aux_weight
        self.encoder = encoder
        self.decoder = ASPP(encoder.channels[-1], channels, rates, dropout)
        self.head = nn.ModuleDict({"main": Head(encoder, channels, num_classes, self.strides, upsample)})
        if aux_weight:
            self.head["aux"] = AuxiliaryHead(encoder, num_classes)
        init_decoder(self.decoder, self.head)
        self.decoder.start_from_centers()

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, with the output stride and the rates that belong to it."""
        super().train(mode)
        self.strides.switch(self.encoder, mode)
        self.decoder.set_rates(scale_rates(self.rates, self.strides.train, self.encoder.strides[-1]))
        return self

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features[-1])  # (N, 256, H/16, W/16)
        logits = crop_to(self.head["main"](x, positions, self.encoder.strides[-1]), images)
        if self.training and self.aux_weight:
            return Outputs(logits, aux=(crop_to(self.head["aux"](features), images),))
        return logits


class DeepLabV3Cascade(nn.Module):
    """DeepLab v3 as a cascade: copies of a ResNet's last stage go on with rates that double, without ASPP.

    The copies start as timm starts new blocks, their last norm at 0: at first they pass on what they get.

    Args:
        encoder: a ResNet (BasicBlock or Bottleneck) of timm; the paper's have output stride 16, or 8.
        num_classes: channels of the logits.
        copies: of the last stage; 3 give the paper's block5 to block7.
        multi_grid: the multiples of the rate in the blocks of the last stage and of each copy. By default
            1, 2, 1, the best of the paper's table 4.
        eval_output_stride: of the encoder in evaluation, with the same weights. By default that of training.
        upsample: one of ``upsample.KINDS``, for the logits; the paper's is bilinear.

    Raises:
        ValueError: if a setting is not allowed.
        UserError: if the encoder is no ResNet, or cannot serve ``upsample`` or ``eval_output_stride``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        copies: int = 3,
        multi_grid: Sequence[int] | None = None,
        eval_output_stride: int | None = None,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if copies < 1:
            raise ValueError(f"copies={copies}: 1 or more is allowed.")
        blocks = last_blocks(encoder)
        if not blocks or not all(isinstance(block, BasicBlock | Bottleneck) for block in blocks):
            raise UserError(
                f"encoder.name={encoder.name}: the cascade copies the last blocks of a ResNet, and this is none. "
                "Choose a ResNet, as encoder.name=resnet50, or model=deeplabv3."
            )
        units = fit_grid(encoder, multi_grid, (1, 2, 1))
        self.strides = TwoStrides(encoder, eval_output_stride, units)
        self.encoder = encoder
        self.decoder = Cascade(blocks, encoder.channels[-1], copies, units)
        self.decoder.set_rate(2 * 32 // self.strides.train)
        self.head = nn.ModuleDict({"main": Head(encoder, encoder.channels[-1], num_classes, self.strides, upsample)})
        init_decoder(self.decoder, self.head)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, with the output stride and the rates that belong to it."""
        super().train(mode)
        self.strides.switch(self.encoder, mode)
        self.decoder.set_rate(2 * 32 // self.encoder.strides[-1])
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features[-1])  # (N, 2048, H/16, W/16)
        return crop_to(self.head["main"](x, positions, self.encoder.strides[-1]), images)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, atrous rates and the image's mean, side by side, then merged.

    Args:
        inputs: channels of the map.
        channels: of each branch, and of what comes out.
        rates: of the atrous branches.
        dropout: share of the merged channels dropped in training.
        separable: whether the atrous convolutions are depthwise separable, as in DeepLabV3+.
    """

    def __init__(
        self, inputs: int, channels: int, rates: Sequence[int], dropout: float, *, separable: bool = False
    ) -> None:
        super().__init__()
        conv = SeparableConvNormAct if separable else ConvNormAct
        self.branches = nn.ModuleList(
            [ConvNormAct(inputs, channels, 1), *(conv(inputs, channels, dilation=rate) for rate in rates)]
        )
        # No batch norm here: it cannot be estimated from a batch of one image's mean.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, channels, 1), nn.ReLU(inplace=True))
        self.merge = nn.Sequential(ConvNormAct((len(rates) + 2) * channels, channels, 1), nn.Dropout2d(dropout))

    def start_from_centers(self) -> None:
        """See ``dilation.start_from_centers``."""
        start_from_centers(self.branches[1:])

    def set_rates(self, rates: Iterable[int]) -> None:
        """Give the atrous branches other rates, with the same weights."""
        for branch, rate in zip(self.branches[1:], rates, strict=True):
            dilate(branch, rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h, w)."""
        pooled = self.pooled(x).expand(-1, -1, *x.shape[-2:])
        return self.merge(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))


class Cascade(nn.Module):
    """Copies of a stage, one behind the other.

    Args:
        blocks: of the stage.
        channels: of what comes out of it, and so of what goes in and out here.
        copies: how many.
        grid: the multiple of the rate in each block of a copy.
    """

    def __init__(self, blocks: Sequence[nn.Module], channels: int, copies: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.grid = list(grid)
        self.stages = nn.ModuleList(
            nn.Sequential(*(new_block(block, channels) for block in blocks)) for _ in range(copies)
        )

    def set_rate(self, rate: int) -> None:
        """Rate of the first copy; that of each next one is twice the one before."""
        for i, stage in enumerate(self.stages):
            dilate_by_grid(list(stage.children()), rate * 2**i, self.grid)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape: atrous rates stand in for strides."""
        for stage in self.stages:
            x = stage(x)  # (N, 2048, H/16, W/16)
        return x


def new_block(block: Any, channels: int) -> nn.Module:
    """A block of timm's ResNet like this one, with weights of its own, at stride 1, its shortcut the identity."""
    new = deepcopy(block)
    if new.downsample is not None:
        new.downsample = None
        conv = new.conv1
        new.conv1 = nn.Conv2d(
            channels, conv.out_channels, conv.kernel_size, padding=conv.padding, groups=conv.groups, bias=False
        )
    for layer in new.modules():
        if getattr(layer, "stride", 1) in (2, (2, 2)):
            layer.stride = (1, 1)
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    new.zero_init_last()
    return new


class Head(nn.Module):
    """A 1x1 convolution to the logits, and the way up to the image from each of two strides."""

    def __init__(self, encoder: Encoder, inputs: int, num_classes: int, strides: TwoStrides, upsample: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, num_classes, 1)
        ups = {stride: encoder.upsampling(upsample, num_classes, stride, 1) for stride in (strides.train, strides.eval)}
        if len(ups) > 1 and any(True for up in ups.values() for _ in up.parameters()):
            raise ValueError(
                f"upsample={upsample}: it is learned for one output stride, so that eval_output_stride={strides.eval} "
                f"is not allowed beside {strides.train} in training. Take upsample=bilinear, or another interpolation."
            )
        self.ups = nn.ModuleDict({str(stride): up for stride, up in ups.items()})

    def forward(self, x: Tensor, positions: Mapping[int, Tensor], stride: int) -> Tensor:
        """(N, C, h, w) of an output stride, and positions by stride -> (N, num_classes, H, W) logits."""
        return self.ups[str(stride)](self.conv(x), positions)  # (N, num_classes, H, W)
