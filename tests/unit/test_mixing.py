"""Mixing samples: what is pasted is whole, comes from where it is known to be, and is a function of the seed alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from seg_cli.data.albumentation import Albumentation
from seg_cli.data.augment import Augment
from seg_cli.data.class_places import find_places
from seg_cli.data.crops import ClassAwareCrop
from seg_cli.data.datamodule import fit_augment
from seg_cli.data.geometry import ElasticDeformation, HorizontalFlip, RandomRotation, RandomScale
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.loading import BatchShape, training_loader
from seg_cli.data.mixing import CopyPaste, Mosaic, Others
from seg_cli.data.sample import Sample
from seg_cli.data.shapes import LABELS, Shapes
from seg_cli.errors import UserError

THREE = LabelSpace(names=("ground", "box", "dot"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


class Reads(list):
    """A split that remembers which samples were read."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__(samples)
        self.read: list[int] = []

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.read.append(index)
        return super().__getitem__(index)


def plain(value: int, mask: np.ndarray | None = None, size: tuple[int, int] = (60, 80)) -> Sample:
    mask = np.zeros(size, np.uint8) if mask is None else mask
    return Sample(np.full((*size, 3), value, np.uint8), mask, f"plain{value}")


def with_box(value: int, label: int = 1, size: tuple[int, int] = (60, 80)) -> Sample:
    """A grey picture with a box of 10x14 pixels, brighter by 100."""
    sample = plain(value, size=size)
    sample.mask[20:30, 30:44] = label
    sample.image[20:30, 30:44] = value + 100
    return sample


def ready(step: CopyPaste, split: list[Sample], labels: LabelSpace = THREE) -> Augment:
    augment = Augment({"copy_paste": step})
    augment.fit(find_places(split, labels, workers=0), labels)  # type: ignore[arg-type]
    return augment


# ---- copy_paste


def test_an_object_is_pasted_whole_with_its_label() -> None:
    split = Reads([plain(10), plain(20), with_box(30), plain(40)])
    augment = ready(CopyPaste(p=1, scale=(1, 1), objects=1, classes=["box"]), split)
    areas = []
    for seed in range(40):
        split.read.clear()
        result = augment(split, 0, None, np.random.default_rng(seed))
        assert split.read == [0, 2]  # the one sample that has a box, and no other
        pasted = result.mask == 1
        np.testing.assert_array_equal(result.image[..., 0], np.where(pasted, 130, 10))
        areas.append(pasted.sum())
    assert max(areas) == 140
    assert min(areas) > 0
    assert not split[0].mask.any()  # the sample itself is left as it is
    assert (split[0].image == 10).all()


def test_objects_are_scaled_mirrored_and_put_anywhere() -> None:
    split = [plain(10, size=(200, 200)), with_box(30)]
    split[1].mask[20:25, 30:37] = 0  # a corner is missing
    augment = ready(CopyPaste(p=1, scale=(0.5, 2), objects=1, classes=["box"]), split)
    corners, boxes = set(), []
    for seed in range(120):
        mask = augment(split, 0, None, np.random.default_rng(seed)).mask
        (top, left), (bottom, right) = np.argwhere(mask == 1).min(0), np.argwhere(mask == 1).max(0)
        if top and left and bottom < 199 and right < 199:
            boxes.append((bottom - top + 1, right - left + 1))
            corners |= {bool(mask[top, left] == 0), bool(mask[top, right] == 0)}
    heights = np.array(boxes)[:, 0]
    assert heights.min() < 7
    assert heights.max() > 16
    assert corners == {True, False}


def test_at_most_so_many_objects_are_pasted_and_at_least_one() -> None:
    source = plain(30, size=(120, 120))
    for x in range(5, 110, 20):
        source.mask[10:16, x : x + 6] = 2
    split = [plain(10, size=(300, 300)), source]
    augment = ready(CopyPaste(p=1, scale=(1, 1), objects=3, classes=["dot"]), split)
    pixels = {int((augment(split, 0, None, np.random.default_rng(seed)).mask == 2).sum()) for seed in range(60)}
    assert {36, 72, 108} <= pixels
    assert max(pixels) == 108


