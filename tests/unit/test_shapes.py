"""The drawn scenes: a function of seed, split and index, of any size, with every class and a void border."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_cli.data.labels import VOID
from seg_cli.data.shapes import GROUND, LABELS, Shapes


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    data, again = Shapes(size=(64, 64)), Shapes(size=(64, 64), train=7, val=8)
    again.splits["train"][3]  # what was read before does not matter
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(data.splits[split][5].image, again.splits[split][5].image)
        np.testing.assert_array_equal(data.splits[split][5].mask, again.splits[split][5].mask)


def test_other_splits_seeds_and_indices_are_other_scenes() -> None:
    data, other = Shapes(size=(64, 64)), Shapes(size=(64, 64), seed=1)
    scenes = [data.splits[split][i] for split in ("train", "val", "test") for i in range(3)]
    scenes += [other.splits["train"][i] for i in range(3)]
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    assert len({scene.mask.tobytes() for scene in scenes}) == len(scenes)


def test_every_class_and_void_occur_and_some_classes_are_rare() -> None:
    split = Shapes().splits["train"]
    counts = sum(np.bincount(split[i].mask.ravel(), minlength=256) for i in range(100))
    assert set(np.flatnonzero(counts)) == {*range(LABELS.num_classes), VOID}
    share = counts / counts.sum()
    assert share[VOID] > 0.01
    assert share[1 : LABELS.num_classes].min() < 0.01
    assert share[GROUND] < 0.9


def test_objects_are_separated_from_the_ground_by_void() -> None:
    """Between ground and any object lies void, as VOC draws it: no two of their pixels touch."""
    mask = Shapes().splits["train"][0].mask
    objects = (mask != GROUND) & (mask != VOID)
    touching = (mask[:, 1:] == GROUND) & objects[:, :-1] | objects[:, 1:] & (mask[:, :-1] == GROUND)
    assert touching.sum() < 0.01 * objects.sum()


@given(st.integers(32, 300), st.integers(32, 300), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_any_size(height: int, width: int, seed: int) -> None:
    scene = Shapes(size=(height, width), seed=seed).splits["val"][0]
    assert scene.image.shape == (height, width, 3)
    assert scene.mask.shape == (height, width)
    assert scene.image.dtype == scene.mask.dtype == np.uint8
    assert set(np.unique(scene.mask)) <= {*range(LABELS.num_classes), VOID}
    assert scene.image.std() > 5


def test_a_split_ends() -> None:
    split = Shapes(test=2).splits["test"]
    assert [scene.name for scene in split] == ["scene00000", "scene00001"]  # type: ignore[attr-defined]
    for index in (2, -1):
        with pytest.raises(IndexError):
            split[index]


def test_noise_is_what_it_says() -> None:
    quiet, noisy = (Shapes(noise=noise).splits["train"][0].image.astype(float) for noise in (0, 20))
    difference = (noisy - quiet)[(quiet > 70) & (quiet < 180)]
    assert difference.std() == pytest.approx(20, abs=1)


def test_the_fingerprint_says_which_scenes_they_are() -> None:
    assert Shapes().fingerprint() == Shapes(size=[128, 128]).fingerprint()  # type: ignore[arg-type]
    prints = {Shapes().fingerprint()}
    prints |= {Shapes(seed=1).fingerprint(), Shapes(train=9).fingerprint()}
    prints |= {Shapes(size=(64, 128)).fingerprint(), Shapes(noise=1).fingerprint()}
    assert len(prints) == 5


@pytest.mark.parametrize("wrong", [{"size": (31, 64)}, {"train": 0}, {"test": -1}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}=.*: it must be "):
        Shapes(**wrong)
