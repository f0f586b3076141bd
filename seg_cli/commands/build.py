"""From a composed configuration to the objects that it names."""

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn


def build(config: Mapping[str, Any], group: str, **arguments: Any) -> Any:
    """What ``config[group]`` names by ``_target_``; errors name settings by their full path.

    Args:
        config: composed and resolved.
        group: ``model``, ``loss`` and so on.
        arguments: what the constructor is given besides the settings.
    """
    return instantiate(OmegaConf.create(dict(config))[group], _convert_="all", **arguments)


def build_model(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The model of ``config['model']``, in the memory order of ``config['precision']``."""
    model = build(config, "model", num_classes=num_classes)
    return model.to(memory_format=torch.channels_last) if config["precision"]["channels_last"] else model


def describe_pretraining(model: nn.Module) -> str:
    """What the model's encoder started from: ``imagenet``, ``none``, or a file's name and hash."""
    return getattr(getattr(model, "encoder", None), "pretrained", "none")
