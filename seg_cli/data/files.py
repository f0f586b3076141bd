"""Datasets of files: pairs of an image and its mask, read on demand, and refused by name where they are broken."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg_cli.data.cache import CACHES, NoCache, Progress, StoredSamples, are_small, cache_file, leave_others, store
from seg_cli.data.images import is_turned
from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import RunFailed, UserError


@dataclass(frozen=True)
class Pair:
    """Where an image and its mask lie, what the sample is called, and the group it belongs to.

    ``masks`` is one file as a rule; several where each class or object has a file of its own.
    """

    image: Path
    masks: tuple[Path, ...]
    name: str
    group: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.image, *self.masks)


class FilePairs:
    """A split whose samples are pairs of files.

    Args:
        pairs: the samples, in order.
        labels: what the raw values of masks mean.
        read_image: file -> (H, W, B), see ``images.ImageReader``.
        read_mask: pair -> raw mask, see ``masks.MaskReader``.

    Raises:
        UserError: on reading, if a file is missing or broken, the mask has another size than its image, or the mask
            holds values that ``labels`` does not define.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        labels: LabelSpace,
        *,
        read_image: Callable[[Path], np.ndarray],
        read_mask: Callable[[Pair], np.ndarray],
    ) -> None:
        self.pairs, self.labels = pairs, labels
        self.read_image, self.read_mask = read_image, read_mask
        self.stored: StoredSamples | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        if self.stored is not None:
            return Sample(self.stored.image(index), self.stored.mask(index), pair.name, pair.group)
        image, mask = self.read_image(pair.image), self.mask(index)
        if mask.shape[-2:] != image.shape[:2]:
            raise UserError(
                f"{_masks_of(pair)}: the mask is {mask.shape[-1]}x{mask.shape[-2]} pixels and its image {pair.image} "
                f"is {image.shape[1]}x{image.shape[0]} (width x height). {_why(pair.image, image, mask)}"
            )
        return Sample(image, mask, pair.name, pair.group)

    def mask(self, index: int) -> np.ndarray:
        """The mask of a sample alone, as ``Sample.mask``; its image is not read."""
        if self.stored is not None:
            return self.stored.mask(index)
        pair = self.pairs[index]
        return self.labels.encode(self.read_mask(pair), _masks_of(pair))


class FileDataset:
    """What datasets of files have in common: each finds its pairs and says what they mean; the rest is here.

    Args:
        pairs: split -> its pairs.
        labels: the classes and the raw values, before ``classes``.
        classes: ``data.classes``: ``merge``, ``ignore`` and ``only``, as ``LabelSpace.choose`` takes them.
        channels: bands of an image.
        read_image, read_mask: as ``FilePairs`` takes them.
        cache: ``data.cache``: where decoded samples are kept, one of ``CACHES``; see ``prepare``.

    Raises:
        UserError: if ``classes`` names what is not there, or there is no such cache.
    """

    def __init__(
        self,
        pairs: Mapping[str, Sequence[Pair]],
        labels: LabelSpace,
        *,
        classes: Mapping | None = None,
        channels: int = 3,
        read_image: Callable[[Path], np.ndarray],
        read_mask: Callable[[Pair], np.ndarray],
        cache: str = "none",
    ) -> None:
        if cache not in CACHES:
            raise UserError(f"data.cache={cache}: there is no such cache. Caches: {', '.join(CACHES)}.")
        self.labels = choose_classes(labels, classes)
        self.channels, self.cache = channels, cache
        self._files = {
            split: FilePairs(found, self.labels, read_image=read_image, read_mask=read_mask)
            for split, found in pairs.items()
        }
        self.splits: dict[str, Split] = dict(self._files)

    def prepare(
        self,
        splits: Sequence[str] = ("train", "val"),
        *,
        workers: int = 0,
        progress: Progress = iter,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Have the samples of splits that are read again and again decoded once, where ``cache`` asks for it.

        It is to be called before there are processes that read; without it, samples come from their files.

        Args:
            splits: which.
            workers, progress, say: as ``cache.store`` takes them. Of what ``auto`` keeps, nothing is said.

        Raises:
            UserError: if a sample cannot be read, or there is no room for all of them.
        """
        chosen = {split: self._files[split] for split in splits if split in self._files}
        if self.cache in ("ram", "disk"):
            self._store(chosen, self.cache, workers, progress, say)
        elif self.cache == "auto" and are_small((of, [pair.image for pair in of.pairs]) for of in chosen.values()):
            with suppress(NoCache, RunFailed):  # then they are read from their files
                self._store(chosen, "ram", workers, progress, lambda line: None)
        else:
            leave_others(())

    def _store(
        self,
        chosen: Mapping[str, FilePairs],
        cache: str,
        workers: int,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        meanings = (sorted(self.labels.meanings.items()), self.labels.overlapping)
        found = {}
        for split, samples in chosen.items():
            identity = (*meanings, samples.read_image, samples.read_mask)
            files = [pair.files for pair in samples.pairs]
            found[split] = cache_file(cache, split=split, files=files, identity=identity)
        leave_others(found.values())
        for split, samples in chosen.items():
            samples.stored = None
            samples.stored = store(
                samples,
                found[split],
                cache=cache,
                split=split,
                pictures=[pair.image for pair in samples.pairs],
                workers=workers,
                progress=progress,
                say=say,
            )

    def fingerprint(self) -> str:
        """A hash of what the files hold, whatever folder they lie in."""
        splits = {split: hash_files(samples.pairs) for split, samples in self._files.items()}
        return hashlib.sha256(repr(splits).encode()).hexdigest()


def choose_classes(labels: LabelSpace, classes: Mapping | None) -> LabelSpace:
    """The label space after ``data.classes``. Raises UserError for a setting or a class that is not there."""
    unknown = [key for key in classes or {} if key not in ("merge", "ignore", "only")]
    if unknown:
        raise UserError(f"data.classes.{unknown[0]}: there is no such setting. Settings: merge, ignore, only.")
    return labels.choose(**(classes or {}))


def hash_files(pairs: Sequence[Pair]) -> str:
    """A hash of what files hold, independent of where they lie.

    Names, sizes and the first 4 KiB of every file go in: enough to notice a changed file, and fast for 10,000 of them.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.name.encode())
        for path in pair.files:
            with path.open("rb", buffering=0) as file:
                digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little") + file.read(4096))
    return digest.hexdigest()


def _why(path: Path, image: np.ndarray, mask: np.ndarray) -> str:
    if mask.shape[-2:] == image.shape[1::-1] and is_turned(path):
        return (
            "The EXIF data of the image turn it by 90 degrees, and the mask is of the picture before that. Turn the "
            "mask, or take the orientation out of the image (exiftool -Orientation= FILE)."
        )
    return "A mask must have the size of its image."


def _masks_of(pair: Pair) -> str:
    """The mask files of a pair as a message names them."""
    if len(pair.masks) == 1:
        return str(pair.masks[0])
    return f"{pair.image} ({len(pair.masks)} mask files)"
