"""``data.cache``: the decoded samples of a split in one file, which all workers and processes of a machine share.

Every image is decoded once, its mask too and encoded; from then on a sample is two views of mapped memory, and only
the pages that a crop touches are read. ``disk`` keeps the file under ``$XDG_CACHE_HOME/segrun/samples``, for this run
and later ones. ``ram`` keeps it in shared memory, until the last process that uses it ends; ``auto`` does so
for data that are small beside the memory that is free.

A file's name has two parts. The first says what is read, and how: the split, its folder, the labels, the readers. The
second says what the files hold: their names, sizes, times of change, first and last 4 KiB. A changed file thus means
another name, and what is there by the first part alone is out of date, and removed.

A file is written under a temporary name, synced and renamed, by whoever gets its lock first; others wait and then use
it. Users hold a shared lock, which ends with them, however they end: what nobody has locked can be removed.
"""

import atexit
import errno
import hashlib
import mmap
import multiprocessing
import os
import pickle
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seg_cli import __version__
from seg_cli.data.images import picture_size, refusing_broken
from seg_cli.data.loading import start_worker
from seg_cli.data.locks import lock, unlock
from seg_cli.data.sample import Sample, Split
from seg_cli.data.workers import start_method
from seg_cli.errors import RunFailed, UserError
from seg_cli.runs.machine import free_memory

CACHES = ("auto", "none", "ram", "disk")
SHARED_MEMORY = Path("/dev/shm")

_MAGIC = b"segrun\0\1"  # the last byte is the version of the format
_HEADER = struct.Struct("<8sQQQ32s")  # magic, bytes of the file, start of the index, samples, sha256 of the index
_ROW = ("image", "mask", "height", "width", "bands", "itemsize", "planes")  # of the index; the first two are offsets
_ALIGNMENT = 64
_HEADERS_READ = 1000  # for the size that is stated before
_SMALL = 2**31  # bytes that ``auto`` takes at most

Progress = Callable[[Iterable[Any]], Iterable[Any]]


class NoCache(UserError):
    """Samples cannot be kept, for want of room or of what it takes; they can still be read from their files."""


class StoredSamples:
    """The samples in a cache file, as read-only views of it.

    Args:
        file: of the cache. As long as this lives, no process removes it.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged, cut short, or of another version.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._opened = file.open("rb")
        lock(self._opened, exclusive=False)
        if not file.exists() or not os.path.samestat(file.stat(), os.fstat(self._opened.fileno())):
            raise FileNotFoundError(errno.ENOENT, "removed while it was opened", str(file))
        size = os.fstat(self._opened.fileno()).st_size
        magic, expected_size, start, samples, digest = _HEADER.unpack(
            self._opened.read(_HEADER.size).ljust(_HEADER.size)
        )
        if magic != _MAGIC or expected_size != size or start + samples * len(_ROW) * 8 != size:
            raise ValueError(f"{file}: no whole cache of this version")
        self._memory = mmap.mmap(self._opened.fileno(), 0, access=mmap.ACCESS_READ)
        index = self._memory[start:]
        if hashlib.sha256(index).digest() != digest:
            raise ValueError(f"{file}: the index is damaged")
        self._rows: list[list[int]] = np.frombuffer(index, "<i8").reshape(samples, len(_ROW)).tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int) -> np.ndarray:
        """(H, W, B) uint8 or float32, read-only."""
        start, _, height, width, bands, itemsize, _ = self._rows[index]
        return np.ndarray((height, width, bands), np.uint8 if itemsize == 1 else np.float32, self._memory, start)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) or (C, H, W) uint8, encoded, read-only."""
        _, start, height, width, _, _, planes = self._rows[index]
        return np.ndarray((planes, height, width) if planes else (height, width), np.uint8, self._memory, start)

    def leave(self) -> None:
        """Give up the hold on the file, and remove it if no other process uses it."""
        if lock(self._opened, exclusive=True, wait=False):
            self.file.unlink(missing_ok=True)
        unlock(self._opened)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.file,)


def _reopen(file: Path) -> StoredSamples:
    """For workers that are not forked."""
    try:
        return StoredSamples(file)
    except (OSError, ValueError) as error:
        raise RunFailed(f"data.cache: {file} was removed or damaged while the run used it ({error}).") from None


_held: dict[Path, StoredSamples] = {}  # in shared memory, to be removed when this process ends


