"""Scores by crop: by hand, and as scikit-learn gives them for crops cut out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import check_that_only_the_images_matter, refilled, regions, run
from PIL import Image

from seg_cli.data.labels import VOID
from seg_cli.metrics.confusion import count, score
from seg_cli.metrics.distance import Distance
from seg_cli.reports.figures_metrics import miou_by_crop

CLASSES = 4


def test_crops_are_centred_and_shrink_with_the_image() -> None:
    masks = torch.zeros(1, 10, 20, dtype=torch.uint8)
    masks[:, 3:7, 6:14] = 1  # the middle 0.4 of each side
    predictions = torch.ones(1, 10, 20, dtype=torch.int64)
    crops = run(Distance(), predictions, masks, classes=3).results()["crops"]
    assert [crop["size"] for crop in crops] == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [crop["classes"]["class 1"] for crop in crops] == [32 / 200, 32 / 128, 32 / 72, 1, 1]
    assert [crop["miou"] for crop in crops] == [16 / 200, 16 / 128, 16 / 72, 1, 1]
    assert all(crop["classes"]["class 2"] is None for crop in crops)


def test_a_crop_around_a_point_near_the_border_is_moved_inside() -> None:
    masks = torch.full((1, 10, 20), VOID, dtype=torch.uint8)
    masks[:, :5, 10:] = 0  # the upper right quarter
    metric = Distance(sizes=[0.5], center=[0.1, 1])
    run(metric, torch.zeros(1, 10, 20, dtype=torch.int64), masks, classes=1)
    assert metric.state().tolist() == [[[50], [50]]]


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(0, 1000), st.sampled_from([0, 0.2, 0.9]))
@settings(max_examples=15, deadline=None)
def test_a_crop_is_scored_as_an_image_of_its_own(seed: int, void: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, masks = regions(seed, CLASSES, void)
    (whole, crop) = run(Distance(sizes=[1, 0.5]), predictions, masks, classes=CLASSES).results()["crops"]
    pixels = (slice(None), slice(3, 10), slice(4, 13))  # of 13x17: 7 rows about 6.5, 9 columns about 8.5
    for found, part in ((whole, ...), (crop, pixels)):
        truth, predicted = masks[part].numpy(), predictions[part].numpy()
        counted = truth != VOID
        occurring = sorted({*truth[counted], *predicted[counted]})
        expected = dict.fromkeys(range(CLASSES))
        if occurring:
            scores = metrics.jaccard_score(truth[counted], predicted[counted], labels=occurring, average=None)
            expected |= dict(zip(occurring, scores, strict=True))
            assert found["miou"] == pytest.approx(np.mean(scores))
        assert found["classes"] == {f"class {i}": pytest.approx(iou) for i, iou in expected.items()}


def test_the_whole_image_has_the_miou_of_the_confusion_matrix() -> None:
    predictions, masks = regions(5, CLASSES, 0.2)
    crops = run(Distance(sizes=[1]), predictions, masks, classes=CLASSES).results()["crops"]
    assert crops[0]["miou"] == pytest.approx(score(count(predictions, masks, CLASSES).sum(0).numpy()).miou)


def test_overlapping_labels_are_counted_class_by_class() -> None:
    predictions, masks = regions(6, CLASSES, 0.2, overlapping=True)
    (crop,) = run(Distance(sizes=[1]), predictions, masks, classes=CLASSES).results()["crops"]
    for index in range(CLASSES):
        counted = masks[:, index] != VOID
        one, other = predictions[:, index][counted], masks[:, index][counted] == 1
        assert crop["classes"][f"class {index}"] == int((one & other).sum()) / int((one | other).sum())


@pytest.mark.parametrize("overlapping", [False, True])
def test_only_the_images_matter(overlapping: bool) -> None:
    check_that_only_the_images_matter(Distance(), regions(0, CLASSES, 0.2, overlapping=overlapping), CLASSES)


def test_a_prediction_that_is_right_outside_the_void_is_perfect() -> None:
    _, masks = regions(1, CLASSES, 0.2)
    crops = run(Distance(), refilled(masks.long(), masks), masks, classes=CLASSES).results()["crops"]
    assert [crop["miou"] for crop in crops] == [1] * 5


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"sizes": [0]}, "sizes=0"),
        ({"sizes": [1.1]}, "sizes=1.1"),
        ({"sizes": []}, "one or more"),
        ({"sizes": [0.5, 0.5]}, "twice"),
        ({"center": [0.5, 2]}, "center=2"),
        ({"center": [0.5]}, "two shares"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings_: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Distance(**settings_)


def test_the_plot_has_a_line_a_model_and_copes_with_nothing(tmp_path: Path) -> None:
    found = run(Distance(), *regions(0, CLASSES, 0.2), classes=CLASSES).results()
    nothing = run(Distance(), *regions(0, CLASSES, 1), classes=CLASSES).results()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    sizes = []
    for lines in ({"unet": found}, {"unet": found, "fpn": found | {"crops": found["crops"][:2]}}, {"unet": nothing}):
        miou_by_crop(lines, tmp_path / "crops.png")
        with Image.open(tmp_path / "crops.png") as picture:
            sizes.append(picture.size)
            assert (np.asarray(picture.convert("RGB")) == (0, 114, 178)).all(2).any() == (lines["unet"] is found)
    assert len(set(sizes)) == 1
