"""The layouts of the public datasets, tiny: each function writes one below ``root`` and returns it.

Masks are 16x24 (height x width), in blocks of 8x8 of the values given, so that tests know every pixel.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from seg_cli.data.camvid import COLORS
from seg_cli.data.public import bit_color

SIZE = (16, 24)


def blocks(values: Sequence[int]) -> np.ndarray:
    """(16, 24) uint8 of six blocks; the values are repeated as needed."""
    return np.kron(np.resize(values, (2, 3)), np.ones((8, 8))).astype(np.uint8)


def save_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)).save(path)


def save_mask(path: Path, values: Sequence[int], *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(blocks(values))
    if palette:
        picture = picture.convert("P")
        picture.putpalette([part for index in range(256) for part in bit_color(index)])
    picture.save(path)


def camvid(root: Path) -> Path:
    """In the SegNet layout, but for the size: 48x64 frames (height x width) of two videos, void in every mask."""
    rng = np.random.default_rng(0)
    for split, count, suffix in (("train", 4, ".png"), ("val", 2, ".jpg"), ("test", 3, ".png")):
        images, masks = root / split, root / f"{split}annot"
        images.mkdir(parents=True)
        masks.mkdir()
        stems = [f"{'0001TP' if i % 2 else 'Seq05VD'}_{split}{i}" for i in range(count)]
        for stem in stems:
            mask = np.kron(rng.integers(0, 12, (6, 8)), np.ones((8, 8))).astype(np.uint8)  # 11 is void
            mask[:8, :8] = 11
            image = np.stack((mask * 20, 255 - mask * 20, rng.integers(0, 255, mask.shape)), 2).astype(np.uint8)
            Image.fromarray(image).save(images / f"{stem}{suffix}")
            Image.fromarray(mask).save(masks / f"{stem}.png")
        (root / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


def voc2012(root: Path) -> Path:
    """Three to train, two to validate, two more of SBD; 255 is the border."""
    inside = root / "VOCdevkit" / "VOC2012"
    lists = {"train": ("2007_000032", "2007_000039", "2007_000063"), "val": ("2007_000033", "2007_000042")}
    for split, names in lists.items():
        for number, name in enumerate(names):
            save_image(inside / "JPEGImages" / f"{name}.jpg", number)
            save_mask(inside / "SegmentationClass" / f"{name}.png", (0, 255, number + 1, 20), palette=True)
        (inside / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (inside / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for name in (*lists["train"], *lists["val"], "2008_000002", "2008_000003"):
        save_image(inside / "JPEGImages" / f"{name}.jpg")
        save_mask(inside / "SegmentationClassAug" / f"{name}.png", (0, 255, 7))
    return root


def cityscapes(root: Path) -> Path:
    """Three to train of two cities, one to validate, one of the coarse extra; label ids and train ids."""
    for split, names in (
        ("train", ("aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313")),
        ("val", ("frankfurt_000000_000294",)),
        ("train_extra", ("augsburg_000000_000000",)),
    ):
        kind = "gtCoarse" if split == "train_extra" else "gtFine"
        for number, name in enumerate(names):
            city = name.partition("_")[0]
            save_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", number)
            save_mask(root / kind / split / city / f"{name}_{kind}_labelIds.png", (7, 26, 0, 33, 4, 11))
            save_mask(root / kind / split / city / f"{name}_{kind}_labelTrainIds.png", (0, 13, 255, 18, 255, 2))
            save_mask(root / kind / split / city / f"{name}_{kind}_instanceIds.png", (0,))
    return root


PANOPTIC = (0, 3226956, 6979964, 3103158, 70000)
"""Numbers of segments, more than 16 bits wide; 0 is none."""
_CATEGORIES = (1, 1, 184, 200)


def coco_stuff(root: Path) -> Path:
    """Two to train, one to validate, with stuffthingmaps and with panoptic masks."""
    for split, names in (("train", ("000000000009", "000000000025")), ("val", ("000000000139",))):
        annotations = []
        for number, name in enumerate(names):
            save_image(root / "images" / f"{split}2017" / f"{name}.jpg", number)
            save_mask(root / "annotations" / f"{split}2017" / f"{name}.png", (0, 181, 255, 12, 91, 89))
            numbers = np.array(PANOPTIC)[blocks((0, 1, 2, 3, 4))]
            colors = np.stack((numbers % 256, numbers // 256 % 256, numbers // 65536), 2).astype(np.uint8)
            file = root / "annotations" / f"panoptic_{split}2017" / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colors).save(file)
            segments = [
                {"id": number, "category_id": category, "iscrowd": 0}
                for number, category in zip(PANOPTIC[1:], _CATEGORIES, strict=True)
            ]
            annotations.append({"image_id": int(name), "file_name": file.name, "segments_info": segments})
        (root / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps({"annotations": annotations}))
    return root


def ade20k(root: Path) -> Path:
    """Two to train, one to validate."""
    for folder, names in (
        ("training", ("ADE_train_00000001", "ADE_train_00000002")),
        ("validation", ("ADE_val_00000001",)),
    ):
        for number, name in enumerate(names):
            save_image(root / "ADEChallengeData2016" / "images" / folder / f"{name}.jpg", number)
            save_mask(root / "ADEChallengeData2016" / "annotations" / folder / f"{name}.png", (0, 1, 150, 13))
    return root


CAMVID_FRAMES = ("0001TP_006690", "0001TP_008550", "0006R0_f00930", "0016E5_00390", "0016E5_08001", "Seq05VD_f00000")


def camvid32(root: Path) -> Path:
    """Frames of all videos; in the split of SegNet three to train, one to validate, two to test."""
    for number, name in enumerate(CAMVID_FRAMES):
        save_image(root / "701_StillsRaw_full" / f"{name}.png", number)
        colors = np.array([COLORS[label] for label in ("Void", "Road", "LaneMkgsDriv", "Wall")], np.uint8)
        (root / "LabeledApproved_full").mkdir(exist_ok=True)
        Image.fromarray(colors[blocks((0, 1, 2, 3))]).save(root / "LabeledApproved_full" / f"{name}_L.png")
    return root


LAYOUTS = {
    "voc2012": voc2012,
    "cityscapes": cityscapes,
    "coco_stuff": coco_stuff,
    "ade20k": ade20k,
    "camvid32": camvid32,
}
"""Name of the dataset -> what writes its layout."""
