"""COCO-Stuff and COCO panoptic: their classes, the gaps in their numbers, and masks of segments."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from seg_cli.data.coco_stuff import PANOPTIC_LABELS, STUFF_LABELS, COCOStuff
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from tests import layouts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.coco_stuff(tmp_path / "coco")


def class_of(labels: LabelSpace, value: int) -> str:
    return labels.names[labels.raw[value]]


def test_the_171_classes_are_those_of_the_stuffthingmaps() -> None:
    assert STUFF_LABELS.num_classes == len(set(STUFF_LABELS.names)) == len(set(STUFF_LABELS.colors)) == 171
    assert len([value for value in STUFF_LABELS.raw if value <= 90]) == 80
    assert len([value for value in STUFF_LABELS.raw if 91 <= value <= 181]) == 91
    unused = {value - 1 for value in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)}
    assert sorted(STUFF_LABELS.raw) == [*(value for value in range(182) if value not in unused), 255]
    # a value is the category less one
    for category, name in (
        *((1, "person"), (13, "stop sign"), (27, "backpack"), (44, "bottle"), (67, "dining table"), (70, "toilet")),
        *((90, "toothbrush"), (92, "banner"), (106, "clouds"), (149, "road"), (157, "sky-other"), (182, "wood")),
    ):
        assert class_of(STUFF_LABELS, category - 1) == name


def test_the_133_classes_are_those_of_coco_panoptic() -> None:
    assert PANOPTIC_LABELS.num_classes == len(set(PANOPTIC_LABELS.names)) == len(set(PANOPTIC_LABELS.colors)) == 133
    categories = sorted(set(PANOPTIC_LABELS.raw) - {0})
    assert len([category for category in categories if category <= 90]) == 80
    assert len([category for category in categories if category >= 92]) == 53
    assert PANOPTIC_LABELS.raw[0] == VOID
    for category, name in (
        *((1, "person"), (90, "toothbrush"), (92, "banner"), (112, "door-stuff"), (149, "road"), (171, "wall-brick")),
        *((178, "water-other"), (181, "window-other"), (184, "tree-merged"), (187, "sky-other-merged")),
        *((193, "grass-merged"), (197, "building-other-merged"), (200, "rug-merged")),
    ):
        assert class_of(PANOPTIC_LABELS, category) == name


def test_a_class_has_one_colour_in_both() -> None:
    stuff = dict(zip(STUFF_LABELS.names, STUFF_LABELS.colors, strict=True))
    panoptic = dict(zip(PANOPTIC_LABELS.names, PANOPTIC_LABELS.colors, strict=True))
    both = stuff.keys() & panoptic.keys()
    assert len(both) == 116
    assert all(stuff[name] == panoptic[name] for name in both)


def test_stuffthingmaps_are_read_over_the_gaps(root: Path) -> None:
    mask = COCOStuff(root=str(root)).splits["val"][0].mask
    names = [STUFF_LABELS.names[mask[y, x]] if mask[y, x] != VOID else "void" for y in (0, 8) for x in (0, 8, 16)]
    assert names == ["person", "wood", "void", "stop sign", "banner", "toothbrush"]


def test_panoptic_masks_are_read_by_the_categories_of_their_segments(root: Path) -> None:
    data = COCOStuff(root=str(root), masks="panoptic")
    mask = data.splits["train"][1].mask
    names = [PANOPTIC_LABELS.names[mask[y, x]] if mask[y, x] != VOID else "void" for y in (0, 8) for x in (0, 8, 16)]
    assert names == ["void", "person", "person", "tree-merged", "rug-merged", "void"]
    assert data.splits["train"][1].name == "000000000025"


@pytest.mark.parametrize("masks", ["stuffthingmaps", "panoptic"])
def test_images_and_masks_may_lie_without_a_folder_around_them(root: Path, masks: str) -> None:
    before = COCOStuff(root=str(root), masks=masks).fingerprint()
    (root / "annotations").rename(root / "annotated")
    (root / "stuffthingmaps").mkdir()
    for split in ("train", "val"):
        (root / "images" / f"{split}2017").rename(root / f"{split}2017")
        (root / "annotated" / f"{split}2017").rename(root / "stuffthingmaps" / f"{split}2017")
        for name in (f"panoptic_{split}2017", f"panoptic_{split}2017.json"):
            (root / "annotated" / name).rename(root / name)
    assert COCOStuff(root=str(root), masks=masks).fingerprint() == before


def test_another_category_of_a_segment_changes_the_fingerprint(root: Path) -> None:
    before = COCOStuff(root=str(root), masks="panoptic").fingerprint()
    change_json(root, lambda annotation: annotation["segments_info"][0].update(category_id=2))
    assert COCOStuff(root=str(root), masks="panoptic").fingerprint() != before


def change_json(root: Path, change: Callable[[dict], object]) -> Path:
    """Change the first annotation of the training set."""
    file = root / "annotations" / "panoptic_train2017.json"
    content = json.loads(file.read_text())
    change(content["annotations"][0])
    file.write_text(json.dumps(content))
    return file


def test_a_segment_that_the_json_file_lacks_is_named(root: Path) -> None:
    change_json(root, lambda annotation: annotation["segments_info"].pop(1))
    with pytest.raises(UserError) as refusal:
        COCOStuff(root=str(root), masks="panoptic").splits["train"][0]
    path = root / "annotations/panoptic_train2017/000000000009.png"
    said = f"{path}: the mask holds segments that panoptic_train2017.json does not list for it: 6979964 (64 pixels)"
    assert said in str(refusal.value)


def test_a_category_that_coco_lacks_is_named(root: Path) -> None:
    change_json(root, lambda annotation: annotation["segments_info"][0].update(category_id=12))
    with pytest.raises(UserError, match=r"000000000009\.png: .*dataset does not define: 12 \(64 pixels\)"):
        COCOStuff(root=str(root), masks="panoptic").splits["train"][0]


@pytest.mark.parametrize(
    "broken",
    [
        "[1, 2",
        "[]",
        '{"annotations": [{"file_name": "a.png"}]}',
        '{"annotations": [{"file_name": 3, "segments_info": []}]}',
        '{"annotations": [{"file_name": "a.png", "segments_info": [{"id": -5, "category_id": 1}]}]}',
        '{"annotations": [{"file_name": "a.png", "segments_info": [{"id": 5, "category_id": "cat"}]}]}',
    ],
)
def test_a_broken_json_file_is_refused(root: Path, broken: str) -> None:
    (root / "annotations" / "panoptic_val2017.json").write_text(broken)
    with pytest.raises(UserError, match=r"panoptic_val2017\.json: this is not a panoptic JSON file of COCO \("):
        COCOStuff(root=str(root), masks="panoptic")


def test_a_panoptic_mask_that_is_no_picture_of_numbers_is_refused(root: Path) -> None:
    Image.new("L", (24, 16)).save(root / "annotations/panoptic_val2017/000000000139.png")
    with pytest.raises(UserError, match=r"139\.png: expected a panoptic mask, which is an RGB .* shape \(16, 24\)"):
        COCOStuff(root=str(root), masks="panoptic").splits["val"][0]
