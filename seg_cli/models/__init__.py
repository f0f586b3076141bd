"""Models: plain PyTorch, usable without the rest of segrun. ``from seg_cli.models import Encoder, UNet``."""

from importlib import import_module
from typing import Any

_WHERE = {
    "CUNet": "cunet",
    "DeconvNet": "deconvnet",
    "DeepLabV2": "deeplabv2",
    "DeepLabV3": "deeplabv3",
    "DeepLabV3Cascade": "deeplabv3",
    "DeepLabV3Plus": "deeplabv3plus",
    "Encoder": "encoder",
    "FCN": "fcn",
    "FPN": "fpn",
    "GSCNN": "gscnn",
    "Outputs": "outputs",
    "PSPNet": "pspnet",
    "ParseNet": "parsenet",
    "SegNet": "segnet",
    "SegNetBasic": "segnet",
    "StackedUNet": "stacked_unet",
    "UNet": "unet",
    "UNetPaper": "unet_paper",
    "UNetPlusPlus": "unetpp",
}


def __getattr__(name: str) -> Any:
    """A class by its name alone. Its module is imported only now, for timm takes seconds."""
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
