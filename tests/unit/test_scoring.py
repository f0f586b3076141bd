"""How splits are scored: what void is, thresholds of labels that overlap, and other metrics in the same pass."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seg_cli.commands.score import Scoring, per_image_table, score_splits, split_results
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.data.shapes import Shapes
from seg_cli.errors import UserError
from seg_cli.metrics.confusion import score
from seg_cli.metrics.counting import Counting
from seg_cli.metrics.threshold import ThresholdSweep

LOADER = {"eval_batch_size": 2, "workers": 0}
CPU = torch.device("cpu")
RGB = ((255, 0, 0), (0, 255, 0))


# ---- void

MASK = torch.tensor([[[0, 0, 1, VOID], [1, 1, VOID, VOID]]], dtype=torch.uint8)
PREDICTED = torch.tensor([[[0, 1, 1, 1], [1, 0, 0, 1]]])


def test_void_is_ignored_or_wrongly_predicted() -> None:
    ignored = score(Counting(2).count(PREDICTED, MASK)[0].numpy())
    # Class 1: truth 3, predicted 3 of them on valid pixels, both 2.
    assert ignored.iou[1] == pytest.approx(2 / 4)
    wrong = score(Counting(2, void="false_positive").count(PREDICTED, MASK)[0].numpy())
    assert wrong.iou[1] == pytest.approx(2 / 6)  # two more predicted, on void
    assert wrong.iou[0] == pytest.approx(1 / 4)
    assert wrong.precision[1] == pytest.approx(2 / 5)
    assert wrong.recall.tolist() == ignored.recall.tolist()
    assert wrong.pixel_accuracy == ignored.pixel_accuracy == pytest.approx(3 / 5)


def test_void_of_overlapping_labels_is_ignored_or_wrongly_predicted() -> None:
    truth = torch.tensor([[[[1, 0, VOID, VOID]]]], dtype=torch.uint8)
    yes = torch.tensor([[[[True, False, True, False]]]])
    assert Counting(1, True).count(yes, truth)[0].tolist() == [[[1, 0], [0, 1]]]
    assert Counting(1, True, void="false_positive").count(yes, truth)[0].tolist() == [[[1, 1], [0, 1]]]


def test_counts_of_no_image_have_the_shape_of_counts() -> None:
    for counting in (Counting(2), Counting(2, void="false_positive")):
        counts = counting.count(PREDICTED, MASK)
        assert counting.nothing().shape == counts.shape[1:]
        hits, union = counting.overlaps(counts)
        assert hits.shape == union.shape == (1, 2)


# ---- thresholds


class Planes:
    """Two overlapping classes; images hold in two bands how probable each is, in 0..255."""

    labels = LabelSpace(("a", "b"), RGB, overlapping=True)
    channels = 2

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.splits: dict[str, Any] = {}
        for name in ("val", "test"):
            samples = []
            for i in range(4):
                mask = rng.integers(0, 2, (2, 16, 16)).astype(np.uint8)
                # Class a is given 40 or 80 of 255, class b 180 or 220: the best thresholds are 60 and 200.
                low, high = np.array([[40], [180]]), np.array([[80], [220]])
                image = np.where(mask == 1, high[..., None], low[..., None]).transpose(1, 2, 0).astype(np.uint8)
                mask[:, 0, 0] = VOID
                samples.append(Sample(image, mask, f"{name}{i}"))
            self.splits[name] = samples

    def fingerprint(self) -> str:
        return ""


class Logits(nn.Module):
    """The logits of the probabilities that the image holds."""

    def forward(self, images: Tensor) -> Tensor:
        return (images / 255).clamp(0.01, 0.99).logit()


def test_the_best_threshold_of_each_class_is_found_on_val_and_used_on_both() -> None:
    data = Planes()
    plain = score_splits(Logits(), data, ["test"], scoring=Scoring({}), loader=LOADER, device=CPU, dtype=None)["test"]
    assert score(plain.matrix).iou.tolist() == pytest.approx([0, score(plain.matrix).recall[1] / 2], abs=0.1)
    swept = score_splits(
        Logits(), data, ["test"], scoring=Scoring({}, threshold="best"), loader=LOADER, device=CPU, dtype=None
    )["test"]
    assert score(swept.matrix).iou.tolist() == [1, 1]
    found = split_results(swept, ("a", "b"))["thresholds"]
    assert 40 / 255 <= found["a"] < 80 / 255
    assert 180 / 255 <= found["b"] < 220 / 255


def test_the_sweep_agrees_with_trying_every_threshold() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 8, 8) * 2
    masks = (torch.rand(3, 2, 8, 8) < logits.sigmoid()).to(torch.uint8)
    masks[0, :, :2] = VOID
    sweep = ThresholdSweep()
    sweep.start(2, ("a", "b"), CPU)
    for image, mask in zip(logits, masks, strict=True):
        sweep.update(image[None], image[None] > 0, mask[None], ["image"])
    grid = np.arange(1, 200) / 200
    ious = np.array(
        [
            score(Counting(2, True, t).count(Counting(2, True, t).predict(logits), masks).sum(0).numpy()).iou
            for t in grid
        ]
    )
    for index, threshold in enumerate(sweep.best()):
        assert ious[np.argmin(abs(grid - threshold)), index] == pytest.approx(ious[:, index].max())


def test_a_threshold_where_labels_exclude_each_other_is_refused() -> None:
    with pytest.raises(UserError, match=r"threshold=best: the labels of this dataset exclude each other"):
        Scoring.of({"threshold": "best"}, Shapes(train=1, val=1, test=1, size=(32, 32)))


# ---- other metrics


class Ground(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(7)[0].view(1, 7, 1, 1).expand(len(images), 7, *images.shape[2:]) * 5.0


def test_other_metrics_are_computed_in_the_same_pass() -> None:
    config = {
        "metrics": {
            "boundary": {
                "_target_": "seg_cli.metrics.boundary.Boundary",
                "tolerances": [1],
                "width": 0.02,
                "trimap": [1],
            },
            "calibration": {"_target_": "seg_cli.metrics.calibration.Calibration", "bins": 5},
        }
    }
    data = Shapes(train=1, val=2, test=3, size=(32, 32))
    scoring = Scoring.of(config, data)
    scored = score_splits(Ground(), data, ["val", "test"], scoring=scoring, loader=LOADER, device=CPU, dtype=None)
    test = split_results(scored["test"], data.labels.names)
    assert test["calibration"]["accuracy"] == pytest.approx(test["pixel_accuracy"])
    assert len(test["calibration"]["curve"]) == 5
    assert test["boundary"]["f"][0]["f"] == 0  # one class everywhere has no boundary
    columns, rows = per_image_table(scored, data.labels.names)
    assert [column for column in columns if column.startswith("boundary_f@")]
    assert all(len(row) == len(columns) for row in rows)
    assert len(rows) == 5


def test_a_metric_that_does_not_suit_the_classes_is_refused_before_anything_is_scored() -> None:
    config = {
        "metrics": {
            "cityscapes": {"_target_": "seg_cli.metrics.cityscapes.CategoryIou", "categories": {"flat": ["road"]}}
        }
    }
    with pytest.raises(UserError, match="road"):
        Scoring.of(config, Shapes(train=1, val=1, test=1, size=(32, 32)))


def test_a_split_that_is_another_is_scored_once() -> None:
    data = Shapes(train=1, val=2, test=3, size=(32, 32))
    data.splits["test"] = data.splits["val"]
    scored = score_splits(Ground(), data, ["val", "test"], scoring=Scoring({}), loader=LOADER, device=CPU, dtype=None)
    assert scored["test"] is scored["val"]
