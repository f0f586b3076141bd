"""Surface distances and dice of cases: by hand, and against MONAI and scipy."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import check_that_only_the_images_matter, planes, refilled, regions, run, void_planes
from scipy.ndimage import distance_transform_edt

from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.metrics.medical import Medical, surface_distances

CLASSES = 3


def one_hot(labels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) float, void of no class."""
    void = np.stack(void_planes(masks, CLASSES))
    return torch.from_numpy(np.stack(planes(labels, CLASSES)) & ~void).float()


@pytest.mark.filterwarnings("ignore")
@given(st.integers(0, 1000), st.sampled_from([0, 0.2, 0.9]), st.booleans(), st.sampled_from([95, 50, 100]))
@settings(max_examples=25, deadline=None)
def test_every_case_is_that_of_monai(seed: int, void: float, overlapping: bool, percentile: int) -> None:
    monai = pytest.importorskip("monai.metrics")
    maps = regions(seed, CLASSES, void, overlapping=overlapping)
    metric = run(Medical(percentile=percentile), *maps, classes=CLASSES)
    columns, results = metric.per_image(), metric.results()
    pair = one_hot(maps[0], maps[1]), one_hot(maps[1], maps[1])
    dice = monai.compute_dice(*pair, ignore_empty=False).numpy()
    theirs = {
        "hausdorff": monai.compute_hausdorff_distance(*pair, include_background=True, percentile=percentile).numpy(),
        "surface_distance": monai.compute_average_surface_distance(
            *pair, include_background=True, symmetric=True
        ).numpy(),
        "case_dice": dice,
    }
    sizes = [planes_.sum((2, 3)).numpy() for planes_ in pair]
    both, either = (sizes[0] > 0) & (sizes[1] > 0), sizes[0] + sizes[1] > 0
    for index in range(CLASSES):
        scores = results["classes"][f"class {index}"]
        for kind, values in theirs.items():
            counted = (either if kind == "case_dice" else both)[:, index]
            expected = np.where(counted, values[:, index], np.nan)
            np.testing.assert_allclose(columns[f"{kind}/class {index}"], expected, rtol=1e-5, atol=1e-6)
            mean = scores["dice" if kind == "case_dice" else kind]
            assert mean == (pytest.approx(np.nanmean(expected), rel=1e-5, abs=1e-5) if counted.any() else None)
        assert scores["cases"] == both[:, index].sum()
        assert scores["missed"] == ((sizes[0] == 0) & (sizes[1] > 0))[:, index].sum()
        assert scores["invented"] == ((sizes[0] > 0) & (sizes[1] == 0))[:, index].sum()


