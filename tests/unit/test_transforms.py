"""Augmentation: image and mask stay together, what is outside the image is void, and the seed decides all."""

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import assert_together, augment, expected_image, painted

from seg_cli.data.albumentation import Albumentation
from seg_cli.data.augment import Augment
from seg_cli.data.geometry import (
    ElasticDeformation,
    Geometry,
    HorizontalFlip,
    QuarterTurns,
    RandomRotation,
    RandomScale,
    extent,
    resample,
)
from seg_cli.data.labels import VOID
from seg_cli.data.mixing import Others
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError

SIZES = st.tuples(st.integers(8, 70), st.integers(8, 70))
SEEDS = st.integers(0, 2**32)
FLIP = HorizontalFlip(p=0.5)
ALWAYS = HorizontalFlip(p=1)
JITTER = Albumentation(name="ColorJitter", args={"brightness": [0.5, 1.5], "p": 1})


@given(SIZES, st.one_of(st.none(), SIZES), SEEDS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_flips_and_crops_move_image_and_mask_together_exactly(
    size: tuple[int, int], crop: tuple[int, int] | None, seed: int, flip: bool
) -> None:
    result = augment({"flip": FLIP} if flip else {}, painted(*size), crop, seed)
    assert result.mask.shape == (crop or size)
    np.testing.assert_array_equal(result.image, expected_image(result.mask))
    inside = [min(a, b) for a, b in zip(size, crop or size, strict=True)]
    assert (result.mask != VOID).sum() == math.prod(inside)  # as much of the image as fits is kept


@given(SEEDS, st.sampled_from([0.5, 0.8, 1.3, 2.0]), st.sampled_from([0, 5, 30]))
@settings(max_examples=40, deadline=None)
def test_scale_and_rotation_move_image_and_mask_together(seed: int, scale: float, degrees: float) -> None:
    """Away from edges, where the image is interpolated, it is the colour of its mask."""
    steps = {
        "scale": RandomScale(low=scale, high=scale),
        "rotation": RandomRotation(degrees=degrees),
        "flip": FLIP,
    }
    assert_together(augment(steps, painted(96, 120, seed % 100, cell=24), (64, 80), seed))


def test_nothing_to_do_changes_nothing() -> None:
    sample = painted(31, 44)
    result = augment({}, sample, None, 0)
    np.testing.assert_array_equal(result.image, sample.image)
    np.testing.assert_array_equal(result.mask, sample.mask)
    assert (result.name, result.group) == ("painted", "group")


def test_a_flip_mirrors() -> None:
    sample = painted(31, 44)
    result = augment({"flip": ALWAYS}, sample, None, 0)
    np.testing.assert_array_equal(result.image, sample.image[:, ::-1])
    np.testing.assert_array_equal(result.mask, sample.mask[:, ::-1])


@pytest.mark.parametrize("step", [{}, {"flip": ALWAYS}])
def test_a_crop_copies_pixels_and_comes_from_everywhere(step: dict[str, Geometry]) -> None:
    sample = painted(20, 30)
    image = sample.image[:, ::-1] if step else sample.image
    windows = {image[y : y + 8, x : x + 9].tobytes(): (y, x) for y in range(20 - 8 + 1) for x in range(30 - 9 + 1)}
    places = {windows[augment(step, sample, (8, 9), seed).image.tobytes()] for seed in range(300)}
    assert {y for y, _ in places} == set(range(13))
    assert {x for _, x in places} == set(range(22))


def test_a_crop_larger_than_the_image_is_void_around_it() -> None:
    sample = painted(20, 30)
    corners = set()
    for seed in range(20):
        result = augment({}, sample, (33, 41), seed)
        rows, columns = np.nonzero(result.mask != VOID)
        top, left = rows.min(), columns.min()
        np.testing.assert_array_equal(result.image[top : top + 20, left : left + 30], sample.image)
        assert not result.image[result.mask == VOID].any()
        corners.add((top, left))
    assert len(corners) > 10


def test_void_of_the_sample_stays_void() -> None:
    sample = painted(20, 30)
    sample.mask[:5] = VOID
    result = augment({"flip": ALWAYS}, sample, None, 0)
    assert (result.mask[:5] == VOID).all()
    assert result.image[:5].any()  # the picture is there all the same


def test_steps_are_applied_in_the_order_written() -> None:
    """To mirror and then turn is to turn the other way and then mirror."""

    class QuarterTurn:
        def matrix(self, rng: np.random.Generator) -> np.ndarray:
            return np.array([[0.0, -1.0], [1.0, 0.0]])  # right becomes down: clockwise as one looks at it

    sample = painted(24, 24)
    turn = QuarterTurn()
    mirrored_first = augment({"flip": ALWAYS, "turn": turn}, sample, None, 0)
    turned_first = augment({"turn": turn, "flip": ALWAYS}, sample, None, 0)
    np.testing.assert_array_equal(mirrored_first.mask, np.rot90(sample.mask[:, ::-1], -1))
    np.testing.assert_array_equal(turned_first.mask, np.rot90(sample.mask, -1)[:, ::-1])


@pytest.mark.parametrize(("factor", "share"), [(0.5, 0.25), (2.0, 1.0)])
def test_scale_is_the_size_of_things(factor: float, share: float) -> None:
    result = augment({"scale": RandomScale(low=factor, high=factor)}, painted(64, 64), (64, 64), 0)
    assert (result.mask != VOID).mean() == pytest.approx(share, abs=0.03)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_seed_decides_everything(seed: int) -> None:
    steps = {
        "flip": FLIP,
        "scale": RandomScale(low=0.5, high=2),
        "rotation": RandomRotation(degrees=5),
        "color": JITTER,
    }
    sample = painted(40, 50, cell=5)
    first, second = (augment(steps, sample, (32, 32), seed) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    other = augment(steps, sample, (32, 32), seed + 1)
    assert not np.array_equal(first.image, other.image)


def test_color_changes_the_image_and_never_the_mask() -> None:
    sample = painted(40, 50)
    before = sample.image.copy()
    results = [augment({"color": JITTER}, sample, None, seed) for seed in range(5)]
    assert len({result.image.tobytes() for result in results}) == 5
    for result in results:
        np.testing.assert_array_equal(result.mask, sample.mask)
        assert result.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.image, before)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HorizontalFlip(p=1.5),
        lambda: HorizontalFlip(p=math.nan),
        lambda: RandomScale(low=0, high=1),
        lambda: RandomScale(low=2, high=1),
        lambda: RandomScale(low=2, high=math.inf),
        lambda: RandomRotation(degrees=-1),
        lambda: RandomRotation(degrees=math.nan),
        lambda: ElasticDeformation(spread=-1),
        lambda: ElasticDeformation(spread=40, spacing=100),
        lambda: ElasticDeformation(p=-0.1),
    ],
)
def test_wrong_settings_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^\w+=\S+: "):  # what config.explain puts the whole key in front of
        wrong()


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(UserError, match=r"augment.steps.blur: a dict is no step"):
        Augment({"blur": {}})


