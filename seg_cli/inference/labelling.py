"""Labelling image files: they are read and written by threads while the model is busy with others.

It knows no PyTorch: what labels a batch is handed in.
"""

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from seg_cli.data.trees import IMAGE_TYPES, walk
from seg_cli.errors import UserError

_LARGE = 2**23
"""Pixels of a batch, unless a single image has more."""


@dataclass(frozen=True)
class Source:
    """An image file, and the name under which what is found goes: its path below the input folder, without suffix."""

    path: Path
    name: str


@dataclass(frozen=True)
class Labelled:
    """What a model found in images.

    Attributes:
        labels: (N, H, W) uint8 class indices; where labels overlap (N, C, H, W) uint8 of 0 and 1.
        probabilities: (N, C, H, W) float16, where they were asked for.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None


class Label(Protocol):
    """What labels a batch of images of one size, (N, H, W, B) uint8, or float32 in 0..255.

    Raises UserError if it cannot take images of this size.
    """

    def __call__(self, images: np.ndarray) -> Labelled: ...


class Write(Protocol):
    """What keeps the labels of an image (H, W, B), and its probabilities (C, H, W) where there are some."""

    def __call__(self, name: str, image: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None) -> None: ...


def find_images(place: str, *, without: Path | None = None) -> list[Source]:
    """The image files of ``input=``, in order.

    Args:
        place: a file, a folder, of which all images at any depth are taken, or a pattern with ``*``, ``**`` or ``?``.
        without: a folder below which nothing is taken.

    Raises:
        UserError: if there is nothing, or no image.
    """
    path = Path(place).expanduser()
    types = ", ".join(IMAGE_TYPES)
    if path.is_file():
        return _named([path], path.parent)
    if path.is_dir():
        found = list(walk(path, IMAGE_TYPES, without=without))
        if not found:
            raise UserError(f"input={place}: the folder holds no images ({types}), at any depth.")
        return _named(found, path)
    if not glob.has_magic(str(path)):
        raise UserError(f"input={place}: there is no such file or folder ({path.absolute()}).")
    matches = (Path(match) for match in sorted(glob.glob(str(path), recursive=True)))
    found = [match for match in matches if match.suffix.lower() in IMAGE_TYPES and match.is_file()]
    if without is not None:
        found = [match for match in found if without.resolve() not in match.resolve().parents]
    if not found:
        raise UserError(
            f"input={place}: no image file ({types}) is called like that. Quote the pattern, so that the shell leaves "
            "it as it is: 'input=photos/*.jpg'."
        )
    first = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
    return _named(found, Path(*path.parts[:first]))


def _named(paths: Sequence[Path], top: Path) -> list[Source]:
    """Files with the same name but for the suffix keep it: ``a.jpg`` and ``a.png`` become ``a.jpg`` and ``a.png``.

    A pattern may go up again behind its first star, as ``*/../../b``. No name does: predictions go below ``out=``.
    """
    if any(".." in path.relative_to(top).parts for path in paths):
        paths = [path.resolve() for path in paths]
        top = Path(os.path.commonpath([path.parent for path in paths]))
    stems = [path.relative_to(top).with_suffix("").as_posix() for path in paths]
    # Some file systems take names that differ in case for the same.
    count = {stem.lower(): 0 for stem in stems}
    for stem in stems:
        count[stem.lower()] += 1
    return [
        Source(path, stem if count[stem.lower()] == 1 else path.relative_to(top).as_posix())
        for path, stem in zip(paths, stems, strict=True)
    ]


def label_files(
    sources: Sequence[Source],
    *,
    read: Callable[[Path], np.ndarray],
    label: Label,
    write: Write,
    batch_size: int,
    threads: int,
) -> Iterator[tuple[Source, str | None]]:
    """Read, label and write images.

    Args:
        sources: the files.
        read: file -> (H, W, B).
        label: images of one size -> what is in them; called in this thread.
        write: keeps it.
        batch_size: images of one size that are labelled at once, or fewer where they are large.
        threads: that read and write.

    Yields:
        Each file when it is done, in any order, and what was wrong with it, or None.
    """
    threads_of_opencv = cv2.getNumThreads()
    cv2.setNumThreads(0)  # a thread is busy with an image as it is
    pool = ThreadPoolExecutor(threads)
    writing: deque[tuple[Source, Future[None]]] = deque()
    try:
        pictures = _read_ahead(pool, sources, read, ahead=2 * threads + batch_size)
        for batch in _batches(pictures, batch_size):
            if isinstance(batch, _Unread):
                yield batch.source, batch.reason
                continue
            try:
                found = label(batch[0][1][None] if len(batch) == 1 else np.stack([image for _, image in batch]))
            except UserError as error:  # of their size
                yield from ((source, f"{source.path}: {error}") for source, _ in batch)
                continue
            for number, (source, image) in enumerate(batch):
                shares = None if found.probabilities is None else found.probabilities[number]
                writing.append((source, pool.submit(write, source.name, image, found.labels[number], shares)))
            while writing and (writing[0][1].done() or len(writing) > 2 * threads + batch_size):
                yield _written(writing)
        while writing:
            yield _written(writing)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads_of_opencv)


def _written(writing: deque[tuple[Source, Future[None]]]) -> tuple[Source, None]:
    source, done = writing.popleft()
    done.result()  # a full disk ends it all
    return source, None


@dataclass(frozen=True)
class _Unread:
    source: Source
    reason: str


_Picture = tuple[Source, np.ndarray]


def _read_ahead(
    pool: ThreadPoolExecutor, sources: Sequence[Source], read: Callable[[Path], np.ndarray], ahead: int
) -> Iterator[_Picture | _Unread]:
    """Files in order, of which a few are already being read."""
    waiting: deque[tuple[Source, Future[np.ndarray]]] = deque()
    coming = iter(sources)
    while True:
        for source in coming:
            waiting.append((source, pool.submit(read, source.path)))
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        source, reading = waiting.popleft()
        try:
            yield source, reading.result()
        except UserError as error:
            yield _Unread(source, str(error))
        except (OSError, ValueError, MemoryError, cv2.error) as error:
            yield _Unread(source, f"{source.path}: the image cannot be read ({type(error).__name__}: {error}).")


def _batches(pictures: Iterator[_Picture | _Unread], batch_size: int) -> Iterator[list[_Picture] | _Unread]:
    """Images of one size and type together, and what could not be read at once."""
    waiting: dict[tuple[tuple[int, ...], np.dtype], list[_Picture]] = {}
    for picture in pictures:
        if isinstance(picture, _Unread):
            yield picture
            continue
        image = picture[1]
        kind = (image.shape, image.dtype)
        waiting.setdefault(kind, []).append(picture)
        if len(waiting[kind]) >= max(1, min(batch_size, _LARGE // (image.shape[0] * image.shape[1]))):
            yield waiting.pop(kind)
        elif sum(map(len, waiting.values())) >= 4 * batch_size:  # where every image has a size of its own
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def thread_count(workers: int | str) -> int:
    """``workers``: a number as it is, but at least 1; ``auto`` is one a core, at least 2 and at most 16."""
    if workers != "auto":
        return max(1, int(workers))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores, 2), 16)
