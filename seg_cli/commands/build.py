"""From a composed configuration to the objects that it names."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from torch import nn

from seg_cli.data.sample import Dataset


def build_dataset(config: Mapping[str, Any]) -> Dataset:
    """The dataset of ``config['data']``. Raises UserError if its files are not all there."""
    return instantiate(config["data"], _convert_="all")


def build_model(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The model of ``config['model']``, with its encoder's starting weights."""
    return instantiate(config["model"], num_classes=num_classes, _convert_="all")


def describe_pretraining(model: nn.Module) -> str:
    """What the model's encoder started from: ``imagenet``, ``none``, or a file's name and hash."""
    return getattr(getattr(model, "encoder", None), "pretrained", "none")
