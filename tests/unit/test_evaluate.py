"""Scoring a model on a split: the same as a plain loop, an image at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seg_cli.data.labels import VOID
from seg_cli.data.loading import scoring_loader
from seg_cli.data.sample import Sample
from seg_cli.inference.evaluate import Evaluation, best_median_worst, evaluate, predict_examples
from seg_cli.metrics.confusion import score
from seg_cli.metrics.counting import Counting

CLASSES = 3
CPU = torch.device("cpu")
SIZES = [(8, 9), (5, 7), (8, 9), (6, 6), (5, 7)]


class Split:
    """Images of several sizes; the last mask is void alone, and class 2 does not occur in the second."""

    def __len__(self) -> int:
        return len(SIZES)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        size = SIZES[index]
        mask = rng.choice([0, 1, VOID] if index == 1 else [0, 1, 2, VOID], size).astype(np.uint8)
        if index == 4:
            mask[:] = VOID
        return Sample(rng.integers(0, 256, (*size, 3), np.uint8), mask, f"image{index}", f"video{index % 2}")


class Brightest(nn.Module):
    """Predicts the brightest channel, and notices whether it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return self.norm(images.float())


def plain_matrix(index: int) -> np.ndarray:
    sample, matrix = Split()[index], np.zeros((CLASSES, CLASSES), int)
    prediction = sample.image.argmax(2)
    for truth, predicted in zip(sample.mask.ravel(), prediction.ravel(), strict=True):
        if truth != VOID:
            matrix[truth, predicted] += 1
    return matrix


@pytest.fixture(scope="module", params=[1, 2, 5])
def evaluation(request: pytest.FixtureRequest) -> Evaluation:
    batches = scoring_loader(Split(), batch_size=request.param, workers=0)
    return evaluate(Brightest().train(), batches, counting=Counting(CLASSES), device=CPU, dtype=None)


def test_the_matrix_is_that_of_a_plain_loop(evaluation: Evaluation) -> None:
    np.testing.assert_array_equal(evaluation.matrix, sum(plain_matrix(i) for i in range(len(SIZES))))


