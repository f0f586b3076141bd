"""Steps that mix several samples of the training split: ``augment=copy_paste`` and ``augment=mosaic``.

They work on the crop, where little is to be done, and look at samples that they know to be worth reading.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.class_places import ClassPlaces
from seg_cli.data.geometry import Size, each_band, each_plane, log_uniform, probability
from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError

_LEAST_PIXELS = 16  # of an object: less is a speck


@dataclass(frozen=True)
class Others:
    """The split that a sample is of.

    Attributes:
        split, index: the split, and which of its samples is being augmented.
        cut: (index, size, rng) -> a crop of another sample, that went through the steps written before this one.
    """

    split: Split
    index: int
    cut: Callable[[int, Size, np.random.Generator], Sample]

    def draw(self, rng: np.random.Generator) -> int:
        """The index of another sample; of the same one where there is no other."""
        if len(self.split) == 1:
            return self.index
        index = int(rng.integers(len(self.split) - 1))
        return index + (index >= self.index)


class Mosaic:
    """Four samples in one crop: Bochkovskiy 2020 (YOLOv4), arXiv:2004.10934, section 3.4.

    The crop is divided by a vertical and a horizontal line. One part shows the sample itself, the others crops of three
    others, of just that size.

    Args:
        p: probability that a sample becomes a mosaic.
        center: least and largest place of the lines, as a share of the crop's width and height.
    """

    def __init__(self, *, p: float = 0.5, center: Sequence[float] = (0.3, 0.7)) -> None:
        if len(center) != 2 or not 0 < center[0] <= center[1] < 1:
            raise ValueError(f"center={list(center)}: it must be [least,largest] with 0 < least <= largest < 1.")
        self.p, self.center = probability(p), center

    def change(self, sample: Sample, others: Others, rng: np.random.Generator) -> Sample:
        height, width = sample.size
        if rng.random() >= self.p or min(height, width) < 2:
            return sample
        row, column = (
            min(max(1, round(side * rng.uniform(self.center[0], self.center[1]))), side - 1) for side in (height, width)
        )
        image, mask = sample.image.copy(), sample.mask.copy()
        own = int(rng.integers(4))
        for part in range(4):
            if part != own:
                top, bottom = (0, row) if part < 2 else (row, height)
                left, right = (0, column) if part % 2 == 0 else (column, width)
                piece = others.cut(others.draw(rng), (bottom - top, right - left), rng)
                image[top:bottom, left:right] = piece.image
                mask[..., top:bottom, left:right] = piece.mask
        return replace(sample, image=image, mask=mask)


class CopyPaste:
    """Objects of chosen classes, pasted from another sample: Ghiasi 2021, arXiv:2012.07177, without instances.

    An object is a connected region of a class. It is mirrored, scaled and put anywhere; its pixels replace image and
    labels there. The sample to take from is one that is known to have the class, see ``class_places``.

    Args:
        classes: names of the classes to paste, or ``auto``: those that have fewer pixels than the median class.
        p: probability that something is pasted.
        objects: at most so many, at least one.
        scale: least and largest factor of an object's size, drawn log-uniformly.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str] | str = "auto",
        p: float = 0.5,
        objects: int = 3,
        scale: Sequence[float] = (0.5, 1.5),
    ) -> None:
        if not classes or (isinstance(classes, str) and classes != "auto"):
            raise ValueError(f"classes={classes or '[]'}: it must be auto or a list of class names, as in [Pole,Car].")
        if not isinstance(objects, int) or objects < 1:
            raise ValueError(f"objects={objects}: it must be a whole number >= 1.")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
            raise ValueError(f"scale={list(scale)}: it must be [least,largest] with 0 < least <= largest.")
        self.classes, self.p, self.objects, self.scale = classes, probability(p), objects, scale
        self._places: ClassPlaces | None = None

    def fit(self, places: ClassPlaces, labels: LabelSpace, where: str) -> None:
        """Learn which samples have which class. Raises UserError if a class is not there, or never occurs."""
        totals = places.counts.sum(0)
        if self.classes == "auto":
            occurring = np.flatnonzero(totals)
            rarer = occurring[totals[occurring] < np.median(totals[occurring])] if len(occurring) else occurring
            chosen = rarer if len(rarer) else occurring[:1]
        else:
            names = list(labels.names)
            for name in self.classes:
                if name not in names:
                    raise UserError(
                        f"{where}.classes: there is no class '{name}'.{did_you_mean(name, names)} Classes: "
                        f"{', '.join(names)}."
                    )
            chosen = np.array([names.index(name) for name in self.classes])
            for label in chosen:
                if not totals[label]:
                    raise UserError(
                        f"{where}.classes: '{names[label]}' has not one pixel in the training masks, so there is "
                        "nothing to paste. Leave it out."
                    )
        if not len(chosen):
            raise UserError(f"{where}: no class has a pixel in the training masks, so there is nothing to paste.")
        self._places = places
        self._chosen = [int(label) for label in chosen]

    def change(self, sample: Sample, others: Others, rng: np.random.Generator) -> Sample:
        if self._places is None:
            raise RuntimeError("a CopyPaste must be fitted to its split first, see Augment.fit")
        if rng.random() >= self.p:
            return sample
        first = self._chosen[rng.integers(len(self._chosen))]
        candidates = self._places.samples_with(first)
        source = int(candidates[rng.integers(len(candidates))])
        given = others.split[source]
        seeds = [(label, y, x) for label in self._chosen for y, x in self._places.of(source, label)]
        order = sorted(rng.permutation(len(seeds)), key=lambda at: seeds[at][0] != first)  # the drawn class comes first
        image, mask = sample.image.copy(), sample.mask.copy()
        taken = np.zeros(given.size, bool)
        left = int(rng.integers(1, self.objects + 1))
        for label, y, x in (seeds[at] for at in order):
            if left and not taken[y, x]:
                window, region = _object_at(given.mask, label, int(y), int(x))
                taken[window] |= region
                if np.count_nonzero(region) >= _LEAST_PIXELS:
                    self._paste(image, mask, given, window, region, rng)
                    left -= 1
        return replace(sample, image=image, mask=mask)

    def _paste(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        given: Sample,
        window: tuple[slice, slice],
        region: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Paste one object, changed at random, into image and mask."""
        factor = log_uniform(rng, self.scale)
        height, width = (max(1, round(side * factor)) for side in region.shape)
        mirrored = rng.random() < 0.5
        top, left = (int(rng.integers(side)) for side in image.shape[:2])
        top, left = top - height // 2, left - width // 2

        def resized(array: np.ndarray, how: int) -> np.ndarray:
            array = np.ascontiguousarray(array[:, ::-1] if mirrored else array)
            return cv2.resize(array, (width, height), interpolation=how)

        rows = slice(max(-top, 0), min(height, image.shape[0] - top))
        columns = slice(max(-left, 0), min(width, image.shape[1] - left))
        place = np.s_[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
        inside = resized(region.astype(np.uint8), cv2.INTER_NEAREST)[rows, columns].astype(bool)
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        surface = each_band(given.image[window], lambda bands: resized(bands, how))
        image[place][inside] = surface[rows, columns][inside]
        labels = each_plane(given.mask[..., window[0], window[1]], lambda plane: resized(plane, cv2.INTER_NEAREST))
        mask[(..., *place)][..., inside] = labels[..., rows, columns][..., inside]


def _object_at(mask: np.ndarray, label: int, y: int, x: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The connected region of a class around a pixel: the window that it fills, and a bool array of that window."""
    plane = mask if mask.ndim == 2 else mask[label]
    found = np.zeros((plane.shape[0] + 2, plane.shape[1] + 2), np.uint8)
    flags = 8 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | 1 << 8
    _, _, _, (left, top, width, height) = cv2.floodFill(plane.copy(), found, (x, y), 0, 0, 0, flags)
    window = np.s_[top : top + height, left : left + width]
    return window, found[1:-1, 1:-1][window].astype(bool)
