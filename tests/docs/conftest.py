"""What the pages of docs/ speak of, made small: datasets under the names that they use, a finished run, photographs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Outcome
from tests.e2e.conftest import segrun as segrun
from tests.layouts import LAYOUTS

SIZE = (48, 64)  # height x width


def scene(seed: int, values: tuple[int, ...] = (0, 1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """An image (48, 64, 3) and its mask (48, 64), in both of which one can see blocks of each value."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.permutation(np.resize(values, 12)).reshape(3, 4), np.ones((16, 16))).astype(np.uint8)
    light = mask.astype(int) * 90
    image = np.stack([light, 255 - light, np.full(SIZE, 90)], -1) + rng.integers(0, 20, (*SIZE, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def fruit(root: Path) -> None:
    """Frames of five trees, three classes."""
    for number in range(20):
        image, mask = scene(number)
        save(root / "images" / f"tree{number // 4}_{number}.jpg", image)
        save(root / "masks" / f"tree{number // 4}_{number}.png", mask)


def fruit_labels(root: Path) -> None:
    """The same with a mask for each class, which overlap."""
    for number in range(12):
        image, mask = scene(number)
        save(root / "images" / f"tree{number}.jpg", image)
        for value, name in ((1, "apple"), (2, "ripe")):
            save(root / "masks" / name / f"tree{number}.png", (mask >= value).astype(np.uint8) * 255)


def membranes(root: Path) -> None:
    """Gray slices with binary masks."""
    for number in range(30):
        image, mask = scene(number, (0, 1))
        save(root / "images" / f"slice{number}.png", image[..., 0])
        save(root / "masks" / f"slice{number}.png", mask * 255)


def micro(root: Path) -> None:
    """A table of 16-bit images of one band and of their masks."""
    rows = ["image,mask,split,group"]
    for number in range(10):
        image, mask = scene(number)
        save(root / "stained" / f"p{number}.tif", image[..., 0].astype(np.uint16) * 16)
        save(root / "truth" / f"p{number}.png", mask)
        split = "train" if number < 6 else "val" if number < 8 else "test"
        rows.append(f"stained/p{number}.tif,truth/p{number}.png,{split},patient{number // 2}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")


def scans(root: Path) -> None:
    """COCO annotations, a file a split: a rectangle an image."""
    for split in ("train", "val", "test"):
        images, boxes = [], []
        for number in range(4):
            save(root / split / f"{split}{number}.jpg", scene(number)[0])
            images.append({"id": number, "file_name": f"{split}{number}.jpg", "height": SIZE[0], "width": SIZE[1]})
            outline = [[8, 8, 40, 8, 40, 30 + number, 8, 30 + number]]
            boxes.append({"id": number, "image_id": number, "category_id": 1, "segmentation": outline, "iscrowd": 0})
            boxes[-1] |= {"bbox": [8, 8, 32, 22 + number], "area": 32 * (22 + number)}
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "bone"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def desk(tmp_path: Path, camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the datasets that the pages name, and SEGRUN_DATA, which has the public ones."""
    public = tmp_path / "public"
    for name, make in LAYOUTS.items():
        make(public / name)
    camvid_root.rename(public / "camvid")
    membranes(public / "isbi")
    monkeypatch.setenv("SEGRUN_DATA", str(public))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    desk = tmp_path / "desk"
    for make in (fruit, fruit_labels, micro, scans):
        make(desk / make.__name__)
    (public / "voc2012" / "VOCdevkit").rename(desk / "VOCdevkit")
    (public / "voc2012" / "VOCdevkit").symlink_to(desk / "VOCdevkit")
    for number in range(3):
        save(desk / "photos" / f"photo{number}.jpg", scene(number)[0])
    return desk


@pytest.fixture
def shell(segrun: Callable[..., Outcome], desk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """``segrun`` of the end-to-end tests, called from that folder."""
    monkeypatch.chdir(desk)
    return segrun