def test_every_image_has_its_own_counts(evaluation: Evaluation) -> None:
    assert sorted(evaluation.names) == [f"image{i}" for i in range(len(SIZES))]
    for row, (name, group) in enumerate(zip(evaluation.names, evaluation.groups, strict=True)):
        index = int(name.removeprefix("image"))
        matrix = plain_matrix(index)
        assert group == f"video{index % 2}"
        np.testing.assert_array_equal(evaluation.intersections[row], np.diag(matrix))
        np.testing.assert_array_equal(evaluation.unions[row], matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
        np.testing.assert_allclose(evaluation.image_miou[row], score(matrix).miou)
    assert np.isnan(evaluation.image_miou).sum() == 1  # the one of void alone
    np.testing.assert_array_equal(evaluation.intersections.sum(0), np.diag(evaluation.matrix))


def test_the_time_is_taken(evaluation: Evaluation) -> None:
    assert 0 < evaluation.seconds < 60


def test_mixed_precision_is_asked_for() -> None:
    class Recorder(Brightest):
        def forward(self, images: Tensor) -> Tensor:
            assert torch.is_autocast_enabled("cpu")
            return super().forward(images)

    batches = scoring_loader(Split(), batch_size=2, workers=0)
    evaluate(Recorder(), batches, counting=Counting(CLASSES), device=CPU, dtype=torch.bfloat16)


def test_examples_are_images_with_truth_prediction_and_score() -> None:
    examples = predict_examples(Brightest(), Split(), [3, 4], counting=Counting(CLASSES), device=CPU, dtype=None)
    sample = Split()[3]
    assert [example.name for example in examples] == ["image3", "image4"]
    np.testing.assert_array_equal(examples[0].image, sample.image)
    np.testing.assert_array_equal(examples[0].truth, sample.mask)
    np.testing.assert_array_equal(examples[0].prediction, sample.image.argmax(2))
    assert examples[0].prediction.dtype == np.uint8
    assert examples[0].miou == pytest.approx(score(plain_matrix(3)).miou)
    assert examples[1].miou is None


# ---- labels that overlap


class Planes(Split):
    """The same images with a mask for each of three classes; class 2 occurs in no truth, each with void of its own."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        planes = np.random.default_rng(index).choice([0, 1, VOID], (CLASSES, *sample.size)).astype(np.uint8)
        planes[2][planes[2] == 1] = 0
        if index == 4:
            planes[:] = VOID
        return Sample(sample.image, planes, sample.name, sample.group)


class Bright(Brightest):
    """Says yes to every channel above 127."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() - 127.5


def plain_planes(index: int) -> np.ndarray:
    sample, counts = Planes()[index], np.zeros((CLASSES, 2, 2), int)
    for c in range(CLASSES):
        for truth, value in zip(sample.mask[c].ravel(), sample.image[..., c].ravel(), strict=True):
            if truth != VOID:
                counts[c, truth, int(value > 127)] += 1
    return counts


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_overlapping_labels_are_counted_as_by_a_plain_loop(batch_size: int) -> None:
    batches = scoring_loader(Planes(), batch_size=batch_size, workers=0)
    counting = Counting(CLASSES, overlapping=True)
    found = evaluate(Bright(), batches, counting=counting, device=CPU, dtype=None)
    np.testing.assert_array_equal(found.matrix, sum(plain_planes(i) for i in range(len(SIZES))))
    assert sorted(found.names) == [f"image{i}" for i in range(len(SIZES))]
    for row, name in enumerate(found.names):
        counts = plain_planes(int(name.removeprefix("image")))
        np.testing.assert_array_equal(found.intersections[row], counts[:, 1, 1])
        np.testing.assert_array_equal(found.unions[row], counts.sum((1, 2)) - counts[:, 0, 0])
        np.testing.assert_allclose(found.image_miou[row], score(counts).miou)
    assert np.isnan(found.image_miou).sum() == 1


def test_a_threshold_is_used_in_scoring() -> None:
    batches = [*scoring_loader(Planes(), batch_size=2, workers=0)]
    never, always = (
        evaluate(Bright(), batches, counting=Counting(CLASSES, True, threshold), device=CPU, dtype=None).matrix
        for threshold in (1.0, torch.zeros(CLASSES))
    )
    assert not never[:, :, 1].any()
    assert not always[:, :, 0].any()
    np.testing.assert_array_equal(never.sum(2), always.sum(2))


def test_examples_of_overlapping_labels_are_planes_and_their_images_can_be_looked_at() -> None:
    class Bands(Planes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            image = np.dstack((sample.image, sample.image)).astype(np.float32)
            return Sample(image, sample.mask, sample.name)

    class First(Bright):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[1] == 6
            return super().forward(images[:, :3])

    counting = Counting(CLASSES, overlapping=True)
    shown, void = predict_examples(First(), Bands(), [3, 4], counting=counting, device=CPU, dtype=None)
    sample = Planes()[3]
    np.testing.assert_array_equal(shown.image, sample.image)
    assert shown.image.dtype == shown.prediction.dtype == np.uint8
    np.testing.assert_array_equal(shown.truth, sample.mask)
    np.testing.assert_array_equal(shown.prediction, sample.image.transpose(2, 0, 1) > 127)
    assert shown.miou == pytest.approx(score(plain_planes(3)).miou)
    assert void.miou is None


# ---- what to look at


@pytest.mark.parametrize(
    ("miou", "chosen"),
    [
        ([0.1, 0.9, 0.5, 0.8, 0.2, 0.6, 0.4], [1, 3, 5, 2, 4, 0]),
        ([0.1, 0.9, np.nan, 0.5], [1, 3, 0]),  # few: all that have a score
        ([np.nan], []),
        ([0.5, 0.5, 0.7], [2, 0, 1]),
    ],
)
def test_the_best_the_middle_and_the_worst_are_chosen(miou: list[float], chosen: list[int]) -> None:
    assert best_median_worst(np.array(miou)) == chosen


def test_as_many_of_each_as_asked_for_and_none_twice() -> None:
    chosen = best_median_worst(np.linspace(1, 0, 101), each=1)
    assert chosen == [0, 50, 100]
