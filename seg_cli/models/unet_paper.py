"""U-Net as in the paper, from scratch: Ronneberger, Fischer, Brox (2015), arXiv:1505.04597.

A contracting path halves the resolution and doubles the channels four times; an expanding path mirrors it, and at each
resolution sees a copy of what the contracting path had there. ``unet.py`` is the form on any encoder.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.models.blocks import Normalize, crop_to, init_decoder, pad_to_multiple
from seg_cli.models.upsample import Pool, Upsample

STEPS = 4  # halvings of the resolution


class UNetPaper(nn.Module):
    """The paper's network: 64 to 1024 channels, 2x2 up-convolutions, dropout at the end of the contracting path.

    With one image channel, two classes and ``norm=False`` it has the paper's 31.0 million parameters (31,030,658).

    Args:
        num_classes: channels of the logits.
        in_channels: of the image.
        channels: of the first resolution; each step down doubles them.
        padding: ``same`` (convolutions see zeros beyond the border), or the paper's ``valid``: convolutions see nothing
            but the map, which shrinks, and skips are cropped. The image is mirrored beyond its border by 92 pixels, so
            that there is a logit for every pixel of it (the overlap-tile strategy, figure 2).
        norm: batch norm behind each 3x3 convolution, in place of its bias. The paper, of the same year as batch norm,
            has none; with it parameters are 0.02% more.
        dropout: share of values dropped in training at the last two resolutions of the contracting path.
        upsample: one of ``upsample.KINDS``, in front of the 2x2 convolution that halves the channels. Both together are
            the paper's up-convolution; its authors insert zeros, which is ``bed_of_nails``.

    Raises:
        ValueError: if a setting is out of its range, or ``upsample`` is ``max_unpool`` with ``padding=valid``.
        UserError: if there is no such ``upsample``.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        channels: int = 64,
        padding: str = "same",
        norm: bool = True,
        dropout: float = 0.5,
        upsample: str = "bed_of_nails",
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid"):
            raise ValueError(f"padding={padding}: allowed are same and valid.")
        if channels < 1:
            raise ValueError(f"channels={channels}: it must be a positive whole number; the paper's is 64.")
        if upsample == "max_unpool" and padding == "valid":
            raise ValueError(
                "upsample=max_unpool: positions of maxima lie in a larger map than the decoder's where padding=valid "
                "crops. Choose model.padding=same, or another model.upsample."
            )
        widths = [channels * 2**i for i in range(STEPS + 1)]
        border = 1 if padding == "same" else 0
        self.encoder = Contracting(in_channels, widths, border, norm, dropout, remember=upsample == "max_unpool")
        self.decoder = Expanding(widths, border, norm, upsample)
        self.head = nn.Conv2d(channels, num_classes, 1)
        init_decoder(self.encoder, self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        maps, positions = self.encoder(images)
        x = self.decoder(maps, positions)  # (N, channels, H', W'), H' >= H
        return crop_to(self.head(x), images)


class Contracting(nn.Module):
    """The way down: two convolutions at each resolution, max pooling by 2 between them."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], border: int, norm: bool, dropout: float, *, remember: bool
    ) -> None:
        super().__init__()
        self.border, self.remember = border, remember
        self.normalize = Normalize([0.5] * in_channels, [0.5] * in_channels)
        inputs = [in_channels, *widths]
        self.convs = nn.ModuleList(
            double_conv(above, here, border, norm) for above, here in zip(inputs, widths, strict=False)
        )
        # "At the end of the contracting path"; the authors' network has it at the last two resolutions.
        self.dropouts = nn.ModuleList(nn.Dropout(dropout if i >= STEPS - 1 else 0.0) for i in range(STEPS + 1))

    def forward(self, images: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The maps of the way down.

        Args:
            images: (N, B, H, W) in 0..255.

        Returns:
            (N, channels * 2**i, H'/2**i, W'/2**i) for each i, and by stride the positions of the maxima, where
            ``max_unpool`` wants them.
        """
        x = self.normalize(images)
        x = pad_to_multiple(x, 2**STEPS) if self.border else mirror_around(x)
        maps: list[Tensor] = []
        positions: dict[int, Tensor] = {}
        for i, (convs, dropout) in enumerate(zip(self.convs, self.dropouts, strict=True)):
            if i and self.remember:
                x, positions[2**i] = F.max_pool2d(x, 2, return_indices=True)
            elif i:
                x = F.max_pool2d(x, 2)
            x = dropout(convs(x))  # (N, 64 * 2**i, H'/2**i, W'/2**i)
            maps.append(x)
        return maps, positions


class Expanding(nn.Module):
    """The way up: an up-convolution, the copy of the contracting path beside it, two convolutions."""

    def __init__(self, widths: Sequence[int], border: int, norm: bool, upsample: str) -> None:
        super().__init__()
        steps = range(STEPS - 1, -1, -1)  # deep to shallow
        self.ups = nn.ModuleList(UpConv(widths[i + 1], widths[i], upsample, stride=2 ** (i + 1)) for i in steps)
        self.convs = nn.ModuleList(double_conv(2 * widths[i], widths[i], border, norm) for i in steps)

    def forward(self, maps: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """The maps of the way down, and positions by stride -> (N, channels, h, w), less a border without padding."""
        x = maps[-1]  # (N, 1024, H'/16, W'/16)
        for up, convs, skip in zip(self.ups, self.convs, maps[-2::-1], strict=True):
            x = up(x, positions)
            x = convs(torch.cat((crop_around(skip, x), x), 1))  # 512, 256, 128, 64 channels
        return x


class UpConv(nn.Module):
    """Upsampling by 2, a 2x2 convolution that halves the channels, ReLU: (N, C, h, w) -> (N, C/2, 2h, 2w).

    Args:
        inputs, outputs: channels.
        upsample: one of ``upsample.KINDS``.
        stride: image pixels a pixel of what comes in.
    """

    def __init__(self, inputs: int, outputs: int, upsample: str, stride: int) -> None:
        super().__init__()
        self.up: Upsample | None = None
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if upsample == "bed_of_nails":
            # Inserted zeros and a 2x2 convolution are a transposed convolution, which skips the zeros. Each value comes
            # from one pixel of the small map.
            self.conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
            nn.init.normal_(self.conv.weight, std=(2 / inputs) ** 0.5)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        else:
            self.up = Upsample(upsample, inputs, 2, pools=[Pool(stride, outputs)])
            self.conv = nn.Conv2d(inputs, outputs, 2)

    def forward(self, x: Tensor, positions: Mapping[int, Tensor]) -> Tensor:
        """(N, C, h, w), and positions by stride -> (N, C/2, 2h, 2w)."""
        if self.up is not None:
            x = F.pad(self.up(x, positions), (1, 0, 1, 0))
        return F.relu(self.conv(x), inplace=True)


def double_conv(inputs: int, outputs: int, border: int, norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU, with ``border`` zeros around, and batch norm or biases."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=border, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def crop_around(skip: Tensor, x: Tensor) -> Tensor:
    """The middle of a larger map, of the size of x."""
    height, width = x.shape[-2:]
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]


def mirror_around(x: Tensor) -> Tensor:
    """The image with as much of its mirror image around it as unpadded convolutions eat: 92 pixels on each side.

    Where 16*n + 124 pixels go in, 16*n - 60 come out (572 and 388 in figure 1): the smallest n that covers the image is
    taken, and what is too much lies at the bottom and right.
    """
    return x.index_select(-2, _mirrored(x.shape[-2], x.device)).index_select(-1, _mirrored(x.shape[-1], x.device))


def _mirrored(size: int, device: torch.device) -> Tensor:
    """Which pixels of a line make the line with its mirror images; a short line is mirrored again and again."""
    n = (size + 60 + 15) // 16
    place = torch.arange(-92, 16 * n + 124 - 92, device=device)
    period = max(2 * (size - 1), 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place).clamp(max=size - 1)