@given(st.integers(0, 1000), st.floats(0.01, 1), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_distances_are_those_of_scipy(seed: int, share: float, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.random((2, height, width)) < share
    one[rng.integers(height), rng.integers(width)] = other[rng.integers(height), rng.integers(width)] = True

    def surface(region: np.ndarray) -> np.ndarray:
        return region & (distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] == 1)

    there, back = surface_distances(one, other)
    np.testing.assert_array_equal(there, distance_transform_edt(~surface(other))[surface(one)])
    np.testing.assert_array_equal(back, distance_transform_edt(~surface(one))[surface(other)])


# ---- by hand


def block(top: int, left: int, height: int, width: int) -> torch.Tensor:
    """(1, 20, 20): class 1 in a block, class 0 around it."""
    mask = torch.zeros(1, 20, 20, dtype=torch.int64)
    mask[:, top : top + height, left : left + width] = 1
    return mask


def test_points_and_lines() -> None:
    metric = Medical(percentile=100, classes=["class 1"])
    mask = block(2, 3, 1, 1).to(torch.uint8)
    results = run(metric, block(5, 7, 1, 1), mask, classes=2).results()
    assert (results["hausdorff"], results["surface_distance"], results["dice"]) == (5, 5, 0)
    # From a line of 10 pixels to its first one the distances are 0 to 9, and 0 back.
    results = run(metric, block(2, 3, 1, 10), mask, classes=2).results()
    assert results["hausdorff"] == 9
    assert results["surface_distance"] == pytest.approx(45 / 11, abs=1e-6)
    assert results["dice"] == pytest.approx(2 / 11, abs=1e-6)
    results = run(Medical(percentile=95), block(2, 3, 1, 10), mask, classes=2).results()
    assert results["classes"]["class 1"]["hausdorff"] == pytest.approx(8.55, abs=1e-6)  # between the last two


def test_a_case_without_the_class_has_no_distance_is_counted_and_has_a_dice_of_0() -> None:
    nothing = torch.zeros(1, 20, 20, dtype=torch.int64)
    predictions = torch.cat((block(2, 2, 4, 4), nothing, block(2, 2, 4, 4), nothing))
    masks = torch.cat((block(2, 5, 4, 4), block(2, 2, 4, 4), nothing, nothing)).to(torch.uint8)
    scores = run(Medical(), predictions, masks, classes=2).results()["classes"]["class 1"]
    assert scores == {
        "hausdorff": 3,
        "surface_distance": pytest.approx(scores["surface_distance"]),
        "dice": pytest.approx((2 * 4 / 32 + 0 + 0) / 3, abs=1e-6),  # the last case has the class in neither
        "cases": 1,
        "missed": 1,
        "invented": 1,
    }


def test_means_are_over_cases_and_then_over_classes() -> None:
    predictions = torch.cat((block(2, 2, 1, 1), block(2, 2, 1, 1)))
    masks = torch.cat((block(2, 4, 1, 1), block(2, 8, 1, 1))).to(torch.uint8)
    results = run(Medical(), predictions, masks, classes=3).results()
    assert results["classes"]["class 1"]["hausdorff"] == 4  # of 2 and 6
    ground = results["classes"]["class 0"]["hausdorff"]
    assert results["hausdorff"] == (4 + ground) / 2
    assert results["classes"]["class 2"]["hausdorff"] is None
    assert results["cases"] == 4


def test_void_is_of_no_class() -> None:
    mask, prediction = block(2, 2, 4, 4).to(torch.uint8), block(2, 2, 4, 8)
    mask[:, 2:6, 6:10] = VOID  # what is predicted too much lies in the void
    scores = run(Medical(), prediction, mask, classes=2).results()["classes"]["class 1"]
    assert (scores["hausdorff"], scores["surface_distance"], scores["dice"]) == (0, 0, 1)
    mask[:, 2:6, 2:6] = VOID
    scores = run(Medical(), prediction, mask, classes=2).results()["classes"]["class 1"]
    assert (scores["cases"], scores["missed"], scores["invented"], scores["dice"]) == (0, 0, 0, None)


# ---- what must not matter, settings, results


@pytest.mark.parametrize("overlapping", [False, True])
def test_only_the_images_matter(overlapping: bool) -> None:
    check_that_only_the_images_matter(Medical(), regions(0, CLASSES, 0.2, overlapping=overlapping), CLASSES)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_prediction_that_is_right_outside_the_void_is_perfect(overlapping: bool) -> None:
    _, masks = regions(1, CLASSES, 0.2, overlapping=overlapping)
    truth = masks.bool() & (masks != VOID) if overlapping else masks.long()
    results = run(Medical(), refilled(truth, masks), masks, classes=CLASSES).results()
    assert (results["hausdorff"], results["surface_distance"], results["dice"]) == (0, 0, 1)


def test_chosen_classes_alone_are_scored() -> None:
    maps, names = regions(2, CLASSES, 0), ["ground", "liver", "tumour"]
    every = run(Medical(), *maps, classes=CLASSES, names=names).results()
    some = run(Medical(classes=["tumour", "liver"]), *maps, classes=CLASSES, names=names)
    assert list(some.results()["classes"]) == ["tumour", "liver"]
    assert all(every["classes"][name] == scores for name, scores in some.results()["classes"].items())
    assert list(some.per_image())[:3] == ["hausdorff/tumour", "surface_distance/tumour", "case_dice/tumour"]
    with pytest.raises(UserError, match=r"metrics.medical.classes: .*'tumor'. Did you mean 'tumour'"):
        Medical(classes=["tumor"]).start(3, names, torch.device("cpu"))
    with pytest.raises(ValueError, match="percentile=101"):
        Medical(percentile=101)


def test_results_are_json_and_none_without_an_image() -> None:
    metric = run(Medical(), *regions(0, CLASSES, 0.2), classes=CLASSES)
    assert json.loads(json.dumps(metric.results(), allow_nan=False)) == metric.results()
    assert not any(math.isinf(value) for column in metric.per_image().values() for value in column)
    nothing = run(Medical(), *regions(0, CLASSES, 0.2, images=0), classes=CLASSES)
    assert nothing.results()["hausdorff"] is None
    assert nothing.per_image() == {}
