"""Augmentation: image and mask stay together, what is outside the image is void, and the seed decides all."""

import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_cli.data.labels import VOID
from seg_cli.data.sample import Sample
from seg_cli.data.transforms import (
    Albumentation,
    Augment,
    Color,
    Geometry,
    HorizontalFlip,
    RandomRotation,
    RandomScale,
)
from seg_cli.errors import UserError

SIZES = st.tuples(st.integers(8, 70), st.integers(8, 70))
SEEDS = st.integers(0, 2**32)
FLIP = HorizontalFlip(p=0.5)
ALWAYS = HorizontalFlip(p=1)
JITTER = Albumentation(name="ColorJitter", args={"brightness": [0.5, 1.5], "p": 1})


def painted(height: int, width: int, seed: int = 0, cell: int = 1) -> Sample:
    """A sample whose image is its mask in grey: class i is the colour (20 i + 20) in all channels."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 6, (math.ceil(height / cell), math.ceil(width / cell)), np.uint8)
    mask = np.kron(cells, np.ones((cell, cell), np.uint8))[:height, :width]
    return Sample(np.repeat(20 * mask[..., None] + 20, 3, 2), mask, "painted", "group")


def augment(steps: Mapping[str, Geometry | Color], sample: Sample, crop: tuple[int, int] | None, seed: int) -> Sample:
    return Augment(steps)([sample], 0, crop, np.random.default_rng(seed))


def expected_image(mask: np.ndarray) -> np.ndarray:
    return np.repeat(np.where(mask == VOID, 0, 20 * mask.astype(int) + 20)[..., None], 3, 2)


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
    result = augment(steps, painted(96, 120, seed % 100, cell=24), (64, 80), seed)
    mask = result.mask
    flat = np.ones_like(mask, bool)
    for rows in (-2, -1, 0, 1, 2):
        for columns in (-2, -1, 0, 1, 2):
            flat &= np.roll(mask, (rows, columns), (0, 1)) == mask
    flat = flat[2:-2, 2:-2]
    assert flat.mean() > 0.3
    difference = np.abs(result.image.astype(int) - expected_image(mask))[2:-2, 2:-2]
    assert difference[flat].max() <= 1


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
    ("name", "args", "said"),
    [
        ("ColourJitter", {}, "albumentations has no pixel-level transform 'ColourJitter'"),
        ("HorizontalFlip", {}, "albumentations has no pixel-level transform 'HorizontalFlip'"),
        ("ColorJitter", {"brightnes": 0.2}, "albumentations.ColorJitter does not take these arguments"),
        ("GaussianBlur", {"blur_limit": "wide"}, "albumentations.GaussianBlur does not take these arguments"),
    ],
)
def test_wrong_albumentations_are_refused(name: str, args: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        Albumentation(name=name, args=args)


def test_an_albumentation_that_gives_no_picture_is_refused() -> None:
    step = Albumentation(name="Normalize", args={})  # the model normalises
    with pytest.raises(UserError, match=r"albumentations.Normalize gives float32 of shape"):
        augment({"normalize": step}, painted(16, 16), None, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HorizontalFlip(p=1.5),
        lambda: RandomScale(low=0, high=1),
        lambda: RandomScale(low=2, high=1),
        lambda: RandomRotation(degrees=-1),
        lambda: RandomRotation(degrees=math.nan),
    ],
)
def test_wrong_settings_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(UserError, match="augment: "):
        wrong()


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(UserError, match=r"augment.steps.blur: a dict is no step"):
        Augment({"blur": {}})
