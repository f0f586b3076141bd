"""Image files as arrays, and refusing the broken ones by name.

OpenCV decodes what it decodes exactly: 8-bit JPEG, PNG of 8 and 16 bits, and TIFF of one, three or four bands. It
scales the gray values of 1 to 4 bits, turns palettes into colours, and gives half a picture for half a file, so that
the rest, and the verdict on what looks broken, is Pillow's; TIFF of other kinds is read by tifffile.
"""

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import TiffImagePlugin as TIFF

from seg_cli.errors import UserError

Image.MAX_IMAGE_PIXELS = None  # aerial images are that large, and these are the user's own files

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OPENCV_TIFF = (
    (1, 1),
    (2, 3),
)  # kind and bands: gray and RGB; of others it multiplies colours by alpha, or drops bands
_STORED_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_ORIENTATION = 274  # the tag of EXIF and TIFF; from 5 on, height and width are exchanged


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file as (H, W, channels): uint8, or float32 in 0..255 where the file has finer steps.

    8-bit files give their values as uint8, 16-bit files value / 257 as float32. Pictures are upright, as their EXIF
    orientation says, palettes and CMYK are RGB. Gray is repeated for three channels, RGB becomes its luma (ITU-R 601)
    for one, and a fourth band is left out where three or one are asked for.

    Args:
        channels: bands of the result, ``data.channels``.
        value_range: (low, high), the file's values that become 0 and 255, what lies outside is clipped and NaN is 0;
            the result is float32 then. None is by the file's bits, see above; files of floats need it.
    """

    channels: int = 3
    value_range: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise UserError(f"data.channels={self.channels}: an image has at least one band. Type 3 for RGB.")
        if self.value_range is None:
            return
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise UserError(
                f"data.value_range={list(self.value_range)}: expected [low, high] with low < high, the values in the "
                "files that become 0 and 255, as data.value_range=[0,4095]."
            )
        object.__setattr__(self, "value_range", tuple(float(value) for value in self.value_range))  # of a list of YAML

    def __call__(self, path: Path) -> np.ndarray:
        """Raises UserError if the file cannot be read, or its values or bands are not what was asked for."""
        with refusing_broken(path, "image"):
            data = path.read_bytes()
            image = _upright_jpeg(data, self.channels) if data.startswith(_JPEG) else None
            if image is None:
                image = _decode(data, stored=False)
        return self._bands(self._values(image, path), path)

    def _values(self, image: np.ndarray, path: Path) -> np.ndarray:
        if self.value_range is not None:
            low, high = self.value_range
            scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
            return np.nan_to_num(scaled.clip(0, 255), copy=False)
        if image.dtype == np.uint8:
            return image
        if (image.dtype.kind, image.dtype.itemsize) == ("u", 2):
            return image.astype(np.float32) / np.float32(257)
        raise UserError(
            f"{path}: the image holds {image.dtype} values, here {image.min():.6g} to {image.max():.6g}. Only files "
            "of 8 and 16 bits say by themselves what is black and white: type data.value_range=[LOW,HIGH]."
        )

    def _bands(self, image: np.ndarray, path: Path) -> np.ndarray:
        bands = 1 if image.ndim == 2 else image.shape[2]
        image = image.reshape(*image.shape[:2], bands)
        if bands == self.channels:
            return image
        if bands == 1 and self.channels == 3:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        if bands == 4 and self.channels == 3:
            return np.ascontiguousarray(image[..., :3])
        if bands in (3, 4) and self.channels == 1:
            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if bands == 3 else cv2.COLOR_RGBA2GRAY)[..., None]
        raise UserError(
            f"{path}: the image has {bands} {'band' if bands == 1 else 'bands'} and data.channels={self.channels} asks "
            f"for {self.channels}. Type data.channels={bands} if all images of this dataset are like that."
        )


def read_plain(path: Path, what: str) -> np.ndarray:
    """The stored values of a file: palette files as indices, no EXIF orientation, no conversion.

    Args:
        path: of an image file of any format.
        what: ``image`` or ``mask``, for the message.

    Returns:
        (H, W) or (H, W, bands) of the file's type: uint8, uint16, float32 or another of TIFF's, bool of one-bit files.
        Pictures are as they are stored; only TIFF, where the orientation is no afterthought of EXIF, is upright.

    Raises:
        UserError: if the file cannot be read.
    """
    with refusing_broken(path, what):
        return _decode(path.read_bytes(), stored=True)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from the header alone.

    Raises:
        UserError: if the file cannot be read.
    """
    with refusing_broken(path, "image"):
        with path.open("rb") as file:
            if file.read(4) in _TIFF:
                tags = _tiff_tags(file)
                width, height, orientation = tags[TIFF.IMAGEWIDTH], tags[TIFF.IMAGELENGTH], tags.get(_ORIENTATION, 1)
            else:
                picture = Image.open(file)
                (width, height), orientation = picture.size, picture.getexif().get(_ORIENTATION, 1)
        return (width, height) if orientation >= 5 else (height, width)


def is_turned(path: Path) -> bool:
    """Whether the EXIF orientation of an image exchanges its height and width. Raises UserError if it is broken."""
    with refusing_broken(path, "image"), path.open("rb") as file:
        return file.read(4) not in _TIFF and Image.open(file).getexif().get(_ORIENTATION, 1) >= 5


