"""Weights of classes: the formulas by hand and against scikit-learn, wrong settings, and what a run records."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seg_cli.commands.class_weights import describe_class_weights, fit_class_weights
from seg_cli.data.class_counts import ClassCounts
from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError
from seg_cli.losses.class_weights import SCHEMES, ClassWeights, class_weights

NAMES = ("Sky", "Car", "Pole")
COUNTS = ClassCounts(total_images=10, pixels=(600, 300, 100), images=(10, 5, 1), image_pixels=(1000, 600, 125))
WHERE = "loss.terms.ce.weights"

# ---- the formulas


def test_balanced_by_hand() -> None:
    np.testing.assert_allclose(class_weights("balanced", COUNTS), [1000 / 1800, 1000 / 900, 1000 / 300])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_balanced_is_that_of_scikit_learn(pixels: list[int]) -> None:
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    classes = np.arange(len(pixels))
    theirs = sklearn.compute_class_weight("balanced", classes=classes, y=np.repeat(classes, pixels))
    counts = ClassCounts(1, tuple(pixels), (1,) * len(pixels), (sum(pixels),) * len(pixels))
    np.testing.assert_allclose(class_weights("balanced", counts), theirs)


def test_median_frequency_by_hand() -> None:
    # Frequencies in the images that have the class: 0.6, 0.5, 0.8; their median is 0.6.
    np.testing.assert_allclose(class_weights("median_frequency", COUNTS), [1, 1.2, 0.75])
    two = ClassCounts(1, (1, 3), (1, 1), (4, 4))  # of two, the median is the mean
    np.testing.assert_allclose(class_weights("median_frequency", two), [2, 2 / 3])


def test_enet_by_hand() -> None:
    by_hand = [1 / math.log(1.62), 1 / math.log(1.32), 1 / math.log(1.12)]
    np.testing.assert_allclose(class_weights("enet", COUNTS), by_hand)
    assert class_weights("enet", ClassCounts(1, (5, 0), (1, 0), (5, 0)))[1] == pytest.approx(50.498, abs=1e-3)


def test_effective_number_by_hand() -> None:
    # (1 - b) / (1 - b^n) for n = 10, 5, 1 with b = 0.999, written as 1 / (1 + b + ... + b^(n-1))
    inverse = np.array([1 / sum(0.999**k for k in range(n)) for n in (10, 5, 1)])
    np.testing.assert_allclose(class_weights("effective_number", COUNTS), 3 * inverse / inverse.sum())


def test_effective_number_levels_off_and_never_underflows() -> None:
    counts = ClassCounts(10**6, (1, 1, 1), (10**6, 10**5, 10), (1, 1, 1))
    many, fewer, few = class_weights("effective_number", counts)
    assert many == pytest.approx(fewer)
    assert few == pytest.approx(100 * many, rel=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(st.permutations(range(3)))
def test_weights_follow_their_classes(scheme: str, order: list[int]) -> None:
    rows = (COUNTS.pixels, COUNTS.images, COUNTS.image_pixels)
    shuffled = ClassCounts(10, *(tuple(row[i] for i in order) for row in rows))
    np.testing.assert_allclose(class_weights(scheme, shuffled), class_weights(scheme, COUNTS)[order])


def test_a_formula_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nonsense is none of balanced, "):
        class_weights("nonsense", COUNTS)


# ---- the module


@pytest.mark.parametrize("weights", [None, "none"])
def test_none_is_no_weights(weights: str | None) -> None:
    module = ClassWeights(weights)
    module.check(NAMES)
    module.fit(COUNTS, NAMES)
    assert (module.values, module.scheme) == (None, None)


@pytest.mark.parametrize("weights", [[1, 0, 2.5], (1, 0, 2.5), np.array([1, 0, 2.5]), torch.tensor([1, 0, 2.5])])
def test_numbers_are_taken_as_they_are(weights: Any) -> None:
    module = ClassWeights(weights)
    module.check(NAMES)
    module.fit(COUNTS, NAMES)
    assert module.scheme is None
    assert module.values is not None
    assert module.values.dtype == torch.float32
    assert module.values.tolist() == [1, 0, 2.5]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_has_weights_after_fit(scheme: str) -> None:
    module = ClassWeights(scheme)
    with pytest.raises(RuntimeError, match=rf"^weights={scheme} needs the counts .* call fit\(count_classes"):
        module.values  # noqa: B018
    module.check(NAMES)
    module.fit(COUNTS, NAMES)
    assert module.values is not None
    np.testing.assert_allclose(module.values.numpy(), class_weights(scheme, COUNTS), rtol=1e-6)


@pytest.mark.parametrize("weights", ["balanced", [1.0, 2.0, 3.0]])
def test_weights_move_with_the_loss_and_stay_out_of_checkpoints(weights: Any) -> None:
    module = ClassWeights(weights)
    module.fit(COUNTS, NAMES)
    assert not module.state_dict()
    moved = pickle.loads(pickle.dumps(module)).to("meta")
    assert moved.values.device.type == "meta"


# ---- wrong settings


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (
            "balancd",
            r"^weights=balancd: there is no such scheme\. Did you mean 'balanced'\? Allowed are none, ",
        ),
        ([1, -0.5, 1], r"^weights: -0\.5 is no weight of a class\. Allowed are"),
        ([1, math.nan, 1], "nan is no weight"),
        ([1, math.inf, 1], "inf is no weight"),
        ([1, "2", 1], "2 is no weight"),
        ([1, [2], 1], r"\[2\] is no weight"),
        ([True, 1, 1], "True is no weight"),
        ([1, None, 1], "None is no weight"),
        ([0, 0.0], "all weights are 0"),
        ([], "is no list of numbers"),
        (2, "2 is no list of numbers"),
        ({"Sky": 1}, "is no list of numbers"),
    ],
)
def test_what_is_no_weight_is_refused(weights: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClassWeights(weights)


def test_numbers_for_other_classes_are_refused() -> None:
    module = ClassWeights([1, 2])
    with pytest.raises(UserError, match=rf"^{WHERE} has 2 numbers, and there are 3 classes: Sky, Car, Pole\. "):
        module.check(NAMES, where=WHERE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_class_that_never_occurs_is_named_or_has_a_weight(scheme: str) -> None:
    counts = ClassCounts(2, (5, 0, 3), (2, 0, 1), (8, 0, 8))
    module = ClassWeights(scheme)
    if scheme == "enet":
        module.fit(counts, NAMES)
        assert module.values is not None
        assert module.values.isfinite().all()
    else:
        with pytest.raises(UserError, match=rf"^{WHERE}={scheme}: .* no pixel of Car, .* type {WHERE}=enet"):
            module.fit(counts, NAMES, where=WHERE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_masks_of_void_alone_are_refused(scheme: str) -> None:
    with pytest.raises(UserError, match=rf"^{WHERE}={scheme}: all pixels of the training masks are void"):
        ClassWeights(scheme).fit(ClassCounts(2, (0, 0, 0), (0, 0, 0), (0, 0, 0)), NAMES, where=WHERE)


# ---- before training


class Split:
    """Two masks of 2x2 pixels; counts how often they are read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        return Sample(np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [2, index]], np.uint8), f"image{index}")