def cache_file(cache: str, *, split: str, files: Sequence[Sequence[Path]], identity: object) -> Path:
    """Where the cache of a split is, or is to be.

    Args:
        cache: ``ram`` or ``disk``.
        split: its name.
        files: of each sample, the image first.
        identity: what the arrays depend on beside the files: labels and readers. It is pickled.

    Raises:
        UserError: if a file is missing, there is no shared memory, or the folder cannot be made.
    """
    try:
        pickled = pickle.dumps(identity)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NoCache(
            f"data.cache={cache}: the readers of this dataset cannot be pickled ({error}). They must be functions or "
            "classes at the top level of a module; or type data.cache=none."
        ) from None
    place = repr((__version__, split, str(files[0][0].parent.absolute()))).encode() + pickled
    return _folder(cache) / f"{hashlib.sha256(place).hexdigest()[:16]}-{_content(files)[:32]}.samples"


def store(
    samples: Split,
    file: Path,
    *,
    cache: str,
    split: str,
    pictures: Sequence[Path],
    workers: int,
    progress: Progress = iter,
    say: Callable[[str], None] = lambda line: None,
) -> StoredSamples:
    """The samples of a split from its cache, which is built if there is none.

    Args:
        samples: what is read, once and in parallel.
        file: from ``cache_file``.
        cache, split: for messages, and what is specific to shared memory.
        pictures: the image files, for the size that is stated before.
        workers: processes that read; 0 reads in this one.
        progress: is given an iterable of one item a sample, and yields its items while it shows how far it is.
        say: is given a line before something that takes long.

    Raises:
        UserError: if a sample cannot be read, or there is no room.
        RunFailed: if the room is used up by others meanwhile.
    """
    with _alone(file, say):
        stored = _open(file, len(samples))
        if stored is None:
            _sweep(file.parent, "*.samples" if cache == "ram" else f"{file.name.partition('-')[0]}-*.samples")
            needed = _require_room(samples, file, cache, split, pictures)
            say(f"data.cache={cache}: {len(samples)} decoded samples of {split}, {_gigabytes(needed)} in {file.parent}")
            stored = _build(samples, file, workers, progress)
    if cache == "ram":
        if not _held:
            atexit.register(_leave_all, os.getpid())
        _held[file] = stored
    return stored


