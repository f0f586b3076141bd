"""One image with its truth, the form in which every dataset gives its data."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seg_cli.data.labels import LabelSpace


@dataclass
class Sample:
    """An image and its mask.

    Attributes:
        image: (H, W, B) of B bands, uint8, or float32 in 0..255 where the file holds finer steps; RGB where B is 3.
        mask: (H, W) uint8, class indices or ``VOID``; where labels overlap (C, H, W) uint8, a plane of 0, 1 or ``VOID``
            for each class.
        name: what messages, tables and pictures call it; unique in its split.
        group: what it is correlated with (the video it is a frame of); statistics resample groups.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str
    group: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.image.shape[0], self.image.shape[1]


class Split(Protocol):
    """The samples of one split; reading one has no side effect and depends on the index alone.

    A split that also has ``mask(index)`` can give the mask of a sample without reading its image.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Dataset(Protocol):
    """What a file in this folder provides; ``conf/data/<name>.yaml`` names it by ``_target_``.

    Attributes:
        labels: the classes.
        channels: bands of an image.
        splits: ``train``, ``val`` and ``test`` (and others where a dataset has them). They are complete when the
            constructor returns: missing folders, files and pairs have been reported as a ``UserError`` by then.
    """

    labels: LabelSpace
    channels: int
    splits: dict[str, Split]

    def fingerprint(self) -> str:
        """A hash of what the data is, whatever folder it lies in."""
        ...


def to_rgb(image: np.ndarray) -> np.ndarray:
    """An image of any number of bands as people can look at it.

    Args:
        image: (H, W, B) uint8, or float32 in 0..255; what lies outside is clipped.

    Returns:
        (H, W, 3) uint8: one band in grey; of two bands, red and green, with their mean as blue; else the first three.
    """
    if image.dtype != np.uint8:
        image = np.rint(np.clip(np.nan_to_num(image), 0, 255)).astype(np.uint8)
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 2:
        return np.dstack((image, image.mean(2).astype(np.uint8)))
    return image[..., :3]
