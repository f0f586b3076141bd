"""Mask files as raw label values: one class a pixel, or planes of overlapping labels.

What a raw value means is the label space's business, ``LabelSpace.encode``. A reader is a function or a small frozen
object that worker processes can be given.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from seg_cli.data.files import Pair
from seg_cli.data.images import picture_size, read_plain, refusing_broken
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError

MaskReader = Callable[[Pair], np.ndarray]
"""Pair -> its raw mask: (H, W) uint8 or uint16, or (planes, H, W) uint8 of 0, 1 and ``VOID`` where labels overlap."""

_SMEARING = (".jpg", ".jpeg", ".jpe", ".jfif")


def read_index(pair: Pair) -> np.ndarray:
    """The label values of an index mask, (H, W) uint8 or uint16; of a palette image, the indices and not the colours.

    Raises UserError if it cannot be read or is not an index mask of 8 or 16 bits.
    """
    (path,) = pair.masks
    return _labels(_stored(path), path)


def read_gray(pair: Pair) -> np.ndarray:
    """As ``read_index``; also of a file that says each label value three times, as red, green and blue."""
    (path,) = pair.masks
    return _labels(gray_of(_stored(path)), path)


def gray_of(stored: np.ndarray) -> np.ndarray:
    """(H, W) of what a file stores, where its bands but for transparency are all equal; else what it stores."""
    if stored.ndim == 3:
        bands = stored[..., : {2: 1, 4: 3}.get(stored.shape[2], stored.shape[2])]
        if (bands == bands[..., :1]).all():
            return np.ascontiguousarray(bands[..., 0])
    return stored


@dataclass(frozen=True)
class BinaryMasks:
    """Reads a mask of no (0) and yes (1 or 255) as (H, W) uint8 of 0 and 1.

    Args:
        void: the value that means void, read as ``VOID``; None where there is none.
        plane: give (1, H, W), one overlapping label.
    """

    void: int | None = None
    plane: bool = False

    def __call__(self, pair: Pair) -> np.ndarray:
        """Raises UserError if the file cannot be read, or holds other values or both 1 and 255."""
        (path,) = pair.masks
        mask = self._binary(_labels(gray_of(_stored(path)), path), path)
        return mask[None] if self.plane else mask

    def _binary(self, labels: np.ndarray, path: Path) -> np.ndarray:
        top = 255 if (labels == 255).any() else 1
        table = np.full(1 << 16, 2, np.uint8)
        table[[0, top]] = 0, 1
        if self.void is not None:
            table[self.void] = VOID
        mask = table[labels]
        wrong = mask == 2
        if wrong.any():
            raise UserError(
                f"{path}: expected a mask of 0 and {top}, no and yes, and found {_values(labels[wrong])}, the first "
                f"at {place_of(wrong)}. If they are labels of classes, type data.masks_are=index; if they are smooth "
                "edges, save the mask again without smoothing."
            )
        return mask


@dataclass(frozen=True)
class ColorMasks:
    """Reads an RGB colour-coded mask; an alpha channel is not looked at, and a palette is its colours.

    Args:
        colors: (red, green, blue) -> raw value in 0..65535.
    """

    colors: Mapping[tuple[int, int, int], int]

    def __call__(self, pair: Pair) -> np.ndarray:
        """(H, W) uint8 or uint16. Raises UserError if the file cannot be read or has a colour that is not defined."""
        (path,) = pair.masks
        packed = _packed(read_colors(path))
        position = self._table.take(packed)
        if not position.all():
            raise UserError(self._undefined(packed, position == 0, path))
        return self._values.take(position)

    @cached_property
    def _table(self) -> np.ndarray:
        """Packed colour -> 1 + its position in ``colors``; memory that is never touched is never taken."""
        table = np.zeros(1 << 24, np.uint16)
        table[_packed(np.array([[*self.colors]], np.uint8))[0]] = np.arange(1, len(self.colors) + 1)
        return table

    @cached_property
    def _values(self) -> np.ndarray:
        values = [0, *self.colors.values()]
        return np.array(values, np.uint8 if max(values) < 256 else np.uint16)

    def __getstate__(self) -> dict:
        return {"colors": self.colors}  # without the tables: a worker makes its own

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    def _undefined(self, packed: np.ndarray, wrong: np.ndarray, path: Path) -> str:
        codes, counts = np.unique(packed[wrong], return_counts=True)
        known = np.array([*self.colors], int)
        said = []
        for code, count in zip(codes[:5], counts[:5], strict=True):
            color = np.array([code & 255, code >> 8 & 255, code >> 16])
            nearest = known[np.abs(known - color).sum(1).argmin()]
            said.append(
                f"{_rgb(color)} ({count} pixels, the first at {place_of(packed == code)}; "
                f"the nearest defined colour is {_rgb(nearest)})"
            )
        more = f" and {len(codes) - 5} colours more" if len(codes) > 5 else ""
        return (
            f"{path}: the mask holds colours that the dataset does not define: {', '.join(said)}{more}. "
            f"Defined are {len(known)} colours."
        )


def read_colors(path: Path) -> np.ndarray:
    """The colours of a mask, (H, W, 3) uint8. Raises UserError if it cannot be read."""
    stored = _stored(path)
    if stored.ndim == 2:  # gray, or the indices of a palette
        with refusing_broken(path, "mask"), Image.open(path) as picture:
            stored = np.asarray(picture.convert("RGB"))
    if stored.dtype != np.uint8 or stored.shape[2] not in (3, 4):
        raise UserError(
            f"{path}: expected a mask of 8-bit colours, found {stored.dtype} with shape {stored.shape}. Save it as an "
            "RGB PNG."
        )
    return stored[..., :3]


@dataclass(frozen=True)
class NpyMasks:
    """Reads NumPy's .npy files.

    Args:
        planes: of a (planes, H, W) array where labels overlap; None for (H, W) label values.
    """

    planes: int | None = None

    def __call__(self, pair: Pair) -> np.ndarray:
        """(H, W) or (planes, H, W). Raises UserError if the file cannot be read or holds something else."""
        (path,) = pair.masks
        array = read_npy(path)
        if self.planes is None:
            return _labels(array, path)
        if array.ndim != 3 or len(array) != self.planes:
            raise UserError(
                f"{path}: expected (planes, height, width) with {self.planes} planes, one for each class, found the "
                f"shape {array.shape}."
            )
        labels = _labels(array, path, dimensions=3)
        wrong = (labels != 0) & (labels != 1) & (labels != VOID)
        if wrong.any():
            raise UserError(
                f"{path}: planes of overlapping labels hold 0, 1 and {VOID} (void), and this one holds "
                f"{_values(labels[wrong])}."
            )
        return labels.astype(np.uint8)


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises UserError if it cannot be read."""
    with refusing_broken(path, "mask"):
        try:
            array = np.load(path, allow_pickle=False)
        except EOFError:
            raise ValueError("the file is empty") from None
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds several arrays")
    return array


