"""Files of certain types in a tree of folders."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".ppm", ".pgm")
MASK_TYPES = (*IMAGE_TYPES, ".gif", ".npy")


def walk(folder: Path, types: Sequence[str], *, without: Path | None = None) -> Iterator[Path]:
    """Files of these types at any depth, in order; nothing hidden, and nothing from below ``without``."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", "__MACOSX")) and Path(where, name) != without
        )
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(tuple(types)):
                yield Path(where, name)
