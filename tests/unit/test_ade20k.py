"""ADE20K: its 150 classes, and 0, which is none of them."""

from pathlib import Path

import numpy as np
import pytest

from seg_cli.data.ade20k import ADE20K, LABELS
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from tests import layouts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.ade20k(tmp_path / "ade")


def test_the_150_classes_are_those_of_the_challenge() -> None:
    assert LABELS.num_classes == len(set(LABELS.names)) == len(set(LABELS.colors)) == 150
    assert LABELS.raw[0] == VOID
    assert sorted(LABELS.raw) == list(range(151))
    for value, name in (
        *((1, "wall"), (2, "building"), (13, "person"), (45, "chest of drawers"), (59, "screen door"), (64, "blind")),
        *((76, "swivel chair"), (90, "television"), (100, "buffet"), (125, "microwave"), (131, "screen")),
        *((142, "crt screen"), (150, "flag")),
    ):
        assert LABELS.names[LABELS.raw[value]] == name


def test_no_class_is_drawn_like_void() -> None:
    assert (0, 0, 0) not in LABELS.colors


@pytest.mark.parametrize("inside", [".", "ADEChallengeData2016"])
def test_masks_count_from_one_and_0_is_void(root: Path, inside: str) -> None:
    data = ADE20K(root=str(root / inside))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1, "test": 1}
    np.testing.assert_array_equal(data.splits["val"][0].mask, layouts.blocks((VOID, 0, 149, 12)))


def test_a_value_above_150_is_named(root: Path) -> None:
    path = root / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    layouts.save_mask(path, (1, 151))
    with pytest.raises(UserError, match=r"ADE_val_00000001\.png: .* 151 \(192 pixels\)\. Defined are: 0 to 150\."):
        ADE20K(root=str(root)).splits["val"][0]