@dataclass(frozen=True)
class ClassFiles:
    """Reads masks of which each class, or each object, has a file of its own: 0 is no, anything else is yes.

    Args:
        classes: the names that files or their folders bear; of a single class, all files are objects of it.
        overlapping: give (classes, H, W) of 0 and 1. Else (H, W): 0 is the background, 1 the first class and so on,
            and where several claim a pixel it is the last class's. An image without any file is all background.
    """

    classes: Sequence[str]
    overlapping: bool = False

    def __call__(self, pair: Pair) -> np.ndarray:
        """Raises UserError if a file cannot be read, is of no class, or has another size than the others."""
        found: np.ndarray | None = None
        for path in pair.masks:
            plane = _labels(gray_of(_stored(path)), path) != 0
            if found is None:
                found = np.zeros((len(self.classes), *plane.shape), bool)
            if plane.shape != found.shape[1:]:
                raise UserError(
                    f"{path}: the mask is {plane.shape[1]}x{plane.shape[0]} pixels (width x height) and "
                    f"{pair.masks[0]}, of the same image, is {found.shape[2]}x{found.shape[1]}."
                )
            found[self.class_of(path, pair.image)] |= plane
        if found is None:
            found = np.zeros((len(self.classes), *picture_size(pair.image)), bool)
        if self.overlapping:
            return found.astype(np.uint8)
        mask = np.zeros(found.shape[1:], np.uint8)
        for index, plane in enumerate(found):
            mask[plane] = index + 1
        return mask

    def class_of(self, path: Path, image: Path) -> int:
        if len(self.classes) == 1:
            return 0
        name = class_in_name(path, image.stem, self.classes)
        if name not in self.classes:
            raise UserError(
                f"{path}: neither the name of the mask nor its folder names a class. Classes: "
                f"{', '.join(self.classes)}."
            )
        return self.classes.index(name)


