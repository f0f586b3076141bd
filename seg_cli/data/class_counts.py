"""How often each class occurs in the masks of a split: counted once, in parallel, and remembered by content."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seg_cli import __version__
from seg_cli.data.files import FilePairs
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.loading import start_worker
from seg_cli.data.sample import Dataset, Split
from seg_cli.data.workers import start_method
from seg_cli.errors import RunFailed, UserError
from seg_cli.runs.atomic import write_json

_FORMAT = 1  # of what is counted and how it is kept; part of the key


@dataclass(frozen=True)
class ClassCounts:
    """What was counted in the masks of a split; one number a class unless said otherwise. Void pixels are in none.

    Attributes:
        total_images: masks that were read.
        pixels: pixels of the class in all masks.
        images: masks in which the class occurs.
        image_pixels: pixels, of whatever class, of the masks in which the class occurs. Where labels overlap, a pixel
            counts for a class if it is not void for that class.
    """

    total_images: int
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    image_pixels: tuple[int, ...]


def count_classes(
    split: Split,
    labels: LabelSpace,
    *,
    workers: int,
    key: str | None = None,
    progress: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
) -> ClassCounts:
    """Count the classes in every mask of a split.

    A split that has a method ``mask(index)`` is asked for its masks alone; of others, whole samples are read.

    Args:
        split: its masks are (H, W) class indices, or (C, H, W) of 0 and 1 where labels overlap; ``VOID`` in either.
        labels: the classes.
        workers: processes that read; 0 reads in this one.
        key: what the counts are remembered by, from ``content_key``. Without it, they are counted anew.
        progress: is given an iterable of one item a mask, and yields its items while it shows how far it is.

    Raises:
        UserError: if a mask cannot be read or does not belong to ``labels``.
    """
    classes = labels.num_classes
    remembered = _recall(key, classes) if key else None
    if remembered is not None and remembered.total_images == len(split):
        return remembered
    loader = DataLoader(
        _Counted(split, classes),
        batch_size=None,
        collate_fn=np.asarray,
        num_workers=workers,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method(workers),
        generator=torch.Generator(),  # else a draw from the run's own: what is remembered would change the training
    )
    sums = np.zeros((3, classes), np.int64)
    for counted in progress(loader):
        sums += counted
    pixels, images, image_pixels = (tuple(row) for row in sums.tolist())
    counts = ClassCounts(len(split), pixels, images, image_pixels)
    if key:
        _remember(key, counts)
    return counts


def content_key(dataset: Dataset, split: str) -> str:
    """A hash of all that the counts of a split depend on.

    Mask files go in whole: a dataset's fingerprint takes the first 4 KiB of a file and its size, and a mask in which
    some pixels were relabelled further down can have both unchanged.
    """
    labels = dataset.labels
    samples = dataset.splits[split]
    identity = (_FORMAT, __version__, dataset.fingerprint(), split, list(labels.names), sorted(labels.raw.items()))
    digest = hashlib.sha256(repr((*identity, getattr(samples, "indices", None))).encode())  # of those that are left
    if isinstance(samples, FilePairs):
        masks = dict.fromkeys(path for pair in samples.pairs for path in pair.masks)  # COCO's share one
        for path in masks:
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise UserError(f"{path}: the mask cannot be read ({error.strerror}).") from None
    return digest.hexdigest()


class _Counted(TorchDataset):
    """For each mask (3, C) int64: pixels of a class, whether it occurs, and pixels of the mask if it does."""

    def __init__(self, split: Split, classes: int) -> None:
        self.split, self.classes = split, classes

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        mask = self.split.mask(index) if hasattr(self.split, "mask") else self.split[index].mask
        if mask.ndim == 3:
            if len(mask) != self.classes or not np.isin(mask, (0, 1, VOID)).all():
                raise UserError(
                    f"{self.split[index].name}: a mask of overlapping labels has one plane of 0, 1 and {VOID} (void) "
                    f"for each of the {self.classes} classes; this one has {len(mask)} planes with the values "
                    f"{_some(np.unique(mask))}."
                )
            pixels = (mask == 1).sum((1, 2))
            valid = (mask != VOID).sum((1, 2))
        else:
            counts = np.bincount(mask.ravel(), minlength=VOID + 1)
            pixels = counts[: self.classes]
            valid = pixels.sum()
            if counts[self.classes : VOID].any():
                found = self.classes + np.flatnonzero(counts[self.classes : VOID])
                raise UserError(
                    f"{self.split[index].name}: the mask holds class indices that the dataset does not define: "
                    f"{_some(found)}. Defined are 0 to {self.classes - 1}, and {VOID} for void."
                )
        occurs = pixels > 0
        return np.stack((pixels, occurs, occurs * valid)).astype(np.int64)


def _some(values: np.ndarray) -> str:
    return ", ".join(str(value) for value in values[:10]) + (" ..." if len(values) > 10 else "")


def _cache_file(key: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "segrun" / "class_counts" / f"{key}.json"


def _recall(key: str, classes: int) -> ClassCounts | None:
    """Counts that were remembered; None if there are none, or the file is damaged."""
    try:
        kept = json.loads(_cache_file(key).read_text(encoding="utf-8"))
        rows = [[int(number) for number in kept[name]] for name in ("pixels", "images", "image_pixels")]
        total = int(kept["total_images"])
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):  # RuntimeError: nobody knows where home is
        return None
    whole = all(len(row) == classes and min(row) >= 0 for row in rows)
    return ClassCounts(total, *(tuple(row) for row in rows)) if whole else None


def _remember(key: str, counts: ClassCounts) -> None:
    """Keep counts for the next run; where that is not possible, the next run counts again."""
    try:
        file = _cache_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(counts))
    except (OSError, RuntimeError, RunFailed):
        return
