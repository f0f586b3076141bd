"""How long the signed distance maps of a mask take on one core, beside scipy and OpenCV called twice a class.

Masks of 512x1024: one with 19 classes, all of which occur; one with the 9 of 19 classes that occur in a picture of
blobs as large as a street's; one of the foreground of two classes. The peers compute one exact transform outside and
one inside of each class that occurs. The rounds are interleaved, and each median is given as a ratio to ours; the
largest difference from scipy is printed too.

    python bench/distances.py [ROUNDS]
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from seg_cli.losses.distances import signed_distances

HEIGHT, WIDTH, CLASSES = 512, 1024, 19
Transform = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def blobs(classes: int, cell: int) -> Tensor:
    """(1, HEIGHT, WIDTH): at each pixel the largest of several smooth random fields."""
    rng = np.random.default_rng(0)
    coarse = rng.random((classes, HEIGHT // cell, WIDTH // cell), dtype=np.float32)
    fields = [cv2.resize(field, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for field in coarse]
    return torch.from_numpy(np.stack(fields).argmax(0).astype(np.uint8))[None]


def ours(mask: Tensor) -> Tensor:
    return signed_distances(mask, CLASSES)


def two_a_class(mask: Tensor, transform: Transform) -> Tensor:
    image = mask[0].numpy()
    maps = np.zeros((1, CLASSES, HEIGHT, WIDTH), np.float32)
    for label in np.unique(image):
        own = (image == label).astype(np.uint8)
        maps[0, label] = transform(1 - own) - (transform(own) - 1) * own
    return torch.from_numpy(maps)


def with_scipy(mask: Tensor) -> Tensor:
    return two_a_class(mask, distance_transform_edt)


def with_opencv(mask: Tensor) -> Tensor:
    return two_a_class(mask, lambda far: cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def seconds(function: Callable[[Tensor], Tensor], mask: Tensor) -> float:
    start = time.perf_counter()
    function(mask)
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(2)  # there is one core all the same; told of one thread, OpenCV alone takes a slower routine

    masks = {"19 of 19 classes": blobs(19, 32), "9 of 19 classes": blobs(9, 64), "2 of 19 classes": blobs(2, 64)}
    peers = (ours, with_opencv, with_scipy)
    print(f"{HEIGHT}x{WIDTH}, one core, median of {rounds} rounds")
    print(f"{'mask':<20}{'ours':>10}{'OpenCV':>12}{'ratio':>8}{'scipy':>12}{'ratio':>8}{'difference':>13}")
    for name, mask in masks.items():
        difference = float((ours(mask) - with_scipy(mask)).abs().max())
        times = [[seconds(peer, mask) for peer in peers] for _ in range(rounds)]
        own, opencv, scipy = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:<20}{own:>7.1f} ms{opencv:>9.1f} ms{opencv / own:>7.1f}x"
            f"{scipy:>9.1f} ms{scipy / own:>7.1f}x{difference:>13.1e}"
        )


if __name__ == "__main__":
    main()