# ---- other kinds of geometry


def test_quarter_turns_copy_pixels_and_give_all_four() -> None:
    sample = painted(20, 30)
    turned = {np.rot90(sample.mask, k).tobytes(): k for k in range(4)}
    found = set()
    for seed in range(30):
        size = (20, 30) if np.random.default_rng(seed).integers(4) % 2 == 0 else (30, 20)
        result = augment({"turn": QuarterTurns()}, sample, size, seed)
        found.add(turned[result.mask.tobytes()])
        np.testing.assert_array_equal(result.image, expected_image(result.mask))
    assert found == {0, 1, 2, 3}


@given(SEEDS, st.sampled_from([(40, 70), (90, 30), (64, 64)]))
@settings(max_examples=20, deadline=None)
def test_crops_of_turned_images_stay_inside(seed: int, size: tuple[int, int]) -> None:
    """The room for a crop is that of the turned image, so that one that fits has no void."""
    assert (augment({"turn": QuarterTurns()}, painted(*size), (25, 25), seed).mask != VOID).all()


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_elastic_deformation_moves_image_and_mask_together(seed: int) -> None:
    steps = {"flip": FLIP, "elastic": ElasticDeformation(spread=6, spacing=32, p=1)}
    sample = painted(96, 120, seed % 100, cell=24)
    result = augment(steps, sample, None, seed)
    assert_together(result, wrong=0.02)  # where a corner of a label is stretched
    assert (result.mask == VOID).any()
    assert 0.02 < (result.mask != sample.mask).mean() < 0.9


