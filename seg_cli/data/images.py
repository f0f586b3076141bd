"""Image files as arrays, and refusing the broken ones by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from seg_cli.errors import UserError


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file as (H, W, channels): uint8, or float32 in 0..255 where the file has finer steps.

    Args:
        channels: bands of the result.
    """

    channels: int = 3

    def __call__(self, path: Path) -> np.ndarray:
        """Raises UserError if the file cannot be read."""
        with refusing_broken(path, "image"), Image.open(path) as picture:
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


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
    except (OSError, SyntaxError, ValueError) as error:
        reason = "is truncated" if "truncated" in str(error) else f"cannot be read ({error})"
        raise UserError(f"{path}: the {what} {reason}. Copy the file again, or leave it out of the split.") from None
