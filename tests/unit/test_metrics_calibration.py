"""Calibration: by hand, against torchmetrics and scikit-learn, and against NumPy in float64."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import check_that_only_the_images_matter, run
from PIL import Image
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.metrics.calibration import Calibration
from seg_cli.reports.figures_metrics import reliability

CLASSES = 5


def random_case(seed: int, void: float, *, sharpness: float = 2.0, overlapping: bool = False) -> tuple[Tensor, ...]:
    """Logits, what they predict, and masks that agree with it more often than not."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, sharpness, (3, CLASSES, 9, 8)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, 1.5, logits.shape))
    predictions = logits > 0 if overlapping else logits.argmax(1)
    masks = (logits + noise > 0 if overlapping else (logits + noise).argmax(1)).to(torch.uint8)
    masks[torch.from_numpy(rng.random(masks.shape) < void)] = VOID
    return logits, predictions, masks


def results_of(case: tuple[Tensor, ...], **options: int) -> dict:
    return run(Calibration(**options), case[1], case[2], classes=CLASSES, logits=case[0]).results()


@given(st.integers(0, 1000), st.sampled_from([0, 0.3]), st.sampled_from([1, 10, 15]), st.sampled_from([0.5, 2, 8]))
@settings(max_examples=25, deadline=None)
def test_ece_is_that_of_torchmetrics(seed: int, void: float, bins: int, sharpness: float) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    logits, predictions, masks = random_case(seed, void, sharpness=sharpness)
    theirs = classification.MulticlassCalibrationError(CLASSES, n_bins=bins, ignore_index=VOID)
    expected = float(theirs(logits.softmax(1), masks.long()))
    assert results_of((logits, predictions, masks), bins=bins)["ece"] == pytest.approx(expected, abs=2e-6)