@pytest.mark.parametrize(
    ("degrees", "scale", "expected"),
    [(0, (1, 1), (60, 40)), (30, (2, 2), (120, 80)), (80, (1, 1), (40, 60)), (90, (3, 0.5), (20, 180))],
)
def test_the_extent_of_an_image_after_a_map(
    degrees: float, scale: tuple[float, float], expected: tuple[float, float]
) -> None:
    """An image of 60x40 (width x height) that is scaled and then turned."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    np.testing.assert_allclose(extent((40, 60), turn @ np.diag(scale)), expected)


def test_elastic_deformation_with_nothing_to_do_changes_nothing() -> None:
    sample = painted(40, 50)
    for step in (ElasticDeformation(spread=0, p=1), ElasticDeformation(p=0)):
        result = augment({"elastic": step}, sample, None, 0)
        np.testing.assert_array_equal(result.image, sample.image)
        np.testing.assert_array_equal(result.mask, sample.mask)


def test_elastic_displacements_are_as_wide_as_asked_for() -> None:
    step = ElasticDeformation(spread=5, spacing=20, p=1)
    points = np.zeros((200, 200, 2), np.float32)
    moved = np.stack([step.bend(points, np.random.default_rng(seed)) for seed in range(20)])
    assert 3 < moved.std() < 5  # between the points of the grid, they are averaged
    assert np.abs(np.diff(moved, axis=1)).max() < 2.5  # and smooth


@given(SIZES, SIZES, SEEDS, st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
@settings(max_examples=100, deadline=None)
def test_cutting_gives_what_warping_would(
    size: tuple[int, int], crop: tuple[int, int], seed: int, x: int, y: int, across: int, down: int
) -> None:
    sample = painted(*size, seed % 1000)
    offset = [x + (size[1] - 1) * (across < 0), y + (size[0] - 1) * (down < 0)]
    matrix = np.column_stack((np.diag([across, down]), offset)).astype(float)
    image, mask = resample(sample.image, sample.mask, matrix, crop)
    warped = cv2.warpAffine(sample.image, matrix, crop[::-1], flags=cv2.INTER_NEAREST, borderValue=(0, 0, 0))
    np.testing.assert_array_equal(image, warped)
    np.testing.assert_array_equal(
        mask, cv2.warpAffine(sample.mask, matrix, crop[::-1], flags=cv2.INTER_NEAREST, borderValue=VOID)
    )


def test_a_window_that_misses_the_image_is_void() -> None:
    image, mask = resample(
        np.ones((5, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.array([[1.0, 0, 0], [0, 1, 9]]), (4, 4)
    )
    assert not image.any()
    assert (mask == VOID).all()


# ---- images of any kind


EVERYTHING = {
    "flip": FLIP,
    "scale": RandomScale(low=0.6, high=1.6),
    "rotation": RandomRotation(degrees=20),
    "elastic": ElasticDeformation(spread=4, spacing=32, p=0.5),
    "perspective": Albumentation(name="Perspective", args={"p": 0.5}),
    "contrast": Albumentation(name="RandomBrightnessContrast", args={"p": 1}),
}


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("steps", [["flip"], ["scale", "rotation"], ["elastic"], list(EVERYTHING)])
def test_each_band_is_treated_as_it_would_be_alone(bands: int, kind: type, steps: list[str]) -> None:
    mask = painted(50, 60, cell=10).mask
    image = np.random.default_rng(1).uniform(0, 255, (50, 60, bands)).astype(kind)
    chosen = {name: EVERYTHING[name] for name in steps}
    for seed in range(3):
        together = augment(chosen, Sample(image, mask, "all"), (40, 70), seed)
        assert (together.image.shape, together.image.dtype) == ((40, 70, bands), kind)
        for band in range(bands) if "contrast" not in steps else ():
            alone = augment(chosen, Sample(image[..., band : band + 1], mask, "one"), (40, 70), seed)
            np.testing.assert_allclose(
                together.image[..., band], alone.image[..., 0], atol=1 if kind is np.uint8 else 1e-2
            )
            np.testing.assert_array_equal(together.mask, alone.mask)
        assert 0 <= together.image.min() <= together.image.max() <= 255


def test_bytes_and_floats_give_the_same_picture() -> None:
    sample = painted(50, 60, cell=10)
    floats = replace(sample, image=sample.image.astype(np.float32))
    for seed in range(5):
        first, second = (augment(EVERYTHING, given, (40, 44), seed) for given in (sample, floats))
        np.testing.assert_allclose(second.image, first.image, atol=1.6)
        np.testing.assert_array_equal(second.mask, first.mask)


def test_overlapping_labels_move_as_each_plane_would_alone() -> None:
    rng = np.random.default_rng(0)
    planes = np.kron(rng.choice([0, 1, VOID], (7, 5, 6)), np.ones((10, 10))).astype(np.uint8)
    image = painted(50, 60).image
    for seed in range(6):
        together = augment(EVERYTHING, Sample(image, planes, "all"), (45, 70), seed)
        alone = [augment(EVERYTHING, Sample(image, plane, "one"), (45, 70), seed).mask for plane in planes]
        np.testing.assert_array_equal(together.mask, np.stack(alone))
        assert together.mask.dtype == np.uint8
    flipped = augment({"flip": ALWAYS}, Sample(image, planes, "all"), (60, 60), 0)
    assert (flipped.mask == VOID).all(0).sum() >= 600  # the strip that the image does not fill


def test_a_step_that_needs_colours_refuses_other_bands_before_training() -> None:
    with pytest.raises(
        UserError, match=r"augment.steps.color: albumentations.ColorJitter does not take a uint8 image of 4"
    ):
        Augment({"color": JITTER}).check([painted(32, 32, bands=4)], None)
    rare = Albumentation(name="RandomRain", args={"p": 1e-9})  # tried whatever its probability
    with pytest.raises(UserError, match=r"augment.steps.rain: .*data.channels=1"):
        Augment({"rain": rare}).check([painted(32, 32, bands=1)], None)
    Augment({"rain": rare}).check([painted(32, 32)], (16, 16))


# ---- steps of one's own


class Sink:
    """A step with whatever change it is given."""

    def __init__(self, change: Callable[[Sample], Sample]) -> None:
        self._change = change

    def change(self, sample: Sample, others: Others, rng: np.random.Generator) -> Sample:
        return self._change(sample)


class Halved:
    def recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image[::2]


@pytest.mark.parametrize(
    "step",
    [
        Halved(),
        Sink(lambda sample: replace(sample, image=sample.image[:-1], mask=sample.mask[:-1])),
        Sink(lambda sample: replace(sample, mask=sample.mask.astype(np.int64))),
        Sink(lambda sample: replace(sample, image=sample.image / 255)),
    ],
)
def test_a_step_that_leaves_size_or_type_is_named(step: object) -> None:
    with pytest.raises(UserError, match=r"^augment.steps.mine: it made .* A step leaves size and type as they are"):
        augment({"mine": step}, painted(20, 20), None, 0)


def test_steps_behind_the_geometry_run_in_the_order_written() -> None:
    add, double = (Sink(lambda s, f=f: replace(s, image=f(s.image))) for f in (lambda i: i + 1, lambda i: i * 2))
    sample = Sample(np.full((4, 4, 3), 10, np.uint8), np.zeros((4, 4), np.uint8), "s")
    assert (augment({"add": add, "double": double}, sample, None, 0).image == 22).all()
    assert (augment({"double": double, "add": add}, sample, None, 0).image == 21).all()
