"""Which part of an image a crop shows: rare classes are found without reading masks, and sizes are drawn as asked."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from seg_cli.commands.build import build
from seg_cli.commands.experiment import build_data
from seg_cli.data.augment import Augment
from seg_cli.data.class_places import ClassPlaces, find_places
from seg_cli.data.crops import ClassAwareCrop, RandomCrop, ResizedCrop
from seg_cli.data.datamodule import fit_augment
from seg_cli.data.geometry import HorizontalFlip, QuarterTurns, RandomScale
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError

LABELS = LabelSpace(names=("ground", "half", "speck"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def scene(height: int = 100, width: int = 140, y: int = 40, x: int = 100) -> Sample:
    """Two halves, and a speck of four pixels of the third class."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    mask[y : y + 2, x : x + 2] = 2
    return Sample(np.repeat(mask[..., None] * 60 + 50, 3, 2), mask, "scene")


def fitted(crop: ClassAwareCrop, *samples: Sample) -> ClassAwareCrop:
    crop.fit(find_places(list(samples), LABELS, workers=0), LABELS, "crop")  # type: ignore[arg-type]
    return crop


def crops(policy: object, sample: Sample, size: tuple[int, int], count: int = 200, **steps: object) -> Iterator[Sample]:
    augment = Augment(steps, policy)  # type: ignore[arg-type]
    for seed in range(count):
        yield augment([sample], 0, size, np.random.default_rng(seed))


# ---- class_aware


def test_a_rare_class_is_found_much_more_often_than_at_random() -> None:
    sample = scene()
    share = {
        name: np.mean([(crop.mask == 2).any() for crop in crops(policy, sample, (20, 20))])
        for name, policy in {
            "random": RandomCrop(),
            "half": fitted(ClassAwareCrop(p=0.5, power=1), sample),
            "always": fitted(ClassAwareCrop(p=1, power=1), sample),
        }.items()
    }
    assert share["random"] < 0.12
    assert 0.4 < share["half"] < 0.65
    assert share["always"] > 0.97


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_drawn_by_their_frequency_to_the_power_asked_for(power: float) -> None:
    sample = scene()
    policy = fitted(ClassAwareCrop(p=1, power=power, jitter=0), sample)
    centers = [crop.mask[3, 3] for crop in crops(policy, sample, (7, 7), 1500)]  # moved a little at the borders
    found = np.bincount(centers, minlength=3) / len(centers)
    shares = np.bincount(sample.mask.ravel()) / sample.mask.size
    expected = shares**-power / (shares**-power).sum()
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_without_jitter_the_pixel_is_in_the_centre() -> None:
    sample = scene()
    policy = fitted(ClassAwareCrop(p=1, power=100, jitter=0), sample)
    for crop in crops(policy, sample, (21, 31), 20):
        ys, xs = np.nonzero(crop.mask == 2)
        assert abs(ys.mean() - 10) <= 1
        assert abs(xs.mean() - 15) <= 1


def test_jitter_moves_the_pixel_by_at_most_its_share() -> None:
    sample = scene()
    policy = fitted(ClassAwareCrop(p=1, power=100, jitter=0.25), sample)
    away = np.array([np.argwhere(crop.mask == 2).mean(0) - (15.5, 19.5) for crop in crops(policy, sample, (32, 40))])
    assert (np.abs(away) <= np.array([8, 10]) + 1.5).all()
    assert (away.max(0) > [6, 8]).all()
    assert (away.min(0) < [-6, -8]).all()


