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
from seg_cli.reports.confusion import draw_confusion

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
    colors = {name: (255, 255, i) for i, name in enumerate(names[1:])}
    figures.curves(rows(epochs, names), tmp_path / "curves.png", colors=colors)
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
    draw_confusion(matrix, names, tmp_path / "confusion.png", split="val")
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


OVERLAPPING = LabelSpace(names=LABELS.names[:3], colors=LABELS.colors[:3], overlapping=True)


def overlapping_example(height: int, width: int, *, void: bool = False) -> Example:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 2, (2, 3, height, width)).astype(np.uint8)
    truth[0, : height // 2] = VOID
    truth[:, : height if void else 1] = VOID
    return Example("planes", np.zeros((height, width, 3), np.uint8), truth, prediction, None if void else 0.5)


@pytest.mark.parametrize("count", [1, 3, 40, 41, 150])
def test_what_is_right_of_overlapping_classes(count: int, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).integers(0, 10**12, (count, 2, 2))
    matrix[-1] = [[5, 0], [0, 0]]  # in neither truth nor prediction
    names = [*ODD_NAMES, *(f"class {i}" for i in range(count))][:count]
    draw_confusion(matrix, names, tmp_path / "confusion.png", split="val")
    width, height = size(tmp_path / "confusion.png")
    assert width == 1200
    assert 200 < height < 3500


def test_bars_are_as_long_as_what_they_say(tmp_path: Path) -> None:
    """A class of which 1/2 of the union is right, 1/4 missed and 1/4 not there, as a picture says it."""
    draw_confusion(np.array([[[7, 25], [25, 50]]]), ["x"], tmp_path / "confusion.png")
    picture = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB"))
    rows = [row for row in picture if (row == (0, 114, 178)).all(1).sum() > 200]
    colors = ((0, 114, 178), (213, 94, 0), (230, 159, 0))
    right, missed, extra = (max((row == color).all(1).sum() for row in rows) for color in colors)
    whole = right + missed + extra
    assert right / whole == pytest.approx(0.5, abs=0.02)
    assert missed / whole == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("void", [False, True])
def test_predictions_of_overlapping_labels(void: bool, tmp_path: Path) -> None:
    sheet = [overlapping_example(30, 40, void=void), overlapping_example(600, 300), overlapping_example(1, 1)]
    figures.predictions(sheet, OVERLAPPING, tmp_path / "predictions.png")
    width, _ = size(tmp_path / "predictions.png")
    assert 1500 < width < 1600


def test_panels_of_overlapping_labels_mark_a_pixel_that_is_wrong_for_any_class() -> None:
    truth, prediction = np.zeros((2, 3, 20, 20), np.uint8)
    truth[0], prediction[0] = 1, 1
    truth[1, :10], prediction[1, :5] = 1, 1  # rows 5 to 9 are missed
    truth[2, :, :4], prediction[2, :, :8] = VOID, 1  # columns 4 to 7 are wrong
    truth[:, 18:] = VOID  # void for all; the prediction there is not looked at
    shown = Example("x", np.full((20, 20, 3), 50, np.uint8), truth, prediction, 0.3)
    _, painted, predicted, errors = figures._panels(shown, OVERLAPPING, 20, 20)
    wrong = np.zeros((20, 20), bool)
    wrong[5:10], wrong[:18, 4:8] = True, True
    assert ((errors == figures._ERROR).all(2) == wrong).all()
    stripes = np.isin(painted, (205, 255)).all(2)
    assert stripes[18:].all()
    assert not stripes[:18].any()
    assert (painted[2:8, 2:18] == OVERLAPPING.colors[1]).all(), "the later class is on top"
    assert (painted[12:16, 2:18] == OVERLAPPING.colors[0]).all()
    assert (predicted[8:16, 2:6] == OVERLAPPING.colors[2]).all()
    decisions = 2 * 18 * 20 + 18 * 16
    assert figures._describe(shown) == f"x · mIoU 0.300 · {(5 * 20 + 18 * 4) / decisions:.1%} of the decisions wrong"


def test_a_class_below_another_shows_its_outline_and_no_class_shows_the_image() -> None:
    mask = np.zeros((3, 30, 30), np.uint8)
    mask[0, 10:20, 10:20] = 1
    mask[2, 5:25, 5:25] = 1
    ground = np.full((30, 30, 3), 77, np.uint8)
    painted = figures._paint(mask, OVERLAPPING, ground)
    assert (painted[0] == 77).all()
    assert (painted[15, 15] == OVERLAPPING.colors[2]).all()
    assert (painted[10, 12:18] == OVERLAPPING.colors[0]).all()


def test_the_legend_has_the_overlapping_classes_that_occur() -> None:
    truth, prediction = np.zeros((2, 3, 4, 4), np.uint8)
    truth[1, 0], prediction[0, 0] = 1, 1
    image = np.zeros((4, 4, 3), np.uint8)

    def legend() -> list[str]:
        patches = figures._legend([Example("x", image, truth, prediction, 0)], OVERLAPPING)
        return [str(patch.get_label()) for patch in patches]

    assert legend() == ["Sky", "Car", "error"]
    truth[2, 3] = VOID  # of one class, which is not painted
    assert legend() == ["Sky", "Car", "error"]
    truth[:, 3] = VOID
    assert legend() == ["Sky", "Car", "void", "error"]


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
