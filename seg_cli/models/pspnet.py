"""PSPNet: Zhao, Shi, Qi, Wang, Jia (2017), arXiv:1612.01105.

The deepest map is averaged over the image's 1x1, 2x2, 3x3 and 6x6 parts, and what the parts say stands beside what each
place says. A second head on the map before the deepest one helps the training of deep encoders.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seg_cli.models.auxiliary import AuxiliaryHead, check_aux_weight
from seg_cli.models.blocks import ConvNormAct, Head, crop_to, init_decoder, resize
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs


class PSPNet(nn.Module):
    """PSPNet on any encoder.

    SMP's PSPNet is another network: it cuts the encoder off at stride 8 instead of dilating it, merges by a 1x1
    convolution instead of a 3x3 one, and has no second head.

    Args:
        encoder: gives feature maps; the paper's has output stride 8.
        num_classes: channels of the logits.
        bins: parts along a side of the image at each level of the pyramid.
        channels: of the merged map.
        dropout: share of the merged map's channels dropped in training.
        aux_weight: of the loss of the second head, which is there in training; 0 leaves it out.
        upsample: one of ``upsample.KINDS``, for the logits; the paper's is bilinear.

    Raises:
        ValueError: if ``bins`` is empty or has a number below 1, or ``aux_weight`` is negative.
        UserError: if the encoder cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        channels: int = 512,
        dropout: float = 0.1,
        aux_weight: float = 0.4,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1:
            raise ValueError(f"bins={list(bins)}: at least one number is needed, each at least 1.")
        check_aux_weight(aux_weight)
        self.aux_weight = aux_weight
        self.encoder = encoder
        self.decoder = nn.Sequential(
            PyramidPooling(encoder.channels[-1], bins),
            ConvNormAct(encoder.channels[-1] + len(bins) * (encoder.channels[-1] // len(bins)), channels),
            nn.Dropout2d(dropout),
        )
        up = encoder.upsampling(upsample, num_classes, encoder.strides[-1], 1)
        self.head = nn.ModuleDict({"main": Head(channels, num_classes, up=up)})
        if aux_weight:
            self.head["aux"] = AuxiliaryHead(encoder, num_classes)
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features[-1])  # (N, 512, H/8, W/8)
        logits = crop_to(self.head["main"](x, positions), images)
        if self.training and self.aux_weight:
            return Outputs(logits, aux=(crop_to(self.head["aux"](features), images),))
        return logits


class PyramidPooling(nn.Module):
    """Means over parts of the map, each made to fewer channels, brought back to the map's size and put beside it.

    Args:
        inputs: channels of the map.
        bins: parts along a side, one number a level; a level has ``inputs // len(bins)`` channels.
    """

    def __init__(self, inputs: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        outputs = inputs // len(bins)
        # No batch norm on the mean of all: it cannot be estimated from a batch of one image.
        self.convs = nn.ModuleList(
            ConvNormAct(inputs, outputs, 1)
            if count > 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU(inplace=True))
            for count in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 2C, h, w)."""
        size = x.shape[-2:]
        # All levels by one matrix product: the map is read once, and unlike that of PyTorch's adaptive pooling the
        # gradient on CUDA is deterministic.
        weights = torch.cat([part_weights(size, count, x) for count in self.bins])  # (1 + 4 + 9 + 36, h*w)
        means = weights @ x.flatten(2).transpose(1, 2)  # (N, 1 + 4 + 9 + 36, C)
        parts = means.split([count**2 for count in self.bins], 1)  # (N, count*count, C) each
        levels = [
            resize(conv(part.transpose(1, 2).unflatten(2, (count, count))), size)
            for conv, part, count in zip(self.convs, parts, self.bins, strict=True)
        ]
        return torch.cat((x, *levels), 1)  # (N, 2C, h, w)


def part_weights(size: Sequence[int], count: int, like: Tensor) -> Tensor:
    """(count*count, h*w): what each pixel counts in the mean over each part of a map of (h, w).

    Part i of a side begins at ``floor(i * h / count)`` and ends before ``ceil((i + 1) * h / count)``, as in PyTorch's
    adaptive pooling: parts overlap where the side is no multiple of ``count``.
    """
    rows, columns = (line_weights(side, count, like) for side in size)
    return torch.einsum("ih,jw->ijhw", rows, columns).flatten(2).flatten(0, 1)


def line_weights(side: int, count: int, like: Tensor) -> Tensor:
    """(count, side): what each pixel of a line counts in the mean over each part of it, see ``part_weights``."""
    place = torch.arange(side, device=like.device)
    part = torch.arange(count, device=like.device).unsqueeze(1)
    inside = (place >= part * side // count) & (place < -(-(part + 1) * side // count))  # (count, side)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)
