"""Labels that overlap: predictions, counts and scores, against scikit-learn and by hand; images of any bands."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import to_rgb
from seg_cli.metrics.confusion import score
from seg_cli.metrics.counting import Counting
from seg_cli.metrics.overlapping import count, predict_labels

COUNTS = np.array([[[5, 1], [2, 4]], [[0, 0], [0, 12]], [[12, 0], [0, 0]]])  # of a class each: [[tn, fp], [fn, tp]]


def random_planes(seed: int, images: int, classes: int, void: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes, 9, 8)).astype(np.float32)
    masks = rng.integers(0, 2, logits.shape).astype(np.uint8)
    masks[rng.random(masks.shape) < void] = VOID
    return torch.from_numpy(logits), torch.from_numpy(masks)


# ---- predictions


def test_yes_is_a_probability_above_the_threshold() -> None:
    logits = torch.tensor([-1.0, 0.0, 1e-6, 1.0, math.inf, -math.inf, math.nan]).view(1, 1, 1, -1)
    assert predict_labels(logits).flatten().tolist() == [False, False, True, True, True, False, False]


@given(st.floats(0.01, 0.99), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@settings(max_examples=30, deadline=None)
def test_a_threshold_of_the_probability_is_one_of_the_logit(threshold: float, dtype: torch.dtype) -> None:
    logits = random_planes(0, 1, 3, 0)[0].to(dtype)
    probs = logits.double().sigmoid()
    sure = (probs - threshold).abs() > 1e-6  # beside the threshold the two roundings may differ
    expected = probs > threshold
    for given_as in (threshold, torch.full((3,), threshold)):
        found = predict_labels(logits, given_as)
        assert found.dtype == torch.bool
        assert torch.equal(found[sure], expected[sure])


def test_each_class_can_have_a_threshold_of_its_own() -> None:
    logits = random_planes(0, 2, 3, 0)[0]
    found = predict_labels(logits, torch.tensor([0.0, 0.5, 1.0]))
    assert found[:, 0].all()
    assert torch.equal(found[:, 1], logits[:, 1] > 0)
    assert not found[:, 2].any()
    assert predict_labels(logits, 0).all()
    assert not predict_labels(logits, 1).any()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, torch.zeros(2), torch.zeros(1), torch.tensor(0.5)])
def test_what_is_no_threshold_is_refused(threshold: float | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="threshold"):
        predict_labels(torch.zeros(1, 3, 2, 2), threshold)


# ---- counts


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 6), st.sampled_from([0, 0.3, 1]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_counts_are_those_of_scikit_learn(seed: int, images: int, classes: int, void: float, last: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, masks = random_planes(seed, images, classes, void)
    kept = masks.clone()
    predictions = predict_labels(logits.contiguous(memory_format=torch.channels_last) if last else logits)
    counts = count(predictions, masks)
    assert torch.equal(masks, kept)
    assert counts.shape == (images, classes, 2, 2)
    assert counts.dtype == torch.int64
    for i in range(images):
        for c in range(classes):
            counted = masks[i, c] != VOID
            expected = np.zeros((2, 2))
            if counted.any():
                expected = metrics.confusion_matrix(masks[i, c][counted], predictions[i, c][counted], labels=[0, 1])
            np.testing.assert_array_equal(counts[i, c], expected)


@given(st.integers(0, 1000), st.integers(2, 6))
@settings(max_examples=15, deadline=None)
def test_scores_are_those_of_scikit_learn_for_multilabel_data(seed: int, classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, masks = random_planes(seed, 2, classes, 0)
    predictions = predict_labels(logits)
    truth, predicted = (planes.movedim(1, -1).flatten(0, 2).numpy().astype(int) for planes in (masks, predictions))
    matrix = count(predictions, masks).sum(0).numpy()
    np.testing.assert_array_equal(matrix, metrics.multilabel_confusion_matrix(truth, predicted))
    scores = score(matrix)
    np.testing.assert_allclose(scores.iou, metrics.jaccard_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.dice, metrics.f1_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.precision, metrics.precision_score(truth, predicted, average=None))
    np.testing.assert_allclose(scores.recall, metrics.recall_score(truth, predicted, average=None))
    np.testing.assert_array_equal(scores.pixels, truth.sum(0))
    assert scores.miou == pytest.approx(metrics.jaccard_score(truth, predicted, average="macro"))
    assert scores.mean_dice == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert scores.mean_accuracy == pytest.approx(metrics.recall_score(truth, predicted, average="macro"))
    assert scores.fw_iou == pytest.approx(metrics.jaccard_score(truth, predicted, average="weighted"))
    assert scores.pixel_accuracy == pytest.approx(1 - metrics.hamming_loss(truth, predicted))


def test_scores_by_hand_leave_out_a_class_that_occurs_in_neither() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(COUNTS)
        empty = score(np.zeros((2, 2, 2), np.int64))
    np.testing.assert_allclose(scores.iou, [4 / 7, 1, np.nan])
    np.testing.assert_allclose(scores.dice, [8 / 11, 1, np.nan])
    np.testing.assert_allclose(scores.precision, [4 / 5, 1, np.nan])
    np.testing.assert_allclose(scores.recall, [4 / 6, 1, np.nan])
    np.testing.assert_array_equal(scores.pixels, [6, 12, 0])
    assert scores.miou == pytest.approx((4 / 7 + 1) / 2)
    assert scores.mean_accuracy == pytest.approx((4 / 6 + 1) / 2)
    assert scores.pixel_accuracy == pytest.approx(33 / 36)
    assert scores.fw_iou == pytest.approx((6 * 4 / 7 + 12) / 18)
    assert np.isnan([empty.miou, empty.pixel_accuracy, empty.fw_iou, *empty.iou]).all()


@given(st.integers(0, 1000), st.sampled_from([0, 0.3]))
@settings(max_examples=10, deadline=None)
def test_labels_that_could_overlap_but_do_not_have_the_same_classes_scores(seed: int, void: float) -> None:
    """The same predictions, counted in both ways."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, (2, 9, 8))
    truth[rng.random(truth.shape) < void] = VOID
    masks, predictions = torch.from_numpy(truth), torch.from_numpy(rng.integers(0, 4, truth.shape))
    planes = torch.stack([masks == c for c in range(4)], 1).to(torch.uint8)
    planes[(masks == VOID).unsqueeze(1).expand_as(planes)] = VOID
    exclusive, overlapping = Counting(4), Counting(4, overlapping=True)
    one = exclusive.count(predictions, masks)
    other = overlapping.count(torch.stack([predictions == c for c in range(4)], 1), planes)
    assert torch.equal(torch.stack(exclusive.overlaps(one)), torch.stack(overlapping.overlaps(other)))
    ours, theirs = score(one.sum(0).numpy()), score(other.sum(0).numpy())
    for name in ("iou", "dice", "precision", "recall", "pixels", "miou", "mean_dice", "mean_accuracy", "fw_iou"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_label_space_says_how_it_is_counted() -> None:
    labels = LabelSpace(names=("a", "b", "c"), colors=((1, 1, 1),) * 3, overlapping=True)
    counting = Counting.of(labels, threshold=0.9)
    logits = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert counting.predict(logits).flatten().tolist() == [False, False, True]
    assert counting.nothing().shape == (3, 2, 2)
    exclusive = Counting.of(LabelSpace(names=labels.names, colors=labels.colors))
    assert exclusive.predict(logits).item() == 2
    assert exclusive.nothing().shape == (3, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_counts_the_same_integers_and_is_not_waited_for() -> None:
    logits, masks = random_planes(0, 2, 5, 0.2)
    on_gpu, masks_on_gpu, thresholds = logits.cuda(), masks.cuda(), torch.full((5,), 0.3).cuda()
    count(predict_labels(on_gpu, thresholds), masks_on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [count(predict_labels(on_gpu, threshold), masks_on_gpu) for threshold in (0.5, 0.3, thresholds)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for counts, threshold in zip(found, (0.5, 0.3, 0.3), strict=True):
        assert torch.equal(counts.cpu(), count(predict_labels(logits, threshold), masks))


# ---- images of any number of bands


def test_images_of_any_bands_can_be_looked_at() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, 5, 12)).astype(np.uint8)
    np.testing.assert_array_equal(to_rgb(image[..., :3]), image[..., :3])
    np.testing.assert_array_equal(to_rgb(image[..., :4]), image[..., :3])
    np.testing.assert_array_equal(to_rgb(image), image[..., :3])
    np.testing.assert_array_equal(to_rgb(image[..., :1]), image[..., [0, 0, 0]])
    two = to_rgb(image[..., :2])
    np.testing.assert_array_equal(two[..., :2], image[..., :2])
    np.testing.assert_array_equal(two[..., 2], image[..., :2].mean(2).astype(np.uint8))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12])
def test_finer_steps_are_rounded_and_what_is_outside_is_clipped(bands: int) -> None:
    image = np.full((2, 3, bands), 17.6, np.float32)
    image[0, 0], image[0, 1], image[0, 2] = -5, 300, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = to_rgb(image)
    assert found.shape == (2, 3, 3)
    assert found.dtype == np.uint8
    assert found[0].tolist() == [[0] * 3, [255] * 3, [0] * 3]
    assert (found[1] == 18).all()
