"""Images and masks in files: reading them, and refusing the broken ones by name."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError


@dataclass(frozen=True)
class Pair:
    """Where an image and its mask lie, what the sample is called, and the group it belongs to."""

    image: Path
    mask: Path
    name: str
    group: str = ""


class FilePairs:
    """A split whose samples are pairs of files.

    Raises:
        UserError: on reading, if a file is missing or broken, the mask has another size than its image, or the mask
            holds values that ``labels`` does not define.
    """

    def __init__(self, pairs: Sequence[Pair], labels: LabelSpace) -> None:
        self.pairs, self.labels = pairs, labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        raw = read_mask(pair.mask)
        if raw.shape != image.shape[:2]:
            raise UserError(
                f"{pair.mask}: the mask is {raw.shape[1]}x{raw.shape[0]} pixels and its image {pair.image} is "
                f"{image.shape[1]}x{image.shape[0]} (width x height). A mask must have the size of its image."
            )
        return Sample(image, self.labels.encode(raw, str(pair.mask)), pair.name, pair.group)

    def mask(self, index: int) -> np.ndarray:
        """The mask of a sample alone, (H, W) uint8; its image is not read."""
        pair = self.pairs[index]
        return self.labels.encode(read_mask(pair.mask), str(pair.mask))


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB. Raises UserError if it cannot be read."""
    return _read(path, "image", mode="RGB")


def read_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) uint8 label values; of a palette image, the indices and not the colours.

    Raises UserError if it cannot be read or is not an 8-bit index mask.
    """
    mask = _read(path, "mask", mode=None)
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_):
        raise UserError(
            f"{path}: expected a mask of one 8-bit label value a pixel, found {mask.dtype} with shape {mask.shape}."
        )
    return mask.astype(np.uint8, copy=False)


def _read(path: Path, what: str, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if mode is None or picture.mode == mode else picture.convert(mode))
    except FileNotFoundError:
        raise UserError(f"{path}: the {what} is not there any more.") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: this {what} is not an image file that can be read.") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "is truncated" if "truncated" in str(error) else f"cannot be read ({error})"
        raise UserError(f"{path}: the {what} {reason}. Copy the file again, or leave it out of the split.") from None


def hash_files(pairs: Sequence[Pair]) -> str:
    """A hash of what files hold, independent of where they lie.

    Names, sizes and the first 4 KiB of every file go in: enough to notice a changed file, and fast for 10,000 of them.
    """
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.name.encode())
        for path in (pair.image, pair.mask):
            with path.open("rb") as file:
                digest.update(path.stat().st_size.to_bytes(8, "little") + file.read(4096))
    return digest.hexdigest()
