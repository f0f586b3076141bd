"""``fit.images=N``: learn from fewer samples than the training split has, to see what more of them are worth."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seg_cli.data.files import FilePairs
from seg_cli.data.sample import Dataset, Sample, Split
from seg_cli.errors import UserError

_GOLDEN = (math.sqrt(5) - 1) / 2


class Fewer:
    """A dataset of whose training split only some samples are left; all else stays, its fingerprint too.

    Args:
        dataset: its training split is replaced.
        images: how many are left.
        seed: of the choice.

    Raises:
        UserError: if there are not so many.
    """

    def __init__(self, dataset: Dataset, *, images: int, seed: int) -> None:
        train = dataset.splits["train"]
        if images > len(train):
            raise UserError(
                f"fit.images={images}: the training split has {len(train)} images. Type fit.images={len(train)}, or "
                "null for all."
            )
        self._dataset, self._fingerprint = dataset, dataset.fingerprint()
        self.labels, self.channels = dataset.labels, dataset.channels
        chosen = spread(len(train), images, seed)
        if isinstance(train, FilePairs):
            train.pairs = [train.pairs[index] for index in chosen]  # so that caches keep no others
        else:
            dataset.splits["train"] = Chosen(train, chosen)
        self.splits = dataset.splits
        self.notes = [
            *getattr(dataset, "notes", ()),
            f"fit.images={images}: of {len(chosen)} of the training images, seed {seed}",
        ]

    def fingerprint(self) -> str:
        """That of the whole dataset: what was left of it, the settings say."""
        return self._fingerprint

    def prepare(self, *arguments: Any, **settings: Any) -> None:
        """Whatever the dataset prepares."""
        if hasattr(self._dataset, "prepare"):
            self._dataset.prepare(*arguments, **settings)


class Chosen:
    """Some samples of a split.

    Args:
        split: all of them.
        indices: which.
    """

    def __init__(self, split: Split, indices: Iterable[int]) -> None:
        self.split, self.indices = split, list(indices)
        self.mask: Callable[[int], np.ndarray]
        if hasattr(split, "mask"):
            self.mask = self._mask

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.split[self.indices[index]]

    def _mask(self, index: int) -> np.ndarray:
        return self.split.mask(self.indices[index])  # type: ignore[attr-defined]


def fewer(dataset: Dataset, settings: dict[str, Any] | None, seed: int) -> Dataset:
    """The dataset with as many training samples as ``fit.images`` says; all of them where it is null."""
    images = (settings or {}).get("images")
    return dataset if images is None else Fewer(dataset, images=images, seed=seed)


def spread(length: int, count: int, seed: int) -> list[int]:
    """``count`` of ``length`` places, in order, spread evenly; of one seed, fewer of them are among more.

    They are the first different ones of a golden-ratio sequence, which fills the largest gap at every step.
    """
    start = np.random.default_rng(seed).random()
    places: dict[int, None] = {}
    step = 0
    while len(places) < count:
        places[int((start + step * _GOLDEN) % 1 * length)] = None
        step += 1
    return sorted(places)
