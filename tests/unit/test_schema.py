"""The run-level schema: the shipped config passes; of wrong keys and values it says what is allowed."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue

from seg_cli.config.choices import choices
from seg_cli.config.paths import conf_dir
from seg_cli.config.schema import RULES, validate, validate_eval
from seg_cli.errors import UserError


def composed(*overrides: str, verb: str = "train") -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(verb, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@pytest.fixture(scope="module")
def shipped() -> DictConfig:
    return composed()


def test_the_shipped_config_is_valid(shipped: DictConfig) -> None:
    validate(shipped)


@pytest.mark.parametrize("group", ["encoder", "trainer", "precision", "resize", "finetune", "average"])
def test_every_shipped_choice_is_valid(group: str) -> None:
    for choice in choices(group):
        validate(composed(f"{group}={choice.name}"))


GOOD = [
    ("run_dir", "some/where"),
    ("tags", ["paper", "draft"]),
    ("notes", "a note"),
    ("loader.crop", [256, 320]),
    ("loader.workers", 0),
    ("encoder.lr_factor", 0.1),
    ("encoder.weights", "~/some.safetensors"),
    ("trainer.devices", 2),
    ("trainer.devices", "auto"),
    ("trainer.nodes", 3),
    ("trainer.strategy", "fsdp"),
    ("trainer.accumulate", 4),
    ("trainer.lr_batch", 16),
    ("trainer.lr_batch", None),
    ("trainer.checkpoint_minutes", 0),
    ("trainer.checkpoint_minutes", 0.5),
    ("trainer.checkpoint_minutes", None),
    ("trainer.compile", True),
    ("trainer.auto_batch_size", True),
    ("start", "outputs/a/b"),
    ("void", "false_positive"),
    ("threshold", 0.3),
    ("threshold", "best"),
    ("trainer.gradient_clip", None),
    ("trainer.early_stop", 5),
    ("trainer.limit_batches", 2),
    ("precision.mode", "bf16"),
]

BAD = [
    ("name", ""),
    ("name", "a/b"),
    ("name", ".."),
    ("run_dir", 3),
    ("seed", -1),
    ("seed", "abc"),
    ("seed", True),
    ("tags", "paper"),
    ("tags", [1]),
    ("loader.crop", [256]),
    ("loader.crop", [0, 256]),
    ("loader.crop", 256),
    ("loader.batch_size", 0),
    ("loader.batch_size", 1.5),
    ("loader.eval_batch_size", None),
    ("loader.workers", -1),
    ("loader.workers", "many"),
    ("encoder.name", None),
    ("encoder.weights", None),
    ("encoder.lr_factor", 0),
    ("trainer.max_epochs", 0),
    ("trainer.accelerator", "tpu2"),
    ("trainer.devices", 0),
    ("trainer.devices", "all"),
    ("trainer.nodes", 0),
    ("trainer.strategy", "dpp"),
    ("trainer.sync_batchnorm", "yes"),
    ("trainer.accumulate", 0),
    ("trainer.accumulate", 1.5),
    ("trainer.lr_batch", 0),
    ("trainer.lr_batch", "auto"),
    ("trainer.compile", 1),
    ("trainer.auto_batch_size", 8),
    ("start", 3),
    ("void", "counted"),
    ("threshold", 1.0),
    ("threshold", "worst"),
    ("trainer.deterministic", None),
    ("trainer.checkpoint_minutes", -1),
    ("trainer.checkpoint_minutes", float("inf")),
    ("trainer.gradient_clip", -1.0),
    ("trainer.gradient_clip", float("nan")),
    ("trainer.validate_every", 0),
    ("trainer.early_stop", 0),
    ("trainer.limit_batches", 0),
    ("precision.mode", "tf32"),
    ("precision.channels_last", "yes"),
]


def changed(cfg: DictConfig, key: str, value: object) -> DictConfig:
    cfg = OmegaConf.create(cfg)
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return cfg


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_good_values(shipped: DictConfig, key: str, value: object) -> None:
    validate(changed(shipped, key, value))


@pytest.mark.parametrize(("key", "value"), BAD)
def test_bad_values(shipped: DictConfig, key: str, value: object) -> None:
    with pytest.raises(UserError) as raised:
        validate(changed(shipped, key, value))
    assert str(raised.value).startswith(f"{key}=")
    assert str(raised.value).endswith(f": it must be {RULES[key].allowed}.")


def test_an_unknown_key(shipped: DictConfig) -> None:
    with pytest.raises(UserError, match=r"lodaer\.crop: there is no such key\. Did you mean 'loader\.crop'\?"):
        validate(changed(shipped, "lodaer.crop", [1, 1]))


def test_a_value_where_a_section_belongs(shipped: DictConfig) -> None:
    with pytest.raises(UserError, match=r"loader: this is a section .*loader\.batch_size"):
        validate(changed(shipped, "loader", 3))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("loss", "^loss: a run needs one"),
        ("resize", "^resize: a run needs one.* Type resize=CHOICE, where CHOICE is one of none, progressive"),
        ("finetune", "^finetune: a run needs one.* discriminative, freeze, gradual, none"),
        ("average", "^average: a run needs one.* ema, none, swa"),
        ("trainer", "^trainer.max_epochs"),
    ],
)
def test_a_group_that_was_taken_out(group: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(composed(f"~{group}"))


def test_eval() -> None:
    validate_eval(composed("run=outputs/a/b", "split=[val,test]", "limit_batches=2", verb="eval"))
    with pytest.raises(MissingMandatoryValue, match="run"):
        validate_eval(composed(verb="eval"))
    with pytest.raises(UserError, match="checkpoint=worst: it must be best or last"):
        validate_eval(composed("run=x", "checkpoint=worst", verb="eval"))
    with pytest.raises(UserError, match=r"split=\[\]: it must be the name of a split"):
        validate_eval(composed("run=x", "split=[]", verb="eval"))
    with pytest.raises(UserError, match="tat: there is no such key"):
        validate_eval(composed("run=x", "+tat=flip", verb="eval"))


def test_neither_torch_nor_lightning_is_imported() -> None:
    code = (
        "import sys, seg_cli.cli, seg_cli.config.schema, seg_cli.config.explain, seg_cli.commands.list, "
        "seg_cli.commands.completion, seg_cli.commands.doctor; "
        "print({'torch', 'pytorch_lightning', 'timm', 'albumentations', 'wandb'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
