"""Boundary scores: by hand, and as scipy's distance transform and erosion give them class by class."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import Maps, check_that_only_the_images_matter, planes, refilled, regions, run, void_planes
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from seg_cli.data.labels import VOID
from seg_cli.metrics.boundary import Boundary, disc, matches

Region = NDArray[np.bool_]
CLASSES = 4
SHARE = 2 / math.hypot(13, 17)  # two pixels of the diagonal of ``regions``
ANY = st.tuples(st.integers(0, 1000), st.sampled_from([0, 0.2, 1]), st.booleans())


def maps_of(case: tuple[int, float, bool]) -> Maps:
    seed, void, overlapping = case
    return regions(seed, CLASSES, void, overlapping=overlapping)


# ---- by other means


def boundary_of(region: Region, void: Region) -> Region:
    """Pixels of a region beside one that is neither of it nor void, one at a time."""
    height, width = region.shape
    found = np.zeros_like(region)
    for y, x in zip(*np.nonzero(region & ~void), strict=True):
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= near[0] < height and 0 <= near[1] < width and not region[near] and not void[near]:
                found[y, x] = True
    return found


def distance_to(region: Region) -> NDArray[np.float64]:
    return distance_transform_edt(~region) if region.any() else np.full(region.shape, np.inf)


def quotient(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def f_of(precision: float, recall: float) -> float:
    if math.isnan(precision) and math.isnan(recall):
        return math.nan
    return 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0


def expected_f(maps: Maps, reach: float) -> list[dict[str, float]]:
    """Of each class; sums over the images, and the mean of the images' F."""
    predicted, truth, void = planes(maps[0], CLASSES), planes(maps[1], CLASSES), void_planes(maps[1], CLASSES)
    found = []
    for index in range(CLASSES):
        counts, scores = np.zeros(4), []
        for image in range(len(truth)):
            hidden = void[image][index]
            one = boundary_of(predicted[image][index] & ~hidden, hidden)
            other = boundary_of(truth[image][index], hidden)
            row = [one.sum(), (distance_to(other)[one] <= reach).sum()]
            row += [other.sum(), (distance_to(one)[other] <= reach).sum()]
            counts += row
            scores.append(f_of(quotient(row[1], row[0]), quotient(row[3], row[2])))
        precision, recall = quotient(counts[1], counts[0]), quotient(counts[3], counts[2])
        kept = [score for score in scores if not math.isnan(score)]
        image_f = float(np.mean(kept)) if kept else math.nan
        found.append({"f": f_of(precision, recall), "image_f": image_f, "precision": precision, "recall": recall})
    return found


def band_of(region: Region, void: Region, reach: int) -> Region:
    """What erosion takes away, as in the paper's code, where void is eroded by nothing."""
    inner = binary_erosion(region | void, np.ones((3, 3)), iterations=reach, border_value=0) & region
    return region & ~inner & ~void


def expected_iou(maps: Maps, reach: int) -> list[float]:
    predicted, truth, void = planes(maps[0], CLASSES), planes(maps[1], CLASSES), void_planes(maps[1], CLASSES)
    found = []
    for index in range(CLASSES):
        both = either = 0
        for image in range(len(truth)):
            hidden = void[image][index]
            one = band_of(predicted[image][index] & ~hidden, hidden, reach)
            other = band_of(truth[image][index], hidden, reach)
            both, either = both + (one & other).sum(), either + (one | other).sum()
        found.append(quotient(both, either))
    return found


def expected_trimap(maps: Maps, width: int) -> list[float]:
    predicted, truth, void = planes(maps[0], CLASSES), planes(maps[1], CLASSES), void_planes(maps[1], CLASSES)
    found = []
    for index in range(CLASSES):
        both = either = 0
        for image in range(len(truth)):
            hidden = void[image][index]
            own = [index] if maps[1].ndim == 4 else range(CLASSES)
            edges = np.any([boundary_of(truth[image][i], hidden) for i in own], 0)
            if maps[1].ndim == 4:
                edges |= boundary_of(~truth[image][index] & ~hidden, hidden)
            band = (distance_to(edges) <= width - 1) & ~hidden
            one, other = predicted[image][index] & band, truth[image][index] & band
            both, either = both + (one & other).sum(), either + (one | other).sum()
        found.append(quotient(both, either))
    return found


def as_json(value: float) -> object:
    return None if math.isnan(value) else pytest.approx(value, abs=1e-6)


def check_classes(found: dict[str, float | None], expected: list[float], mean: float | None) -> None:
    assert list(found.values()) == [as_json(value) for value in expected]
    defined = [value for value in expected if not math.isnan(value)]
    assert mean == as_json(float(np.mean(defined)) if defined else math.nan)


