"""DeepLab v2: Chen, Papandreou, Kokkinos, Murphy, Yuille (2016), arXiv:1606.00915.

Atrous convolutions keep the encoder's map at stride 8, and several of them at different rates, whose scores are summed,
see objects of different sizes (ASPP). A fully connected CRF may sharpen the result.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from seg_cli.models.blocks import crop_to, init_decoder
from seg_cli.models.crf import DenseCRF
from seg_cli.models.dilation import scale_rates, start_from_centers
from seg_cli.models.encoder import Encoder
from seg_cli.models.upsample import Upsample


class DeepLabV2(nn.Module):
    """DeepLab v2 on any encoder.

    The paper also runs the network at three sizes of the image and takes the largest score; here that is left to
    test-time augmentation.

    Args:
        encoder: gives feature maps; the paper's have output stride 8.
        num_classes: channels of the logits.
        rates: of the parallel atrous convolutions; by default 6, 12, 18, 24 at output stride 8, and in proportion at
            others. One rate, 12, is the paper's LargeFOV.
        fc_channels: 0 scores the encoder's map at once, as on the paper's ResNet. With 1024 each branch has two layers
            of so many channels before its scores, which are the paper's fc6 and fc7 behind VGG-16 (ASPP-L).
        dropout: share of the values of fc6 and fc7 dropped in training.
        crf: whether a fully connected CRF follows in evaluation; see ``crf.DenseCRF``, also for the next settings.
        crf_iterations: steps of its mean field.
        crf_window: side of the window that it looks at around each pixel, in pixels, odd.
        crf_appearance: of its appearance kernel: weight, sigma in pixels, sigma in steps of colour.
        crf_smoothness: of its smoothness kernel: weight, sigma in pixels.
        upsample: one of ``upsample.KINDS``, for the logits; the paper's is bilinear.

    Raises:
        ValueError: if ``rates`` is empty, a rate is below 1, ``fc_channels`` is negative, or a setting of the CRF is
            wrong.
        UserError: if the encoder cannot serve this ``upsample``.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        num_classes: int,
        rates: Sequence[int] | None = None,
        fc_channels: int = 0,
        dropout: float = 0.5,
        crf: bool = False,
        crf_iterations: int = 10,
        crf_window: int = 11,
        crf_appearance: Sequence[float] = (4, 67, 3),
        crf_smoothness: Sequence[float] = (3, 3),
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if rates is None:
            rates = scale_rates((6, 12, 18, 24), 8, encoder.strides[-1])
        check_rates(rates)
        if fc_channels < 0:
            raise ValueError(f"fc_channels={fc_channels}: 0 (none) or more is allowed, as 1024.")
        self.crf = None
        if crf:
            try:
                self.crf = DenseCRF(
                    iterations=crf_iterations, window=crf_window, appearance=crf_appearance, smoothness=crf_smoothness
                )
            except ValueError as error:  # begins with the setting's name, which has a prefix here
                raise ValueError(f"crf_{error}") from None
        self.encoder = encoder
        inputs = encoder.channels[-1]
        self.decoder = Branches(inputs, fc_channels, rates, dropout)
        up = encoder.upsampling(upsample, num_classes, encoder.strides[-1], 1)
        scores = [
            nn.Conv2d(fc_channels, num_classes, 1)
            if fc_channels
            else nn.Conv2d(inputs, num_classes, 3, padding=rate, dilation=rate)
            for rate in rates
        ]
        self.head = SumOfScores(scores, up)
        init_decoder(self.decoder, self.head)
        start_from_centers(self.decoder.branches if fc_channels else scores)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features, positions = self.encoder.with_positions(images)
        logits = crop_to(self.head(self.decoder(features[-1]), positions), images)
        return logits if self.crf is None or self.training else self.crf(logits, images)


class Branches(nn.Module):
    """The encoder's map for each of the parallel scores: as it is, or behind fc6 and fc7."""

    def __init__(self, inputs: int, fc_channels: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            fc_layers(inputs, fc_channels, rate, dropout) if fc_channels else nn.Identity() for rate in rates
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, h, w) -> a map of h x w for each branch."""
        return [branch(x) for branch in self.branches]  # (N, 1024, H/8, W/8) each


class SumOfScores(nn.Module):
    """The scores of each branch, summed, and the way up to the image."""

    def __init__(self, scores: Sequence[nn.Conv2d], up: Upsample) -> None:
        super().__init__()
        self.scores = nn.ModuleList(scores)
        self.up = up

    def forward(self, maps: Sequence[Tensor], positions: Mapping[int, Tensor]) -> Tensor:
        """A map (N, C, h, w) of each branch, and positions by stride -> (N, num_classes, H, W) logits."""
        total = self.scores[0](maps[0])
        for score, x in zip(self.scores[1:], maps[1:], strict=True):
            total = total + score(x)
        return self.up(total, positions)  # (N, num_classes, H, W)


def fc_layers(inputs: int, channels: int, rate: int, dropout: float) -> nn.Sequential:
    """VGG's fc6 and fc7 as DeepLab has them: a 3x3 atrous convolution and a 1x1 one, each with ReLU and dropout."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
    )


def check_rates(rates: Sequence[int]) -> None:
    """Raises ValueError if there is no atrous rate, or one below 1."""
    if not rates or min(rates) < 1:
        raise ValueError(f"rates={list(rates)}: at least one rate is needed, each at least 1.")
