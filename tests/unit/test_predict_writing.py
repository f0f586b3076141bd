"""What predictions look like as files, and what is never written over."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.labels import LabelSpace
from seg_cli.errors import RunFailed, UserError
from seg_cli.inference.labelling import Source
from seg_cli.inference.writing import PredictionFolder, overlay
from seg_cli.reports.legend import draw_legend

LABELS = LabelSpace(("road", "a/b: c"), ((200, 100, 0), (0, 0, 250)))
OVERLAPPING = LabelSpace(LABELS.names, LABELS.colors, overlapping=True)
ALL = ("mask", "overlay", "probabilities", "classes")
IMAGE = np.full((4, 6, 3), 100, np.uint8)
MASK = np.array([[0] * 3 + [1] * 3] * 4, np.uint8)
SHARES = np.stack((1 - MASK, MASK)).astype(np.float16)


def opened(folder: Path, labels: LabelSpace = LABELS, forms: tuple[str, ...] = ALL) -> PredictionFolder:
    made = PredictionFolder(folder, labels, forms)
    made.open([], about={"run": "r"}, overwrite=False)
    return made


def test_every_form(tmp_path: Path) -> None:
    folder = opened(tmp_path / "p")
    folder.write("sub/x", IMAGE, MASK, SHARES)
    with Image.open(tmp_path / "p/masks/sub/x.png") as mask:
        assert (mask.mode, mask.size) == ("P", (6, 4))
        assert np.array_equal(np.asarray(mask), MASK)
        assert np.array_equal(np.asarray(mask.convert("RGB"))[0, [0, 5]], [(200, 100, 0), (0, 0, 250)])
    with Image.open(tmp_path / "p/overlays/sub/x.jpg") as picture:
        assert picture.size == (6, 4)
        assert picture.format == "JPEG"
    with np.load(tmp_path / "p/probabilities/sub/x.npz") as archive:
        assert archive["probabilities"].dtype == np.float16
        assert np.array_equal(archive["probabilities"], SHARES)
    for plane, wanted in (("00_road", 1 - MASK), ("01_a_b_c", MASK)):
        with Image.open(tmp_path / "p/classes" / plane / "sub/x.png") as picture:
            assert np.array_equal(np.asarray(picture), wanted * 255)
    about = json.loads((tmp_path / "p/labels.json").read_text())
    assert about["classes"][1] == {"index": 1, "name": "a/b: c", "color": [0, 0, 250], "folder": "classes/01_a_b_c"}
    assert (about["overlapping"], about["run"]) == (False, "r")
    assert not list(tmp_path.rglob("*.tmp"))


def test_overlapping_labels_have_a_mask_a_class(tmp_path: Path) -> None:
    folder = opened(tmp_path / "p", OVERLAPPING, ("mask", "overlay"))
    labels = np.stack((np.ones_like(MASK), MASK))
    folder.write("x", IMAGE, labels, None)
    with Image.open(tmp_path / "p/classes/00_road/x.png") as picture:
        assert (np.asarray(picture) == 255).all()
    assert not (tmp_path / "p/masks").exists()


def test_an_overlay_mixes_the_colours_half_and_half() -> None:
    mixed = overlay(IMAGE, MASK, LABELS)
    assert np.array_equal(mixed[0, [0, 5]], [(150, 100, 50), (50, 50, 175)])
    nothing = np.zeros((2, *MASK.shape), np.uint8)
    assert np.array_equal(overlay(IMAGE, nothing, OVERLAPPING), IMAGE)
    both = np.ones((2, *MASK.shape), np.uint8)
    assert np.array_equal(overlay(IMAGE, both, OVERLAPPING)[0, 0], (50, 50, 175)), "the last class is on top"


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_an_overlay_of_other_bands(bands: int) -> None:
    image = np.full((4, 6, bands), 100.0, np.float32)
    assert overlay(image, MASK, LABELS).shape == (4, 6, 3)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="something in this folder that segrun predict did not write"):
            PredictionFolder(tmp_path, LABELS, ALL).open([], about={}, overwrite=overwrite)
    with pytest.raises(UserError, match="this is a file"):
        PredictionFolder(tmp_path / "thesis.txt", LABELS, ALL).open([], about={}, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", ".."])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    source = Source(tmp_path / "photo.png", name)
    with pytest.raises(UserError, match="would lie outside of it"):
        PredictionFolder(tmp_path / "p", LABELS, ALL).open([source], about={}, overwrite=False)
    assert not (tmp_path / "p").exists()


def test_classes_called_like_paths_have_folders_inside(tmp_path: Path) -> None:
    labels = LabelSpace(("..", "../../x", "/etc"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    folder = opened(tmp_path / "p", labels, ("classes",))
    assert all(tmp_path / "p" / "classes" in file.resolve().parents for file in folder.files("photo"))
    assert len({file.parent for file in folder.files("photo")}) == 3


def test_earlier_predictions_are_written_over_when_asked(tmp_path: Path) -> None:
    opened(tmp_path / "p")
    with pytest.raises(UserError, match="type overwrite=true"):
        opened(tmp_path / "p")
    PredictionFolder(tmp_path / "p", LABELS, ALL).open([], about={"run": "2"}, overwrite=True)
    assert json.loads((tmp_path / "p/labels.json").read_text())["run"] == "2"


def test_an_image_among_the_earlier_predictions_is_not_written_over(tmp_path: Path) -> None:
    folder = opened(tmp_path / "p")
    folder.write("x", IMAGE, MASK, SHARES)
    path = tmp_path / "p" / "masks" / "x.png"
    with pytest.raises(UserError, match="is one of the images"):
        folder.open([Source(path, "x")], about={}, overwrite=True)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = opened(tmp_path / "p", forms=("mask",))

    def no_room(path: Path, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(RunFailed, match=r"x\.png: the prediction cannot be written \(no space is left on the disk\)"):
        folder.write("x", IMAGE, MASK, None)
    assert list((tmp_path / "p/masks").iterdir()) == []


def test_a_legend_shows_every_colour(tmp_path: Path) -> None:
    draw_legend(LABELS, tmp_path / "legend.png")
    with Image.open(tmp_path / "legend.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert set(LABELS.colors) <= colors
