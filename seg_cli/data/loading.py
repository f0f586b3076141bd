"""From a split to batches: sampling that is exact on any number of processes, and collation that copies once."""

import atexit
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from seg_cli.data.augment import Augment
from seg_cli.data.geometry import Size
from seg_cli.data.labels import VOID
from seg_cli.data.sample import Sample, Split
from seg_cli.data.workers import start_method


@dataclass
class Batch:
    """Samples as tensors.

    Attributes:
        images: (N, B, H, W) in channels_last memory order, uint8, or float32 in 0..255 where files have finer steps;
            the model normalises them on the device.
        masks: (N, H, W) uint8, class indices or ``VOID``; where labels overlap (N, C, H, W) uint8 of 0, 1 and ``VOID``.
        names, groups: one a sample.
    """

    images: Tensor
    masks: Tensor
    names: list[str]
    groups: list[str]

    def to(self, device: torch.device) -> "Batch":
        images = self.images.to(device, non_blocking=True)
        return Batch(images, self.masks.to(device, non_blocking=True), self.names, self.groups)

    def split(self, parts: int) -> list["Batch"]:
        """The same samples in so many batches, or fewer where there are not so many samples; views, no copies."""
        count = len(self.names)
        if parts == 1 or count == 1:
            return [self]
        ends = [round(count * part / min(parts, count)) for part in range(min(parts, count) + 1)]
        return [Batch(self.images[a:b], self.masks[a:b], self.names[a:b], self.groups[a:b]) for a, b in pairwise(ends)]

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.masks.pin_memory(), self.names, self.groups)


@dataclass(frozen=True)
class BatchShape:
    """What the training batches of an epoch look like.

    Attributes:
        samples: a batch and process.
        crop: (height, width); None where every sample has its own size, times ``zoom``.
        zoom: how much smaller things are than in the file.
    """

    samples: int
    crop: Size | None = None
    zoom: float = 1.0


class Draw(NamedTuple):
    """Which sample, in which epoch: together with the run's seed this decides every random number of a sample."""

    sample: int
    epoch: int
    crop: Size | None = None
    zoom: float = 1.0


class ShuffledBatches:
    """Batches of draws for training, shuffled anew each epoch; every process gets as many as every other.

    Args:
        length: samples in the split.
        shape_of: epoch -> what its batches look like.
        seed: of the run.
        rank, world_size: of this process, and how many there are.
    """

    def __init__(
        self, length: int, *, shape_of: Callable[[int], BatchShape], seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length, self.shape_of, self.seed = length, shape_of, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.batches, self.skipped = 0, range(0), 0

    def choose(self, epoch: int, batches: range, skipped: int = 0) -> None:
        """Which batches of which epoch come next; an epoch that was left in its middle goes on behind what is done.

        Args:
            epoch: from 0.
            batches: their numbers, of batches behind the skipped samples.
            skipped: samples of the epoch that were done in batches of another size.
        """
        self.epoch, self.batches, self.skipped = epoch, batches, skipped

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, shape = self.epoch, self.shape_of(self.epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
        order = np.resize(order, max(self.length, self.world_size))  # repeated where some process would have nothing
        step = shape.samples * self.world_size
        for number in self.batches:
            start = self.skipped + number * step
            chosen = order[start : start + step][self.rank :: self.world_size]
            yield [Draw(int(index), epoch, shape.crop, shape.zoom) for index in chosen]


class _TrainingSamples(Dataset):
    def __init__(self, split: Split, augment: Augment, seed: int) -> None:
        self.split, self.augment, self.seed = split, augment, seed

    def __getitem__(self, draw: Draw) -> Sample:
        rng = np.random.default_rng((self.seed, draw.epoch, draw.sample))
        return self.augment(self.split, draw.sample, draw.crop, rng, zoom=draw.zoom)


class _ScoringSamples(Dataset):
    def __init__(self, split: Split, indices: range) -> None:
        self.split, self.indices = split, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        return self.split[self.indices[position]]


def training_loader(
    split: Split,
    *,
    augment: Augment,
    shape_of: Callable[[int], BatchShape],
    seed: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """A loader of augmented, shuffled ``Batch``es: those that ``loader.batch_sampler.choose`` was last told."""
    return DataLoader(
        _TrainingSamples(split, augment, seed),
        batch_sampler=ShuffledBatches(len(split), shape_of=shape_of, seed=seed, rank=rank, world_size=world_size),
        collate_fn=collate_padded,
        **_workers(workers),
    )


def scoring_loader(split: Split, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of lists of ``Batch``es, in order; each sample of the split exactly once over all processes.

    A list holds one batch for each size of image, so that no image is padded and no score depends on its neighbours.
    """
    return DataLoader(
        _ScoringSamples(split, range(rank, len(split), world_size)),
        batch_size=batch_size,
        collate_fn=collate_by_size,
        **_workers(workers),
    )


def _workers(workers: int) -> dict[str, Any]:
    """How loaders run: their processes stay from epoch to epoch."""
    return {
        "num_workers": workers,
        "worker_init_fn": start_worker,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        # else a draw from the run's own generator each time: what is read would change dropout
        "generator": torch.Generator(),
        "multiprocessing_context": start_method(workers),
    }


def worker_count(workers: int | str) -> int:
    """``loader.workers``: a number as it is; ``auto`` is one a core, at most 8, or 2 where the CPU also trains."""
    if workers != "auto":
        return int(workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8 if torch.cuda.is_available() else 2)


def start_worker(worker: int) -> None:
    # Ctrl-C, SLURM and systemd signal all processes: what is to be saved, the process that trains decides, and a
    # worker that died meanwhile would be an error in the midst of a step. Workers end when they are told or left alone.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(0)  # OpenCV's threads in every worker would fight for the cores, as would
    torch.set_num_threads(1)


def _end_workers() -> None:
    """When the program ends: multiprocessing would ask them by SIGTERM, which they ignore, and wait for ever."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would take their end for an error
    for process in workers:
        process.kill()


atexit.register(_end_workers)


def collate_padded(samples: list[Sample]) -> Batch:
    """Stack samples; smaller ones are filled up at the right and bottom with void.

    Images of bytes are float32 where others of the batch are.
    """
    height = max(sample.size[0] for sample in samples)
    width = max(sample.size[1] for sample in samples)
    first = samples[0]
    floats = any(sample.image.dtype != np.uint8 for sample in samples)
    shape = (len(samples), height, width, first.image.shape[2])
    image_tensor = _memory(shape, torch.float32 if floats else torch.uint8)
    mask_tensor = _memory((len(samples), *first.mask.shape[:-2], height, width), torch.uint8)
    images, masks = image_tensor.numpy(), mask_tensor.numpy()
    for i, sample in enumerate(samples):
        h, w = sample.size
        images[i, :h, :w] = sample.image
        masks[i, ..., :h, :w] = sample.mask
        images[i, h:] = images[i, :h, w:] = 0
        masks[i, ..., h:, :] = masks[i, ..., :h, w:] = VOID
    return Batch(
        image_tensor.permute(0, 3, 1, 2),
        mask_tensor,
        [sample.name for sample in samples],
        [sample.group for sample in samples],
    )


def _memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor to be filled; in a worker, of memory that the process which trains sees, so that a batch is copied once.

    Otherwise a worker's batch would be written, and then copied there.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # as torch's own collation does
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]


def collate_by_size(samples: list[Sample]) -> list[Batch]:
    """One ``Batch`` for each size of image among the samples, in order of first appearance."""
    by_size: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.size, []).append(sample)
    return [collate_padded(group) for group in by_size.values()]
