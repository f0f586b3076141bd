"""From a split to batches: sampling that is exact on any number of processes, and collation that copies once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seg_cli.data.labels import VOID
from seg_cli.data.sample import Sample, Split
from seg_cli.data.transforms import Augment, Size


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

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.masks.pin_memory(), self.names, self.groups)


class Draw(NamedTuple):
    """Which sample, in which epoch: together with the run's seed this decides every random number of a sample."""

    sample: int
    epoch: int


class ShuffledBatches:
    """Batches of draws for training, shuffled anew each epoch; every process gets as many as every other.

    Args:
        length: samples in the split.
        batch_size: samples a batch and process; the last, smaller batch is left out unless it is the only one.
        seed: of the run.
        rank, world_size: of this process, and how many there are.
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self.length // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        order = np.resize(order, max(self.length, self.world_size))  # repeated where some process would have nothing
        step = self.batch_size * self.world_size
        for start in range(0, len(self) * step, step):
            chosen = order[start : start + step][self.rank :: self.world_size]
            yield [Draw(int(index), self.epoch) for index in chosen]


class _TrainingSamples(Dataset):
    def __init__(self, split: Split, augment: Augment, crop: Size | None, seed: int) -> None:
        self.split, self.augment, self.crop, self.seed = split, augment, crop, seed

    def __getitem__(self, draw: Draw) -> Sample:
        rng = np.random.default_rng((self.seed, draw.epoch, draw.sample))
        return self.augment(self.split, draw.sample, self.crop, rng)


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
    crop: Size | None,
    batch_size: int,
    seed: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """A loader of augmented, shuffled ``Batch``es; ``loader.batch_sampler.set_epoch`` starts an epoch's shuffle."""
    batches = ShuffledBatches(len(split), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    return DataLoader(
        _TrainingSamples(split, augment, crop, seed),
        batch_sampler=batches,
        collate_fn=collate_padded,
        num_workers=workers,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def scoring_loader(split: Split, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of lists of ``Batch``es, in order; each sample of the split exactly once over all processes.

    A list holds one batch for each size of image, so that no image is padded and no score depends on its neighbours.
    """
    return DataLoader(
        _ScoringSamples(split, range(rank, len(split), world_size)),
        batch_size=batch_size,
        collate_fn=collate_by_size,
        num_workers=workers,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def worker_count(workers: int | str) -> int:
    """``loader.workers``: a number as it is; ``auto`` is one a core, at most 8, or 2 where the CPU also trains."""
    if workers != "auto":
        return int(workers)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8 if torch.cuda.is_available() else 2)


def start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's threads in every worker would fight for the cores


def collate_padded(samples: list[Sample]) -> Batch:
    """Stack samples; smaller ones are filled up at the right and bottom with void."""
    height = max(sample.size[0] for sample in samples)
    width = max(sample.size[1] for sample in samples)
    first = samples[0]
    images = np.zeros((len(samples), height, width, first.image.shape[2]), first.image.dtype)
    masks = np.full((len(samples), *first.mask.shape[:-2], height, width), VOID, np.uint8)
    for i, sample in enumerate(samples):
        h, w = sample.size
        images[i, :h, :w] = sample.image
        masks[i, ..., :h, :w] = sample.mask
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(masks),
        [sample.name for sample in samples],
        [sample.group for sample in samples],
    )


def collate_by_size(samples: list[Sample]) -> list[Batch]:
    """One ``Batch`` for each size of image among the samples, in order of first appearance."""
    by_size: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.size, []).append(sample)
    return [collate_padded(group) for group in by_size.values()]