@given(ANY, st.sampled_from([(0, 0), (1, 1), (1.5, 1.5), (3, 3), (SHARE, 2), (40, 40)]))
@settings(max_examples=40, deadline=None)
def test_f_score_is_that_of_distance_maps(case: tuple[int, float, bool], tolerance: tuple[float, float]) -> None:
    maps = maps_of(case)
    metric = run(Boundary(tolerances=[tolerance[0]], trimap=[]), *maps, classes=CLASSES)
    (found,) = metric.results()["f"]
    expected = expected_f(maps, tolerance[1])
    for key in ("f", "image_f", "precision", "recall"):
        values = {name: scores[key] for name, scores in found["classes"].items()}
        check_classes(values, [scores[key] for scores in expected], found[key])


@given(ANY, st.sampled_from([(0.001, 1), (0.05, 1), (0.1, 2), (0.19, 4), (0.9, 19)]))
@settings(max_examples=25, deadline=None)
def test_boundary_iou_is_that_of_erosions(case: tuple[int, float, bool], width: tuple[float, int]) -> None:
    maps = maps_of(case)
    found = run(Boundary(tolerances=[], width=width[0], trimap=[]), *maps, classes=CLASSES).results()["iou"]
    check_classes(found["classes"], expected_iou(maps, width[1]), found["mean"])


@given(ANY, st.sampled_from([1, 2, 3, 20]))
@settings(max_examples=25, deadline=None)
def test_trimap_iou_is_that_of_distance_maps(case: tuple[int, float, bool], width: int) -> None:
    maps = maps_of(case)
    (found,) = run(Boundary(tolerances=[], trimap=[width]), *maps, classes=CLASSES).results()["trimap"]
    check_classes(found["classes"], expected_trimap(maps, width), found["miou"])


@given(st.integers(0, 1000), st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_a_disc_holds_what_is_no_farther_than_its_radius(seed: int, radius: int) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((2, 11, 14)) < 0.02)
    expected = np.stack([distance_to(plane) <= radius for plane in mask.numpy()])
    np.testing.assert_array_equal(disc(mask, radius), expected)


# ---- by hand


def halves(border: int, *, height: int = 4, width: int = 10) -> torch.Tensor:
    """(1, height, width): class 0 left of the border, class 1 right of it."""
    return (torch.arange(width) >= border).long().expand(1, height, width)


def test_a_border_that_is_two_pixels_off() -> None:
    metric = Boundary(tolerances=[0, 1, 2], width=0.001, trimap=[1, 2, 3])
    results = run(metric, halves(7), halves(5).to(torch.uint8), classes=2).results()
    assert [row["f"] for row in results["f"]] == [0, 0, 1]
    # The bands are a pixel wide and go around each class: of class 0 they are 14 and 18 pixels, of which 12 are common
    # (columns 0 to 4 of the first and the last row, and column 0 of the two between).
    assert results["iou"]["classes"] == {"class 0": pytest.approx(12 / 20), "class 1": pytest.approx(8 / 16)}
    # Around columns 4 and 5: of width 1 column 5 is wrong, of width 2 columns 5 and 6 of four, of width 3 of six.
    assert [row["classes"]["class 0"] for row in results["trimap"]] == [1 / 2, 2 / 4, 3 / 5]
    assert [row["classes"]["class 1"] for row in results["trimap"]] == [0, 0, 1 / 3]


def test_images_are_summed_for_f_and_averaged_for_image_f() -> None:
    masks = torch.cat((halves(5, height=4), halves(5, height=4))).to(torch.uint8)
    predictions = torch.cat((halves(5, height=4), halves(7, height=4)))
    predictions[1, :2] = halves(5, height=2)[0]  # half of the second image is right
    (found,) = run(Boundary(tolerances=[0], trimap=[]), predictions, masks, classes=2).results()["f"]
    # Class 0 in the second image: predicted boundary pixels are column 4 of rows 0 and 1, column 6 of rows 2 and 3, and
    # column 5 of row 2, which is beside row 1's class 1; 2 of 5 are right, and 2 of 4 true ones are found.
    scores = found["classes"]["class 0"]
    assert scores["precision"] == pytest.approx((4 + 2) / (4 + 5))
    assert scores["recall"] == pytest.approx((4 + 2) / (4 + 4))
    assert scores["image_f"] == pytest.approx((1 + 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4)) / 2, abs=1e-6)


def test_a_boundary_in_one_of_the_two_alone_is_0_and_in_neither_is_none() -> None:
    metric = Boundary(tolerances=[1], trimap=[2])
    flat, split = torch.zeros(1, 4, 10, dtype=torch.int64), halves(5)
    for prediction, mask in ((flat, split), (split, flat)):
        (found,) = run(metric, prediction, mask.to(torch.uint8), classes=3).results()["f"]
        assert [scores["f"] for scores in found["classes"].values()] == [0, 0, None]
        assert found["image_f"] == found["f"] == 0
    results = run(metric, flat, flat.to(torch.uint8), classes=3).results()
    assert results["f"][0]["f"] is None
    assert results["trimap"][0]["miou"] is None
    assert results["iou"]["classes"] == {"class 0": 1, "class 1": None, "class 2": None}  # the band along the image


