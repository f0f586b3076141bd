"""The segmentation models of torchvision: FCN, DeepLabV3 and LR-ASPP, as that library builds them.

Long et al. (2015), arXiv:1411.4038; Chen et al. (2017), arXiv:1706.05587; Howard et al. (2019), arXiv:1905.02244.
"""

from collections.abc import Mapping
from typing import Any, cast
from urllib.error import URLError

import torchvision.models as library
from torch import Tensor, nn

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.models.blocks import Normalize, resize
from seg_cli.models.outputs import Outputs

NAMES = tuple(library.list_models(module=library.segmentation))
WEIGHTS = ("none", "imagenet", "coco")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of every torchvision model


class Torchvision(nn.Module):
    """One of torchvision's models, with its parts under our names.

    ``encoder`` is its backbone, ``decoder`` its classifier but for the last layer, and ``head`` that layer and the
    auxiliary classifier; LR-ASPP is all head. DeepLabV3 normalises the mean of an image over the batch, and so trains
    with two images a batch or more.

    Args:
        name: as torchvision calls it.
        num_classes: channels of the logits.
        weights: ``none``, ``imagenet`` for the backbone, or ``coco`` for the whole network but the layers that depend
            on the number of classes. Downloads are kept, and read without executing pickles.
        aux_weight: of the auxiliary classifier's loss; 0 leaves it out.

    Raises:
        UserError: if there is no such name or no such weights, or the weights cannot be had.
        ValueError: for a negative ``aux_weight``, or one above 0 where there is no auxiliary classifier (LR-ASPP).
    """

    def __init__(self, *, name: str, num_classes: int, weights: str = "none", aux_weight: float = 0.5) -> None:
        super().__init__()
        if name not in NAMES:
            raise UserError(
                f"model.name={name}: torchvision has no such segmentation model.{did_you_mean(str(name), NAMES)} "
                f"Allowed are {', '.join(NAMES)}."
            )
        if weights not in WEIGHTS:
            raise UserError(f"model.weights={weights}: torchvision's models have {', '.join(WEIGHTS)}.")
        is_lraspp = name.startswith("lraspp")
        if aux_weight < 0 or (is_lraspp and aux_weight):
            allowed = "0, since LR-ASPP has no auxiliary classifier" if is_lraspp else "0 or more"
            raise ValueError(f"aux_weight={aux_weight}: it must be {allowed}.")
        self.aux_weight = aux_weight
        settings = {} if is_lraspp else {"aux_loss": aux_weight > 0}
        net: Any = library.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **settings)
        if weights == "imagenet":
            _fill(net.backbone, _download(name.partition("_")[2], "IMAGENET1K_V1", weights))
        elif weights == "coco":
            _fill(net, _download(name, "COCO_WITH_VOC_LABELS_V1", weights))
        self.normalize = Normalize(_MEAN, _STD)
        self.encoder: Any = net.backbone
        self.encoder.pretrained = weights
        *body, last = [net.classifier] if is_lraspp else net.classifier
        self.decoder = nn.Sequential(*body)
        self.head = nn.ModuleDict({"logits": last})
        if not is_lraspp and net.aux_classifier is not None:
            self.head["aux"] = net.aux_classifier

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """(N, 3, H, W) pixel values in 0..255 -> logits (N, num_classes, H, W); in training with auxiliary logits."""
        features = self.encoder(self.normalize(images))  # by name: out and aux, or low and high of LR-ASPP
        x = self.decoder(features.get("out", features))  # (N, 256, H/8, W/8)
        logits = resize(self.head["logits"](x), images.shape[-2:])
        if not self.training or "aux" not in self.head:
            return logits
        return Outputs(logits, (resize(self.head["aux"](features["aux"]), images.shape[-2:]),))


def _download(name: str, version: str, wanted: str) -> Mapping[str, Tensor]:
    weights = library.get_model_weights(name)[version]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"model.weights={wanted}: {weights.url} could not be downloaded and is not among earlier downloads "
            f"({type(error).__name__}). Run once where there is a network, and the download is kept for later; or type "
            "model.weights=none."
        ) from None


def _fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over every tensor that fits: those of a classifier for other classes do not."""
    own = cast(dict[str, Tensor], module.state_dict())
    given = {key.removeprefix("features."): value for key, value in state.items()}  # MobileNet's name for its backbone
    module.load_state_dict(
        {key: given[key] for key in own if key in given and given[key].shape == own[key].shape}, strict=False
    )
