"""The decoders of segmentation-models-pytorch, SMP: Iakubovskii (2019), qubvel-org/segmentation_models.pytorch.

They stand on the encoders that our own models have, with the same weights and normalisation, so that what a table
compares is the decoders. The paper of each is in its file in conf/model/smp.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.models.blocks import crop_to, resize
from seg_cli.models.encoder import Encoder, any_size

_OURS = ("self", "encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "kwargs")
"""What SMP's constructors take and we decide."""


class SMP(nn.Module):
    """One of SMP's architectures on a timm encoder.

    SMP makes the encoder, at the output stride that its architecture asks for, and takes the weights over from ours.
    PSPNet, DeepLabV3, PAN and UPerNet normalise the mean of an image over the batch, and so train with two images a
    batch or more.

    Args:
        arch: as ``smp.create_model`` calls it: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3,
            deeplabv3plus, pan, upernet, segformer or dpt.
        encoder: gives its name, weights, normalisation, and channels of the image.
        num_classes: channels of the logits.
        options: further arguments of the library's class, as ``decoder_channels``.

    Raises:
        UserError: if SMP is not installed, has no such architecture or option, or cannot build it on this encoder.
    """

    def __init__(
        self, *, arch: str, encoder: Encoder, num_classes: int, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        architecture = _architecture(arch)
        allowed = [key for key in inspect.signature(architecture.__init__).parameters if key not in _OURS]
        for key in options or {}:
            if key not in allowed:
                raise UserError(
                    f"model.options.{key}: smp.{architecture.__name__} has no such setting."
                    f"{did_you_mean(key, allowed)} Settings: {', '.join(allowed)}."
                )
        net = _build(architecture, arch, encoder, num_classes, options or {})
        _copy(encoder.body, net.encoder.model)
        self.normalize, self.multiple = encoder.normalize, encoder.multiple
        if arch == "dpt":
            self.multiple *= 2  # the deepest of its maps has half as many pixels a side as there are patches
        self.least = 128 if arch == "pan" else 0  # PAN halves its map three times more
        self.encoder, self.decoder, self.head = net.encoder, net.decoder, net.segmentation_head
        self.encoder.pretrained = encoder.pretrained

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W)."""
        x = self.normalize(images)
        bottom, right = (max(-side % self.multiple, self.least - side) for side in x.shape[-2:])
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        features = self.encoder(x)
        # The encoder of DPT gives maps and tokens, and its decoder takes both.
        decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        return crop_to(resize(self.head(decoded), x.shape[-2:]), images)


def _architecture(arch: str) -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        if error.name != "segmentation_models_pytorch":
            raise
        raise UserError(
            "model=smp/...: segmentation-models-pytorch is not installed. Type: pip install 'segrun[smp]', or choose a "
            "model of our own: segrun list models."
        ) from None
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if arch not in architectures:
        raise UserError(
            f"model.arch={arch}: segmentation-models-pytorch has no such architecture."
            f"{did_you_mean(str(arch), architectures)} Allowed are {', '.join(architectures)}."
        )
    return architectures[arch]


def _build(architecture: Any, arch: str, encoder: Encoder, num_classes: int, options: Mapping[str, Any]) -> Any:
    try:
        return architecture(
            encoder_name=f"tu-{encoder.name}",  # SMP's way of saying timm
            encoder_weights=None,
            in_channels=encoder.normalize.scale.shape[1],
            classes=num_classes,
            **any_size(encoder.name),
            **options,
        )
    except (RuntimeError, AssertionError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.arch={arch}: segmentation-models-pytorch cannot build it on encoder.name={encoder.name} with these "
            f"model.options ({type(error).__name__}: {reason}). Choose others; encoders: segrun list encoders."
        ) from error


def _copy(source: nn.Module, target: nn.Module) -> None:
    """The weights of our encoder for SMP's, which may leave out the deepest stages or keep layers behind them.

    What is kept behind them is never run, and is frozen, so that training in several processes does not wait for it.
    """
    given = {key.removeprefix("model."): value for key, value in source.state_dict().items()}
    target.load_state_dict({key: given[key] for key in target.state_dict() if key in given}, strict=False)
    for key, parameter in target.named_parameters():
        parameter.requires_grad_(key in given)