def test_void_is_no_boundary_and_boundaries_are_drawn_before_it_is_taken_out() -> None:
    mask = halves(5).to(torch.uint8).clone()
    mask[:, :, 4:6] = VOID  # the true boundary is in the void
    metric = Boundary(tolerances=[1], width=0.001, trimap=[1])
    results = run(metric, halves(5), mask, classes=2).results()
    assert results["f"][0]["f"] is None  # no boundary beside the void, neither true nor predicted
    assert results["trimap"][0]["miou"] is None
    assert results["iou"]["mean"] == 1  # along the image's border alone
    results = run(metric, halves(7), mask, classes=2).results()
    assert results["f"][0]["classes"]["class 0"]["precision"] == 0  # between columns 6 and 7, outside the void


def test_tolerances_below_1_are_rounded_up_shares_of_the_diagonal() -> None:
    masks = halves(5, height=30, width=40)  # the diagonal is 50 pixels
    shares = Boundary(tolerances=[0.001, 0.02, 0.021, 0.04, 0.041], trimap=[])
    found = run(shares, halves(7, height=30, width=40), masks.to(torch.uint8), classes=2).results()["f"]
    assert [row["f"] for row in found] == [0, 0, 1, 1, 1]  # 1, 1, 2, 2 and 3 pixels


# ---- what must not matter


@pytest.mark.parametrize("overlapping", [False, True])
def test_only_the_images_matter(overlapping: bool) -> None:
    check_that_only_the_images_matter(Boundary(), regions(0, CLASSES, 0.2, overlapping=overlapping), CLASSES)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_prediction_that_is_right_outside_the_void_is_perfect(overlapping: bool) -> None:
    _, masks = regions(1, CLASSES, 0.2, overlapping=overlapping)
    truth = masks.bool() & (masks != VOID) if overlapping else masks.long()
    results = run(Boundary(), refilled(truth, masks), masks, classes=CLASSES).results()
    assert [row["f"] for row in results["f"]] == [1] * 4
    assert [row["image_f"] for row in results["f"]] == [1] * 4
    assert results["iou"]["mean"] == 1
    assert [row["miou"] for row in results["trimap"]] == [1] * 5


def test_planes_of_single_labels_score_as_the_labels_do() -> None:
    predictions, masks = regions(2, CLASSES, 0)
    one_hot = [torch.nn.functional.one_hot(x.long(), CLASSES).permute(0, 3, 1, 2) for x in (predictions, masks)]
    single = run(Boundary(trimap=[]), predictions, masks, classes=CLASSES).results()
    apart = run(Boundary(trimap=[]), one_hot[0].bool(), one_hot[1].to(torch.uint8), classes=CLASSES).results()
    assert single == apart  # but for trimaps: a plane has a boundary of its own


def test_inputs_are_left_alone() -> None:
    predictions, masks = regions(3, CLASSES, 0.2)
    kept = predictions.clone(), masks.clone()
    run(Boundary(), predictions, masks, classes=CLASSES)
    assert torch.equal(predictions, kept[0])
    assert torch.equal(masks, kept[1])


def test_steps_of_a_growing_disc_reach_past_small_images() -> None:
    one, other = torch.tensor([[[1, 0]]], dtype=torch.uint8), torch.tensor([[[9, 1]]], dtype=torch.uint8)
    found = [(reach, hit.clone(), found.clone()) for reach, hit, found in matches(one, other, [0, 1, 50])]
    assert [hit.tolist() for _, hit, _ in found] == [[[[False, False]]], [[[True, False]]], [[[True, False]]]]
    assert [hit.tolist() for *_, hit in found] == [[[[False, False]]], [[[False, True]]], [[[False, True]]]]


# ---- results


def test_columns_of_images_are_means_over_the_classes_that_have_a_boundary() -> None:
    masks = torch.cat((halves(5), halves(5), torch.zeros(1, 4, 10, dtype=torch.int64))).to(torch.uint8)
    predictions = torch.cat((halves(5), halves(7), torch.zeros(1, 4, 10, dtype=torch.int64)))
    metric = run(Boundary(tolerances=[1, 2], width=0.001, trimap=[]), predictions, masks, classes=2, batch=2)
    columns = metric.per_image()
    np.testing.assert_allclose(columns["boundary_f@1"], [1, 0, np.nan])
    np.testing.assert_allclose(columns["boundary_f@2"], [1, 1, np.nan])
    np.testing.assert_allclose(columns["boundary_iou"], [1, (12 / 20 + 8 / 16) / 2, 1])


def test_results_are_json_and_none_without_an_image() -> None:
    metric = run(Boundary(), *regions(0, CLASSES, 0.2), classes=CLASSES)
    assert json.loads(json.dumps(metric.results(), allow_nan=False)) == metric.results()
    nothing = run(Boundary(), *regions(0, CLASSES, 0.2, images=0), classes=CLASSES)
    assert nothing.results()["f"][0]["f"] is None
    assert nothing.per_image() == {}


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"tolerances": [-1]}, "tolerances=-1"),
        ({"tolerances": [1, 1]}, "twice"),
        ({"width": 0}, "width=0"),
        ({"width": 2}, "width=2"),
        ({"trimap": [0]}, "trimap=0"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings_: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Boundary(**settings_)
