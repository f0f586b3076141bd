"""Counting the classes of masks: by hand, in parallel, from the cache, and whatever state the cache is in."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seg_cli.data import class_counts
from seg_cli.data.camvid import CamVid
from seg_cli.data.class_counts import ClassCounts, content_key, count_classes
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError

LABELS = LabelSpace(names=("a", "b", "c"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
MASKS = [
    np.array([[0, 0, 1], [0, VOID, 1]], np.uint8),
    np.array([[1, 1], [1, 1]], np.uint8),
    np.full((2, 2), VOID, np.uint8),
]
BY_HAND = ClassCounts(total_images=3, pixels=(3, 6, 0), images=(1, 2, 0), image_pixels=(5, 9, 0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segrun" / "class_counts"


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


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_those_made_by_hand(workers: int) -> None:
    assert count_classes(Split(MASKS), LABELS, workers=workers) == BY_HAND


def test_where_labels_overlap_each_class_is_counted_alone() -> None:
    mask = np.array([[[1, 1], [0, VOID]], [[0, 0], [0, 0]], [[1, 0], [VOID, VOID]]], np.uint8)
    counts = count_classes(Split([mask, mask]), LABELS, workers=0)
    assert counts == ClassCounts(2, pixels=(4, 0, 2), images=(2, 0, 2), image_pixels=(6, 0, 4))


def test_masks_are_read_without_their_images_where_the_split_can() -> None:
    split = MaskSplit(MASKS)
    assert count_classes(split, LABELS, workers=0) == BY_HAND
    assert not split.read


def test_progress_sees_every_mask_once() -> None:
    seen = []

    def progress(masks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        assert len(masks) == 3  # type: ignore[arg-type]
        for mask in masks:
            seen.append(mask.shape)
            yield mask

    assert count_classes(Split(MASKS), LABELS, workers=0, progress=progress) == BY_HAND
    assert seen == [(3, 3)] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_random_numbers_of_the_run_are_left_alone(workers: int) -> None:
    before = torch.get_rng_state()
    count_classes(Split(MASKS), LABELS, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


# ---- the cache


def test_counts_are_remembered_by_their_key(cache: Path) -> None:
    split = Split(MASKS)
    assert count_classes(split, LABELS, workers=0, key="k") == BY_HAND
    split.read.clear()
    assert count_classes(split, LABELS, workers=0, key="k") == BY_HAND
    assert not split.read
    assert [file.name for file in cache.iterdir()] == ["k.json"]
    count_classes(split, LABELS, workers=0, key="other")
    assert split.read == [0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b'{"total_images": 3, "pixels": [1, 2], "images": [1, 2], "image_pixels": [1, 2]}',
        b'{"total_images": 3, "pixels": [1, -2, 3], "images": [1, 2, 3], "image_pixels": [1, 2, 3]}',
        b'{"total_images": 3, "pixels": "abc", "images": [1, 2, 3], "image_pixels": [1, 2, 3]}',
        b'{"total_images": 3, "pixels": null, "images": [1, 2, 3], "image_pixels": [1, 2, 3]}',
        b'{"total_images": 2, "pixels": [1, 2, 3], "images": [1, 2, 3], "image_pixels": [1, 2, 3]}',
    ],
)
def test_a_damaged_file_is_counted_again_and_mended(cache: Path, content: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "k.json").write_bytes(content)
    split = Split(MASKS)
    assert count_classes(split, LABELS, workers=0, key="k") == BY_HAND
    split.read.clear()
    assert count_classes(split, LABELS, workers=0, key="k") == BY_HAND
    assert not split.read


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert count_classes(Split(MASKS), LABELS, workers=0, key="k") == BY_HAND


def test_without_a_home_there_is_no_cache_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert count_classes(Split(MASKS), LABELS, workers=0, key="k") == BY_HAND


# ---- the key


def test_the_key_is_that_of_the_content_wherever_it_lies(camvid_root: Path) -> None:
    key = content_key(CamVid(root=str(camvid_root)), "train")
    assert key != content_key(CamVid(root=str(camvid_root)), "val")
    moved = camvid_root.rename(camvid_root.parent / "moved")
    assert content_key(CamVid(root=str(moved)), "train") == key


def test_one_pixel_far_down_a_mask_file_gives_another_key(camvid_root: Path) -> None:
    path = sorted((camvid_root / "trainannot").glob("*.png"))[0]
    # Stored without compression, so that size and first 4 KiB stay what they are.
    mask = np.tile(np.array(Image.open(path)), (3, 1))
    Image.fromarray(mask).save(path, compress_level=0)
    dataset = CamVid(root=str(camvid_root))
    size, fingerprint, key = path.stat().st_size, dataset.fingerprint(), content_key(dataset, "train")
    mask[-1, -1] = (mask[-1, -1] + 1) % 11
    Image.fromarray(mask).save(path, compress_level=0)
    assert (path.stat().st_size, dataset.fingerprint()) == (size, fingerprint)
    assert content_key(dataset, "train") != key


def test_another_version_of_the_program_counts_anew(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CamVid(root=str(camvid_root))
    key = content_key(dataset, "train")
    monkeypatch.setattr(class_counts, "__version__", "another")
    assert content_key(dataset, "train") != key


# ---- what is wrong with masks


@pytest.mark.parametrize("workers", [0, 1])
def test_class_indices_that_are_not_there_are_named(workers: int) -> None:
    with pytest.raises(UserError, match=r"^image1: the mask holds class indices .*: 3, 200\. Defined are 0 to"):
        count_classes(Split([MASKS[0], np.array([[3, 200, 0]], np.uint8)]), LABELS, workers=workers)


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 2), np.uint8), np.full((3, 2, 2), 7, np.uint8)])
def test_overlapping_masks_of_another_form_are_named(mask: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"^image0: a mask of overlapping labels has one plane of 0, 1 and 255"):
        count_classes(Split([mask]), LABELS, workers=0)


def test_a_mask_file_that_went_away_is_named(camvid_root: Path) -> None:
    dataset = CamVid(root=str(camvid_root))
    gone = sorted((camvid_root / "trainannot").glob("*.png"))[0]
    key = content_key(dataset, "train")
    gone.unlink()
    with pytest.raises(UserError, match=rf"{gone.name}: the mask is not there any more"):
        count_classes(dataset.splits["train"], dataset.labels, workers=1, key=key)
