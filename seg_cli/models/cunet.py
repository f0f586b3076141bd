"""CU-Net: Tang, Peng, Geng, Zhu, Metaxas (2018), arXiv:1808.06521, and Tang et al. (2018), arXiv:1808.02194.

U-Nets in series, each refining the one before. Blocks at the same place of the last few U-Nets are coupled: a block
sees what its forerunners found, need not find it again, and can do with few channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.models.blocks import Normalize, crop_to, init_decoder, pad_to_multiple
from seg_cli.models.outputs import Outputs
from seg_cli.models.upsample import Interpolate, Upsample

STEPS = 4  # halvings of the resolution in each U-Net
STRIDE = 4  # at which the U-Nets begin and end
Saved = list[list[Tensor]]  # by place in a U-Net: what the last few U-Nets found there


class CUNet(nn.Module):
    """Coupled U-Nets, from scratch: a stem to stride 4, then U-Nets of nine blocks each, from stride 4 to 64 and back.

    Layers and channels are those of the authors' code, which estimates poses; logits take the place of its heat maps.
    Of order 1 and with 16 outputs the convolutions have 7.9 M weights in 8 U-Nets and 15.9 M in 16, as in the paper.

    Args:
        num_classes: channels of the logits.
        in_channels: of the image.
        unets: how many.
        order: K of the order-K coupling: a block sees those at its place in the K U-Nets before; 0 is none.
        channels: between blocks, m in the paper.
        growth: that a block adds, n in the paper.
        neck: the 1x1 convolution in a block gives ``neck * growth`` channels.
        supervised: how many U-Nets have a head, evenly spread; the last always has.
        aux_weight: of the loss of each head but the last; 0 leaves them out. The authors weigh all alike.
        upsample: one of ``upsample.KINDS`` but ``max_unpool``, inside the U-Nets and for the logits of the last; the
            authors' is nearest. Logits of the other heads are interpolated bilinearly.

    Raises:
        ValueError: if a number is out of its range, or ``upsample`` is ``max_unpool``.
        UserError: if there is no such ``upsample``.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        unets: int = 2,
        order: int = 1,
        channels: int = 128,
        growth: int = 32,
        neck: int = 4,
        supervised: int = 2,
        aux_weight: float = 1.0,
        upsample: str = "nearest",
    ) -> None:
        super().__init__()
        for name, number in (("unets", unets), ("channels", channels), ("growth", growth), ("neck", neck)):
            if number < 1:
                raise ValueError(f"{name}={number}: it must be a positive whole number.")
        if not 0 <= order < unets:
            raise ValueError(f"order={order}: with model.unets={unets}, allowed are 0 to {unets - 1}.")
        if not 1 <= supervised <= unets:
            raise ValueError(f"supervised={supervised}: with model.unets={unets}, allowed are 1 to {unets}.")
        if aux_weight < 0:
            raise ValueError(f"aux_weight={aux_weight}: it must be at least 0.")
        if upsample == "max_unpool":
            raise ValueError("upsample=max_unpool: only some steps of this network pool by maxima. Choose another.")
        self.aux_weight = aux_weight
        self.encoder = Stem(in_channels, channels)
        self.decoder = CoupledUNets(unets, order, channels, growth, neck, upsample)
        ends = [math.floor(unets * (i + 1) / supervised + 0.5) - 1 for i in range(supervised)]
        self.head = Heads(ends if aux_weight else ends[-1:], channels, num_classes, upsample)
        init_decoder(self.encoder, self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W); in training with the other heads'."""
        maps = self.decoder(self.encoder(images))  # (N, 128, H/4, W/4) of each U-Net
        *aux, logits = (crop_to(x, images) for x in self.head(maps, every=self.training))
        return Outputs(logits, aux=tuple(aux)) if aux else logits


class Stem(nn.Module):
    """Images -> (N, channels, H'/4, W'/4), H' and W' being multiples of 64."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.normalize = Normalize([0.5] * in_channels, [0.5] * in_channels)
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, B, H, W) images in 0..255 -> (N, channels, H'/4, W'/4)."""
        return self.convs(pad_to_multiple(self.normalize(images), STRIDE * 2**STEPS))


