"""Figures: whatever a run brings along is drawn, without a warning, and the pictures show what they say."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.inference.evaluate import Example
from seg_cli.reports import figures

pytestmark = pytest.mark.filterwarnings("error")

ODD_NAMES = ("$x_", "[red]", "道路", "a/b", "n" * 60)
LABELS = LabelSpace(names=("Sky", "Car", *ODD_NAMES), colors=tuple((40 * i, 255 - 30 * i, 90) for i in range(7)))


def size(path: Path) -> tuple[int, int]:
    """(width, height) of the picture, which must be the only file there."""
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as image:
        image.load()
        assert np.asarray(image).std() > 1, "the picture is empty"
        return image.size


def rows(epochs: int, names: tuple[str, ...], terms: tuple[str, ...] = ("dice", "focal")) -> list[figures.Row]:
    return [
        {
            "epoch": float(epoch),
            "train/loss": 1 / epoch,
            "val/loss": 1.1 / epoch,
            "val/miou": 1 - 1 / epoch,
            "lr": 1e-3,
        }
        | {f"train/loss/{term}": 0.5 / epoch for term in terms}
        | {f"val/iou/{name}": (i + 1) / (len(names) + epoch) for i, name in enumerate(names)}
        for epoch in range(1, epochs + 1)
    ]


def example(height: int = 30, width: int = 40, *, void: bool = False) -> Example:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, (height, width)).astype(np.uint8)
    truth[: height if void else 3] = VOID
    return Example(
        name="$frame_1",
        image=rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        truth=truth,
        prediction=rng.integers(0, 7, (height, width)).astype(np.uint8),
        miou=None if void else 0.5,
    )


@pytest.mark.parametrize("epochs", [1, 30, 500])
@pytest.mark.parametrize("names", [("Sky", "Car"), ODD_NAMES, tuple(f"class {i}" for i in range(150))], ids=len)
def test_curves(epochs: int, names: tuple[str, ...], tmp_path: Path) -> None:
    figures.curves(rows(epochs, names), tmp_path / "curves.png")
    assert size(tmp_path / "curves.png") == (1650, 1050)


def test_curves_with_gaps(tmp_path: Path) -> None:
    """An interrupted run, validation in every second epoch, a class without a score."""
    some = rows(5, ("Sky", "Car"), terms=("ce",))
    for row in some[::2]:
        row |= {"val/miou": None, "val/loss": None, "val/iou/Sky": None}
    for row in some:
        row["val/iou/Car"] = None
    figures.curves(some, tmp_path / "curves.png")
    figures.curves([{"epoch": 1.0, "train/loss": 0.5}], tmp_path / "curves.png")
    size(tmp_path / "curves.png")


def test_curves_of_no_epoch(tmp_path: Path) -> None:
    figures.curves([], tmp_path / "curves.png")
    size(tmp_path / "curves.png")


@pytest.mark.parametrize("count", [1, 2, 20, 21, 150])
def test_confusion(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 10**12, (count, count))
    matrix[-1] = 0
    names = [*ODD_NAMES, *(f"class {i}" for i in range(count))][:count]
    figures.confusion(matrix, names, tmp_path / "confusion.png", split="val")
    width, height = size(tmp_path / "confusion.png")
    assert 500 < width < 4000
    assert 500 < height < 4000


@pytest.mark.parametrize(
    "examples",
    [
        [],
        [example(void=True)],
        [example(), example(120, 40), example(600, 2000), example(1, 1)],
    ],
    ids=["none", "all void", "mixed sizes"],
)
def test_predictions(examples: list[Example], tmp_path: Path) -> None:
    figures.predictions(examples, LABELS, tmp_path / "predictions.png")
    width, _ = size(tmp_path / "predictions.png")
    assert 1500 < width < 1600


def test_predictions_of_many_classes(tmp_path: Path) -> None:
    labels = LabelSpace(names=[f"class {i}" for i in range(150)], colors=[(i, i, i) for i in range(150)])
    truth = np.arange(150, dtype=np.uint8).reshape(10, 15)
    sheet = [Example("x", np.zeros((10, 15, 3), np.uint8), truth, truth, 1.0)]
    figures.predictions(sheet, labels, tmp_path / "predictions.png")
    size(tmp_path / "predictions.png")


def test_panels_mark_errors_but_not_in_void() -> None:
    truth = np.array([[0, 1], [VOID, 0]], np.uint8)
    prediction = np.array([[0, 0], [1, 1]], np.uint8)
    shown = Example("x", np.zeros((2, 2, 3), np.uint8), truth, prediction, 0.3)
    image, painted, predicted, errors = figures._panels(shown, LABELS, 2, 2)
    assert not image.any()
    assert (painted[truth != VOID] == LABELS.paint(truth)[truth != VOID]).all()
    assert (predicted == LABELS.paint(prediction)).all()
    assert (errors == figures._ERROR).all(2).tolist() == [[False, True], [False, True]]
    assert figures._describe(shown) == "x · mIoU 0.300 · 66.7% of the pixels wrong"


@given(st.lists(st.floats(0, 1), max_size=16))
def test_labels_keep_their_distance(values: list[float]) -> None:
    gap = 0.056
    heights = figures._spread(sorted(values), gap=gap)
    assert len(heights) == len(values)
    assert all(b - a > gap - 1e-9 for a, b in pairwise(heights))
    assert all(-1e-9 < height < 1 + 1e-9 for height in heights)


def test_labels_that_are_apart_stay() -> None:
    assert figures._spread([0.1, 0.5, 0.9], gap=0.05) == [0.1, 0.5, 0.9]
    assert figures._spread([0.5, 0.5], gap=0.1) == pytest.approx([0.45, 0.55])


def test_pyplot_is_not_used() -> None:
    code = "import sys, seg_cli.reports.figures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
