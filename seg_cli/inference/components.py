"""Connected parts of label maps: taking small ones away, and filling holes. NumPy and OpenCV alone."""

import cv2
import numpy as np

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def small_components(mask: np.ndarray, min_pixels: int) -> np.ndarray:
    """(H, W) bool: the pixels of those connected parts of a mask (H, W) that have fewer than ``min_pixels`` pixels.

    Pixels that touch at a corner are connected.
    """
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    small = stats[:, cv2.CC_STAT_AREA] < min_pixels
    small[0] = False  # what is not in the mask
    return small[numbers]


def holes(mask: np.ndarray, max_pixels: int | None = None) -> np.ndarray:
    """(H, W) bool: the pixels that a mask (H, W) encloses.

    The pixels of a hole touch at sides, and none is at the border of the image.

    Args:
        max_pixels: holes with more do not count; None counts all.
    """
    around = (mask == 0).astype(np.uint8)
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(around, connectivity=4, ltype=cv2.CV_32S)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    if max_pixels is not None:
        inside &= area <= max_pixels
    inside[0] = False  # the mask itself
    return inside[numbers]


def without_small(labels: np.ndarray, min_pixels: int) -> np.ndarray:
    """A label map without connected parts of one class that are small.

    What is taken away becomes what most of its rim borders on. Where small parts border on small ones alone, those at
    the outside go first. A map of small parts alone stays as it is.

    Args:
        labels: (H, W) integers from 0.
        min_pixels: parts with fewer are small.

    Returns:
        (H, W) of the same type, a new array.
    """
    numbers, sizes, classes = components(labels)
    while True:
        small = sizes < min_pixels
        if not small.any() or small.all():
            break
        became = _majority(numbers, small, classes)
        if not (became >= 0).any():
            break
        classes = np.where(became >= 0, became, classes)
        numbers, sizes, classes = components(classes[numbers])
    return classes[numbers].astype(labels.dtype)


def without_holes(labels: np.ndarray, max_pixels: int | None = None) -> np.ndarray:
    """A label map in which what one class encloses is of that class.

    Args:
        labels: (H, W) integers from 0.
        max_pixels: larger holes stay; None fills all.

    Returns:
        (H, W) of the same type, a new array. Of a hole within a hole, the class around the outer one counts.
    """
    filled = labels
    while True:
        before, filled = filled, filled.copy()
        for label in np.unique(before):
            filled[holes(before == label, max_pixels)] = label
        # Holes in holes are filled from the outside, one within the other each time.
        if np.array_equal(filled, before):
            return filled


def components(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The connected parts of one class in a label map.

    Args:
        labels: (H, W) integers from 0. Pixels that touch at a corner are connected.

    Returns:
        (H, W) int32 numbers of the parts from 0, and of each part its pixels and its class, both int64.
    """
    numbers = np.zeros(labels.shape, np.int32)
    sizes: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    found = 0
    for label in np.unique(labels):
        mask = labels == label
        count, own, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
        np.add(own, found - 1, out=numbers, where=mask)
        sizes.append(stats[1:, cv2.CC_STAT_AREA].astype(np.int64))
        classes.append(np.full(count - 1, label, np.int64))
        found += count - 1
    return numbers, np.concatenate(sizes), np.concatenate(classes)


def _majority(numbers: np.ndarray, small: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(parts,) the class of large parts that most of the rim of a small one borders on; -1 for the others."""
    height, width = numbers.shape
    num_classes = int(classes.max()) + 1
    keys = []
    for dy, dx in _NEIGHBOURS:
        here = numbers[: height - dy, max(-dx, 0) : width - max(dx, 0)]
        there = numbers[dy:, max(dx, 0) : width - max(-dx, 0)]
        for inner, outer in ((here, there), (there, here)):
            rim = small[inner] & ~small[outer]
            keys.append(inner[rim].astype(np.int64) * num_classes + classes[outer[rim]])
    key, count = np.unique(np.concatenate(keys), return_counts=True)
    became = np.full(len(small), -1, np.int64)
    order = np.lexsort((-key, count))  # the last one of a part wins: the most, and of equal ones the first class
    became[key[order] // num_classes] = key[order] % num_classes
    return became
