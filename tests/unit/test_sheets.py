"""Sheets: whatever there is to see is drawn without a warning, and the pictures show what they say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.reports.sheets import Section, Tile, draw_sheet, overlay

pytestmark = pytest.mark.filterwarnings("error")

LABELS = LabelSpace(names=("red", "blue"), colors=((200, 0, 0), (0, 0, 200)))
ODD = LabelSpace(names=("$x_", "[red]", "道路", "n" * 60), colors=((9, 9, 9), (255, 0, 0), (0, 255, 0), (0, 0, 255)))
GREY = np.full((60, 80, 3), 100, np.uint8)


def halves(height: int = 60, width: int = 80) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    return mask


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_a_picture_shows_through_the_colours_of_its_classes() -> None:
    picture = overlay(Tile(GREY, halves(), ""), LABELS, 80, 60)
    assert picture.shape == (60, 80, 3)
    assert picture[30, 10].tolist() == [140, 60, 60]  # 0.6 of 100, and 0.4 of 200
    assert picture[30, 70].tolist() == [60, 60, 140]
    assert picture[30, 39].tolist() == [200, 0, 0]  # the edge is full
    assert picture[30, 40].tolist() == [0, 0, 200]


def test_void_is_striped_and_marked_pixels_are_seen() -> None:
    mask, marked = halves(), np.zeros((60, 80), bool)
    mask[:20], marked[50:, :10] = VOID, True
    picture = overlay(Tile(GREY, mask, "", marked=marked), LABELS, 80, 60)
    greys = picture[:18].reshape(-1, 3)
    assert (greys == greys[:, :1]).all()
    assert len(np.unique(greys)) == 2
    assert (picture[50:, :10] == (255, 0, 170)).all()
    assert overlay(Tile(GREY, None, ""), LABELS, 80, 60).tolist() == GREY.tolist()


def test_of_overlapping_labels_the_last_is_on_top_and_no_class_is_left_as_it_is() -> None:
    labels = LabelSpace(LABELS.names, LABELS.colors, overlapping=True)
    mask = np.zeros((2, 60, 80), np.uint8)
    mask[0, :40], mask[1, :20] = 1, 1
    picture = overlay(Tile(GREY, mask, ""), labels, 80, 60)
    assert [picture[row, 10].tolist() for row in (10, 30, 50)] == [[60, 60, 140], [140, 60, 60], [100, 100, 100]]


@pytest.mark.parametrize("bands", [1, 2, 4, 12])
def test_images_of_any_number_of_bands_and_finer_steps(bands: int) -> None:
    image = np.full((60, 80, bands), 99.6, np.float32)
    assert overlay(Tile(image, halves(), ""), LABELS, 40, 30).shape == (30, 40, 3)


def test_a_sheet_of_all_sorts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 500, 3)).astype(np.uint8)
    tiles = [
        Tile(GREY, halves(), "frame_1"),
        Tile(noise, np.full((30, 500), VOID, np.uint8), "a/very/long/" + "name" * 40),
        Tile(np.swapaxes(noise, 0, 1), None, "$tall_ [bold]", "warning"),
        Tile(None, None, "unreadable: train/道路", "error"),
        Tile(rng.integers(0, 256, (1, 1, 3)).astype(np.uint8), np.zeros((1, 1), np.uint8), "a pixel"),
    ]
    sections = [Section("train", "5 of 5", tiles), Section("val", "none", []), Section("findings", "", tiles[3:4])]
    draw_sheet("$data_: 5 images", sections, ODD, ["1%"] * 5, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "sheet.png"]
    width, height = size(tmp_path / "sheet.png")
    assert 1500 < width < 1650
    assert height > 600
    draw_sheet("again", sections, ODD, ["1%"] * 5, tmp_path / "again.png", columns=6)
    assert size(tmp_path / "again.png")[0] > width


@pytest.mark.parametrize("classes", [1, 200])
def test_any_number_of_classes_and_no_picture_at_all(classes: int, tmp_path: Path) -> None:
    labels = LabelSpace(tuple(f"class {i}" for i in range(classes)), ((1, 2, 3),) * classes)
    draw_sheet("empty", [Section("train", "", [])], labels, ["0.0%"] * (classes + 1), tmp_path / "sheet.png")
    assert size(tmp_path / "sheet.png")[1] < 1000


def test_the_same_sheet_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sections = [Section("train", "", [Tile(GREY, halves(), "x")])]
        draw_sheet("t", sections, LABELS, ["50%", "50%", "0%"], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