class Data:
    """A dataset of that one split."""

    labels = LabelSpace(NAMES, ((0, 0, 0),) * 3)

    def __init__(self) -> None:
        self.splits: dict[str, Any] = {"train": Split()}

    def fingerprint(self) -> str:
        return "two masks"


class Term(nn.Module):
    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = ClassWeights(weights)


class Loss(nn.Module):
    def __init__(self, **weights: Any) -> None:
        super().__init__()
        self.terms = nn.ModuleDict({name: Term(of) for name, of in weights.items()})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_every_term_is_fitted_and_recorded_and_masks_are_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Data()
    loss = Loss(ce="balanced", focal="enet", ohem=[1, 2, 0.1], bce=None)
    recorded = fit_class_weights(loss, dataset, workers=0)
    assert dataset.splits["train"].reads == 2
    assert recorded is not None
    assert (recorded["split"], recorded["images"]) == ("train", 2)
    assert recorded["pixels"] == {"Sky": 3, "Car": 3, "Pole": 2}
    assert list(recorded["weights"]) == ["ce", "focal", "ohem"]
    assert recorded["weights"]["ce"]["scheme"] == "balanced"
    assert recorded["weights"]["ce"]["values"] == pytest.approx({"Sky": 8 / 9, "Car": 8 / 9, "Pole": 8 / 6})
    assert recorded["weights"]["ohem"] == {"scheme": "given", "values": {"Sky": 1, "Car": 2, "Pole": 0.1}}
    assert "counting classes" in capsys.readouterr().out
    values = loss.terms["ce"].weights.values  # type: ignore[union-attr]
    assert values.tolist() == pytest.approx([8 / 9, 8 / 9, 8 / 6])  # type: ignore[operator, union-attr]

    assert fit_class_weights(loss, dataset, workers=0) == recorded
    assert dataset.splits["train"].reads == 2


def test_masks_are_read_only_where_a_scheme_needs_them() -> None:
    dataset = Data()
    given_only = fit_class_weights(Loss(ce=[1, 2, 3]), dataset, workers=0)
    assert given_only is not None
    assert given_only["pixels"] is None
    assert fit_class_weights(Loss(ce=None, bce="none"), dataset, workers=0) is None
    assert fit_class_weights(nn.Module(), dataset, workers=0) is None
    assert dataset.splits["train"].reads == 0


def test_a_wrong_number_of_weights_is_found_before_masks_are_read() -> None:
    dataset = Data()
    with pytest.raises(UserError, match=r"loss\.terms\.focal\.weights has 2 numbers, and there are 3 classes: Sky"):
        fit_class_weights(Loss(ce="balanced", focal=[1, 2]), dataset, workers=0)
    assert dataset.splits["train"].reads == 0


def test_few_classes_are_described_all_and_many_by_their_ends() -> None:
    few = {"weights": {"ce": {"scheme": "enet", "values": {"Sky": 0.21, "Car": 12.3456}}}}
    assert describe_class_weights(few) == "class weights of ce (enet): Sky 0.21, Car 12.3"
    many = {"weights": {"ce": {"scheme": "enet", "values": {f"c{i}": float(i * 7 % 30) for i in range(30)}}}}
    described = describe_class_weights(many)
    assert described.startswith("class weights of ce (enet): c0 0, c13 1, c26 2, c9 3, c22 4, ..., c")
    assert described.endswith("c17 29")