def test_an_object_is_pasted_once_however_many_of_its_places_are_known() -> None:
    split = [plain(10, size=(200, 200)), with_box(30)]
    augment = ready(CopyPaste(p=1, scale=(1, 1), objects=3, classes=["box"]), split)
    pixels = [(augment(split, 0, None, np.random.default_rng(seed)).mask == 1).sum() for seed in range(40)]
    assert max(pixels) == 140


def test_the_class_that_was_drawn_is_pasted_first() -> None:
    """Of two classes each is drawn every other time, though the sample that has one also has the other."""
    both = with_box(30)
    both.mask[40:50, 30:44] = 2
    split = [plain(10), with_box(50), both]
    augment = ready(CopyPaste(p=1, scale=(1, 1), objects=1, classes=["box", "dot"]), split)
    found = [2 in augment(split, 0, None, np.random.default_rng(seed)).mask for seed in range(300)]
    assert 0.42 < np.mean(found) < 0.58


def test_specks_are_not_pasted() -> None:
    source = plain(30)
    source.mask[5, 5:10] = 1
    split = [plain(10), source]
    augment = ready(CopyPaste(p=1, classes=["box"]), split)
    assert not any(augment(split, 0, None, np.random.default_rng(seed)).mask.any() for seed in range(10))


def test_it_happens_as_often_as_asked_for() -> None:
    split = Reads([plain(10), with_box(30)])
    augment = ready(CopyPaste(p=0.3, classes=["box"]), split)
    split.read.clear()
    for seed in range(200):
        augment(split, 0, None, np.random.default_rng(seed))
    assert 0.2 < split.read.count(1) / 200 < 0.4


def test_auto_takes_the_classes_below_the_median() -> None:
    split = [with_box(10, label=1), with_box(20, label=2), with_box(30, label=2)]
    step = CopyPaste(p=1, scale=(1, 1))
    augment = ready(step, split)  # ground, then twice as many dots as boxes: the median are the dots
    assert all((augment(split, 1, None, np.random.default_rng(seed)).mask == 1).any() for seed in range(20))


def test_auto_takes_the_only_class_there_is() -> None:
    split = [plain(10), plain(20)]
    assert ready(CopyPaste(p=1), split)(split, 0, None, np.random.default_rng(0)).mask.shape == (60, 80)


def test_void_of_the_source_is_not_pasted_and_void_under_an_object_is_covered() -> None:
    source = with_box(30)
    source.mask[18:20] = VOID
    split = [plain(10, np.full((60, 80), VOID, np.uint8)), source]
    augment = ready(CopyPaste(p=1, scale=(1, 1), objects=1, classes=["box"]), split)
    mask = augment(split, 0, None, np.random.default_rng(3)).mask
    assert set(np.unique(mask)) == {1, VOID}


def test_overlapping_labels_are_pasted_with_all_planes() -> None:
    source = with_box(30)
    planes = np.zeros((3, 60, 80), np.uint8)
    planes[1, 20:30, 30:44] = 1
    planes[2, 20:30, 30:37] = 1  # half of the box has a second label
    split = [Sample(plain(10).image, np.repeat(np.array([1, 0, 1], np.uint8), 4800).reshape(3, 60, 80), "t")]
    split.append(Sample(source.image, planes, "s"))
    augment = ready(CopyPaste(p=1, scale=(1, 1), objects=1, classes=["box"]), split)
    result = augment(split, 0, None, np.random.default_rng(1))
    pasted = result.mask[1] == 1
    assert pasted.any()
    assert not result.mask[0][pasted].any()
    assert 0 < result.mask[2][pasted].mean() < 1
    assert result.mask[2][~pasted].all()
    np.testing.assert_array_equal(result.image[..., 0] == 130, pasted)


