"""Which part of an image a training crop shows: ``crop=random|class_aware|resized``; its size is ``loader.crop``."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from seg_cli.data.class_places import ClassPlaces
from seg_cli.data.geometry import Size, centered, extent, log_uniform, probability
from seg_cli.data.labels import LabelSpace


class Crop(Protocol):
    """Chooses the part of an image that is shown.

    A crop that has a method ``fit(places, labels, where)`` is given what it needs to know of the training split before
    the training starts; see ``Augment.fit``. One with the attribute ``needs_size`` makes no sense for whole images.
    """

    def place(self, index: int, size: Size, linear: np.ndarray, crop: Size, rng: np.random.Generator) -> np.ndarray:
        """The map of a sample into its crop.

        Args:
            index: of the sample in its split.
            size: (height, width) of its image.
            linear: (2, 2), the geometry that was drawn, about the image's centre.
            crop: (height, width) of the crop.
            rng: all randomness comes from here.

        Returns:
            (2, 3), see ``geometry.centered``.
        """
        ...


class RandomCrop:
    """Anywhere that the crop fits, each place as likely as the others; around a smaller image there is void."""

    def place(self, index: int, size: Size, linear: np.ndarray, crop: Size, rng: np.random.Generator) -> np.ndarray:
        return centered(size, linear, crop, rng.uniform(-0.5, 0.5, 2) * np.abs(_room(size, linear, crop)))


class ClassAwareCrop:
    """About a pixel of a class that is drawn in inverse relation to how frequent it is; elsewhere if p says so.

    The class is one of those that the sample has. Where it has its pixels is known from ``class_places``, so that no
    mask is read for it.

    Args:
        p: probability of such a crop; the others are those of ``RandomCrop``.
        power: a class is drawn with a probability that is proportional to its share of the pixels to the power of
            minus this: 0 draws all alike, 1 a class that is ten times rarer ten times as often.
        jitter: how far the pixel is from the centre of the crop, at most, as a share of its height and width. Near the
            border of the image it is further, for the crop stays inside.
    """

    needs_size = True

    def __init__(self, *, p: float = 0.5, power: float = 0.5, jitter: float = 0.25) -> None:
        if not 0 <= power < math.inf:
            raise ValueError(f"power={power}: it must be a number, 0 or more.")
        if not 0 <= jitter <= 0.5:
            raise ValueError(f"jitter={jitter}: it must be a share from 0 to 0.5.")
        self.p, self.power, self.jitter = probability(p), power, jitter
        self._anywhere = RandomCrop()
        self._places: ClassPlaces | None = None

    def fit(self, places: ClassPlaces, labels: LabelSpace, where: str) -> None:
        self._places = places
        self._logits = -self.power * np.log(np.maximum(places.counts.sum(0), 1))

    def place(self, index: int, size: Size, linear: np.ndarray, crop: Size, rng: np.random.Generator) -> np.ndarray:
        if self._places is None:
            raise RuntimeError("a ClassAwareCrop must be fitted to its split first, see Augment.fit")
        present = np.flatnonzero(self._places.counts[index])
        if rng.random() >= self.p or not len(present):
            return self._anywhere.place(index, size, linear, crop, rng)
        weights = np.exp(self._logits[present] - self._logits[present].max())
        chosen = rng.choice(present, p=weights / weights.sum())
        y, x = self._places.draw(index, int(chosen), rng)
        away = linear @ np.array([x - (size[1] - 1) / 2, y - (size[0] - 1) / 2])
        wanted = rng.uniform(-self.jitter, self.jitter, 2) * (crop[1], crop[0]) - away
        most = np.abs(_room(size, linear, crop)) / 2
        return centered(size, linear, crop, np.clip(wanted, -most, most))


class ResizedCrop:
    """A window of random area and form, resized to the crop (as in Szegedy 2014, arXiv:1409.4842), in the same warp.

    Args:
        area: least and largest area of the window, as a share of the image's.
        aspect: least and largest ratio of the window's width over height to that of the crop; 1 is undistorted. The
            window is made smaller where it would not fit into the image.
    """

    needs_size = True

    def __init__(self, *, area: Sequence[float] = (0.25, 1.0), aspect: Sequence[float] = (0.75, 4 / 3)) -> None:
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area={list(area)}: it must be [least,largest] with 0 < least <= largest <= 1.")
        if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1] < math.inf:
            raise ValueError(f"aspect={list(aspect)}: it must be [least,largest] with 0 < least <= largest.")
        self.area, self.aspect = area, aspect
        self._anywhere = RandomCrop()

    def place(self, index: int, size: Size, linear: np.ndarray, crop: Size, rng: np.random.Generator) -> np.ndarray:
        image = extent(size, linear)
        area = rng.uniform(self.area[0], self.area[1]) * image.prod()
        form = crop[1] / crop[0] * log_uniform(rng, self.aspect)
        window = np.sqrt([area * form, area / form])
        window *= min(1, *(image / window))
        return self._anywhere.place(index, size, np.diag((crop[1], crop[0]) / window) @ linear, crop, rng)


def _room(size: Size, linear: np.ndarray, crop: Size) -> np.ndarray:
    """How much wider and higher than the crop the image is; negative where it is smaller."""
    return extent(size, linear) - (crop[1], crop[0])