@given(st.integers(0, 1000), st.sampled_from([0, 0.3]))
@settings(max_examples=15, deadline=None)
def test_brier_and_likelihood_are_those_of_scikit_learn(seed: int, void: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, predictions, masks = random_case(seed, void)
    found = results_of((logits, predictions, masks))
    counted = masks != VOID
    probs = logits.double().softmax(1).movedim(1, -1)[counted].numpy()
    truth = masks[counted].numpy()
    assert found["nll"] == pytest.approx(metrics.log_loss(truth, probs, labels=range(CLASSES)), abs=2e-6)
    brier = ((probs - np.eye(CLASSES)[truth]) ** 2).sum(1).mean()
    assert found["brier"] == pytest.approx(brier, abs=2e-6)
    assert found["accuracy"] == pytest.approx((probs.argmax(1) == truth).mean(), abs=1e-9)
    assert found["confidence"] == pytest.approx(probs.max(1).mean(), abs=2e-6)


@given(st.integers(0, 1000), st.sampled_from([0, 0.3]))
@settings(max_examples=15, deadline=None)
def test_overlapping_labels_are_so_many_binary_ones(seed: int, void: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, predictions, masks = random_case(seed, void, overlapping=True)
    found = results_of((logits, predictions, masks))
    counted = masks != VOID
    probs, truth = logits.double().sigmoid()[counted].numpy(), masks[counted].numpy()
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(truth, probs), abs=2e-6)
    assert found["nll"] == pytest.approx(metrics.log_loss(truth, probs), abs=2e-6)
    confidence, right = np.maximum(probs, 1 - probs), (probs > 0.5) == truth
    bins = np.ceil(confidence * 15).astype(int) - 1
    gaps = [abs(right[bins == i].sum() - confidence[bins == i].sum()) for i in range(15)]
    assert found["ece"] == pytest.approx(sum(gaps) / truth.size, abs=2e-6)


# ---- by hand


def pixels(*probabilities: list[float]) -> Tensor:
    """(1, C, 1, pixels) logits of which these are the softmax."""
    return torch.tensor(probabilities).log().T[None, :, None]


def test_four_pixels() -> None:
    logits = pixels([0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8])
    truth = torch.tensor([[[0, 1, 0, VOID]]], dtype=torch.uint8)
    found = run(Calibration(bins=4), logits.argmax(1), truth, classes=2, logits=logits).results()
    assert [row["pixels"] for row in found["curve"]] == [0, 0, 2, 1]
    assert [row["confidence"] for row in found["curve"]] == [None, None, pytest.approx(0.65), pytest.approx(0.9)]
    assert [row["accuracy"] for row in found["curve"]] == [None, None, 0.5, 1]
    assert found["ece"] == pytest.approx((2 * 0.15 + 0.1) / 3, abs=1e-6)
    assert found["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.7**2 + 2 * 0.4**2) / 3, abs=1e-6)
    assert found["nll"] == pytest.approx(-math.log(0.9 * 0.3 * 0.6) / 3, abs=1e-6)


def test_bins_hold_their_upper_ends() -> None:
    logits = pixels([0.5, 0.5], [1.0, 0.0])
    found = run(Calibration(bins=4), logits.argmax(1), torch.zeros(1, 1, 2).to(torch.uint8), classes=2, logits=logits)
    assert [row["pixels"] for row in found.results()["curve"]] == [0, 1, 0, 1]


def test_confidence_is_that_of_the_label_that_was_predicted() -> None:
    """As where votes of several views, or a threshold, predict what is not the most probable."""
    logits = pixels([0.7, 0.3])
    truth = torch.ones(1, 1, 1, dtype=torch.uint8)
    found = run(Calibration(), torch.ones(1, 1, 1, dtype=torch.int64), truth, classes=2, logits=logits).results()
    assert (found["confidence"], found["accuracy"]) == (pytest.approx(0.3, abs=1e-6), 1)


def test_sure_and_right_is_0_and_sure_and_wrong_is_as_bad_as_can_be() -> None:
    truth = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    logits = 80 * torch.nn.functional.one_hot(truth.long(), 2).movedim(-1, 1).float()
    found = run(Calibration(), truth.long(), truth, classes=2, logits=logits).results()
    assert (found["ece"], found["brier"], found["nll"]) == (0, 0, 0)
    found = run(Calibration(), 1 - truth.long(), truth, classes=2, logits=logits.flip(1)).results()
    assert (found["ece"], found["brier"], found["nll"]) == (1, 2, 80)


def test_half_precision_is_computed_in_float32() -> None:
    logits, predictions, masks = random_case(0, 0.2)
    rounded = logits.to(torch.bfloat16)
    found, expected = (results_of((given_, predictions, masks)) for given_ in (rounded, rounded.float()))
    assert found == expected


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_pixel_without_a_likelihood_leaves_no_score_unless_it_is_void(broken: float) -> None:
    logits, predictions, masks = random_case(0, 0)
    expected = results_of((logits, predictions, masks))
    logits[0, masks[0, 0, 0].long(), 0, 0] = broken
    found = results_of((logits, predictions, masks))
    assert (found["ece"], found["brier"], found["nll"]) == (None, None, None)
    masks[0, 0, 0] = VOID
    assert results_of((logits, predictions, masks))["ece"] == pytest.approx(expected["ece"], abs=0.02)


# ---- what must not matter, settings, results


@pytest.mark.parametrize("overlapping", [False, True])
def test_only_the_images_matter(overlapping: bool) -> None:
    logits, predictions, masks = random_case(0, 0.2, overlapping=overlapping)
    check_that_only_the_images_matter(Calibration(), (predictions, masks), CLASSES, logits)


def test_results_are_json_and_none_without_a_pixel() -> None:
    found = results_of(random_case(0, 0.2))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    nothing = results_of(random_case(0, 1))
    assert (nothing["ece"], nothing["brier"], nothing["nll"], nothing["accuracy"]) == (None, None, None, None)
    with pytest.raises(ValueError, match="bins=0"):
        Calibration(bins=0)


def test_the_plot_shows_the_bins_and_copes_with_nothing(tmp_path: Path) -> None:
    for case, drawn in ((random_case(0, 0.2), True), (random_case(0, 1), False)):
        reliability(results_of(case), tmp_path / "reliability.png", split="val")
        with Image.open(tmp_path / "reliability.png") as picture:
            pixels_ = np.asarray(picture.convert("RGB"))
        assert ((pixels_ == (0, 114, 178)).all(2).sum() > 1000) == drawn
