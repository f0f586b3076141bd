"""Where each class is in the masks of a split: a small index, built once, in parallel, and remembered by content.

What looks for rare classes asks it, and no mask is read in vain. It has the number of pixels of each class in each
sample, and a few of their places, spread evenly over them: some hundred bytes a sample.
"""

import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Split
from seg_cli.data.workers import start_method
from seg_cli.errors import RunFailed
from seg_cli.runs.atomic import write_file

_FORMAT = 1  # of the file
_PLACES = 16  # of a class in a sample, at most


@dataclass(frozen=True)
class ClassPlaces:
    """Where the classes of a split are.

    Attributes:
        counts: (samples, C) int64, pixels of a class in a sample. Where labels overlap a pixel counts for each of its
            classes; void counts for none.
        places: (M, 2) uint16, y before x: at most 16 of each sample and class, in the order of ``counts``.
    """

    counts: np.ndarray
    places: np.ndarray

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(np.minimum(self.counts, _PLACES)).reshape(self.counts.shape)

    def samples_with(self, label: int) -> np.ndarray:
        """The samples that have a class, in order."""
        return np.flatnonzero(self.counts[:, label])

    def of(self, index: int, label: int) -> np.ndarray:
        """The known places of a class in a sample: (n, 2), y before x; none where it does not occur."""
        end = self._ends[index, label]
        return self.places[end - min(self.counts[index, label], _PLACES) : end]

    def draw(self, index: int, label: int, rng: np.random.Generator) -> tuple[int, int]:
        """(y, x) of a pixel of a class that occurs in a sample."""
        places = self.of(index, label)
        y, x = places[rng.integers(len(places))]
        return int(y), int(x)


def find_places(
    split: Split,
    labels: LabelSpace,
    *,
    workers: int,
    key: str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> ClassPlaces:
    """The index of a split; the arguments are those of ``class_counts.count_classes``.

    A split that has a method ``mask(index)`` is asked for its masks alone; of others, whole samples are read.
    """
    remembered = _recall(key) if key else None
    if remembered is not None and remembered.counts.shape == (len(split), labels.num_classes):
        return remembered
    loader = DataLoader(
        _Found(split, labels.num_classes),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method(workers),
        generator=torch.Generator(),  # else a draw from the run's own: what is remembered would change the training
    )
    counts, places = zip(*progress(loader), strict=True)
    found = ClassPlaces(np.stack(counts), np.concatenate(places))
    if key:
        _remember(key, found)
    return found


class _Found(TorchDataset):
    """Of each mask (C,) int64 pixels of the classes, and their places as ``ClassPlaces`` keeps them."""

    def __init__(self, split: Split, classes: int) -> None:
        self.split, self.classes = split, classes

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        mask = self.split.mask(index) if hasattr(self.split, "mask") else self.split[index].mask
        if mask.ndim == 3:
            pixels = [np.flatnonzero(plane == 1) for plane in mask]
        else:
            # A stable sort of bytes is a radix sort, and takes one pass whatever the number of classes.
            order = np.argsort(mask, axis=None, kind="stable")
            ends = np.cumsum(np.bincount(mask.ravel(), minlength=self.classes))[: self.classes]
            pixels = np.split(order, ends)[: self.classes]
        counts = np.array([len(found) for found in pixels], np.int64)
        # One in each sixteenth of them: a fixed step could run down a single column.
        rng = np.random.default_rng(index)
        chosen = [found if len(found) <= _PLACES else found[_spread(len(found), rng)] for found in pixels]
        places = np.stack(np.unravel_index(np.concatenate(chosen), mask.shape[-2:]), 1)
        return counts, places.astype(np.uint16)


def _spread(length: int, rng: np.random.Generator) -> np.ndarray:
    return ((np.arange(_PLACES) + rng.random(_PLACES)) * (length / _PLACES)).astype(np.int64)


def _as_it_is(found: Any) -> Any:
    return found


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)


def _cache_file(key: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "segrun" / "class_places" / f"{key}-{_FORMAT}.npz"


def _recall(key: str) -> ClassPlaces | None:
    """An index that was remembered; None if there is none, or the file is damaged."""
    try:
        with np.load(_cache_file(key), allow_pickle=False) as kept:
            found = ClassPlaces(kept["counts"], kept["places"])
        whole = (
            (found.counts.dtype, found.counts.ndim, found.places.dtype) == (np.int64, 2, np.uint16)
            and (found.counts >= 0).all()
            and found.places.shape == (np.minimum(found.counts, _PLACES).sum(), 2)
        )
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None  # RuntimeError: nobody knows where home is
    return found if whole else None


def _remember(key: str, found: ClassPlaces) -> None:
    """Keep an index for the next run; where that is not possible, the next run builds it again."""
    try:
        file = _cache_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, lambda opened: np.savez(opened, counts=found.counts, places=found.places))
    except (OSError, RuntimeError, RunFailed):
        return
