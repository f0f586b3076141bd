"""Pascal VOC 2012: its classes and colours, where its folder may lie, and the augmented training set."""

from pathlib import Path

import numpy as np
import pytest

from seg_cli.data.labels import VOID
from seg_cli.data.voc2012 import LABELS, VOC2012
from seg_cli.errors import UserError
from tests import layouts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.voc2012(tmp_path / "voc")


def names(data: VOC2012, split: str) -> list[str]:
    return [data.splits[split][index].name for index in range(len(data.splits[split]))]


def test_the_classes_have_the_names_and_colours_of_the_challenge() -> None:
    assert LABELS.num_classes == len(set(LABELS.names)) == len(set(LABELS.colors)) == 21
    colors = dict(zip(LABELS.names, LABELS.colors, strict=True))
    assert colors["background"] == (0, 0, 0)
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["cow"] == (64, 128, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tvmonitor"] == (0, 64, 128)


def test_masks_are_indices_of_a_palette_and_the_border_is_void(root: Path) -> None:
    data = VOC2012(root=str(root))
    np.testing.assert_array_equal(data.splits["train"][1].mask, layouts.blocks((0, VOID, 2, 20)))
    assert data.splits["train"][1].group == ""


@pytest.mark.parametrize("inside", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_is_any_of_the_folders(root: Path, inside: str) -> None:
    data = VOC2012(root=str(root / inside))
    assert names(data, "train") == ["2007_000032", "2007_000039", "2007_000063"]
    assert names(data, "val") == names(data, "test") == ["2007_000033", "2007_000042"]


def test_train_aug_is_all_that_was_annotated_but_val(root: Path) -> None:
    data = VOC2012(root=str(root), train_set="train_aug")
    assert names(data, "train") == ["2007_000032", "2007_000039", "2007_000063", "2008_000002", "2008_000003"]
    np.testing.assert_array_equal(data.splits["train"][0].mask, layouts.blocks((0, VOID, 7)))
    np.testing.assert_array_equal(data.splits["val"][0].mask, layouts.blocks((0, VOID, 1, 20)))


@pytest.mark.parametrize("name", ["train_aug.txt", "trainaug.txt"])
def test_a_list_of_train_aug_is_obeyed_and_may_name_masks_of_voc_itself(root: Path, name: str) -> None:
    inside = root / "VOCdevkit" / "VOC2012"
    (inside / "ImageSets" / "Segmentation" / name).write_text("2008_000003\n2007_000032\n")
    (inside / "SegmentationClassAug" / "2007_000032.png").unlink()
    data = VOC2012(root=str(root), train_set="train_aug")
    assert names(data, "train") == ["2008_000003", "2007_000032"]
    np.testing.assert_array_equal(data.splits["train"][1].mask, layouts.blocks((0, VOID, 1, 20)))


def test_a_list_that_trains_on_images_of_val_is_refused(root: Path) -> None:
    listing = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train_aug.txt"
    listing.write_text("2008_000003\n2007_000042\n")
    with pytest.raises(UserError, match=r"train_aug\.txt lists 1 images of .*val\.txt, the first is '2007_000042'"):
        VOC2012(root=str(root), train_set="train_aug")


def test_a_wrong_training_set_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train_set=trainval: .* Choices: train, train_aug\."):
        VOC2012(root=str(root), train_set="trainval")


def test_a_missing_list_is_named(root: Path) -> None:
    (root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt").unlink()
    with pytest.raises(UserError, match=r"there is no file .*train\.txt\. .*Segmentation holds: val\.txt\."):
        VOC2012(root=str(root))
