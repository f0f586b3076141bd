"""One image with its truth, the form in which every dataset gives its data."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seg_cli.data.labels import LabelSpace


@dataclass
class Sample:
    """An image and its mask.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) uint8, class indices or ``VOID``.
        name: what messages, tables and pictures call it; unique in its split.
        group: what it is correlated with (the video it is a frame of); statistics resample groups.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str
    group: str = ""


class Split(Protocol):
    """The samples of one split; reading one has no side effect and depends on the index alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Dataset(Protocol):
    """What a file in this folder provides; ``conf/data/<name>.yaml`` names it by ``_target_``.

    Attributes:
        labels: the classes.
        splits: ``train``, ``val`` and ``test`` (and others where a dataset has them). They are complete when the
            constructor returns: missing folders, files and pairs have been reported as a ``UserError`` by then.
    """

    labels: LabelSpace
    splits: dict[str, Split]

    def fingerprint(self) -> str:
        """A hash of what the data is, whatever folder it lies in."""
        ...
