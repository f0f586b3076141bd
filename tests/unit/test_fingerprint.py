"""The fingerprint of a run: it changes with what decides the result, and with nothing else."""

import copy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from seg_cli.config import sums
from seg_cli.config.paths import conf_dir
from seg_cli.runs.fingerprint import fingerprint


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Nobody writes to it."""
    sums.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = ["model=deeplabv3plus", "loss=dice+focal", "data=camvid", "data.root=here"]
        composed = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
    resolved = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def changed(config: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    result = copy.deepcopy(config)
    section, *path = key.split(".")
    if not path:
        return result | {section: value}
    place = result[section]
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return result


def print_of(config: dict[str, Any], data: str = "d", pretrained: str = "none") -> str:
    return fingerprint(config, data=data, pretrained=pretrained)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("model.channels", 128),
        ("model.encoder.output_stride", 8),
        ("model.encoder.name", "resnet50"),
        ("encoder.name", "resnet50"),
        ("encoder.lr_factor", 0.5),
        ("loss.weights.dice", 2.0),
        ("loss.terms.focal.gamma", 1.0),
        ("augment.steps.flip.p", 0.1),
        ("optimizer.lr", 0.5),
        ("scheduler._target_", "some.Other"),
        ("precision.mode", "bf16"),
        ("data._target_", "some.Other"),
        ("loader.crop", [64, 64]),
        ("loader.batch_size", 3),
        ("trainer.max_epochs", 999),
        ("trainer.gradient_clip", None),
        ("trainer.accumulate", 2),
        ("trainer.lr_batch", 16),
        ("trainer.sync_batchnorm", True),
        ("resize.stages", []),
        ("resize.warmup", 0.5),
        ("finetune.layer_decay", 0.5),
        ("finetune.phases", [{"epochs": 1, "frozen": ["encoder"]}]),
        ("average.decay", 0.5),
        ("average._target_", "some.Other"),
        ("trainer.validate_every", 2),
        ("trainer.early_stop", 5),
        ("trainer.limit_batches", 2),
    ],
)
def test_it_changes_with_what_decides_the_result(config: dict[str, Any], key: str, value: object) -> None:
    assert print_of(changed(config, key, value)) != print_of(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("run_dir", "elsewhere"),
        ("tags", ["paper"]),
        ("notes", "a note"),
        ("choices", {"model": "mine"}),
        ("logger", {}),
        ("data.root", "elsewhere"),
        ("encoder.weights", "elsewhere/file.safetensors"),
        ("model.encoder.weights", "elsewhere/file.safetensors"),
        ("loader.workers", 3),
        ("loader.eval_batch_size", 3),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 2),
        ("trainer.nodes", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.checkpoint_minutes", 1),
        ("trainer.compile", True),
        ("trainer.deterministic", True),
    ],
)
def test_it_does_not_change_with_anything_else(config: dict[str, Any], key: str, value: object) -> None:
    assert print_of(changed(config, key, value)) == print_of(config)


def test_it_knows_the_data_and_the_weights_by_what_they_hold(config: dict[str, Any]) -> None:
    assert (
        len({print_of(config), print_of(config, data="e"), print_of(config, pretrained="w.safetensors sha256:0")}) == 3
    )


def test_the_order_of_keys_does_not_matter(config: dict[str, Any]) -> None:
    turned = {key: config[key] for key in reversed(config)}
    turned["optimizer"] = {key: config["optimizer"][key] for key in reversed(config["optimizer"])}
    assert print_of(turned) == print_of(config)
