"""COCO annotations: what is drawn is what they say, and a file that is none is refused."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.coco_json import CocoMasks, read_coco
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError

pytest.importorskip("pycocotools")


def box(x: int, y: int, width: int, height: int) -> list[float]:
    """A polygon around whole pixels."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def content() -> dict[str, Any]:
    """Two images of 8 x 10; the first with a large car under a small tree, a crowd of trees, and run lengths."""
    car = {"id": 1, "image_id": 11, "category_id": 7, "area": 30, "segmentation": [box(1, 1, 6, 5)]}
    tree = {"id": 2, "image_id": 11, "category_id": 3, "area": 4, "segmentation": [box(2, 2, 2, 2)]}
    # Run lengths go down the columns: 8 no, then 3 yes at the top of column 1.
    crowd = {"id": 3, "image_id": 11, "category_id": 3, "area": 3, "iscrowd": 1}
    crowd["segmentation"] = {"size": [8, 10], "counts": [8, 3, 69]}
    return {
        "images": [
            {"id": 11, "file_name": "a.png", "height": 8, "width": 10},
            {"id": 12, "file_name": "sub/b.png", "height": 8, "width": 10},
        ],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "tree"}],
        "annotations": [tree, car, crowd],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (10, 8)).save(tmp_path / "images" / name)

    def written(of: Any) -> Path:
        path = tmp_path / "annotations.json"
        path.write_text(of if isinstance(of, str) else json.dumps(of))
        return path

    return written


def test_objects_are_drawn_over_a_background_the_smaller_on_top(write: Callable[[Any], Path], tmp_path: Path) -> None:
    file = read_coco(write(content()), tmp_path / "images")
    assert list(file.categories.values()) == ["tree", "car"]  # by their ids
    assert [pair.name for pair in file.pairs] == ["a", "sub/b"]
    read = CocoMasks(file.annotations, 2)
    expected = np.zeros((8, 10), np.uint8)
    expected[0:3, 1] = VOID
    expected[1:6, 1:7] = 2
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(read(file.pairs[0]), expected)
    assert not read(file.pairs[1]).any()


def test_planes_overlap_and_a_crowd_is_void_in_its_own(write: Callable[[Any], Path], tmp_path: Path) -> None:
    file = read_coco(write(content()), tmp_path / "images")
    tree, car = CocoMasks(file.annotations, 2, overlapping=True)(file.pairs[0])
    assert (car[1:6, 1:7] == 1).all()
    assert car.sum() == 30
    assert (tree[2:4, 2:4] == 1).all()
    assert (tree[0:3, 1] == VOID).all()
    assert (tree == 1).sum() == 4


def test_compressed_run_lengths_are_those_of_pycocotools(write: Callable[[Any], Path], tmp_path: Path) -> None:
    from pycocotools import mask as coco

    drawn = np.random.default_rng(0).random((8, 10)) > 0.5
    encoded = coco.encode(np.asfortranarray(drawn.astype(np.uint8)))
    of = content()
    of["annotations"] = [{**of["annotations"][0], "segmentation": {**encoded, "counts": encoded["counts"].decode()}}]
    file = read_coco(write(of), tmp_path / "images")
    np.testing.assert_array_equal(CocoMasks(file.annotations, 2)(file.pairs[0]) == 1, drawn)


def test_a_reader_goes_to_workers(write: Callable[[Any], Path], tmp_path: Path) -> None:
    file = read_coco(write(content()), tmp_path / "images")
    reader = CocoMasks(file.annotations, 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader))(file.pairs[0]), reader(file.pairs[0]))


def test_images_may_lie_flat_and_say_no_size(write: Callable[[Any], Path], tmp_path: Path) -> None:
    (tmp_path / "images/sub/b.png").rename(tmp_path / "images/b.png")
    of = content()
    for image in of["images"]:
        del image["height"]
    file = read_coco(write(of), tmp_path / "images")
    assert [pair.name for pair in file.pairs] == ["a", "b"]
    assert CocoMasks(file.annotations, 2)(file.pairs[1]).shape == (8, 10)


