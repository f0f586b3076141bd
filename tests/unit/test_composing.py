"""The jobs of a matrix are composed quickly, and are what Hydra makes of them."""

import json
import pickle
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from seg_cli.commands.composing import Composer, Store, resolve
from seg_cli.config import sums
from seg_cli.config.paths import conf_dir

JOBS = [
    ["seed=1"],
    ["model=unet", "loss=ce"],
    ["model=fpn", "loss=ce+2*dice", "seed=2", "optimizer.lr=1e-3"],
    ["experiment=camvid_cpu", "model=fpn", "+model.mine=3", "tags=[a,b]", "loader={batch_size: 2}"],
    ["~loader.workers", "data=camvid", "data.root=here", "name='a b'", "logger=csv+none"],
    ["trainer.max_epochs=3", "trainer=default", "trainer.max_epochs=4"],
]


@pytest.fixture(scope="module")
def hydra() -> tuple[ConfigLoaderImpl, DictConfig]:
    """Hydra's own loader, and the config of a matrix."""
    setup_globals()
    sums.register()
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(conf_dir())))
    master = loader.load_configuration("train", ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    return loader, master


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_a_job_is_what_hydra_makes_of_it(hydra: tuple[ConfigLoaderImpl, DictConfig], overrides: list[str]) -> None:
    loader, master = hydra
    composer = Composer(loader)
    composer.load_sweep_config(master, [overrides[0]])  # another job, which must leave no traces
    expected = loader.load_sweep_config(master, overrides)
    for _ in range(2):
        found = composer.load_sweep_config(master, overrides)
        assert OmegaConf.to_container(found) == OmegaConf.to_container(expected)
        found.hydra.job.num = 7
        found.seed = 99
    assert OmegaConf.get_type(found, "hydra") is OmegaConf.get_type(expected, "hydra")
    assert len(pickle.dumps(composer)) < 100_000, "workers compose for themselves"


def test_a_wrong_value_is_hydras_error(hydra: tuple[ConfigLoaderImpl, DictConfig]) -> None:
    loader, master = hydra
    raised = []
    for made in (loader, Composer(loader)):
        with pytest.raises(Exception, match="Could not override 'sed'") as error:
            made.load_sweep_config(master, ["model=unet", "sed=1"])
        raised.append((type(error.value), str(error.value)))
    assert raised[0] == raised[1]


def job(composer: Composer, master: DictConfig, overrides: list[str]) -> tuple[dict, object]:
    """A job resolved, and as it was written."""
    cfg = composer.load_sweep_config(master, overrides)
    HydraConfig.instance().set_config(cfg)
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return resolve(task), OmegaConf.to_container(task)


def test_what_a_job_was_resolved_to_is_kept_until_something_changes(
    hydra: tuple[ConfigLoaderImpl, DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer, master = Composer(hydra[0]), hydra[1]
    overrides = ["model=fpn", "seed=3", "data=camvid"]
    config, written = job(composer, master, overrides)
    store = Store(tmp_path, master)
    assert store.get(overrides) is None
    store.put(overrides, config, written)
    store.save()
    assert Store(tmp_path, master).get(overrides) == json.loads(json.dumps(config))
    assert Store(tmp_path, master).get(["model=fpn", "seed=4"]) is None
    monkeypatch.setenv("SEGRUN_DATA", "/elsewhere")
    assert Store(tmp_path, master).get(overrides) is None
    monkeypatch.setattr("seg_cli.commands.composing.__version__", "9")
    assert Store(tmp_path, master).get(overrides) is None


def test_what_holds_the_time_is_not_kept(hydra: tuple[ConfigLoaderImpl, DictConfig], tmp_path: Path) -> None:
    composer, master = Composer(hydra[0]), hydra[1]
    store = Store(tmp_path, master)
    for overrides in (["notes='${now:%H}'"], ["notes=${oc.env:HOME}"]):
        store.put(overrides, *job(composer, master, overrides))
        assert store.get(overrides) is None
    store.put(["seed=1"], *job(composer, master, ["seed=1"]))
    assert store.get(["seed=1"]) is not None


def test_a_file_that_is_damaged_is_as_none(hydra: tuple[ConfigLoaderImpl, DictConfig], tmp_path: Path) -> None:
    composer, master = Composer(hydra[0]), hydra[1]
    store = Store(tmp_path, master)
    store.put(["seed=1"], *job(composer, master, ["seed=1"]))
    store.save()
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert Store(tmp_path, master).get(["seed=1"]) is None
