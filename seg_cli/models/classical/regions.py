"""Methods that find regions, and how regions become classes: by what they cover on the training split.

Some methods find the same few regions in each image (dark, middle, bright). Others find any number of them; those are
described by their colour, and sorted by k-means into a few kinds, which then are the same everywhere.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.models.classical.method import (
    Method,
    Progress,
    Step,
    as_bytes,
    choose_space,
    colors_of,
    gray,
    need,
    one_of,
    whole,
)

MAPPINGS = ("majority", "one_to_one", "balanced")
SPACES = ("auto", "gray", "rgb", "lab")


def overlap(regions: np.ndarray, mask: np.ndarray, num_regions: int, num_classes: int) -> np.ndarray:
    """(R, C) int64: how many pixels of each region are of each class, without void; regions below 0 are left out."""
    counted = (mask != VOID) & (regions >= 0)
    pairs = regions[counted].astype(np.int64) * num_classes + mask[counted]
    return np.bincount(pairs, minlength=num_regions * num_classes).reshape(num_regions, num_classes)


def assign(counts: np.ndarray, mapping: str) -> np.ndarray:
    """Which class each region is.

    Args:
        counts: (R, C), see ``overlap``.
        mapping: ``majority``: the class that most of its pixels have. ``balanced``: that which it covers the largest
            share of, so that rare classes are found too. ``one_to_one``: each class has a region of its own, so that as
            many pixels as possible are right (Kuhn 1955, the Hungarian method); regions left over go by majority.

    Returns:
        (R,) uint8; a region without pixels is the class with the most.
    """
    weighed = counts / np.maximum(counts.sum(0, keepdims=True), 1) if mapping == "balanced" else counts
    chosen = np.where(counts.sum(1) > 0, weighed.argmax(1), counts.sum(0).argmax())
    if mapping == "one_to_one":
        regions, classes = need("scipy.optimize").linear_sum_assignment(counts, maximize=True)
        taken = counts[regions, classes] > 0
        chosen[regions[taken]] = classes[taken]
    return chosen.astype(np.uint8)


class FixedRegions(Method):
    """A method that finds the same regions, numbered from 0, in each image.

    Args:
        num_classes: C.
        mapping: see ``assign``.
        names: what the regions are called.
    """

    def __init__(self, *, num_classes: int, mapping: str, names: Sequence[str]) -> None:
        super().__init__(num_classes=num_classes)
        one_of("mapping", mapping, MAPPINGS)
        self.mapping, self.names = mapping, tuple(names)

    def regions(self, image: np.ndarray) -> np.ndarray:
        """(H, W, B) -> (H, W) of any integer type, numbers below ``len(names)``."""
        raise TypeError(f"{type(self).__name__} does not say which regions it finds")

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        counts = np.zeros((len(self.names), self.num_classes), np.int64)
        for index in progress(range(len(samples))):
            sample = samples[index]
            counts += overlap(self.regions(sample.image), sample.mask, *counts.shape)
        self.learned |= {"overlap": counts, "class_of": assign(counts, self.mapping)}

    def label(self, image: np.ndarray) -> np.ndarray:
        regions, class_of = self.regions(image), self.learned["class_of"]
        if regions.dtype == np.uint8:
            table = np.zeros(256, np.uint8)
            table[: len(class_of)] = class_of
            return cv2.LUT(regions, table)
        return class_of[regions]

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        return {"mapping": mapping_table(self.names, self.learned, class_names)}

    def restore(self) -> None:
        check_mapping(self.learned, len(self.names), self.num_classes)


class LooseRegions(Method):
    """A method that finds any number of regions in an image; kinds of them are learned by k-means.

    Args:
        num_classes: C.
        kinds: of regions, by their mean colour and how much it varies.
        space: of colours: ``lab``, ``rgb``, ``gray``, or ``auto``, gray where the images are.
        mapping: of kinds to classes, see ``assign``.
    """

    def __init__(self, *, num_classes: int, kinds: int, space: str, mapping: str) -> None:
        super().__init__(num_classes=num_classes)
        one_of("mapping", mapping, MAPPINGS)
        one_of("space", space, SPACES)
        whole("kinds", kinds, 2, 1000)
        self.kinds, self.space, self.mapping = kinds, space, mapping

    def regions(self, image: np.ndarray) -> np.ndarray:
        """(H, W, B) -> (H, W) int32, regions numbered from 1; 0 is what lies between them, where there is that."""
        raise TypeError(f"{type(self).__name__} does not say which regions it finds")

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        choose_space(self.space, sample)

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        cluster = need("sklearn.cluster")
        space = choose_space(self.space, samples[0])
        looks, sizes, covers = [], [], []
        between = np.zeros(self.num_classes, np.int64)
        for index in progress(range(len(samples))):
            sample = samples[index]
            found = self.regions(sample.image)
            look, size = describe(sample.image, found, space)
            cover = overlap(found, sample.mask, len(look) + 1, self.num_classes)
            between += cover[0]
            looks.append(look)
            sizes.append(size)
            covers.append(cover[1:])
        every, weights = np.concatenate(looks), np.concatenate(sizes)
        spread = every.std(0) + 1e-6
        distinct = len(np.unique(every, axis=0))
        kinds = min(self.kinds, distinct)
        fitted = cluster.KMeans(kinds, n_init=4, random_state=seed).fit(every / spread, sample_weight=weights)
        counts = np.zeros((kinds + 1, self.num_classes), np.int64)
        np.add.at(counts, fitted.labels_ + 1, np.concatenate(covers))
        counts[0] = between
        self.learned |= {
            "space": space,
            "spread": spread,
            "centers": fitted.cluster_centers_.astype(np.float32),
            "overlap": counts,
            "class_of": assign(counts, self.mapping),
        }

    def label(self, image: np.ndarray) -> np.ndarray:
        return self.learned["class_of"][self.kinds_of(image, self.regions(image))]

    def kinds_of(self, image: np.ndarray, regions: np.ndarray) -> np.ndarray:
        """(H, W) int64: the kind of each pixel's region from 1, 0 between regions."""
        learned = self.learned
        look, _ = describe(image, regions, learned["space"])
        distances = ((look / learned["spread"])[:, None] - learned["centers"]) ** 2
        kind_of = np.concatenate(([0], distances.sum(2).argmin(1) + 1))
        return kind_of[regions]

    def steps(self, image: np.ndarray) -> list[Step]:
        regions = self.regions(image)
        return [
            Step(f"{len(np.unique(regions[regions > 0]))} regions", regions),
            Step(f"their kinds, of {len(self.learned['centers'])}", self.kinds_of(image, regions).astype(np.int32)),
        ]

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        names = ["between regions", *(f"kind {number + 1}" for number in range(len(self.learned["centers"])))]
        return {"space": self.learned["space"], "mapping": mapping_table(names, self.learned, class_names)}

    def restore(self) -> None:
        check_mapping(self.learned, len(self.learned["centers"]) + 1, self.num_classes)


