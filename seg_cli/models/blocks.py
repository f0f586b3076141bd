"""What several architectures are made of."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.upsample import Upsample


class Normalize(nn.Module):
    """Pixel values in 0..255, uint8 or floating, to the scale that the encoder was trained with.

    It is the first layer of a model, so that images travel as uint8 and are normalised on the device, and an exported
    model needs no note on preprocessing.

    Args:
        mean, std: one a channel, for pixel values in 0..1.

    Raises:
        UserError: on use, if an image has another number of channels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, -1, 1, 1)), persistent=False)
        self.register_buffer(
            "shift", -torch.tensor(mean).view(1, -1, 1, 1) / torch.tensor(std).view(1, -1, 1, 1), persistent=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in 0..255 -> the same shape, floating. Raises UserError if the images have another C."""
        if images.shape[1] != self.scale.shape[1]:
            raise UserError(
                f"in_channels={self.scale.shape[1]}: the images have {images.shape[1]} channels. Type "
                f"model.in_channels={images.shape[1]}, or model.encoder.in_channels={images.shape[1]} for a model on "
                "a timm encoder; both follow data.channels by themselves."
            )
        return images * self.scale + self.shift


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU. The size stays as it is."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class SeparableConvNormAct(nn.Sequential):
    """Depthwise 3x3, then pointwise convolution, each with batch norm and ReLU as in DeepLabV3+'s decoder."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            *ConvNormAct(inputs, outputs, 1),
        )


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear to (height, width), with pixels as areas (``align_corners=False``); nothing where it has the size."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the border at the bottom and right, up to the next multiple of ``multiple``; ``crop_to`` undoes it."""
    # Written so that an exporter sees whole multiples, which halve without a rest: of -side % multiple it does not.
    bottom, right = ((side + multiple - 1) // multiple * multiple - side for side in x.shape[-2:])
    if torch.compiler.is_exporting() or bottom or right:  # an exported program has no branches
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x


def crop_to(logits: Tensor, images: Tensor) -> Tensor:
    """Cut off what the encoder padded at the bottom and right: (..., H', W') -> (..., H, W) of the images."""
    return logits[..., : images.shape[-2], : images.shape[-1]]


class Head(nn.Module):
    """A convolution to the logits, and the way up to the resolution of the padded image.

    Args:
        inputs: channels of the decoder's map.
        num_classes: channels of the logits.
        up: with ``num_classes`` channels, from the stride of the decoder's map to 1.
        kernel: size of the convolution.
    """

    def __init__(self, inputs: int, num_classes: int, *, up: Upsample, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, num_classes, kernel, padding=kernel // 2)
        self.up = up

    def forward(self, x: Tensor, positions: Mapping[int, Tensor] | None = None) -> Tensor:
        """(N, C, h, w) -> (N, num_classes, H, W) logits; positions by stride, for ``max_unpool`` alone."""
        return self.up(self.conv(x), positions)  # (N, num_classes, H, W)


def init_decoder(*modules: nn.Module) -> None:
    """He initialisation of the convolutions and unit batch norms of everything that starts from nothing.

    What upsamples is left alone: it starts as an interpolation.
    """
    for module in modules:
        if isinstance(module, Upsample):
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        init_decoder(*module.children())