def are_small(splits: Iterable[tuple[Split, Sequence[Path]]]) -> bool:
    """Whether ``auto`` keeps splits: at most 2 GiB, an eighth of the free memory, and a quarter of the shared one.

    Args:
        splits: samples, and their image files.
    """
    if not SHARED_MEMORY.is_dir():
        return False
    room = min(_SMALL, free_memory() // 8, shutil.disk_usage(SHARED_MEMORY).free // 4)
    for samples, pictures in splits:
        room -= _bytes_needed(samples, pictures)
        if room < 0:
            return False
    return True


def leave_others(files: Iterable[Path]) -> None:
    """Remove what earlier jobs of this process kept in shared memory, but for some files."""
    for file in _held.keys() - set(files):
        _held.pop(file).leave()


def _leave_all(process: int) -> None:
    if os.getpid() == process:  # and not in a process that was forked from it
        leave_others(())


def _folder(cache: str) -> Path:
    if cache == "disk":
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder, instead = base / "segrun" / "samples", "Set XDG_CACHE_HOME to a folder that can be"
    else:
        if not SHARED_MEMORY.is_dir():
            raise NoCache(f"data.cache=ram: this system has no {SHARED_MEMORY}. Type data.cache=disk.")
        folder, instead = SHARED_MEMORY / f"segrun-{os.getuid()}", "Type data.cache=disk"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if cache == "ram" and folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it is another user's")
    except OSError as error:
        raise NoCache(f"data.cache={cache}: {folder} cannot be written ({error.strerror}). {instead}.") from None
    return folder


def _content(files: Sequence[Sequence[Path]]) -> str:
    """A hash that differs when a file was changed: to read all of each would take as long as to decode them."""
    stamps: dict[Path, bytes] = {}
    digest = hashlib.sha256()
    for paths in files:
        for path, what in zip(paths, ("image", *["mask"] * len(paths)), strict=False):
            if path not in stamps:
                with refusing_broken(path, what), path.open("rb", buffering=0) as file:
                    about = os.fstat(file.fileno())
                    ends = file.read(4096)
                    if about.st_size > 4096:
                        file.seek(-4096, os.SEEK_END)
                        ends += file.read(4096)
                stamps[path] = hashlib.sha256(
                    repr((path.name, about.st_size, about.st_mtime_ns)).encode() + ends
                ).digest()
            digest.update(stamps[path])
        digest.update(b"|")
    return digest.hexdigest()


def _open(file: Path, samples: int) -> StoredSamples | None:
    """None if there is no cache, or it is not whole."""
    try:
        stored = StoredSamples(file)
    except (FileNotFoundError, ValueError):
        return None
    return stored if len(stored) == samples else None


def _build(samples: Split, file: Path, workers: int, progress: Progress) -> StoredSamples:
    handle, name = tempfile.mkstemp(prefix=f"{file.stem}-", suffix=".tmp", dir=file.parent)
    with os.fdopen(handle, "r+b") as temporary:
        try:
            lock(temporary, exclusive=True)
            end = multiprocessing.Value("q", _ALIGNMENT)
            loader = DataLoader(
                _Written(samples, Path(name), end),
                batch_size=None,
                collate_fn=np.asarray,
                num_workers=workers,
                worker_init_fn=start_worker,
                multiprocessing_context=start_method(workers),
                generator=torch.Generator(),  # else a draw from the run's own: a cache would change the training
            )
            index = np.stack(list(progress(loader))).astype("<i8").tobytes()
            temporary.seek(end.value)
            with _full_is_said(file):
                temporary.write(index)
                temporary.seek(0)
                digest = hashlib.sha256(index).digest()
                temporary.write(_HEADER.pack(_MAGIC, end.value + len(index), end.value, len(samples), digest))
                temporary.flush()
                os.fsync(temporary.fileno())
            lock(temporary, exclusive=False)
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return StoredSamples(file)


class _Written(TorchDataset):
    """Reading a sample writes it to the file; the result is its row of the index.

    Args:
        samples: to be read.
        file: exists.
        end: where the next sample goes; the processes that write share it.
    """

    def __init__(self, samples: Split, file: Path, end: Any) -> None:
        self.samples, self.file, self.end = samples, file, end

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> np.ndarray:
        sample = self.samples[index]
        image, mask = np.ascontiguousarray(sample.image), np.ascontiguousarray(sample.mask)
        mask_after = -(-image.nbytes // _ALIGNMENT) * _ALIGNMENT
        with self.end.get_lock():
            start = self.end.value
            self.end.value += mask_after + -(-mask.nbytes // _ALIGNMENT) * _ALIGNMENT
        with _full_is_said(self.file), self.file.open("r+b") as file:
            file.seek(start)
            file.write(image.data)
            file.seek(start + mask_after)
            file.write(mask.data)
        planes = len(mask) if mask.ndim == 3 else 0
        return np.array((start, start + mask_after, *image.shape, image.itemsize, planes), np.int64)


def _bytes_needed(samples: Split, pictures: Sequence[Path]) -> int:
    """The bytes that a cache takes, from the headers of images and the types of the first sample."""
    first: Sample = samples[0]
    per_pixel = first.image.shape[2] * first.image.itemsize + (len(first.mask) if first.mask.ndim == 3 else 1)
    some = pictures[:: -(-len(pictures) // _HEADERS_READ)]
    pixels = 0
    for picture in some:
        try:
            height, width = picture_size(picture)
        except UserError:  # in a format of the dataset's own
            height, width = first.size
        pixels += height * width
    return pixels * per_pixel * len(pictures) // len(some) + (2 * _ALIGNMENT + 8 * len(_ROW)) * len(pictures)


def _require_room(samples: Split, file: Path, cache: str, split: str, pictures: Sequence[Path]) -> int:
    """The bytes that a cache takes. Raises UserError if there is less room than that."""
    needed = _bytes_needed(samples, pictures)
    free = shutil.disk_usage(file.parent).free
    if cache == "ram":  # which is memory: what it may take and what there is are two things
        free = min(free, free_memory())
    if needed > free:
        instead = "disk, or none" if cache == "ram" else "none, or set XDG_CACHE_HOME to a folder on a larger disk"
        raise NoCache(
            f"data.cache={cache}: the decoded samples of {split} take {_gigabytes(needed)}, and {file.parent} has "
            f"{_gigabytes(free)} free. Type data.cache={instead}."
        )
    return needed


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


@contextmanager
def _full_is_said(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunFailed(f"data.cache: no room is left in {file.parent}, others have taken it. Make room.") from None


# ---- one process at a time


@contextmanager
def _alone(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One process at a time may look for a cache and build it."""
    name = file.with_suffix(".lock")
    with name.open("ab") as opened:
        if not lock(opened, exclusive=True, wait=False):
            say("data.cache: another process is building this cache; waiting for it")
            lock(opened, exclusive=True)
        try:
            yield
        finally:
            # Whoever waits has it open; whoever comes later finds the cache, or builds another in vain.
            name.unlink(missing_ok=True)
            unlock(opened)


def _sweep(folder: Path, pattern: str) -> None:
    """Remove the caches that are out of date, and what processes that were killed have left, unless it is in use."""
    for file in (*folder.glob(pattern), *folder.glob("*.tmp")):
        with suppress(FileNotFoundError), file.open("rb") as opened:
            # A temporary file has no lock for a moment after it was made, and then is written to all the time.
            fresh = file.suffix == ".tmp" and time.time() - file.stat().st_mtime < 60
            if not fresh and lock(opened, exclusive=True, wait=False):
                file.unlink()