@pytest.mark.parametrize("place", ["../elsewhere/c.png", "{root}/elsewhere/c.png", "sub/../../elsewhere/c.png"])
def test_an_image_that_lies_elsewhere_is_called_by_its_own_name(
    write: Callable[[Any], Path], tmp_path: Path, place: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (10, 8)).save(tmp_path / "elsewhere" / "c.png")
    of = content()
    of["images"].append({"id": 13, "file_name": place.format(root=tmp_path), "height": 8, "width": 10})
    file = read_coco(write(of), tmp_path / "images")
    assert sorted(pair.name for pair in file.pairs) == ["a", "c", "sub/b"]


def test_annotations_that_enclose_nothing_are_left_out_and_counted(
    write: Callable[[Any], Path], tmp_path: Path
) -> None:
    of = content()
    of["annotations"] += [{**of["annotations"][0], "segmentation": shape} for shape in ([], [[1, 1, 5, 5]], None)]
    file = read_coco(write(of), tmp_path / "images")
    assert file.notes == ["annotations.json: 3 annotations enclose nothing and were left out"]
    assert (CocoMasks(file.annotations, 2)(file.pairs[0]) == 1).sum() == 4


def with_annotation(**changes: Any) -> dict[str, Any]:
    of = content()
    of["annotations"][0] |= changes
    return of


def without(part: str) -> dict[str, Any]:
    of = content()
    del of[part]
    return of


def one_missing() -> dict[str, Any]:
    of = content()
    of["images"].append({"id": 13, "file_name": "ghost.png"})
    return of


def boxes_only() -> dict[str, Any]:
    of = content()
    of["annotations"] = [{"id": 1, "image_id": 11, "category_id": 7, "bbox": [1, 1, 6, 5]}]
    return of


def listed_twice() -> dict[str, Any]:
    of = content()
    of["images"].append({"id": 13, "file_name": "a.png"})
    return of


def nameless() -> dict[str, Any]:
    of = content()
    del of["images"][0]["file_name"]
    return of


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ('{"images": [', "the file of annotations is no JSON, or is cut short (Expecting value: line 1 column 13"),
        ([1], "this is no COCO file: it has no list 'images'. Expected are the lists images, annotations, categories."),
        (without("categories"), "this is no COCO file: it has no list 'categories'"),
        (nameless(), "this is no COCO file: KeyError 'file_name' in its entries."),
        (with_annotation(image_id=99), "annotation 2 is of the image 99, which the file does not list."),
        (with_annotation(category_id=99), "annotation 2 is of the category 99, which the file does not list."),
        (with_annotation(segmentation=[[1, 2, 3]]), "annotation 2: a polygon is a list of x, y, x, y, ..., and this"),
        (with_annotation(segmentation={"size": [8, 10]}), "annotation 2: its run lengths have no 'counts' or no"),
        (one_missing(), "1 of the 3 images that it lists are not in {root}/images; the first is {root}/images/ghost"),
        (boxes_only(), "no annotation has a segmentation. Boxes alone are not masks."),
        (listed_twice(), "1 images are listed more than once."),
    ],
)
def test_what_is_no_coco_file_is_refused(write: Callable[[Any], Path], tmp_path: Path, of: Any, said: str) -> None:
    path = write(of)
    with pytest.raises(UserError) as refused:
        read_coco(path, tmp_path / "images")
    assert str(refused.value).startswith(f"{path}: ")
    assert said.format(root=tmp_path) in str(refused.value)


def test_run_lengths_of_another_size_are_refused(write: Callable[[Any], Path], tmp_path: Path) -> None:
    file = read_coco(write(with_annotation(segmentation={"size": [4, 5], "counts": [20]})), tmp_path / "images")
    with pytest.raises(UserError, match=r"run lengths of .*a\.png are of \[4, 5\] pixels .* the image is of \[8, 10\]"):
        CocoMasks(file.annotations, 2)(file.pairs[0])


def test_without_pycocotools_it_is_said_what_to_install(
    write: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(
        UserError, match=r"need pycocotools, which is not installed. Type: pip install 'segrun\[coco\]'"
    ):
        read_coco(write(content()), tmp_path / "images")
