"""What a run's configuration changes against its parent: conf/train.yaml, with its experiment if it has one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from seg_cli.config import sums
from seg_cli.config.choices import choices
from seg_cli.config.flat import flat
from seg_cli.config.paths import conf_dir

_NOT_SETTINGS = ("choices", "run_dir", "name", "seed", "benchmark")
"""What says where a run lies and what it is called; the choices are compared by themselves."""


@dataclass(frozen=True)
class Change:
    """A choice or a setting (dotted key) that is not the parent's; None where one of the two has no such thing."""

    key: str
    parent: Any
    run: Any


@dataclass(frozen=True)
class Difference:
    """A run against its parent.

    Attributes:
        parent: what it is called.
        choices: that are others than the parent's.
        settings: that are others than those that come with the run's choices.
    """

    parent: str
    choices: list[Change]
    settings: list[Change]


def compare_with_parent(config: Mapping[str, Any]) -> Difference | None:
    """What a run changes; None where its choices cannot be composed here (they were files of the user's own).

    Args:
        config: config.yaml, as plain values.
    """
    chosen = {str(group): choice for group, choice in config["choices"].items() if isinstance(choice, str)}
    experiment = chosen.get("experiment")
    base = [f"experiment={experiment}"] if experiment else []
    encoder = _encoder_choice(chosen.pop("encoder", None))
    try:
        _, parents = _compose(base)
        if encoder:
            chosen["encoder"] = encoder
        other = {group: choice for group, choice in chosen.items() if group in parents and choice != parents[group]}
        composed, _ = _compose(
            [*base, *(f"{group}={choice}" for group, choice in other.items() if group != "experiment")]
        )
    except (HydraException, OmegaConfBaseException):
        return None
    name = f"conf/train.yaml with experiment={experiment}" if experiment else "conf/train.yaml"
    changes = [Change(group, parents[group], choice) for group, choice in other.items()]
    return Difference(name, changes, _settings(_values(composed), _values(config)))


def _encoder_choice(built: str | None) -> str | None:
    """The choice that gives this timm model; a run records what was built."""
    for choice in choices("encoder"):
        found = yaml.safe_load(choice.path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("name") == built:
            return choice.name
    return None


def _compose(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The resolved configuration of some overrides, and its choices."""
    sums.register()
    GlobalHydra.instance().clear()
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        found = {group: str(choice) for group, choice in config.hydra.runtime.choices.items() if choice is not None}
        with open_dict(config):
            del config["hydra"]
        settings = OmegaConf.to_container(config, resolve=True)
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = before  # of the command that is being obeyed, if it is one of Hydra's
    assert isinstance(settings, dict)
    return settings, found  # type: ignore[return-value]


def _settings(composed: Mapping[str, Any], own: Mapping[str, Any]) -> list[Change]:
    keys = [key for key in dict.fromkeys([*own, *composed]) if key.partition(".")[0] not in _NOT_SETTINGS]
    changes = [Change(key, composed.get(key), own.get(key)) for key in keys if composed.get(key) != own.get(key)]
    # model.encoder.name refers to encoder.name, which is there too
    named = {change.key: change.run for change in changes}
    return [
        change
        for change in changes
        if not any(change.key.endswith(f".{key}") and value == change.run for key, value in named.items())
    ]


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key, with numbers as such that YAML reads as text (1e-3)."""
    return {key: float(value) if _is_exponent(value) else value for key, value in flat(settings).items()}


def _is_exponent(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None
