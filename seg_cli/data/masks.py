"""Mask files as raw label values: one class a pixel, or planes of overlapping labels.

What a raw value means is the label space's business, ``LabelSpace.encode``.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from seg_cli.data.files import Pair
from seg_cli.data.images import refusing_broken
from seg_cli.errors import UserError

MaskReader = Callable[[Pair], np.ndarray]
"""Pair -> its raw mask: (H, W) uint8 or uint16, or (planes, H, W) uint8 of 0, 1 and ``VOID`` where labels overlap."""


def read_index(pair: Pair) -> np.ndarray:
    """The label values of an index mask, (H, W) uint8; of a palette image, the indices and not the colours.

    Raises UserError if it cannot be read or is not an 8-bit index mask.
    """
    (path,) = pair.masks
    with refusing_broken(path, "mask"), Image.open(path) as picture:
        mask = np.asarray(picture)
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_):
        raise UserError(
            f"{path}: expected a mask of one 8-bit label value a pixel, found {mask.dtype} with shape {mask.shape}."
        )
    return mask.astype(np.uint8, copy=False)
