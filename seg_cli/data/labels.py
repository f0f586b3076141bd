"""The label space: which classes there are, how they are drawn, and which raw mask value means which class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np

from seg_cli.config.suggest import did_you_mean
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
        raw: raw mask value -> class index, or ``VOID``. Without it they are the class indices, and 255 is void. Where
            labels overlap, a raw value is the number of a plane of the raw mask, and planes not named are left out.
        overlapping: whether a pixel may belong to several classes, or to none. Masks are then (C, H, W).

    Raises:
        ValueError: if names and colours differ in number, names repeat, there are no or more than 250 classes, or a raw
            value is not in 0..65535 or means a class that is not there.
    """

    names: Sequence[str]
    colors: Sequence[tuple[int, int, int]]
    raw: Mapping[int, int] = field(default_factory=dict)
    overlapping: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= 250:
            raise ValueError(f"a label space has 1 to 250 classes, not {len(self.names)}")
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names and {len(self.colors)} colours")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class names repeat: {', '.join(self.names)}")
        for value, index in self.raw.items():
            if not (0 <= value <= 65535 and (0 <= index < len(self.names) or index == VOID)):
                raise ValueError(
                    f"raw value {value} means class {index}: values are 0..65535, classes as many as names"
                )

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def meanings(self) -> Mapping[int, int]:
        """Raw value -> class index or ``VOID``, written out where ``raw`` is empty."""
        void = {} if self.overlapping else {VOID: VOID}
        return self.raw or {index: index for index in range(self.num_classes)} | void

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(1 << 16, _UNDEFINED, np.uint8)
        for value, index in self.meanings.items():
            table[value] = index
        return table

    @cached_property
    def palette(self) -> np.ndarray:
        """Class index -> colour, (256, 3) uint8; void is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colors
        return palette

    def encode(self, raw_mask: np.ndarray, source: str) -> np.ndarray:
        """Classes of a raw mask.

        Args:
            raw_mask: (H, W) uint8 or uint16 as it is on disk; where labels overlap (planes, H, W) uint8 of 0, 1 and
                ``VOID``.
            source: where the mask comes from, for the message.

        Returns:
            (H, W) uint8, ``0..num_classes-1`` or ``VOID``; where labels overlap (C, H, W) uint8 of 0, 1 and ``VOID``.
            A class that several planes mean is 1 where any of them is 1, else void where any of them is void.

        Raises:
            UserError: if a value is not defined; names the file, the values and their numbers of pixels.
        """
        if self.overlapping:
            return self._encode_planes(raw_mask)
        # OpenCV looks bytes up four times as fast as numpy, which is a tenth of the time of reading a sample.
        mask = cv2.LUT(raw_mask, self._table[:256]) if raw_mask.dtype == np.uint8 else self._table[raw_mask]
        if (mask == _UNDEFINED).any():
            values, counts = np.unique(raw_mask[mask == _UNDEFINED], return_counts=True)
            found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:20], counts[:20], strict=True))
            found += f" and {len(values) - 20} values more" if len(values) > 20 else ""
            raise UserError(
                f"{source}: the mask holds label values that the dataset does not define: {found}. "
                f"Defined are: {_ranges(sorted(self.meanings))}."
            )
        return mask

    def _encode_planes(self, raw_mask: np.ndarray) -> np.ndarray:
        mask = np.zeros((self.num_classes, *raw_mask.shape[1:]), np.uint8)
        for value, index in self.meanings.items():
            if index != VOID:
                plane = raw_mask[value]
                mask[index] = np.where((mask[index] == 1) | (plane == 1), 1, np.maximum(mask[index], plane))
        return mask

    def choose(
        self,
        *,
        merge: Mapping[str, Sequence[str]] | None = None,
        ignore: Sequence[str] = (),
        only: Sequence[str] = (),
    ) -> "LabelSpace":
        """The label space of ``data.classes``: classes made one, or left out.

        Args:
            merge: new name -> the names that it replaces; the new class stands where the first of them stood.
            ignore: names whose pixels are void (where labels overlap: whose planes are left out), after merging.
            only: names to keep, after merging; empty keeps all. The others are treated as ignored.

        Raises:
            UserError: for a name that is not there, is merged twice, or a choice that leaves no class.
        """
        name_of = {name: name for name in self.names}
        for new, old in (merge or {}).items():
            for name in old:
                self._check(name, f"data.classes.merge.{new}", self.names)
                if name_of[name] != name:
                    raise UserError(f"data.classes.merge.{new}: '{name}' is already merged into '{name_of[name]}'.")
                name_of[name] = new
        merged = list(dict.fromkeys(name_of.values()))
        for group, names in (("ignore", ignore), ("only", only)):
            for name in names:
                self._check(name, f"data.classes.{group}", merged)
        kept = [name for name in merged if name not in ignore and (not only or name in only)]
        if not kept:
            raise UserError("data.classes: ignore and only leave no class at all. Name one in data.classes.only.")
        first = {name_of[name]: color for name, color in reversed([*zip(self.names, self.colors, strict=True)])}
        index_of = {name: index for index, name in enumerate(kept)}
        new_index = {old: index_of.get(name_of[name], VOID) for old, name in enumerate(self.names)}
        raw = {value: new_index.get(index, VOID) for value, index in self.meanings.items()}
        return replace(self, names=tuple(kept), colors=tuple(first[name] for name in kept), raw=raw)

    @staticmethod
    def _check(name: str, where: str, names: Iterable[str]) -> None:
        if name not in names:
            names = list(names)
            raise UserError(
                f"{where}: there is no class '{name}'.{did_you_mean(name, names)} Classes: {', '.join(names)}."
            )

    def paint(self, mask: np.ndarray) -> np.ndarray:
        """A picture of a mask: (H, W) class indices -> (H, W, 3) uint8; void is black.

        Of overlapping labels, (C, H, W), the class that comes last in the label space is on top.
        """
        if mask.ndim == 2:
            return self.palette[mask]
        top = np.full(mask.shape[1:], VOID, np.uint8)
        for index, plane in enumerate(mask):
            top[plane == 1] = index
        return self.palette[top]


def _ranges(values: Sequence[int]) -> str:
    """``0, 1, 2, 3, 255`` as it is; runs of more than five as ``0 to 18``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 5 else ", ".join(map(str, run)) for run in runs)
