"""Where classes are: by hand, in parallel, from the cache, and whatever state the cache is in."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from seg_cli.data.class_places import ClassPlaces, find_places
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample

LABELS = LabelSpace(names=("a", "b", "c"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
MASKS = [
    np.array([[0, 0, 1], [0, VOID, 1]], np.uint8),
    np.full((2, 2), VOID, np.uint8),
    np.ones((40, 50), np.uint8),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segrun" / "class_places"


class Split:
    """Masks with images; remembers which were read."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks = masks
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        return Sample(np.zeros((*self.masks[index].shape[-2:], 3), np.uint8), self.masks[index], f"image{index}")


class MaskSplit(Split):
    """A split that gives its masks alone."""

    def mask(self, index: int) -> np.ndarray:
        return self.masks[index]


def same(first: ClassPlaces, second: ClassPlaces) -> bool:
    return np.array_equal(first.counts, second.counts) and np.array_equal(first.places, second.places)


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_and_places_are_those_found_by_hand(workers: int) -> None:
    places = find_places(Split(MASKS), LABELS, workers=workers)
    np.testing.assert_array_equal(places.counts, [[3, 2, 0], [0, 0, 0], [0, 2000, 0]])
    np.testing.assert_array_equal(places.of(0, 0), [[0, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(places.of(0, 1), [[0, 2], [1, 2]])
    assert len(places.of(1, 0)) == len(places.of(2, 0)) == len(places.of(2, 2)) == 0
    assert len(places.of(2, 1)) == 16
    assert [list(places.samples_with(label)) for label in range(3)] == [[0], [0, 2], []]


def test_places_of_a_large_class_are_spread_over_it() -> None:
    places = find_places(Split([np.ones((160, 160), np.uint8)]), LABELS, workers=0).of(0, 1).astype(int)
    assert list(places[:, 0] // 10) == list(range(16))  # one in each sixteenth of the rows
    assert len({x // 40 for _, x in places}) == 4  # and anywhere across


def test_every_place_is_of_its_class() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.choice([0, 1, 2, VOID], (30 + i, 40), p=[0.6, 0.38, 0.01, 0.01]).astype(np.uint8) for i in range(6)]
    places = find_places(Split(masks), LABELS, workers=0)
    for index, mask in enumerate(masks):
        for label in range(3):
            found = places.of(index, label)
            assert places.counts[index, label] == (mask == label).sum()
            assert len({(y, x) for y, x in found}) == min(16, places.counts[index, label])
            assert all(mask[y, x] == label for y, x in found)
            y, x = places.draw(index, label, rng)
            assert mask[y, x] == label


def test_where_labels_overlap_each_class_has_its_own_places() -> None:
    mask = np.array([[[1, 1], [0, VOID]], [[0, 0], [0, 0]], [[1, 0], [VOID, VOID]]], np.uint8)
    places = find_places(Split([mask]), LABELS, workers=0)
    np.testing.assert_array_equal(places.counts, [[2, 0, 1]])
    np.testing.assert_array_equal(places.of(0, 0), [[0, 0], [0, 1]])
    np.testing.assert_array_equal(places.of(0, 2), [[0, 0]])


def test_masks_are_read_without_their_images_where_the_split_can() -> None:
    split = MaskSplit(MASKS)
    assert same(find_places(split, LABELS, workers=0), find_places(Split(MASKS), LABELS, workers=2))
    assert not split.read


def test_progress_sees_every_mask_once() -> None:
    seen = []

    def progress(masks: Iterable) -> Iterator:
        assert len(masks) == 3  # type: ignore[arg-type]
        for mask in masks:
            seen.append(len(mask))
            yield mask

    find_places(Split(MASKS), LABELS, workers=0, progress=progress)
    assert len(seen) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_random_numbers_of_the_run_are_left_alone(workers: int) -> None:
    before = torch.get_rng_state()
    find_places(Split(MASKS), LABELS, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


# ---- the cache


def test_an_index_is_remembered_by_its_key(cache: Path) -> None:
    split = Split(MASKS)
    first = find_places(split, LABELS, workers=0, key="k")
    split.read.clear()
    assert same(find_places(split, LABELS, workers=0, key="k"), first)
    assert not split.read
    assert [file.name for file in cache.iterdir()] == ["k-1.npz"]
    find_places(split, LABELS, workers=0, key="other")
    assert split.read == [0, 1, 2]


def saved(folder: Path, counts: object, places: object) -> bytes:
    path = folder / "some.npz"
    np.savez(path, counts=counts, places=places)
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "counts", "places", "kind", "negative", "keys", "objects"])
def test_a_damaged_file_is_built_again_and_mended(cache: Path, tmp_path: Path, damage: str) -> None:
    split = Split(MASKS)
    whole = find_places(split, LABELS, workers=0, key="k")
    file = cache / "k-1.npz"
    good = file.read_bytes()
    negative = whole.counts.copy()
    negative[0] += (1, 0, -1)  # as many places as before
    np.savez(tmp_path / "keys.npz", counts=whole.counts)
    file.write_bytes(
        {
            "empty": b"",
            "text": b"not an archive",
            "cut": good[: len(good) // 2],
            "counts": saved(tmp_path, whole.counts[:2], whole.places),
            "places": saved(tmp_path, whole.counts, whole.places[:-1]),
            "kind": saved(tmp_path, whole.counts.astype(np.float64), whole.places),
            "negative": saved(tmp_path, negative, whole.places),
            "keys": (tmp_path / "keys.npz").read_bytes(),
            "objects": saved(tmp_path, np.array([None]), whole.places),
        }[damage]
    )
    split.read.clear()
    assert same(find_places(split, LABELS, workers=0, key="k"), whole)
    assert split.read == [0, 1, 2]
    split.read.clear()
    assert same(find_places(split, LABELS, workers=0, key="k"), whole)
    assert not split.read


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert find_places(Split(MASKS), LABELS, workers=0, key="k").counts.sum() == 2005


def test_without_a_home_there_is_no_cache_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert find_places(Split(MASKS), LABELS, workers=0, key="k").counts.sum() == 2005
