"""DeconvNet: Noh, Hong, Han (2015), arXiv:1505.04366.

A classifier down to a single vector, and its mirror image up again: deconvolutions, and unpoolings that put each value
back to where its maximum was, draw the shapes of objects from what the vector says.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.blocks import ConvNormAct, crop_to, init_decoder
from seg_cli.models.encoder import Encoder
from seg_cli.models.segnet import UnpoolingDecoder, mirrored


class DeconvNet(nn.Module):
    """DeconvNet on VGG: 251.8 M parameters with the paper's VGG-16 and 21 classes (there: about 252 M).

    This is the network alone. The authors train it in two stages on crops around objects, and let it vote with FCN-8s.

    Args:
        encoder: a network with a max pooling by 2 before every map but the first: ``vgg16_bn`` and its kin.
        num_classes: channels of the logits.
        bottleneck: channels of the two layers at the bottom; the paper's 4096 make up 222 of the 252 M parameters.

    Raises:
        ValueError: if ``bottleneck`` is less than 1.
        UserError: if the encoder is no such network, and in training if a batch has a single place at the bottom: one
            image of up to 224x224 pixels, over which batch norm cannot normalise.
    """

    def __init__(self, *, encoder: Encoder, num_classes: int, bottleneck: int = 4096) -> None:
        super().__init__()
        if bottleneck < 1:
            raise ValueError(f"bottleneck={bottleneck}: a number of channels is at least 1; the paper has 4096.")
        stages = mirrored(encoder, "DeconvNet")
        inputs, _ = stages[-1][-1]
        stages[-1][-1] = (inputs, inputs)  # in place of the image's channels; a 1x1 convolution leads to the classes
        self.encoder = encoder
        self.decoder = Decoder(encoder, stages, bottleneck)
        self.head = nn.Conv2d(inputs, num_classes, 1)
        init_decoder(self.decoder, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features[-1], positions)  # (N, 64, H, W)
        return crop_to(self.head(x), images)


class Decoder(nn.Module):
    """The bottom, fc6 to the first deconvolution, and the way up."""

    def __init__(self, encoder: Encoder, stages: list[list[tuple[int, int]]], bottleneck: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(encoder.channels[-1], bottleneck)
        self.up = UnpoolingDecoder(encoder, stages, DeconvNormAct)

    def forward(self, x: Tensor, positions: Mapping[int, Tensor]) -> Tensor:
        """(N, inputs, H/32, W/32), and positions by stride -> (N, channels, H, W)."""
        return self.up(self.bottleneck(x), positions)


class Bottleneck(nn.Module):
    """fc6, fc7 and their inverse: (N, inputs, h, w) -> the same, through one vector for every 7x7 window.

    None of it is padded, as in the paper, where an image of 224x224 has one window. A map of less than 7x7 is given
    zeros at its bottom and right to have one too, and these places are cut off again.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.fc6 = nn.Sequential(
            nn.Conv2d(inputs, channels, WINDOW, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.fc7 = ConvNormAct(channels, channels, 1)
        self.deconv = DeconvNormAct(channels, inputs, WINDOW, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) -> the same shape. Raises UserError for a single small image in training."""
        height, width = x.shape[-2:]
        if self.training and x.shape[0] == 1 and max(height, width) <= WINDOW:
            raise UserError(
                "loader.batch_size: DeconvNet's bottleneck has batch norm, which in training needs two images or more "
                "in a batch while these have up to 224x224 pixels. Type loader.batch_size=2 or more."
            )
        y = F.pad(x, (0, max(0, WINDOW - width), 0, max(0, WINDOW - height)))
        y = self.fc7(self.fc6(y))  # (N, 4096, h-6, w-6)
        return self.deconv(y)[..., :height, :width]


WINDOW = 7  # pixels of the map that the layer fc6 of VGG sees


class DeconvNormAct(nn.Sequential):
    """Transposed convolution of stride 1, batch norm, ReLU. With padding 1, the size stays as it is."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, padding: int = 1) -> None:
        conv = nn.ConvTranspose2d(inputs, outputs, kernel, padding=padding, bias=False)
        # PyTorch takes fan in and out of a convolution's weights, whose axes lie the other way round here.
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
