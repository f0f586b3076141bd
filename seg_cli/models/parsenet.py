"""ParseNet: Liu, Rabinovich, Berg (2015), arXiv:1506.04579.

The mean of a feature map over the whole image tells each place what the image is about. Maps and means come at
different scales, so each is L2-normalised and scaled by what is learned before they are put together.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from seg_cli.models.blocks import crop_to, init_decoder
from seg_cli.models.deeplabv2 import fc_layers
from seg_cli.models.dilation import scale_rates, start_from_centers
from seg_cli.models.encoder import Encoder


class ParseNet(nn.Module):
    """ParseNet on any encoder.

    The paper's base is DeepLab-LargeFOV: VGG-16 at output stride 8 and ``fc_channels=1024``.

    Args:
        encoder: gives feature maps; the paper's has output stride 8.
        num_classes: channels of the logits.
        levels: how many maps are scored, from the deepest on; each has a context of its own. With 3, VGG-16's are the
            paper's fc7, conv5 and conv4.
        fusion: how map and context are put together. ``early``: both are normalised, the context is repeated at each
            place beside the map, and one layer scores them. ``late``: each is scored by itself as it comes, and the
            scores are summed.
        scale: what the learned scales of the normalised features start from.
        fc_channels: of two layers behind the deepest map, the paper's fc6 and fc7; 0 leaves them out.
        dropout: share of the values of fc6 and fc7 dropped in training.
        upsample: one of ``upsample.KINDS``, for the scores of deeper maps and for the logits; the paper's is bilinear.

    Raises:
        ValueError: if the encoder has not got so many maps, or another setting is not allowed.
        UserError: if the encoder cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        levels: int = 1,
        fusion: str = "early",
        scale: float = 10.0,
        fc_channels: int = 0,
        dropout: float = 0.5,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if not 1 <= levels <= len(encoder.strides):
            raise ValueError(
                f"levels={levels}: encoder.name={encoder.name} has {len(encoder.strides)} feature maps, so that 1 to "
                f"{len(encoder.strides)} are allowed."
            )
        if fusion not in ("early", "late"):
            raise ValueError(f"fusion={fusion}: allowed are early and late.")
        if scale <= 0:
            raise ValueError(f"scale={scale}: a positive number is allowed.")
        if fc_channels < 0:
            raise ValueError(f"fc_channels={fc_channels}: 0 (none) or more is allowed, as 1024.")
        self.encoder = encoder
        self.decoder = Decoder(encoder, levels, scale if fusion == "early" else None, fc_channels, dropout)
        self.head = Scores(encoder, self.decoder.channels, num_classes, upsample)
        init_decoder(self.decoder, self.head)
        if fc_channels:
            start_from_centers([self.decoder.fc])

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        return crop_to(self.head(*self.decoder(features), positions), images)


class Decoder(nn.Module):
    """Maps and their contexts, ready to be scored.

    Args:
        scale: of the normalised features at the start; None for no normalisation.

    Attributes:
        channels: of each map, and of its context.
    """

    def __init__(self, encoder: Encoder, levels: int, scale: float | None, fc_channels: int, dropout: float) -> None:
        super().__init__()
        self.channels = encoder.channels[-levels:]
        self.fc: nn.Module = nn.Identity()
        if fc_channels:
            (rate,) = scale_rates([12], 8, encoder.strides[-1])
            self.fc = fc_layers(self.channels[-1], fc_channels, rate, dropout)
            self.channels = [*self.channels[:-1], fc_channels]

        def norms() -> nn.ModuleList:
            return nn.ModuleList(nn.Identity() if scale is None else L2Norm(count, scale) for count in self.channels)

        self.local_norms, self.context_norms = norms(), norms()

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps -> (N, channels[i], H/8, W/8) and (N, channels[i], 1, 1) for each map scored."""
        maps = [*features[-len(self.channels) : -1], self.fc(features[-1])]
        contexts = [x.mean((2, 3), keepdim=True) for x in maps]
        return (
            [norm(x) for norm, x in zip(self.local_norms, maps, strict=True)],
            [norm(x) for norm, x in zip(self.context_norms, contexts, strict=True)],
        )


class L2Norm(nn.Module):
    """Each place's values at length 1, times a scale learned for each channel (section 3.3, equations 1 and 2).

    Args:
        channels: of what comes in.
        scale: of all channels at the start. At 1, the values of many channels would be too small to learn from.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape and type."""
        length = x.float().square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()  # (N, 1, h, w); bfloat16 is too coarse
        return x * (self.scale / length).to(x.dtype)


class Scores(nn.Module):
    """A linear classifier on every map and on its context, summed, and the way up to the image.

    A 1x1 convolution of map and context side by side is the sum of one on each, so that the context need not be
    repeated at every place.
    """

    def __init__(self, encoder: Encoder, channels: Sequence[int], num_classes: int, upsample: str) -> None:
        super().__init__()
        strides = encoder.strides[-len(channels) :]
        self.local_scores = nn.ModuleList(nn.Conv2d(count, num_classes, 1) for count in channels)
        self.context_scores = nn.ModuleList(nn.Conv2d(count, num_classes, 1, bias=False) for count in channels)
        self.ups = nn.ModuleList(encoder.upsampling(upsample, num_classes, stride, strides[0]) for stride in strides)
        self.up = encoder.upsampling(upsample, num_classes, strides[0], 1)

    def forward(self, maps: Sequence[Tensor], contexts: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """Maps (N, C, h, w), their contexts (N, C, 1, 1), and positions by stride -> (N, num_classes, H, W) logits."""
        scores = [
            up(local_score(x) + context_score(context), positions)  # (N, num_classes, H/8, W/8)
            for local_score, context_score, up, x, context in zip(
                self.local_scores, self.context_scores, self.ups, maps, contexts, strict=True
            )
        ]
        return self.up(torch.stack(scores).sum(0), positions)
