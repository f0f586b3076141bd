"""From a composed configuration to the objects that it names."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from seg_cli.config.flat import flat
from seg_cli.config.secrets import is_masked
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError


def build(config: Mapping[str, Any], group: str, **arguments: Any) -> Any:
    """What ``config[group]`` names by ``_target_``; errors name settings by their full path.

    Args:
        config: composed and resolved.
        group: ``model``, ``loss`` and so on.
        arguments: what the constructor is given besides the settings.

    Raises:
        UserError: for a setting that is a secret and was left out of the run's config.yaml.
    """
    settings = config[group]
    for key, value in flat(settings, f"{group}.").items() if isinstance(settings, Mapping) else ():
        if is_masked(value):
            raise UserError(
                f"{key}: it is a secret, which no run directory keeps. Set an environment variable to it, and write "
                f"${{oc.env:NAME}} for {value} in the run's config.yaml."
            )
    return instantiate(OmegaConf.create(dict(config))[group], _convert_="all", **arguments)


def build_partial(config: Mapping[str, Any], place: str) -> partial:
    """A constructor with the settings of ``config[place]`` bound, for what needs arguments that come later.

    Raises UserError for a setting that the constructor does not have; left alone, it would say so only when called.
    """
    node = OmegaConf.select(OmegaConf.create(dict(config)), place)
    bound = instantiate(node, _partial_=True, _convert_="all")
    parameters = inspect.signature(bound.func).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    allowed = [name for name in parameters if name != "params"]
    for name in bound.keywords:
        if name not in allowed and not takes_any:
            raise UserError(
                f"{place}.{name}: {bound.func.__name__} has no such setting.{did_you_mean(name, allowed)} "
                f"Settings: {', '.join(allowed)}."
            )
    return bound


def build_model(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The model of ``config['model']``, in the memory order of ``config['precision']``."""
    model = build(config, "model", num_classes=num_classes)
    return model.to(memory_format=torch.channels_last) if config["precision"]["channels_last"] else model


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same model with random weights, for what has all of them from a checkpoint."""
    model = deepcopy(config["model"])
    for place in (model, model.get("encoder")):
        if isinstance(place, dict) and "weights" in place:
            place["weights"] = "none"
    return {**config, "model": model}


def describe_pretraining(model: nn.Module) -> str:
    """What the model or its encoder started from: ``imagenet``, ``none``, or a file's name and hash."""
    encoder = getattr(model, "encoder", None)
    return str(getattr(model, "started_from", None) or getattr(encoder, "pretrained", "none"))
