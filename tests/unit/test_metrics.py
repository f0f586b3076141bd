"""The confusion matrix and the scores that follow from it, against scikit-learn, torchmetrics and by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_cli.data.labels import VOID
from seg_cli.metrics.confusion import count, predict_labels, score

MATRIX = np.array([[4, 1, 0], [2, 6, 0], [0, 0, 0]])  # rows truth, columns prediction; class 2 occurs nowhere


def random_maps(seed: int, images: int, classes: int, void: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    predictions = torch.from_numpy(rng.integers(0, classes, (images, 9, 8)))
    masks = rng.integers(0, classes, (images, 9, 8))
    masks[rng.random(masks.shape) < void] = VOID
    return predictions, torch.from_numpy(masks).to(torch.uint8)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 21), st.sampled_from([0, 0.3, 1]))
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_scikit_learn(seed: int, images: int, classes: int, void: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, masks = random_maps(seed, images, classes, void)
    counts = count(predictions, masks, classes)
    assert counts.shape == (images, classes, classes)
    assert counts.dtype == torch.int64
    for i in range(images):
        counted = masks[i] != VOID
        expected = np.zeros((classes, classes))
        if counted.any():
            expected = metrics.confusion_matrix(masks[i][counted], predictions[i][counted], labels=range(classes))
        np.testing.assert_array_equal(counts[i], expected)


@given(st.integers(0, 1000), st.sampled_from([0, 0.3]))
@settings(max_examples=10, deadline=None)
def test_the_images_of_a_batch_sum_to_the_whole(seed: int, void: float) -> None:
    predictions, masks = random_maps(seed, 3, 5, void)
    alone = [count(predictions[i : i + 1], masks[i : i + 1], 5)[0] for i in range(3)]
    together = count(predictions, masks, 5)
    torch.testing.assert_close(together, torch.stack(alone))
    torch.testing.assert_close(together.sum(0), count(predictions.view(1, 27, 8), masks.view(1, 27, 8), 5)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_type_and_memory_order_gives_the_same_and_is_left_alone(dtype: torch.dtype) -> None:
    predictions, masks = random_maps(0, 2, 5, 0.3)
    expected = count(predictions, masks, 5)
    typed, kept = masks.to(dtype), masks.to(dtype, copy=True)
    torch.testing.assert_close(count(predictions.to(dtype), typed, 5), expected)
    torch.testing.assert_close(typed, kept)
    turned = count(predictions.transpose(1, 2), typed.transpose(1, 2), 5)
    torch.testing.assert_close(turned, expected)


def test_scores_by_hand() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(MATRIX)
    np.testing.assert_allclose(scores.iou, [4 / 7, 6 / 9, np.nan])
    np.testing.assert_allclose(scores.dice, [8 / 11, 12 / 15, np.nan])
    np.testing.assert_allclose(scores.precision, [4 / 6, 6 / 7, np.nan])
    np.testing.assert_allclose(scores.recall, [4 / 5, 6 / 8, np.nan])
    np.testing.assert_array_equal(scores.pixels, [5, 8, 0])
    assert scores.miou == pytest.approx((4 / 7 + 6 / 9) / 2)
    assert scores.mean_dice == pytest.approx((8 / 11 + 12 / 15) / 2)
    assert scores.mean_accuracy == pytest.approx((4 / 5 + 6 / 8) / 2)
    assert scores.pixel_accuracy == pytest.approx(10 / 13)
    assert scores.fw_iou == pytest.approx((5 * 4 / 7 + 8 * 6 / 9) / 13)


def test_a_class_that_is_only_predicted_counts_as_0() -> None:
    scores = score(np.array([[3, 1], [0, 0]]))
    np.testing.assert_allclose(scores.iou, [3 / 4, 0])
    np.testing.assert_allclose(scores.recall, [3 / 4, np.nan])
    assert scores.miou == pytest.approx(3 / 8)
    assert scores.mean_accuracy == pytest.approx(3 / 4)


def test_without_a_pixel_there_is_no_score_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(np.zeros((3, 3), np.int64))
    summary = (scores.miou, scores.pixel_accuracy, scores.mean_accuracy, scores.mean_dice, scores.fw_iou)
    assert np.isnan(summary).all()
    assert np.isnan(scores.iou).all()


def test_counts_beyond_32_bits_are_exact() -> None:
    scores = score(np.diag([2**40, 1]))
    assert scores.miou == 1
    assert scores.pixels[0] == 2**40


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, masks = random_maps(seed, 3, 4, 0.2)
    scores = score(count(predictions, masks, 4).sum(0).numpy())
    counted = masks != VOID
    truth, predicted = masks[counted].numpy(), predictions[counted].numpy()
    np.testing.assert_allclose(scores.iou, metrics.jaccard_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.dice, metrics.f1_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.precision, metrics.precision_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.recall, metrics.recall_score(truth, predicted, average=None))
    assert scores.fw_iou == pytest.approx(metrics.jaccard_score(truth, predicted, average="weighted"))
    assert scores.pixel_accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert scores.mean_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))


def test_miou_is_that_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    predictions, masks = random_maps(1, 4, 6, 0.2)
    theirs = classification.MulticlassJaccardIndex(6, ignore_index=VOID)(predictions, masks.long())
    assert score(count(predictions, masks, 6).sum(0).numpy()).miou == pytest.approx(float(theirs), rel=1e-6)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_predicted_labels_are_those_of_argmax_and_the_first_of_equal_ones(seed: int, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 3, (2, 7, 5, 6), generator=generator).float()  # many are equal
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(predict_labels(logits), np.argmax(logits.numpy(), 1))
