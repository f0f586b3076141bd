"""A model of one's own. Lite R-ASPP: Howard et al. (2019), arXiv:1905.02244."""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from seg_cli.models.blocks import crop_to
from seg_cli.models.encoder import Encoder


class LiteRASPP(nn.Module):
    """The deepest map, gated by the image's mean, and the scores of a finer one added.

    Args:
        encoder: gives the feature maps.
        num_classes: channels of the logits.
        channels: of the gated map.
    """

    def __init__(self, *, encoder: Encoder, num_classes: int, channels: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        deep, fine = encoder.channels[-1], encoder.channels[encoder.level(8)]
        content = nn.Sequential(nn.Conv2d(deep, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, channels, 1), nn.Sigmoid())
        self.decoder = nn.ModuleDict({"content": content, "gate": gate})
        self.head = nn.ModuleDict(
            {"deep": nn.Conv2d(channels, num_classes, 1), "fine": nn.Conv2d(fine, num_classes, 1)}
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        features = self.encoder(images)  # of the image, padded to a multiple of what the encoder needs
        deep, fine = features[-1], features[self.encoder.level(8)]
        scores = self.head["deep"](self.decoder["content"](deep) * self.decoder["gate"](deep))
        scores = interpolate(scores, fine.shape[2:], mode="bilinear") + self.head["fine"](
            fine
        )  # (N, num_classes, H/8, W/8)
        return crop_to(interpolate(scores, scale_factor=8, mode="bilinear"), images)
