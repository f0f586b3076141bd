"""Every shipped augmentation keeps image and mask together, with every crop."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from painted import assert_together, painted

from seg_cli.commands.build import build
from seg_cli.config.choices import choices
from seg_cli.data.augment import Augment
from seg_cli.data.datamodule import fit_augment
from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split

LABELS = LabelSpace(names=tuple("abcdef"), colors=tuple((i, i, i) for i in range(6)))


class Scenes:
    """Painted scenes of one size, some classes rarer than others."""

    def __init__(self, count: int = 5, bands: int = 3) -> None:
        self.samples = [painted(96, 128, seed, cell=24, bands=bands) for seed in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return replace(self.samples[index], name=f"scene{index}")


class Data:
    labels, channels = LABELS, 3

    def __init__(self, split: Split) -> None:
        self.splits = {"train": split}

    def fingerprint(self) -> str:
        return "painted"


GEOMETRIC = ["none", "flip", "geometry", "copy_paste", "mosaic", "geometry+copy_paste+mosaic", "mosaic+copy_paste"]
COLORED = ["color", "weather", "street", "aerial", "medical"]


def shipped(compose_config: Callable[..., DictConfig], *overrides: str) -> Augment:
    config = OmegaConf.to_container(compose_config(*overrides), resolve=True)
    assert isinstance(config, dict)
    return build(config, "augment", policy=build(config, "crop"))


def fitted(augmentation: Augment, split: Split, crop: tuple[int, int] | None) -> Augment:
    fit_augment(augmentation, Data(split), crop=crop, workers=0)
    return augmentation


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_the_lists_of_this_file_are_whole() -> None:
    assert {choice.name for choice in choices("augment")} == {name for name in GEOMETRIC if "+" not in name} | {
        *COLORED
    }


@pytest.mark.parametrize("crop", ["random", "class_aware", "resized"])
@pytest.mark.parametrize("choice", GEOMETRIC + COLORED)
def test_every_shipped_choice_keeps_image_and_mask_together(
    compose_config: Callable[..., DictConfig], choice: str, crop: str
) -> None:
    split = Scenes()
    augmentation = fitted(shipped(compose_config, f"augment={choice}", f"crop={crop}"), split, (80, 96))
    if choice in COLORED:  # what moves pixels in it is checked without what colours them
        augmentation.changes = []
    for seed in range(4):
        result = augmentation(split, seed, (80, 96), np.random.default_rng(seed))
        assert (result.image.shape, result.mask.shape) == ((80, 96, 3), (80, 96))
        assert_together(result, least=0.1, wrong=0.02, tolerance=3)


@pytest.mark.parametrize("choice", COLORED)
def test_shipped_colours_leave_the_mask_alone(compose_config: Callable[..., DictConfig], choice: str) -> None:
    split = Scenes()
    augmentation = fitted(shipped(compose_config, f"augment={choice}"), split, None)
    assert augmentation.changes
    augmentation.geometry, augmentation.bends = [], []
    for _, step in augmentation.changes:
        step.transform.p = 1
    result = augmentation(split, 0, None, np.random.default_rng(0))
    np.testing.assert_array_equal(result.mask, split[0].mask)
    assert np.mean(result.image != split[0].image) > 0.5


@pytest.mark.parametrize("choice", ["medical", "aerial", "geometry", "copy_paste", "mosaic"])
@pytest.mark.parametrize("bands", [1, 4, 12])
def test_what_is_not_about_colours_takes_any_number_of_bands(
    compose_config: Callable[..., DictConfig], choice: str, bands: int
) -> None:
    split = Scenes(bands=bands)
    augmentation = fitted(shipped(compose_config, f"augment={choice}"), split, (64, 64))
    assert augmentation(split, 0, (64, 64), np.random.default_rng(0)).image.shape == (64, 64, bands)


def test_the_order_of_a_sum_matters(compose_config: Callable[..., DictConfig]) -> None:
    """Colours before a mosaic are drawn for each of its parts, behind it for the whole."""

    def colors(choice: str) -> int:
        always = ("augment.steps.color.args.p=1", "augment.steps.mosaic.p=1")
        split = [Sample(np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), np.uint8), str(i)) for i in range(4)]
        augmentation = fitted(shipped(compose_config, f"augment={choice}", *always), split, None)
        return len(np.unique(augmentation(split, 0, None, np.random.default_rng(0)).image.reshape(-1, 3), axis=0))

    assert colors("color+mosaic") == 4
    assert colors("mosaic+color") == 1