@pytest.mark.parametrize("bands", [1, 4, 12])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_of_any_kind_are_mixed(bands: int, kind: type) -> None:
    split = []
    for sample in (plain(10), with_box(30), with_box(50)):
        image = np.repeat(sample.image[..., :1], bands, 2).astype(kind)
        split.append(Sample(image, sample.mask, sample.name))
    augment = Augment({"copy_paste": CopyPaste(p=1, classes=["box"]), "mosaic": Mosaic(p=1)})
    augment.fit(find_places(split, THREE, workers=0), THREE)  # type: ignore[arg-type]
    for seed in range(5):
        result = augment(split, 0, (40, 50), np.random.default_rng(seed))
        assert (result.image.shape, result.image.dtype) == ((40, 50, bands), kind)
        assert (result.image == result.image[..., :1]).all()


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            ["boxx"],
            r"augment.steps.copy_paste.classes: there is no class 'boxx'. Did you mean 'box'\? Classes: ground, box",
        ),
        (["dot"], r"augment.steps.copy_paste.classes: 'dot' has not one pixel in the training masks"),
    ],
)
def test_classes_that_cannot_be_pasted_are_refused(classes: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ready(CopyPaste(classes=classes), [plain(10), with_box(30)])


def test_masks_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match=r"augment.steps.copy_paste: no class has a pixel"):
        ready(CopyPaste(), [plain(10, np.full((60, 80), VOID, np.uint8))])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CopyPaste(p=2),
        lambda: CopyPaste(classes="Pole"),
        lambda: CopyPaste(classes=[]),
        lambda: CopyPaste(objects=0),
        lambda: CopyPaste(objects=1.5),  # type: ignore[arg-type]
        lambda: CopyPaste(scale=(0, 1)),
        lambda: CopyPaste(scale=(2, 1)),
        lambda: Mosaic(p=-1),
        lambda: Mosaic(center=(0, 0.5)),
        lambda: Mosaic(center=(0.5, 1)),
        lambda: Mosaic(center=(0.5,)),
    ],
)
def test_wrong_settings_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^\w+=[^:]+: "):
        wrong()


def test_it_says_that_it_was_not_fitted() -> None:
    with pytest.raises(RuntimeError, match="must be fitted"):
        Augment({"copy_paste": CopyPaste(p=1)})([plain(10)], 0, None, np.random.default_rng(0))


# ---- mosaic


def test_a_mosaic_shows_four_samples_about_a_point_in_the_middle() -> None:
    split = [plain(10 * i, np.full((60, 80), i, np.uint8)) for i in range(1, 7)]
    points, owners = set(), set()
    for seed in range(60):
        result = Augment({"mosaic": Mosaic(p=1)})(split, 2, None, np.random.default_rng(seed))  # type: ignore[arg-type]
        np.testing.assert_array_equal(result.image[..., 0], 10 * result.mask)
        parts = [result.mask[0, 0], result.mask[0, -1], result.mask[-1, 0], result.mask[-1, -1]]
        assert parts.count(3) == 1  # its own part; the others are other samples
        owners.add(parts.index(3))
        assert 2 <= len(np.unique(result.mask)) <= 4
        assert result.name == "plain30"
        if len(set(parts)) == 4:
            points.add((int((result.mask[:, 0] == parts[0]).sum()), int((result.mask[0] == parts[0]).sum())))
    assert owners == {0, 1, 2, 3}
    assert all(18 <= y <= 42 and 24 <= x <= 56 for y, x in points)
    assert len(points) > 10


def test_other_samples_go_through_the_geometry_too() -> None:
    """Of a picture that is dark at the left, a mirrored part is dark at the right."""
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None], (60, 80, 3)).copy()
    split = [Sample(ramp, np.zeros((60, 80), np.uint8), str(i)) for i in range(3)]
    result = Augment({"flip": HorizontalFlip(p=1), "mosaic": Mosaic(p=1)})(split, 0, None, np.random.default_rng(0))  # type: ignore[arg-type]
    steps = np.diff(result.image[..., 0].astype(int), axis=1)
    assert (steps == -1).mean() > 0.95