@contextmanager
def refusing_broken(path: Path, what: str) -> Iterator[None]:
    """Turn whatever libraries raise on a missing or broken file into a ``UserError`` that names it.

    Args:
        path: of the file that is read inside.
        what: ``image`` or ``mask``, for the message.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: the {what} is not there any more.") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: this {what} is not an image file that can be read.") from None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error) as error:
        reason = "is truncated" if "truncated" in str(error) else f"cannot be read ({error})"
        raise UserError(f"{path}: the {what} {reason}. Copy the file again, or leave it out.") from None


def _upright_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """(H, W) or (H, W, 3) uint8 by the fast way; None where that is not to be trusted."""
    # OpenCV fills up what a truncated file lacks with gray. In whole files the end marker is the end, or has zeros
    # after it; CMYK, of four components, is converted in its own way.
    if channels not in (1, 3) or not data[-64:].rstrip(b"\0").endswith(_JPEG_END) or _jpeg_components(data) == 4:
        return None
    return _opencv(data, cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE)


def _jpeg_components(data: bytes) -> int:
    """Components of a JPEG file: 1 gray, 3 colour, 4 CMYK; 4 too where its frame header is not found."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame, and not one of the tables
            return data[place + 9]
        place += 2 + length
    return 4


def _decode(data: bytes, *, stored: bool) -> np.ndarray:
    """(H, W) or (H, W, bands) of any file: the stored values, or the colours of an upright picture."""
    if data.startswith(_TIFF):
        return _decode_tiff(data, stored=stored)
    values = _whole_png(data) if data.startswith(_PNG) else None
    if values is None:
        return _pillow(data, stored=stored)
    if stored:
        return values
    if values.shape[2:] == (2,):
        values = values[..., 0]  # of gray with alpha, the gray
    return _turn(values, Image.open(io.BytesIO(data)).getexif().get(_ORIENTATION, 1)) if b"eXIf" in data else values


def _whole_png(data: bytes) -> np.ndarray | None:
    """The values of a PNG of 8 or 16 bits without a palette; None of another, or if it is broken."""
    if len(data) < 33 or not data.endswith(_PNG_END):
        return None
    depth, color_type = data[24], data[25]
    if depth < 8 or color_type == 3:
        return None
    if color_type == 2:
        return _opencv(data, _STORED_RGB)
    values = _opencv(data, cv2.IMREAD_UNCHANGED)
    if values is None or color_type == 0:  # of gray values of which one is transparent, OpenCV makes colours
        return values if values is None or values.ndim == 2 else np.ascontiguousarray(values[..., 0])
    if color_type == 4:
        return values[..., (0, 3)]
    return _swap_red_and_blue(values)


def _decode_tiff(data: bytes, *, stored: bool) -> np.ndarray:
    """The first picture of a TIFF file."""
    tags = _tiff_tags(io.BytesIO(data))
    bands, bits = tags.get(TIFF.SAMPLESPERPIXEL, 1), set(tags.get(TIFF.BITSPERSAMPLE, (1,)))
    kind = tags.get(TIFF.PHOTOMETRIC_INTERPRETATION, 1)
    if (kind, bands) in _OPENCV_TIFF and bits <= {8, 16, 32}:
        values = _opencv(data, cv2.IMREAD_UNCHANGED)
        if values is not None:
            return values if values.ndim == 2 else _swap_red_and_blue(values)
    if kind not in (1, 2) or (max(bits) <= 8 and (kind, bands) in (*_OPENCV_TIFF, (2, 4))):  # bilevel, palette, CMYK
        return _pillow(data, stored=stored)
    try:
        import tifffile
    except ImportError:
        raise UserError(
            f"data.channels: TIFF files of {bands} bands and {max(bits)} bits are read by tifffile, which is not "
            "installed. Type pip install 'segrun[tiff]'."
        ) from None
    try:
        values = tifffile.imread(io.BytesIO(data), key=0)
    except Exception as error:  # it raises what it likes on a broken file
        raise ValueError(error) from None
    if tags.get(TIFF.PLANAR_CONFIGURATION, 1) == 2 and bands > 1:
        values = np.moveaxis(values, 0, -1)
    return _turn(values, tags.get(_ORIENTATION, 1))


def _tiff_tags(file: BinaryIO) -> Mapping[int, Any]:
    """The tags of the first picture in a TIFF file."""
    file.seek(0)
    header = file.read(8)
    header += file.read(8) if header[2:4] in (b"+\0", b"\0+") else b""  # BigTIFF
    tags = TIFF.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture, by the meaning of EXIF's orientation 1 to 8."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _pillow(data: bytes, *, stored: bool) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        if stored:
            values = np.asarray(picture)
            if picture.format == "PNG" and picture.mode == "L" and data[24] < 8:
                values = values // (255 // (2 ** data[24] - 1))  # it scales the gray values of 2 and 4 bits to 0..255
            return values
        upright: Image.Image = ImageOps.exif_transpose(picture)
        if upright.mode not in ("L", "RGB", "RGBA", "RGBX", "F") and not upright.mode.startswith("I"):
            upright = upright.convert({"1": "L", "LA": "L", "RGBa": "RGBA"}.get(upright.mode, "RGB"))
        return np.asarray(upright)


def _opencv(data: bytes, flags: int) -> np.ndarray | None:
    """None if OpenCV cannot read it; Pillow then says why, or can."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _swap_red_and_blue(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values)
    return cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA, dst=values)