class CoupledUNets(nn.Module):
    """(N, channels, h, w) -> the same of each U-Net.

    Attributes:
        inputs: of U-Nets but the first: the output of the one before, and the inputs of the last K, merged.
    """

    def __init__(self, count: int, order: int, channels: int, growth: int, neck: int, upsample: str) -> None:
        super().__init__()
        self.order = order
        self.inputs = nn.ModuleList(act_conv((1 + min(i, order)) * channels, channels) for i in range(1, count))
        self.unets = nn.ModuleList(
            UNet(channels, growth, neck, coupled=min(i, order), upsample=upsample) for i in range(count)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, channels, h, w) -> a map of the same shape from each U-Net, the last one last."""
        places: Saved = [[] for _ in range(2 * STEPS + 1)]
        starts: list[Tensor] = []
        maps: list[Tensor] = []
        for i, unet in enumerate(self.unets):
            if i:
                x = self.inputs[i - 1](torch.cat((x, *starts), 1))
            starts = _last([*starts, x], self.order)
            x, found = unet(x, places)
            places = [_last([*saved, new], self.order) for saved, new in zip(places, found, strict=True)]
            maps.append(x)
        return maps


def _last(tensors: list[Tensor], count: int) -> list[Tensor]:
    return tensors[len(tensors) - count :] if count < len(tensors) else tensors


class UNet(nn.Module):
    """One of the U-Nets: four blocks down, one at the bottom, four up.

    Args:
        channels: that come in and go out.
        growth, neck: of each block.
        coupled: how many U-Nets before this one its blocks are coupled with.
        upsample: one of ``upsample.KINDS``.
    """

    def __init__(self, channels: int, growth: int, neck: int, *, coupled: int, upsample: str) -> None:
        super().__init__()
        extra = coupled * growth
        self.downs = nn.ModuleList(Block(channels, extra, growth, neck, channels, skips=True) for _ in range(STEPS))
        self.bottom = Block(channels, extra, growth, neck, channels, skips=False)
        self.ups = nn.ModuleList(Upsample(upsample, channels, 2) for _ in range(STEPS))
        self.merges = nn.ModuleList(
            Block(2 * channels, extra, growth, neck, channels, skips=False) for _ in range(STEPS)
        )

    def forward(self, x: Tensor, places: Saved) -> tuple[Tensor, list[Tensor]]:
        """The map, and what each block found, in the order of ``places``."""
        skips, found = [], []
        for down, saved in zip(self.downs, places[:STEPS], strict=True):
            x, skip, new = down([x, *saved])
            x = F.max_pool2d(x, 2)  # (N, channels, h/2, w/2) .. (N, channels, h/16, w/16)
            skips.append(skip)
            found.append(new)
        x, _, new = self.bottom([x, *places[STEPS]])
        found.append(new)
        for up, merge, skip, saved in zip(self.ups, self.merges, skips[::-1], places[STEPS + 1 :], strict=True):
            x, _, new = merge([up(x), skip, *saved])  # (N, channels, h/8, w/8) .. (N, channels, h, w)
            found.append(new)
        return x, found


class Block(nn.Module):
    """A bottleneck adds ``growth`` channels to what comes in; 1x1 convolutions compress it all for what comes next.

    Args:
        inputs: channels that come from this U-Net.
        extra: channels that come from the blocks at this place in the U-Nets before.
        growth: channels of the bottleneck's 3x3 convolution, whose input are ``neck * growth``.
        neck: see ``growth``.
        outputs: channels for the next block.
        skips: whether the way up needs a map too; it has a convolution of its own.
    """

    def __init__(self, inputs: int, extra: int, growth: int, neck: int, outputs: int, *, skips: bool) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            act_conv(inputs + extra, neck * growth), act_conv(neck * growth, growth, kernel=3)
        )
        everything = inputs + extra + growth
        self.ahead = act_conv(everything, outputs)
        self.skip = act_conv(everything, outputs) if skips else None

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """What goes to the next block, to the way up, and to this place in the next U-Nets."""
        x = torch.cat(tuple(maps), 1)
        new = self.bottleneck(x)
        x = torch.cat((x, new), 1)
        return self.ahead(x), None if self.skip is None else self.skip(x), new


class Heads(nn.Module):
    """1x1 classifiers of some U-Nets' maps.

    Args:
        ends: indices of the U-Nets, the last being the last of all.
        channels: of their maps.
        num_classes: channels of the logits.
        upsample: for the logits of the last.
    """

    def __init__(self, ends: Sequence[int], channels: int, num_classes: int, upsample: str) -> None:
        super().__init__()
        self.ends = list(ends)
        self.early = nn.ModuleList(
            nn.Sequential(act_conv(channels, num_classes, bias=True), Interpolate(STRIDE, "bilinear"))
            for _ in ends[:-1]
        )
        self.final = nn.Sequential(act_conv(channels, num_classes, bias=True), Upsample(upsample, num_classes, STRIDE))

    def forward(self, maps: Sequence[Tensor], *, every: bool) -> list[Tensor]:
        """All U-Nets' maps -> logits (N, num_classes, H', W') of every head, or of the last alone."""
        early = zip(self.early, self.ends, strict=False) if every else ()
        return [*(classify(maps[end]) for classify, end in early), self.final(maps[-1])]


def act_conv(inputs: int, outputs: int, *, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    """Batch norm, ReLU, convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias),
    )
