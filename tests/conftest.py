"""Fixtures that several tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from omegaconf import DictConfig, open_dict
from PIL import Image

from seg_cli.config import sums
from seg_cli.config.paths import conf_dir

# The networks of tests are so small that threads only wait for one another; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("segrun", deadline=None)  # no test is wrong because a machine is busy
settings.load_profile("segrun")


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """A tiny CamVid in the SegNet layout: 48x64 frames (height x width) of two videos, void in every mask."""
    root = tmp_path / "camvid"
    rng = np.random.default_rng(0)
    for split, count, suffix in (("train", 4, ".png"), ("val", 2, ".jpg"), ("test", 3, ".png")):
        images, masks = root / split, root / f"{split}annot"
        images.mkdir(parents=True)
        masks.mkdir()
        stems = [f"{'0001TP' if i % 2 else 'Seq05VD'}_{split}{i}" for i in range(count)]
        for stem in stems:
            mask = np.kron(rng.integers(0, 12, (6, 8)), np.ones((8, 8))).astype(np.uint8)  # 11 is void
            mask[:8, :8] = 11
            image = np.stack((mask * 20, 255 - mask * 20, rng.integers(0, 255, mask.shape)), 2).astype(np.uint8)
            Image.fromarray(image).save(images / f"{stem}{suffix}")
            Image.fromarray(mask).save(masks / f"{stem}.png")
        (root / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


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
