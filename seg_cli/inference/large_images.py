"""Images that are too large for memory, read by windows: NumPy files, and TIFF files in strips or tiles."""

import math
import weakref
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seg_cli.data.images import read_plain, refusing_broken
from seg_cli.errors import UserError

_GRAY, _RGB, _UPRIGHT = 1, 2, 1  # values of TIFF's tags


class Pixels(Protocol):
    """Something to cut windows out of; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, bands)"""
        ...

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """(h, w, bands) of rows and columns; to be read at once, and not to be written to."""
        ...


def open_large(path: Path) -> Pixels:
    """An image file to be read by windows, with its values as they are stored.

    NumPy files (.npy) of (H, W) or (H, W, bands) and TIFF files without compression are mapped into memory, others of
    TIFF's gray and colour kinds are decoded strip by strip or tile by tile. Images of other formats, and pictures that
    the file wants turned, are read at once.

    Raises:
        UserError: if the file cannot be read, is a NumPy file of another shape, or a TIFF file and tifffile is not
            installed.
    """
    if path.suffix.lower() == ".npy":
        with refusing_broken(path, "image"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim not in (2, 3):
            raise UserError(
                f"{path}: the array is {array.shape}. An image is (height, width) or (height, width, bands)."
            )
        return array if array.ndim == 3 else array[..., None]
    if path.suffix.lower() in (".tif", ".tiff"):
        tiff = _open_tiff(path)
        if tiff is not None:
            return tiff
    image = read_plain(path, "image")
    return image if image.ndim == 3 else image[..., None]


def _open_tiff(path: Path) -> Pixels | None:
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f"{path}: large TIFF files are read by tifffile, which is not installed. Type pip install 'segrun[tiff]'."
        ) from None
    try:
        page: Any = tifffile.TiffFile(path).pages[0]
        orientation = page.tags[274].value if 274 in page.tags else _UPRIGHT
        if page.photometric not in (_GRAY, _RGB) or orientation != _UPRIGHT or page.bitspersample % 8:
            return None
        if page.is_memmappable and page.planarconfig == 1:
            return tifffile.memmap(path, page=0, mode="r").reshape(page.imagelength, page.imagewidth, -1)
        return LargeTiff(page)
    except FileNotFoundError:
        raise UserError(f"{path}: the image is not there any more.") from None
    except Exception as error:  # tifffile raises what it likes on a broken file
        raise UserError(f"{path}: the image cannot be read ({error}). Copy the file again.") from None


class LargeTiff:
    """The first picture of a TIFF file. The strips or tiles of the latest rows are kept, those above are forgotten.

    Args:
        page: of tifffile.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        weakref.finalize(self, page.parent.filehandle.close)
        self.shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        tiled = page.is_tiled
        self._high = page.tilelength if tiled else min(page.rowsperstrip, page.imagelength)
        self._wide = page.tilewidth if tiled else page.imagewidth
        self._kept: dict[tuple[int, int, int], np.ndarray] = {}

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            part.indices(length) for part, length in zip(window, self.shape, strict=False)
        )
        result = np.zeros((bottom - top, right - left, self.shape[2]), self.page.dtype)
        rows = range(top // self._high, math.ceil(bottom / self._high))
        columns = range(left // self._wide, math.ceil(right / self._wide))
        self._kept = {key: part for key, part in self._kept.items() if key[1] >= rows.start}
        planes = range(self.shape[2] if self._planar else 1)
        for plane, row, column in product(planes, rows, columns):
            part = self._part(plane, row, column)
            y, x = row * self._high - top, column * self._wide - left
            into = result[max(y, 0) : y + part.shape[0], max(x, 0) : x + part.shape[1]]
            part = part[max(-y, 0) :, max(-x, 0) :][: into.shape[0], : into.shape[1]]
            into[..., plane : plane + part.shape[2]] = part
        return result

    @property
    def _planar(self) -> bool:
        return self.page.planarconfig == 2 and self.shape[2] > 1

    def _part(self, plane: int, row: int, column: int) -> np.ndarray:
        """(h, w, bands) of a strip or tile; those at the border end with the image."""
        key = (plane, row, column)
        if key not in self._kept:
            down, across = math.ceil(self.shape[0] / self._high), math.ceil(self.shape[1] / self._wide)
            index = (plane * down + row) * across + column
            file = self.page.parent.filehandle
            file.seek(self.page.dataoffsets[index])
            data = file.read(self.page.databytecounts[index])
            decoded, _, shape = self.page.decode(data, index)
            self._kept[key] = np.zeros(shape[1:], self.page.dtype) if decoded is None else decoded[0]
        return self._kept[key]
