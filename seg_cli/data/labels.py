"""The label space: which classes there are, how they are drawn, and which raw mask value means which class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from seg_cli.errors import UserError

VOID = 255
"""The label of pixels that no loss and no score counts, inside the program, whatever it is on disk."""

_UNDEFINED = 254


@dataclass(frozen=True)
class LabelSpace:
    """Names, colours and raw values of the classes of a dataset.

    Attributes:
        names: one name a class, in the order of the class indices ``0..num_classes-1``.
        colors: one (red, green, blue) in 0..255 a class.
        raw: raw mask value -> class index, or ``VOID``. Without it they are the class indices, and 255 is void.

    Raises:
        ValueError: if names and colours differ in number, names repeat, there are no or more than 250 classes, or a raw
            value is no byte or means a class that is not there.
    """

    names: Sequence[str]
    colors: Sequence[tuple[int, int, int]]
    raw: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 250:
            raise ValueError(f"a label space has 1 to 250 classes, not {len(self.names)}")
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names and {len(self.colors)} colours")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class names repeat: {', '.join(self.names)}")
        for value, index in self.raw.items():
            if not (0 <= value <= 255 and (0 <= index < len(self.names) or index == VOID)):
                raise ValueError(f"raw value {value} means class {index}: values are 0..255, classes as many as names")

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, _UNDEFINED, np.uint8)
        for value, index in (self.raw or {i: i for i in range(self.num_classes)} | {VOID: VOID}).items():
            table[value] = index
        return table

    @cached_property
    def palette(self) -> np.ndarray:
        """Class index -> colour, (256, 3) uint8; void is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colors
        return palette

    def encode(self, raw_mask: np.ndarray, source: str) -> np.ndarray:
        """Class indices of a raw mask.

        Args:
            raw_mask: (H, W) uint8 as it is on disk.
            source: where the mask comes from, for the message.

        Returns:
            (H, W) uint8, ``0..num_classes-1`` or ``VOID``.

        Raises:
            UserError: if a value is not defined; names the file, the values and their numbers of pixels.
        """
        mask = self._table[raw_mask]
        if (mask == _UNDEFINED).any():
            values, counts = np.unique(raw_mask[mask == _UNDEFINED], return_counts=True)
            found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values, counts, strict=True))
            defined = ", ".join(str(v) for v in np.flatnonzero(self._table != _UNDEFINED))
            raise UserError(
                f"{source}: the mask holds label values that the dataset does not define: {found}. "
                f"Defined are: {defined}."
            )
        return mask

    def paint(self, mask: np.ndarray) -> np.ndarray:
        """A picture of a mask: (H, W) class indices -> (H, W, 3) uint8; void is black."""
        return self.palette[mask]
