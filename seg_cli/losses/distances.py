"""Exact Euclidean distances, in pixels, to the boundaries of the classes of a mask, computed on the CPU."""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_cli.data.labels import VOID


def occurring(target: Tensor, num_classes: int) -> Tensor:
    """Which classes occur in which image.

    Args:
        target: (N, H, W) class indices, or (N, C, H, W) zeros and ones; 255 for void.
        num_classes: C.

    Returns:
        (N, C) bool, on the CPU.
    """
    if target.ndim == 4:
        return (target == 1).flatten(2).any(2).cpu()
    labels = _on_host(target).flatten(1).numpy()
    counts = np.stack([np.bincount(image, minlength=256)[:num_classes] for image in labels])
    return torch.from_numpy(counts > 0)


def signed_distances(target: Tensor, num_classes: int) -> Tensor:
    """The level-set function of each class: Kervadec et al. (2019), arXiv:1812.07032, as their code computes it.

    Outside a class it is the distance to the class's nearest pixel, so 1 or more; inside, 1 minus the distance to the
    nearest pixel that is not of the class, so 0 or less. The map of a class that does not occur in the image, or that
    fills the whole of it, is 0: it has no boundary. A void pixel is not of the class, so a region ends where void
    begins; at void pixels themselves the maps are 0.

    A target on a GPU is copied to the host, and the maps are copied back. The work is shared among the cores.

    Args:
        target: (N, H, W) class indices, or (N, C, H, W) zeros and ones where labels overlap; 255 for void.
        num_classes: C, at most 255.

    Returns:
        (N, C, H, W) float32 distances in pixels, on the target's device.
    """
    maps = _distances(target, occurring(target, num_classes), signed=True)
    valid = (target != VOID).to(maps.dtype)
    return maps.mul_(valid if target.ndim == 4 else valid.unsqueeze(1))


def boundary_distances(labels: Tensor, wanted: Tensor) -> Tensor:
    """The distance from each pixel to the nearest one on the other side of a class's boundary, 1 or more.

    That is what Karimi and Salcudean (2019), arXiv:1904.10030, take as the distance to the boundary. The map of a class
    that does not occur in the image, that fills the whole of it, or that is not wanted, is 0. A label of 255, or of a
    class that is not wanted, belongs to none. Labels on a GPU are copied to the host, and the maps are copied back.

    Args:
        labels: (N, H, W) class indices, or (N, C, H, W) zeros and ones where labels overlap.
        wanted: (N, C) bool, on the CPU: of which classes a map is asked for. C is at most 255.

    Returns:
        (N, C, H, W) float32 distances in pixels, on the labels' device.
    """
    return _distances(labels, wanted & occurring(labels, wanted.shape[1]), signed=False)


def _on_host(labels: Tensor) -> Tensor:
    return labels.to(torch.uint8).cpu()


def _distances(labels: Tensor, present: Tensor, *, signed: bool) -> Tensor:
    """Labels, and (N, C) which maps to fill -> (N, C, H, W) maps; a class that is present must occur."""
    if labels.ndim == 4:  # each label is an image of its own, with a class 0 and a rest
        images = torch.where(labels == 1, 0, VOID).flatten(0, 1)
        return _distances(images, present.view(-1, 1), signed=signed).view(labels.shape)
    shape = (*present.shape, *labels.shape[1:])
    # NumPy asks for large memory pages: the first write to tens of megabytes then takes a fifth of the time.
    maps = torch.zeros(shape, pin_memory=True) if labels.is_cuda else torch.from_numpy(np.zeros(shape, np.float32))
    _fill(maps.numpy(), _on_host(labels).numpy(), present.numpy(), signed=signed)
    return maps.to(labels.device, non_blocking=True)


def _fill(maps: NDArray[np.float32], labels: NDArray[np.uint8], present: NDArray[np.bool_], *, signed: bool) -> None:
    """Write the maps (N, C, H, W) of the present (N, C) classes of labels (N, H, W).

    One transform a class gives the distances outside it. Those inside need no transform of their own: the nearest pixel
    that is not of the class is the nearest one of any other, so their distance is the least of the others' maps. All
    pixels that are of no present class are one region more.
    """
    images, num_classes, height, width = maps.shape
    relabel = np.full((images, 256), VOID, np.uint8)
    relabel[:, :num_classes][present] = np.nonzero(present)[1]
    labels = np.stack([table[image] for table, image in zip(relabel, labels, strict=True)])
    rest = np.zeros((images, height, width), np.float32)
    regions = [
        [*np.flatnonzero(row), *([VOID] if (image == VOID).any() else [])]
        for row, image in zip(present, labels, strict=True)
    ]

    def map_of(image: int, label: int) -> NDArray[np.float32]:
        return rest[image] if label == VOID else maps[image, label]

    def outside(jobs: list[tuple[int, int]]) -> None:
        # Rows of a power of two bytes would fall on the same few lines of the cache, and take a third longer.
        distances = np.empty((height, width + 16), np.float32)[:, :width]
        for image, label in jobs:
            other = labels[image] != label
            distances = cv2.distanceTransform(other.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dst=distances)
            map_of(image, label)[:] = distances
            map_of(image, label)[~other] = np.inf  # so that a region is never its own nearest other

    def inside(image: int) -> None:
        nearest = np.full((height, width), np.inf, np.float32)
        for label in regions[image]:
            np.minimum(nearest, map_of(image, label), out=nearest)
        nearest[np.isinf(nearest)] = 1 if signed else 0  # one region alone: it fills the image
        values = 1 - nearest if signed else nearest
        for label in np.flatnonzero(present[image]):
            np.copyto(maps[image, label], values, where=labels[image] == label)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Intel's routine, which OpenCV would choose for small images, differs in the last bit from one call to the next; it
    # is switched off in the pool's threads alone. OpenCV and NumPy let go of Python's lock.
    with ThreadPoolExecutor(cores, initializer=cv2.ipp.setUseIPP, initargs=(False,)) as pool:
        jobs = [(image, label) for image in range(images) for label in regions[image]]
        list(pool.map(outside, [jobs[first::cores] for first in range(cores)]))
        list(pool.map(inside, range(images)))