def class_in_name(path: Path, stem: str, known: Sequence[str] = ()) -> str:
    """The class that the path of a mask file names, '' if none.

    Args:
        path: ``STEM_car.png``, ``STEM/car.png`` or ``car/STEM.png``, each also with the number of an object behind.
        stem: of the image.
        known: names of classes; one of these may itself end in a number.
    """
    if path.stem == stem or re.fullmatch(re.escape(stem) + r"[_-]\d+", path.stem):
        return path.parent.name
    name = path.stem.removeprefix(stem).lstrip("_-. ")
    return name if name in known else re.sub(r"[_\-. ]*\d+$", "", name)


def place_of(where: np.ndarray) -> str:
    """The first true pixel of (H, W) in words: ``x=3, y=7``, column before row, from the top left."""
    y, x = np.unravel_index(int(np.argmax(where)), where.shape)[-2:]
    return f"x={x}, y={y}"


def refuse_jpeg(path: Path) -> None:
    """Raises UserError if a mask is a JPEG file."""
    if path.suffix.lower() in _SMEARING:
        raise UserError(
            f"{path}: a mask cannot be a JPEG: its compression smears label values into one another, so that wrong "
            "labels stand around every edge. Save the masks as PNG from where they were drawn; yes/no masks that "
            "exist as JPEG alone can be cut at one half: mogrify -format png -threshold 50% *.jpg"
        )


def _stored(path: Path) -> np.ndarray:
    refuse_jpeg(path)
    return read_npy(path) if path.suffix.lower() == ".npy" else read_plain(path, "mask")


def _labels(stored: np.ndarray, path: Path, dimensions: int = 2) -> np.ndarray:
    """What a file stores as uint8 or uint16 label values; -1 becomes 65535. Raises UserError if it is none."""
    if stored.dtype.kind == "f":
        raise UserError(
            f"{path}: expected label values, found {stored.dtype} numbers. Probabilities and scores are not masks: "
            "save the class of each pixel as a whole number, as in probabilities.argmax(0).astype('uint8')."
        )
    if stored.ndim != dimensions or stored.dtype.kind not in "bui":
        hint = " Type data.multilabel=true if these are planes of overlapping labels." if stored.ndim == 3 else ""
        raise UserError(
            f"{path}: expected a mask of one label value (8 or 16 bits) a pixel, found {stored.dtype} with shape "
            f"{stored.shape}.{hint if path.suffix.lower() == '.npy' else ''}"
        )
    if stored.dtype in (np.uint8, np.uint16):
        return stored
    if stored.dtype == np.bool_:
        return np.minimum(stored.view(np.uint8), 1)  # Pillow's true is 255
    wrong = (stored < -1) | (stored > 65535)
    if wrong.any():
        raise UserError(
            f"{path}: label values are whole numbers from 0 to 65535, found {_values(stored[wrong])}, the first at "
            f"{place_of(wrong)}."
        )
    return stored.astype(np.uint16)


def _packed(colors: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int32, red + 256 green + 65536 blue."""
    padded = cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2RGBA)
    return padded.view("<i4")[..., 0] & 0xFFFFFF


def _values(values: np.ndarray) -> str:
    found, counts = np.unique(values, return_counts=True)
    listed = ", ".join(f"{v} ({n} pixels)" for v, n in zip(found[:5], counts[:5], strict=True))
    return listed + (f" and {len(found) - 5} values more" if len(found) > 5 else "")


def _rgb(color: np.ndarray) -> str:
    return " ".join(str(int(band)) for band in color)