def describe(image: np.ndarray, regions: np.ndarray, space: str) -> tuple[np.ndarray, np.ndarray]:
    """What each region looks like, (R, D + 1) float64: mean colour and the deviation of gray; and its size, (R,)."""
    count = int(regions.max()) if regions.size else 0
    flat = regions.ravel()
    sizes = np.bincount(flat, minlength=count + 1)[1:].astype(np.float64)
    pixels = np.maximum(sizes, 1)
    colors = colors_of(image, space)
    look = [np.bincount(flat, band.ravel(), count + 1)[1:] / pixels for band in np.moveaxis(colors, 2, 0)]
    light = gray(as_bytes(image)).astype(np.float64).ravel()
    mean = np.bincount(flat, light, count + 1)[1:] / pixels
    square = np.bincount(flat, light**2, count + 1)[1:] / pixels
    look.append(np.sqrt(np.maximum(square - mean**2, 0)))
    return np.stack(look, 1), sizes


def mapping_table(names: Sequence[str], learned: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Region -> its class, and the pixels of each class that it covered in training."""
    rows = zip(names, learned["class_of"].tolist(), learned["overlap"].tolist(), strict=True)
    return {
        name: {"class": class_names[index], "pixels": dict(zip(class_names, counts, strict=True))}
        for name, index, counts in rows
    }


def check_mapping(learned: dict[str, Any], regions: int, num_classes: int) -> None:
    """Raises ValueError if a mapping that was read cannot be one."""
    class_of = learned["class_of"]
    if class_of.shape != (regions,) or class_of.dtype != np.uint8 or class_of.max() >= num_classes:
        raise ValueError(f"a mapping of {regions} regions to {num_classes} classes was expected")