def test_a_split_of_one_sample_is_a_mosaic_of_itself() -> None:
    result = Augment({"mosaic": Mosaic(p=1)})([with_box(30)], 0, (30, 40), np.random.default_rng(0))
    assert result.size == (30, 40)


def test_a_crop_of_one_pixel_is_no_mosaic() -> None:
    result = Augment({"mosaic": Mosaic(p=1)})([plain(10), plain(20)], 0, (1, 9), np.random.default_rng(0))
    assert (result.image == 10).all()


@given(st.integers(2, 30), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_another_sample_is_never_the_same(length: int, seed: int) -> None:
    index = seed % length
    others = Others(list(range(length)), index, lambda *_: plain(1))  # type: ignore[arg-type]
    drawn = {others.draw(np.random.default_rng(seed + i)) for i in range(200)}
    assert index not in drawn
    assert drawn <= set(range(length))
    if length < 8:
        assert len(drawn) == length - 1


# ---- a sample is a function of (seed, epoch, index) alone


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def mixed_loader(*, seed: int = 0, workers: int = 0, rank: int = 0, world_size: int = 1) -> DataLoader:
    dataset = Shapes(size=(48, 48), train=12)
    steps = {
        "flip": HorizontalFlip(),
        "scale": RandomScale(low=0.5, high=2),
        "rotation": RandomRotation(degrees=10),
        "elastic": ElasticDeformation(spread=3, spacing=24, p=0.5),
        "copy_paste": CopyPaste(p=0.7),
        "mosaic": Mosaic(p=0.5),
        "distortion": Albumentation(name="GridDistortion", args={"p": 0.5}),
        "color": Albumentation(name="ColorJitter", args={"p": 1}),
        "noise": Albumentation(name="GaussNoise", args={"p": 0.5}),
    }
    augment = Augment(steps, ClassAwareCrop())
    fit_augment(augment, dataset, crop=(32, 40), workers=0)
    return training_loader(
        dataset.splits["train"],
        augment=augment,
        shape_of=lambda epoch: BatchShape(3, (32, 40)),
        seed=seed,
        workers=workers,
        rank=rank,
        world_size=world_size,
    )


def epoch(loader: DataLoader, number: int) -> dict[str, bytes]:
    """Name -> everything about the sample, in the order drawn."""
    sampler = loader.batch_sampler
    sampler.choose(number, range(12 // (3 * sampler.world_size)))  # type: ignore[union-attr]
    return {
        name: image.numpy().tobytes() + mask.numpy().tobytes()
        for batch in loader
        for name, image, mask in zip(batch.names, batch.images, batch.masks, strict=True)
    }


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_samples_do_not_depend_on_workers_processes_or_earlier_epochs() -> None:
    alone = mixed_loader()
    epochs = {number: epoch(alone, number) for number in (0, 1, 2)}
    assert len(epochs[0]) == 12
    assert all(epochs[0][name] != epochs[1][name] for name in epochs[0])
    assert all(sample != epochs[0][name] for name, sample in epoch(mixed_loader(seed=1), 0).items())
    for workers in (2, 8):
        loader = mixed_loader(workers=workers)
        for number in (2, 0):  # a resumed run starts at any epoch
            assert epoch(loader, number) == epochs[number]
    shares = [epoch(mixed_loader(rank=rank, world_size=2), 2) for rank in (0, 1)]
    assert not shares[0].keys() & shares[1].keys()
    assert shares[0] | shares[1] == epochs[2]


def test_shapes_have_rare_classes_to_paste() -> None:
    """What a user sees: with copy_paste there are more stars."""
    dataset = Shapes(size=(64, 64), train=20)
    split = dataset.splits["train"]
    augment = Augment({"copy_paste": CopyPaste(p=1)})
    fit_augment(augment, dataset, crop=None, workers=0)
    star = LABELS.names.index("Star")
    before = sum(int((split[i].mask == star).sum()) for i in range(20))
    after = sum(int((augment(split, i, None, np.random.default_rng(i)).mask == star).sum()) for i in range(20))
    assert after > 1.3 * before
