"""``fit.images=N``: which samples are left, and that all else stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.fewer import Fewer, fewer, spread
from seg_cli.data.folder import Folder
from seg_cli.data.shapes import Shapes
from seg_cli.errors import UserError


@pytest.mark.parametrize("length", [1, 7, 30, 1000])
def test_places_are_spread_and_fewer_are_among_more(length: int) -> None:
    for seed in range(5):
        before: set[int] = set()
        for count in range(1, min(length, 30) + 1):
            places = spread(length, count, seed)
            assert len(set(places)) == count
            assert places == sorted(places)
            assert places[0] >= 0
            assert places[-1] < length
            assert before <= set(places)
            before = set(places)
        if length == 1000:
            gaps = np.diff([*places, places[0] + length])
            assert gaps.max() < 2.7 * length / count


def test_another_seed_leaves_others() -> None:
    assert spread(100, 5, 0) == spread(100, 5, 0)
    assert len({tuple(spread(100, 5, seed)) for seed in range(10)}) == 10


def test_only_the_training_split_is_smaller() -> None:
    whole = Shapes(train=9, val=3, test=4, size=(32, 32))
    before, images = whole.fingerprint(), [whole.splits["train"][i].image for i in range(9)]
    left: Any = Fewer(whole, images=2, seed=1)
    assert {name: len(split) for name, split in left.splits.items()} == {"train": 2, "val": 3, "test": 4}
    for number, place in enumerate(spread(9, 2, 1)):
        np.testing.assert_array_equal(left.splits["train"][number].image, images[place])
    assert left.fingerprint() == before
    assert left.labels is whole.labels
    assert left.notes == ["fit.images=2: of 2 of the training images, seed 1"]


def test_null_leaves_a_dataset_as_it_is() -> None:
    whole = Shapes(train=2, val=1, test=1, size=(32, 32))
    assert fewer(whole, {"images": None}, 0) is whole
    assert fewer(whole, None, 0) is whole


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"fit.images=3: the training split has 2 images. Type fit.images=2, or null"):
        fewer(Shapes(train=2, val=1, test=1, size=(32, 32)), {"images": 3}, 0)


def test_of_files_and_their_masks(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        mask = np.zeros((8, 8), np.uint8)
        mask[:number] = 1
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    whole = Folder(root=str(tmp_path), fractions=(0.8, 0.1, 0.1))
    names = [whole.splits["train"][i].name for i in range(8)]
    train: Any = Fewer(whole, images=3, seed=0).splits["train"]
    assert [train[i].name for i in range(3)] == [names[place] for place in spread(8, 3, 0)]
    for i in range(3):
        np.testing.assert_array_equal(train.mask(i), train[i].mask)
