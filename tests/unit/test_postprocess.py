"""Post-processing: small parts, holes and the dense CRF, on label maps and on scores."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from seg_cli.inference.components import components, holes, small_components, without_holes, without_small
from seg_cli.inference.postprocess import Components, Crf, Holes, Postprocess, Step
from seg_cli.metrics.counting import Counting
from seg_cli.models.crf import DenseCRF

EXCLUSIVE, OVERLAPPING = Counting(3), Counting(2, overlapping=True)


def grid(text: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in text.split()], np.uint8)


def blobs(seed: int, size: tuple[int, int] = (40, 50), classes: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.random((classes, *size)), (0, 1.5, 1.5))
    return fields.argmax(0).astype(np.uint8)


def labels_of(scores: Tensor) -> np.ndarray:
    return EXCLUSIVE.predict(scores)[0].numpy()


def scores_of(labels: np.ndarray, classes: int = 3) -> Tensor:
    """Scores 2, 1, 0 in turn from the label on: the next class is the second-best."""
    steps = (np.arange(classes)[:, None, None] - labels[None].astype(int)) % classes
    return torch.from_numpy((classes - 1 - steps).astype(np.float32))[None]


# ---- label maps


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_scipy(seed: int) -> None:
    labels = blobs(seed)
    numbers, sizes, classes = components(labels)
    expected = 0
    for label in range(4):
        theirs, count = ndimage.label(labels == label, np.ones((3, 3)))
        expected += count
        for part in range(1, count + 1):
            own = numbers[theirs == part]
            assert (own == own[0]).all()
            assert (sizes[own[0]], classes[own[0]]) == (own.size, label)
    assert len(sizes) == len(classes) == expected == numbers.max() + 1
    assert sizes.sum() == labels.size


@pytest.mark.parametrize("seed", range(5))
def test_holes_are_those_of_scipy(seed: int) -> None:
    mask = blobs(seed, classes=2) == 0
    assert holes(mask).any()
    np.testing.assert_array_equal(holes(mask), ndimage.binary_fill_holes(mask) & ~mask)


def test_a_hole_has_its_size_and_touches_no_border() -> None:
    mask = grid("1111110 1001010 1111110 0111111 1101101 1111110") == 1
    sizes = grid("0000000 0220100 0000000 0000000 0010010 0000000")
    np.testing.assert_array_equal(holes(mask), sizes > 0)
    np.testing.assert_array_equal(holes(mask, 1), sizes == 1)
    assert not holes(np.zeros((4, 4), bool)).any()
    assert not holes(np.ones((4, 4), bool)).any()


def test_small_parts_are_those_with_fewer_pixels_and_corners_connect() -> None:
    mask = grid("1000110 0100110 0000000 1000111") == 1
    np.testing.assert_array_equal(small_components(mask, 3), grid("1000000 0100000 0000000 1000000") == 1)
    np.testing.assert_array_equal(small_components(mask, 4), grid("1000000 0100000 0000000 1000111") == 1)
    np.testing.assert_array_equal(small_components(mask, 2), grid("0000000 0000000 0000000 1000000") == 1)


def test_a_small_part_becomes_what_most_of_its_rim_borders_on() -> None:
    labels = grid("0000222 0010222 0011222 0000222")
    np.testing.assert_array_equal(without_small(labels, 4), grid("0000222 0000222 0000222 0000222"))
    np.testing.assert_array_equal(without_small(labels, 3), labels)
    right = grid("0002222 0001222 0001222 0002222")
    np.testing.assert_array_equal(without_small(right, 3), grid("0002222 0002222 0002222 0002222"))


def test_small_parts_within_small_parts_go_too_and_a_map_of_them_alone_stays() -> None:
    labels = grid("000000 011110 012210 011110 000000 000000")
    np.testing.assert_array_equal(without_small(labels, 20), np.zeros((6, 6), np.uint8))
    np.testing.assert_array_equal(without_small(labels, 3), grid("000000 011110 011110 011110 000000 000000"))
    checkers = grid("012 120 201")
    np.testing.assert_array_equal(without_small(checkers, 10), checkers)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("min_pixels", [2, 20, 60])
def test_afterwards_no_small_part_is_left_and_large_ones_are_as_they_were(seed: int, min_pixels: int) -> None:
    labels = blobs(seed)
    cleaned = without_small(labels, min_pixels)
    assert cleaned.dtype == labels.dtype
    assert components(cleaned)[1].min() >= min_pixels
    numbers, sizes, _ = components(labels)
    large = sizes[numbers] >= min_pixels
    assert large.any()
    np.testing.assert_array_equal(cleaned[large], labels[large])


def test_what_a_class_encloses_is_of_that_class_and_the_outermost_counts() -> None:
    labels = grid("2111112 1000001 1022201 1021201 1022201 1000001 2111112")
    full = np.where(labels == 2, 1, np.ones_like(labels))
    full[[0, 0, -1, -1], [0, -1, 0, -1]] = 2
    np.testing.assert_array_equal(without_holes(labels), full)
    within = labels.copy()
    within[3, 3] = 2
    np.testing.assert_array_equal(without_holes(labels, 1), within)
    within[2:5, 2:5] = 0
    np.testing.assert_array_equal(without_holes(labels, 9), within)
    assert labels[3, 3] == 1  # the given map is left alone


# ---- scores


def test_relabelled_pixels_exchange_two_scores() -> None:
    labels = grid("0000 0100 0000 2222")
    scores = scores_of(labels)
    found = Components(min_pixels=2)(scores.clone(), torch.zeros(1, 3, 4, 4), EXCLUSIVE)
    np.testing.assert_array_equal(labels_of(found), without_small(labels, 2))
    assert scores[0, :, 1, 1].tolist() == [0, 2, 1]
    assert found[0, :, 1, 1].tolist() == [2, 0, 1]
    found[0, :, 1, 1] = scores[0, :, 1, 1]
    assert torch.equal(found, scores)


def test_small_parts_may_take_the_second_best_scores() -> None:
    labels = grid("0000 0100 0000 2222")
    found = Components(min_pixels=2, fill="scores")(scores_of(labels), torch.zeros(1, 3, 4, 4), EXCLUSIVE)
    expected = labels.copy()
    expected[1, 1] = 2
    np.testing.assert_array_equal(labels_of(found), expected)


def test_equal_scores_do_not_bring_the_old_label_back() -> None:
    scores = torch.zeros(1, 3, 5, 5)
    scores[:, 1] = 1
    scores[0, :, 2, 2] = 3  # all equal: the first class
    assert labels_of(scores)[2, 2] == 0
    for step in (Components(min_pixels=2), Holes(max_pixels=1)):
        np.testing.assert_array_equal(
            labels_of(step(scores.clone(), torch.zeros(1, 3, 5, 5), EXCLUSIVE)), np.ones((5, 5))
        )


@pytest.mark.parametrize("step", [Components(min_pixels=30), Holes(max_pixels=50)])
def test_each_image_of_a_batch_is_cleaned_on_its_own(step: Step) -> None:
    labels = np.stack([blobs(seed, classes=3) for seed in range(3)])
    scores = torch.cat([scores_of(own) for own in labels])
    images = torch.zeros(3, 3, 40, 50)
    together = EXCLUSIVE.predict(step(scores.clone(), images, EXCLUSIVE))
    for i in range(3):
        clean = without_small(labels[i], 30) if isinstance(step, Components) else without_holes(labels[i], 50)
        assert (clean != labels[i]).any()
        np.testing.assert_array_equal(together[i], clean)


@pytest.mark.parametrize("threshold", [0.5, 0.9, torch.tensor([0.2, 0.7])])
def test_overlapping_labels_are_cleaned_plane_by_plane(threshold: float | Tensor) -> None:
    counting = Counting(2, overlapping=True, threshold=threshold)
    scores = torch.randn(2, 2, 40, 50, generator=torch.Generator().manual_seed(0)) * 3
    scores = torch.nn.functional.avg_pool2d(scores, 3, 1, 1) * 3
    answers = counting.predict(scores).numpy()
    images = torch.zeros(2, 3, 40, 50)
    small = np.stack([[plane & ~small_components(plane, 10) for plane in image] for image in answers])
    filled = np.stack([[plane | holes(plane, 10) for plane in image] for image in answers])
    assert (small != answers).any()
    assert (filled != answers).any()
    np.testing.assert_array_equal(counting.predict(Components(min_pixels=10)(scores, images, counting)), small)
    np.testing.assert_array_equal(counting.predict(Holes(max_pixels=10)(scores, images, counting)), filled)


def test_another_answer_is_as_sure_as_the_first() -> None:
    scores = torch.full((1, 2, 3, 3), -4.0)
    scores[0, 0, 1, 1] = 2.5
    found = Components(min_pixels=2)(scores, torch.zeros(1, 3, 3, 3), OVERLAPPING)
    assert found[0, 0, 1, 1] == -2.5
    ring = torch.full((1, 2, 3, 3), 4.0)
    ring[0, 1, 1, 1] = 0.0  # exactly on the threshold is no
    filled = Holes(max_pixels=None)(ring, torch.zeros(1, 3, 3, 3), OVERLAPPING)
    assert OVERLAPPING.predict(filled).all()


def test_the_crf_is_that_of_the_models_and_of_overlapping_labels_one_a_class() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    scores = torch.randn(2, 3, 8, 9)
    step, crf = Crf(iterations=3, window=5), DenseCRF(iterations=3, window=5)
    torch.testing.assert_close(step(scores.clone(), images, EXCLUSIVE), crf(scores, images))
    overlapping = step(scores[:, :2].clone(), images, OVERLAPPING)
    for c in range(2):
        yes_no = crf(torch.stack((torch.zeros(2, 8, 9), scores[:, c]), 1), images).softmax(1)[:, 1]
        torch.testing.assert_close(overlapping[:, c].sigmoid(), yes_no)


def test_steps_are_taken_in_order_and_the_given_scores_are_left_alone() -> None:
    labels = grid("00000 01110 01210 01110 00000")
    scores, images = scores_of(labels), torch.zeros(1, 3, 5, 5)
    before = scores.clone()
    small, fill = Components(min_pixels=9), Holes(max_pixels=1)
    first_small = Postprocess(steps={"components": small, "holes": fill})(scores, images, EXCLUSIVE)
    first_fill = Postprocess(steps={"holes": fill, "components": small})(scores, images, EXCLUSIVE)
    assert not labels_of(first_small).any()  # the ring of eight pixels goes
    np.testing.assert_array_equal(labels_of(first_fill), np.minimum(labels, 1))  # filled first, it has nine
    assert torch.equal(scores, before)
    half = scores.bfloat16()
    assert Postprocess(steps={})(half, images, EXCLUSIVE) is half
    assert Postprocess(steps={"holes": fill})(half, images, EXCLUSIVE).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Components(min_pixels=0), r"min_pixels=0: 1 or more"),
        (lambda: Components(min_pixels=2, fill="black"), r"fill=black: surroundings and scores"),
        (lambda: Holes(max_pixels=0), r"max_pixels=0: 1 or more is allowed, or null"),
        (lambda: Crf(window=4), r"window=4: an odd number"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
