"""FCN: Long, Shelhamer, Darrell (2015), arXiv:1411.4038.

A classifier becomes a segmenter: its last layers are convolutions that score every place of the deepest map. The scores
go up by learned steps of two and are summed with the scores of shallower maps: FCN-32s takes none, 16s one, 8s two.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.blocks import crop_to, init_decoder
from seg_cli.models.encoder import Encoder


class FCN(nn.Module):
    """FCN-32s, FCN-16s or FCN-8s on any encoder.

    The paper's network is ``encoder.name=vgg16`` with ``fc_channels=4096``: 134.4 M parameters (its table 1: 134 M).
    What differs there: the paper pads the image by 100 pixels so that the 7x7 convolution without padding leaves
    enough, and crops; here that convolution is padded by 3. The layers ``fc6`` and ``fc7`` start from random weights,
    not from the classifier's. The last step up, which the paper holds at bilinear interpolation, is like the others.

    Args:
        encoder: gives the feature maps.
        num_classes: channels of the logits.
        finest_stride: of the shallowest map that is scored: 32, 16 or 8.
        fc_channels: of the classifier's layers ``fc6`` (7x7) and ``fc7`` (1x1) before the scores; 0 leaves them out.
        dropout: share of the values dropped in training after each of these two; without them nothing is dropped.
        upsample: one of ``upsample.KINDS``, for every step. The paper's steps by 2 are ``transposed``. For the last
            step that holds (64*64, 32*32 or 16*16) weights for each pair of classes, so many classes want another.

    Raises:
        ValueError: if ``finest_stride`` is another number, or ``fc_channels`` is negative.
        UserError: if the encoder has no map of such a stride, or cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        finest_stride: int = 8,
        fc_channels: int = 0,
        dropout: float = 0.5,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        if finest_stride not in (8, 16, 32):
            raise ValueError(f"finest_stride={finest_stride}: allowed are 32, 16 and 8, as in FCN-32s, 16s and 8s.")
        if fc_channels < 0:
            raise ValueError(f"fc_channels={fc_channels}: allowed are 0 (no such layers) and above; the paper: 4096.")
        if encoder.strides[-1] < finest_stride:
            raise UserError(
                f"model.finest_stride={finest_stride}: the deepest map of this encoder has stride "
                f"{encoder.strides[-1]}. Type model.finest_stride={encoder.strides[-1]} or "
                f"model.encoder.output_stride={finest_stride}."
            )
        self.encoder = encoder
        deepest = encoder.channels[-1]
        self.decoder = classifier(deepest, fc_channels, dropout) if fc_channels else nn.Sequential()
        self.head = SummedScores(encoder, fc_channels or deepest, num_classes, finest_stride, upsample)
        init_decoder(self.decoder, self.head)
        self.head.start_from_the_deepest()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        x = self.decoder(features[-1])  # (N, 4096, H/32, W/32), or the map itself
        return crop_to(self.head(x, features, positions), images)


def classifier(inputs: int, channels: int, dropout: float) -> nn.Sequential:
    """VGG's fully connected layers fc6 and fc7 as convolutions; the map keeps its size."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 7, padding=3),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
    )


class SummedScores(nn.Module):
    """Scores of the deepest map, summed on the way up with those of shallower maps (section 4.2, figure 3).

    A plain network with a pooling to some stride (VGG) is scored right behind the pooling, as in the paper; others at
    their last map of that stride.
    """

    def __init__(self, encoder: Encoder, inputs: int, num_classes: int, finest_stride: int, upsample: str) -> None:
        super().__init__()
        deepest = encoder.strides[-1]
        strides = [deepest, *(stride for stride in (32, 16, 8) if finest_stride <= stride < deepest)]
        self.score = nn.Conv2d(inputs, num_classes, 1)
        self.levels: list[int] = []  # of the maps that the skips score
        self.skips = nn.ModuleList()
        for stride in strides[1:]:
            pooled = stride in encoder.pools
            level = encoder.level(stride // 2 if pooled else stride)
            score = nn.Conv2d(encoder.channels[level], num_classes, 1)
            self.levels.append(level)
            self.skips.append(nn.Sequential(nn.MaxPool2d(2) if pooled else nn.Identity(), score))
        self.ups = nn.ModuleList(encoder.upsampling(upsample, num_classes, *step) for step in pairwise(strides))
        self.last = encoder.upsampling(upsample, num_classes, strides[-1], 1)

    def start_from_the_deepest(self) -> None:
        """Zero the scores of the shallower maps, so that the sums start as what the deepest map says (section 4.2).

        The paper's deepest scores start at zero too, which it found to make no difference; here they are random.
        """
        for skip in self.skips:
            for parameter in skip.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, features: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """(N, C, H/32, W/32), the feature maps, and positions by stride -> (N, num_classes, H, W) logits."""
        x = self.score(x)  # (N, num_classes, H/32, W/32)
        for up, level, skip in zip(self.ups, self.levels, self.skips, strict=True):
            x = up(x, positions) + skip(features[level])  # H/16, then H/8
        return self.last(x, positions)  # H
