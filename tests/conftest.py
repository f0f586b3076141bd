"""Fixtures that several tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, open_dict

from seg_cli.config import sums
from seg_cli.config.paths import conf_dir
from tests.layouts import camvid

# The networks of tests are so small that threads only wait for one another; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("segrun", deadline=None)  # no test is wrong because a machine is busy
settings.load_profile("segrun")


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """A tiny CamVid in the SegNet layout: 48x64 frames (height x width) of two videos, void in every mask."""
    return camvid(tmp_path / "camvid")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: SEGRUN_SHARED, or ``shared`` beside the repository."""
    folder = Path(os.environ.get("SEGRUN_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (SEGRUN_SHARED names another folder)")
    return folder


@pytest.fixture
def compose_config() -> Callable[..., DictConfig]:
    """A function: overrides -> the config that ``segrun`` would compose of them."""

    def composed(*overrides: str, verb: str = "train") -> DictConfig:
        sums.register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose(verb, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    return composed
