"""The gallery of a run: its pictures hold what they say, and damaged ones are named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from seg_cli.inference.evaluate import Example
from seg_cli.reports.gallery import (
    NO_CLASS,
    RIGHT,
    WRONG,
    choose_examples,
    fixed_images,
    read_examples,
    save_examples,
)

LABELS = LabelSpace(names=("Sky", "Car", "</script>"), colors=((250, 250, 250), (0, 0, 0), (200, 30, 30)))


def example(height: int = 30, width: int = 40, name: str = "a") -> Example:
    truth = np.zeros((height, width), np.uint8)
    truth[:, width // 2 :] = 1
    truth[:3] = VOID
    prediction = np.zeros((height, width), np.uint8)
    image = np.full((height, width, 3), (200, 100, 50), np.uint8)
    return Example(name=name, image=image, truth=truth, prediction=prediction, miou=0.25)


def values(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save_examples([example(), example(name="b")], LABELS, tmp_path / "e", [("best", "fixed"), ("worst",)])
    gallery = read_examples(tmp_path / "e")
    assert gallery is not None
    assert gallery.split == "test"
    assert gallery.classes == (("Sky", "#fafafa"), ("Car", "#000000"), ("</script>", "#c81e1e"))
    first, second = gallery.pictures
    assert (first.name, first.kinds, first.miou, first.wrong) == ("a", ("best", "fixed"), 0.25, 0.5)
    assert (second.name, second.kinds) == ("b", ("worst",))
    assert (values(first.files["truth"]) == example().truth).all()
    assert (values(first.files["prediction"]) == 0).all()
    errors = values(first.files["errors"])
    assert (errors[:3] == VOID).all()
    assert (errors[3:, :20] == RIGHT).all()
    assert (errors[3:, 20:] == WRONG).all()
    with Image.open(first.files["image"]) as image:
        assert (image.format, image.size) == ("JPEG", (40, 30))
        assert np.abs(np.asarray(image).astype(int) - (200, 100, 50)).max() <= 6


def test_void_has_a_colour_that_no_class_has(tmp_path: Path) -> None:
    save_examples([example()], LABELS, tmp_path, [("best",)])
    gallery = read_examples(tmp_path)
    assert gallery is not None
    with Image.open(gallery.pictures[0].files["truth"]) as truth:
        void = truth.convert("RGB").getpixel((0, 0))
        assert truth.convert("RGB").getpixel((39, 29)) == (0, 0, 0)
    assert gallery.void == "#{:02x}{:02x}{:02x}".format(*void)
    assert void not in LABELS.colors


def test_large_images_become_small_and_keep_their_shape(tmp_path: Path) -> None:
    save_examples([example(300, 1280)], LABELS, tmp_path, [("best",)])
    gallery = read_examples(tmp_path)
    assert gallery is not None
    for path in gallery.pictures[0].files.values():
        with Image.open(path) as picture:
            assert picture.size == (640, 150)
    assert set(np.unique(values(gallery.pictures[0].files["truth"]))) == {0, 1, VOID}


def test_overlapping_labels_show_what_lies_below(tmp_path: Path) -> None:
    labels = LabelSpace(names=("low", "top"), colors=((255, 0, 0), (0, 0, 255)), overlapping=True)
    truth = np.zeros((2, 40, 40), np.uint8)
    truth[0, 5:35, 5:35] = 1
    truth[1, 10:38, 10:38] = 1
    truth[:, 0, 0] = VOID
    prediction = truth.copy()
    prediction[:, 0, 0] = 0
    prediction[1] = 0
    image = np.zeros((40, 40, 3), np.uint8)
    save_examples([Example("a", image, truth, prediction, 0.5)], labels, tmp_path, [("best",)])
    gallery = read_examples(tmp_path)
    assert gallery is not None
    shown = values(gallery.pictures[0].files["truth"])
    assert shown[0, 0] == VOID
    assert shown[2, 2] == NO_CLASS
    assert shown[7, 7] == 0
    assert shown[20, 20] == 1
    assert shown[20, 34] == 0, "the outline of the class below"
    errors = values(gallery.pictures[0].files["errors"])
    assert (errors == WRONG).sum() == 28 * 28
    with Image.open(gallery.pictures[0].files["truth"]) as picture:
        assert picture.convert("RGBA").getpixel((2, 2))[3] == 0, "no class lets the image through"


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (233, [29, 87, 145, 203])]
)
def test_fixed_images_are_spread_over_the_split(count: int, expected: list[int]) -> None:
    assert fixed_images(count) == expected


def test_an_image_may_be_chosen_for_two_reasons() -> None:
    chosen = choose_examples([7, 1, 4, 3, 0, 2], 8)
    assert list(chosen) == [7, 1, 4, 3, 0, 2, 5]
    assert chosen[7] == ("best", "fixed")
    assert chosen[4] == ("median",)
    assert chosen[2] == ("worst",)
    assert chosen[5] == ("fixed",)
    assert choose_examples([0], 1) == {0: ("best", "fixed")}
    assert choose_examples([1, 0], 2) == {1: ("best", "fixed"), 0: ("worst", "fixed")}


def test_no_examples_and_damaged_ones(tmp_path: Path) -> None:
    assert read_examples(tmp_path) is None
    save_examples([example()], LABELS, tmp_path, [("best",)])
    index = json.loads((tmp_path / "index.json").read_text())

    def damaged(**changes: object) -> str:
        (tmp_path / "index.json").write_text(json.dumps(index | changes))
        with pytest.raises(UserError) as caught:
            read_examples(tmp_path)
        return str(caught.value)

    assert "schema 2" in damaged(schema=2)
    assert "is no colour" in damaged(void="url(http://x)")
    assert "damaged" in damaged(examples=[{}])
    assert "damaged" in damaged(examples=None)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json: the file is damaged"):
        read_examples(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(index))
    (tmp_path / "00_truth.png").unlink()
    with pytest.raises(UserError, match=r"00_truth\.png: this picture of the gallery is missing"):
        read_examples(tmp_path)


def test_a_file_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    save_examples([example()], LABELS, tmp_path / "e", [("best",)])
    index = json.loads((tmp_path / "e" / "index.json").read_text())
    (tmp_path / "secret.png").write_bytes(b"x")
    index["examples"][0]["files"]["truth"] = "../secret.png"
    (tmp_path / "e" / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="missing"):
        read_examples(tmp_path / "e")