@given(st.integers(0, 98), st.integers(0, 138), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_crop_stays_inside_and_shows_the_class_after_any_geometry(y: int, x: int, seed: int) -> None:
    sample = scene(y=y, x=x)
    policy = fitted(ClassAwareCrop(p=1, power=100, jitter=0.25), sample)
    steps = {"turn": QuarterTurns(), "flip": HorizontalFlip(), "scale": RandomScale(low=0.8, high=2)}
    crop = Augment(steps, policy)([sample], 0, (48, 40), np.random.default_rng(seed))
    assert (crop.mask == 2).any()
    assert (crop.mask != VOID).all()


def test_where_the_image_is_smaller_than_the_crop_all_of_it_is_shown() -> None:
    sample = scene(30, 20, 5, 15)
    policy = fitted(ClassAwareCrop(p=1), sample)
    for crop in crops(policy, sample, (50, 50), 30):
        assert (crop.mask != VOID).sum() == 600


def test_a_sample_without_labels_gives_a_random_crop() -> None:
    empty = Sample(np.zeros((30, 30, 3), np.uint8), np.full((30, 30), VOID, np.uint8), "empty")
    policy = fitted(ClassAwareCrop(p=1), empty)
    assert all((crop.mask == VOID).all() for crop in crops(policy, empty, (10, 10), 5))


def test_labels_that_overlap_are_found_too() -> None:
    sample = scene()
    planes = np.stack([(sample.mask == label).astype(np.uint8) for label in range(3)])
    planes[0] = 1
    overlapping = Sample(sample.image, planes, "planes")
    policy = fitted(ClassAwareCrop(p=1, power=1), overlapping)
    assert np.mean([crop.mask[2].any() for crop in crops(policy, overlapping, (20, 20))]) > 0.95


def test_no_mask_is_read_for_it() -> None:
    reads = []

    class Counting(list):
        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            reads.append(index)
            return super().__getitem__(index)

    samples = Counting([scene(x=20 * i) for i in range(4)])
    policy = ClassAwareCrop(p=1)
    policy.fit(find_places(samples, LABELS, workers=0), LABELS, "crop")
    reads.clear()
    Augment({}, policy)(samples, 2, (20, 20), np.random.default_rng(0))
    assert reads == [2]


def test_it_says_that_it_was_not_fitted() -> None:
    with pytest.raises(RuntimeError, match="must be fitted"):
        next(crops(ClassAwareCrop(), scene(), (20, 20)))


# ---- resized


def test_a_window_has_the_area_and_form_asked_for() -> None:
    """The image is a ramp in x and y, so that a crop tells which window of it is shown."""
    rows, columns = np.mgrid[:200, :200].astype(np.float32)
    image = np.dstack((columns, rows, rows))
    sample = Sample(image, np.zeros((200, 200), np.uint8), "ramp")
    areas, forms = [], []
    for crop in crops(ResizedCrop(area=(0.2, 0.6), aspect=(0.8, 1.25)), sample, (40, 60), 300):
        assert crop.mask.shape == (40, 60)
        assert (crop.mask != VOID).all()
        width = (crop.image[20, 50, 0] - crop.image[20, 10, 0]) / 40 * 60
        height = (crop.image[35, 30, 1] - crop.image[5, 30, 1]) / 30 * 40
        areas.append(width * height / 200**2)
        forms.append(width / height / 1.5)
    assert 0.19 < min(areas) < 0.25
    assert 0.5 < max(areas) < 0.62
    assert 0.79 < min(forms) < 0.83
    assert 1.2 < max(forms) < 1.26
    assert np.mean(np.log(forms)) == pytest.approx(0, abs=0.03)


def test_the_whole_image_in_its_own_form_is_resized_and_nothing_else() -> None:
    sample = scene(40, 60, 10, 40)
    crop = next(crops(ResizedCrop(area=(1, 1), aspect=(1, 1)), sample, (20, 30)))
    assert (crop.mask != VOID).all()
    assert np.mean(crop.mask[:, :15] == 0) > 0.95
    same = next(crops(ResizedCrop(area=(1, 1), aspect=(1, 1)), sample, (40, 60)))
    np.testing.assert_array_equal(same.mask, sample.mask)


@given(st.tuples(st.integers(20, 90), st.integers(20, 90)), st.tuples(st.integers(8, 64), st.integers(8, 64)))
@settings(max_examples=60, deadline=None)
def test_a_window_never_leaves_the_image(size: tuple[int, int], crop: tuple[int, int]) -> None:
    policy = ResizedCrop(area=(0.5, 1), aspect=(0.3, 3))
    for result in crops(policy, scene(*size, 1, 1), crop, 5, turn=QuarterTurns()):
        assert (result.mask != VOID).mean() > 0.9  # but for the half pixel at the border


# ---- settings


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ClassAwareCrop(p=1.1),
        lambda: ClassAwareCrop(power=-1),
        lambda: ClassAwareCrop(jitter=0.6),
        lambda: ResizedCrop(area=(0, 1)),
        lambda: ResizedCrop(area=(0.5, 1.5)),
        lambda: ResizedCrop(area=(0.5,)),
        lambda: ResizedCrop(aspect=(2, 1)),
        lambda: ResizedCrop(aspect=(1, math.inf)),
    ],
)
def test_wrong_settings_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^\w+=[^:]+: "):
        wrong()


@pytest.mark.parametrize("choice", ["class_aware", "resized"])
def test_a_crop_without_a_size_is_refused_before_training(
    compose_config: Callable[..., DictConfig], choice: str
) -> None:
    config = OmegaConf.to_container(compose_config("data.train=3", f"crop={choice}"), resolve=True)
    assert isinstance(config, dict)
    with pytest.raises(UserError, match=r"^loader.crop=null: .*loader.crop=\[HEIGHT,WIDTH\], or crop=random"):
        build_data(config, build(config, "data"))


def test_a_run_is_fitted_before_it_starts(
    compose_config: Callable[..., DictConfig], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    overrides = ("data.train=4", "crop=class_aware", "loader.crop=[40,40]", "loader.workers=0")
    config = OmegaConf.to_container(compose_config(*overrides), resolve=True)
    assert isinstance(config, dict)
    data = build_data(config, build(config, "data"))
    assert data.augment(data.dataset.splits["train"], 1, (40, 40), np.random.default_rng(0)).size == (40, 40)
    assert len(list((tmp_path / "segrun" / "class_places").iterdir())) == 1


def test_what_needs_no_index_builds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> ClassPlaces:
        raise AssertionError

    monkeypatch.setattr("seg_cli.data.datamodule.find_places", never)

    class Data:
        labels, channels, splits = LABELS, 3, {"train": [scene()]}

        def fingerprint(self) -> str:
            return ""

    fit_augment(Augment({"flip": HorizontalFlip()}), Data(), crop=None, workers=0)  # type: ignore[arg-type]
