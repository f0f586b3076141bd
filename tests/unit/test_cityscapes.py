"""Cityscapes: label ids and train ids give the same classes, and frames of a sequence stay together."""

from pathlib import Path

import numpy as np
import pytest

from seg_cli.data.cityscapes import LABEL_IDS, TRAIN_IDS, Cityscapes
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from tests import layouts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.cityscapes(tmp_path / "cityscapes")


def test_the_19_classes_have_their_official_ids_and_colours() -> None:
    assert LABEL_IDS.num_classes == len(set(LABEL_IDS.names)) == len(set(LABEL_IDS.colors)) == 19
    index = {name: number for number, name in enumerate(LABEL_IDS.names)}
    for name, label_id, train_id, color in (
        ("road", 7, 0, (128, 64, 128)),
        ("pole", 17, 5, (153, 153, 153)),
        ("sky", 23, 10, (70, 130, 180)),
        ("car", 26, 13, (0, 0, 142)),
        ("train", 31, 16, (0, 80, 100)),
        ("bicycle", 33, 18, (119, 11, 32)),
    ):
        assert (index[name], LABEL_IDS.raw[label_id], LABEL_IDS.colors[train_id]) == (train_id, train_id, color)
    void = [value for value, meaning in LABEL_IDS.raw.items() if meaning == VOID]
    assert sorted(void) == [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255]
    assert sorted(TRAIN_IDS.meanings) == [*range(19), 255]


def test_label_ids_and_train_ids_are_the_same_masks(root: Path) -> None:
    expected = layouts.blocks((0, 13, VOID, 18, VOID, 2))
    for masks in ("label_ids", "train_ids"):
        np.testing.assert_array_equal(Cityscapes(root=str(root), masks=masks).splits["val"][0].mask, expected)


def test_frames_are_grouped_by_city_and_sequence(root: Path) -> None:
    train = Cityscapes(root=str(root)).splits["train"]
    assert [(train[index].name, train[index].group) for index in range(3)] == [
        ("aachen_000000_000019", "aachen_000000"),
        ("aachen_000001_000019", "aachen_000001"),
        ("bochum_000000_000313", "bochum_000000"),
    ]


def test_the_coarse_extra_is_appended(root: Path) -> None:
    train = Cityscapes(root=str(root), coarse=True).splits["train"]
    assert [train[index].name for index in (0, 3)] == ["aachen_000000_000019", "augsburg_000000_000000"]
    np.testing.assert_array_equal(train[3].mask, layouts.blocks((0, 13, VOID, 18, VOID, 2)))
    (root / "gtCoarse").rename(root / "gtRough")
    with pytest.raises(UserError, match=r"there is no folder .*gtCoarse/train_extra\. .* holds: gtFine, gtRough, left"):
        Cityscapes(root=str(root), coarse=True)


def test_train_ids_that_were_never_made_are_explained(root: Path) -> None:
    for path in root.rglob("*_labelTrainIds.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"3 of the 3 .* no mask in .*csCreateTrainIdLabelImgs .*data\.masks=label_ids"):
        Cityscapes(root=str(root), masks="train_ids")


def test_a_label_id_that_is_none_is_named(root: Path) -> None:
    path = root / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png"
    layouts.save_mask(path, (7, 34))
    with pytest.raises(UserError, match=r"_gtFine_labelIds\.png: .* 34 \(192 pixels\)\. Defined are: 0 to 33, 255\."):
        Cityscapes(root=str(root)).splits["val"][0]
