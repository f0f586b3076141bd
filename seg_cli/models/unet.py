"""U-Net: Ronneberger, Fischer, Brox (2015), arXiv:1505.04597.

A decoder climbs back to the image's resolution in steps of two, and at each step sees the encoder's feature map of that
resolution beside its own. This is the form on any encoder; the encoder's deepest map takes the place of the bottleneck.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seg_cli.models.blocks import ConvNormAct, init_decoder, resize
from seg_cli.models.encoder import Encoder


class UNet(nn.Module):
    """U-Net on any encoder.

    Args:
        encoder: gives the feature maps.
        num_classes: channels of the logits.
        decoder_channels: of each step up, deep to shallow; one more than the encoder has skips. The last step has no
            skip and works at the image's own resolution where the encoder starts at stride 2.

    Raises:
        ValueError: if there are fewer ``decoder_channels`` than steps.
    """

    def __init__(
        self, *, encoder: Encoder, num_classes: int, decoder_channels: Sequence[int] = (256, 128, 64, 32, 16)
    ) -> None:
        super().__init__()
        skips = encoder.channels[-2::-1]  # deep to shallow, without the deepest
        if len(decoder_channels) < len(skips) + 1:
            raise ValueError(
                f"model.decoder_channels needs {len(skips) + 1} numbers for this encoder, not {len(decoder_channels)}"
            )
        *outputs, last = decoder_channels[: len(skips) + 1]
        inputs = [encoder.channels[-1], *outputs[:-1]]
        self.encoder = encoder
        self.decoder = nn.ModuleList(
            double_conv(below + skip, here) for below, skip, here in zip(inputs, skips, outputs, strict=True)
        )
        self.last = double_conv(outputs[-1], last)
        self.head = nn.Conv2d(last, num_classes, 3, padding=1)
        init_decoder(self.decoder, self.last, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        *skips, x = self.encoder(images)  # x: (N, C5, H/32, W/32)
        for convs in self.decoder:
            skip = skips.pop()  # H/16 up to H/2
            x = convs(torch.cat((resize(x, skip.shape[-2:]), skip), 1))
        size = [min(2 * side, whole) for side, whole in zip(x.shape[-2:], images.shape[-2:], strict=True)]
        x = self.last(resize(x, size))  # H; or H/2 where the encoder starts at stride 4
        return resize(self.head(x), images.shape[-2:])


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, what the paper does at each resolution."""
    return nn.Sequential(ConvNormAct(inputs, outputs), ConvNormAct(outputs, outputs))
