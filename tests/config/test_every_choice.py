"""Every file of ``conf/`` composes, passes the schema, and makes what it names; wrong settings of it are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger

from seg_cli.commands.build import build, build_model
from seg_cli.commands.experiment import build_data, build_task, resolve
from seg_cli.commands.train import open_loggers
from seg_cli.config.choices import choices, groups
from seg_cli.config.explain import explain
from seg_cli.config.paths import conf_dir
from seg_cli.config.schema import validate
from seg_cli.data.augment import Augment
from seg_cli.runs.run import Run
from tests.layouts import LAYOUTS, camvid

Compose = Callable[..., DictConfig]
FILES = sorted(
    path.relative_to(conf_dir()).with_suffix("").as_posix()
    for path in conf_dir().glob("*/*.yaml")
    if path.parent.name != "sweep"  # of segrun tune, see tests/e2e/test_tune.py
)


@pytest.fixture(scope="module")
def tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every ``data=`` finds without ``data.root``."""
    root = tmp_path_factory.mktemp("datasets")
    camvid(root / "camvid")
    for name, write in LAYOUTS.items():
        write(root / name)
    for name in ("folder", "manifest", "isbi"):
        write_folder(root / name, foreground=255 if name == "isbi" else 1)
    return root


@pytest.fixture(autouse=True)
def surroundings(tiny_datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets where they are looked for, a cache of the test's own; and W&B stays out of it."""
    monkeypatch.setenv("SEGRUN_DATA", str(tiny_datasets))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")


def write_folder(root: Path, *, foreground: int) -> None:
    """Eight images with masks of 0 and this, and a manifest of them."""
    rows = ["image,mask"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(8):
        mask = np.zeros((48, 64), np.uint8)
        mask[8 : 16 + i] = foreground
        Image.fromarray(np.stack([np.uint8(200) * (mask > 0)] * 3, -1)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        rows.append(f"images/{i}.png,masks/{i}.png")
    (root / "manifest.csv").write_text("\n".join(rows))


def make_everything(config: dict[str, Any], folder: Path) -> None:
    """All that a run is made of, from a resolved config."""
    dataset = build(config, "data")
    assert set(dataset.splits) >= {"train", "val", "test"}
    task = build_task(config, build_model(config, dataset.labels.num_classes), dataset)
    assert isinstance(build_data(config, dataset).augment, Augment)
    optimizer = task.make_optimizer([{"params": list(task.parameters())}])
    assert optimizer.param_groups[0]["lr"] == config["optimizer"]["lr"]
    assert 0 <= task.schedule(0.5) <= 1
    epochs, crop = config["trainer"]["max_epochs"], config["loader"]["crop"]
    image = tuple(crop) if crop else dataset.splits["train"][0].size
    stages = build(config, "resize").stages(epochs=epochs, crop=None, image=image, batch_size=8)
    assert sum(stage.epochs for stage in stages) == epochs
    assert task.finetune.frozen(epochs - 1, epochs=epochs, parts=task.parts) < set(task.parts)
    average = build(config, "average")
    assert average is None or 0 < average.share(0, 1.0, epoch_ends=True) <= 1
    with open_loggers(config, Run.create(folder / "run", numbered=False)) as loggers:
        assert len(loggers) == len(config["logger"] or {})
        assert all(isinstance(logger, Logger) for logger in loggers)


@pytest.mark.parametrize("choice", FILES)
def test_it_composes_and_makes_what_it_names(compose_config: Compose, tmp_path: Path, choice: str) -> None:
    group, _, name = choice.partition("/")
    finds_edges = ["model=gscnn"] if choice in ("loss/edge", "loss/dual_task") else []
    of_a_size = ["loader.crop=[32,32]"] if group == "crop" else []
    cfg = compose_config(f"{group}={name}", "encoder.weights=none", *finds_edges, *of_a_size)
    validate(cfg)
    make_everything(resolve(cfg), tmp_path)


@pytest.mark.parametrize("choice", FILES)
def test_its_first_line_says_what_it_is(choice: str) -> None:
    group, _, name = choice.partition("/")
    line = next(found.line for found in choices(group) if found.name == name)
    assert 10 < len(line) < 110
    assert group in groups()


@pytest.mark.parametrize("config", ["train", "eval", "check"])
def test_the_configs_of_the_verbs_compose_and_say_what_they_are(compose_config: Compose, config: str) -> None:
    overrides = ["run=somewhere"] if config == "eval" else []
    assert compose_config(*overrides, verb=config)
    assert (conf_dir() / f"{config}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    "group",
    ["model", "encoder", "loss", "data", "augment", "crop", "optimizer", "scheduler", "resize", "finetune", "average"],
)
def test_its_settings_can_be_changed(compose_config: Compose, group: str) -> None:
    """A setting of a group is a plain key, so that ``group.key=value`` needs no plus sign."""
    for choice in choices(group):
        settings = compose_config(f"{group}={choice.name}")[group]
        found = {str(key): None if OmegaConf.is_missing(settings, key) else settings[key] for key in settings}
        numbers = {key: value for key, value in found.items() if isinstance(value, int | float)}
        changed = compose_config(f"{group}={choice.name}", *(f"{group}.{key}={v}" for key, v in numbers.items()))
        assert {key: changed[group][key] for key in numbers} == numbers


@pytest.mark.parametrize(
    "place",
    [
        "model",
        "model.encoder",
        "data",
        "loss.terms.ce",
        "augment.steps.flip",
        "augment.steps.color",
        "optimizer",
        "scheduler",
        "logger.csv",
    ],
)
def test_a_setting_that_does_not_exist_is_named(compose_config: Compose, tmp_path: Path, place: str) -> None:
    cfg = compose_config(f"+{place}.no_such_setting=1", "augment=flip+color", "logger=csv")
    with pytest.raises(Exception) as wrong:  # noqa: PT011 - whichever it is, it is explained
        make_everything(resolve(cfg), tmp_path)
    explained = explain(wrong.value)
    assert explained is not None
    assert str(explained).startswith(f"{place}.no_such_setting: ")
    assert "has no such setting." in str(explained)
