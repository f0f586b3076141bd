"""Which label values or colours occur in masks: every mask is read once, in parallel, and the answer is remembered."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from seg_cli.data.class_table import Color
from seg_cli.data.files import Pair
from seg_cli.data.masks import read_colors
from seg_cli.errors import RunFailed, UserError
from seg_cli.runs.atomic import write_json

T = TypeVar("T")

_FORMAT = 1  # of what is counted and how it is kept; part of the key
_SHOWN_FROM = 500  # masks; fewer are read before anybody wonders


def values_in(pairs: Sequence[Pair], read_mask: Callable[[Pair], np.ndarray]) -> dict[int, int]:
    """Label value -> pixels, over all masks.

    Args:
        pairs: their masks are read.
        read_mask: gives (H, W) uint8 or uint16.

    Raises:
        UserError: if a mask cannot be read.
    """
    return _remembered(pairs, "values", lambda pair: np.unique(read_mask(pair), return_counts=True))


def colors_in(pairs: Sequence[Pair]) -> dict[Color, int]:
    """Colour -> pixels, over all masks. Raises UserError if a mask cannot be read or is no colour image."""

    found = _remembered(pairs, "colors", lambda pair: _colors(pair.masks[0]))
    return {_unpacked(code): pixels for code, pixels in found.items()}


def colors_of(path: Path) -> set[Color]:
    """The colours of a mask file. Raises as ``colors_in`` does."""
    return {_unpacked(code) for code in _colors(path)[0].tolist()}


def _colors(path: Path) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = np.moveaxis(read_colors(path).astype(np.int32), -1, 0)
    return np.unique(red << 16 | green << 8 | blue, return_counts=True)


def _unpacked(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def _remembered(
    pairs: Sequence[Pair], what: str, count: Callable[[Pair], tuple[np.ndarray, np.ndarray]]
) -> dict[int, int]:
    workers = min(16, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # decoders work outside Python's lock
        hashes = b"".join(pool.map(_hash, pairs))
        file = _cache_file(hashlib.sha256(f"{_FORMAT}/{what}/".encode() + hashes).hexdigest())
        kept = _recall(file)
        if kept is None:
            total: Counter[int] = Counter()
            for values, pixels in _shown(pool.map(count, pairs), len(pairs)):
                total.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
            kept = dict(sorted(total.items()))
            _keep(file, kept)
    return kept


def _shown(items: Iterable[T], count: int) -> Iterable[T]:
    console = Console(stderr=True)
    hidden = count < _SHOWN_FROM or not console.is_terminal
    return track(items, "looking into the masks", total=count, console=console, transient=True, disable=hidden)


def _hash(pair: Pair) -> bytes:
    try:
        return hashlib.sha256(b"".join(path.read_bytes() for path in pair.masks)).digest()
    except OSError as error:
        raise UserError(f"{error.filename}: the mask cannot be read ({error.strerror}).") from None


def _cache_file(key: str) -> Path | None:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # nobody knows where home is
        return None
    return cache / "segrun" / "mask_values" / f"{key}.json"


def _recall(file: Path | None) -> dict[int, int] | None:
    try:
        return {int(value): int(pixels) for value, pixels in json.loads(file.read_text()).items()} if file else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _keep(file: Path | None, counts: dict[int, int]) -> None:
    """For the next run; where that is not possible, it looks again."""
    try:
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, counts)
    except (OSError, RunFailed):
        return
