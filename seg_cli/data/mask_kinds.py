"""What masks are and what their values mean: by the settings, by ``classes.txt``, else by the masks themselves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.class_table import ClassRow, Color, class_colors, read_class_table
from seg_cli.data.coco_json import CocoFile, CocoMasks
from seg_cli.data.files import Pair
from seg_cli.data.images import read_plain, refusing_broken
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.mask_scan import colors_in, colors_of, values_in
from seg_cli.data.masks import (
    BinaryMasks,
    ClassFiles,
    ColorMasks,
    MaskReader,
    NpyMasks,
    class_in_name,
    gray_of,
    read_gray,
    read_npy,
    refuse_jpeg,
)
from seg_cli.errors import UserError

KINDS = ("auto", "index", "color", "binary", "npy", "files", "coco")
_PROBED = 8  # masks that are looked into to see what masks are


@dataclass(frozen=True)
class MaskSettings:
    """What the user says about masks: ``data.masks_are``, ``data.names`` and so on.

    Args:
        masks_are: one of ``KINDS``.
        names: of the classes; None takes them from ``classes.txt``, else from what masks hold.
        colors: of the classes, (red, green, blue); where masks are colours, what they mean too.
        ignore_value: the value of void pixels; None where there is none.
        multilabel: whether a pixel may belong to several classes or none.

    Raises:
        UserError: for a value that is none of these.
    """

    masks_are: str = "auto"
    names: Sequence[str] | None = None
    colors: Sequence[Sequence[int]] | None = None
    ignore_value: int | None = VOID
    multilabel: bool = False

    def __post_init__(self) -> None:
        if self.masks_are not in KINDS:
            raise UserError(
                f"data.masks_are={self.masks_are}: there is no such kind.{did_you_mean(str(self.masks_are), KINDS)} "
                f"Kinds: {', '.join(KINDS)}."
            )
        for name in self.names or ():
            if not isinstance(name, str) or list(self.names or ()).count(name) > 1:
                raise UserError(f"data.names: '{name}' is there twice, or is no text. Type data.names=[road,car].")
        if self.colors is not None:
            if self.names is None or len(self.names) != len(self.colors):
                raise UserError("data.colors: there must be as many as data.names. A table of both is classes.txt.")
            for color in self.colors:
                if len(color) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
                    raise UserError(
                        f"data.colors: {list(color)} is no colour. A colour is [red,green,blue] of 0 to 255."
                    )
        if self.ignore_value is not None and not -1 <= self.ignore_value <= 65535:
            raise UserError(
                f"data.ignore_value={self.ignore_value}: label values are 0 to 65535 (-1 in .npy), or null."
            )


@dataclass(frozen=True)
class Understood:
    """The classes, the reader of masks, and what has been found out, in words."""

    labels: LabelSpace
    read_mask: MaskReader
    notes: list[str]


def understand(
    pairs: Sequence[Pair], settings: MaskSettings, *, table: Path, several: bool, lenient: bool = False
) -> Understood:
    """What the masks of these pairs are.

    Args:
        pairs: all of the dataset; not of COCO annotations.
        settings: what the user says.
        table: ``classes.txt``, which need not be there.
        several: whether each class or object has a mask file of its own.
        lenient: pass over masks that cannot be used; whoever reads the samples is told of each.

    Raises:
        UserError: if settings, table and masks do not go together, or colours have no table; names the file.
    """
    if lenient:
        pairs = [pair for pair in pairs if all(map(_is_mask, pair.masks))] or pairs
    for path in (path for pair in pairs for path in pair.masks):
        refuse_jpeg(path)
    rows, source = None, ""
    if settings.names:
        colors: Sequence[Sequence[int] | None] = settings.colors or [None] * len(settings.names)
        rows = [ClassRow(name, None, _color(color)) for name, color in zip(settings.names, colors, strict=True)]
        source = "data.names"
    elif table.is_file():
        rows, source = read_class_table(table), table.name
    reading = _Reading(pairs, settings, rows, source, lenient)
    kind = settings.masks_are
    if kind == "auto":
        kind = "files" if several else reading.looks_like()
    elif several != (kind == "files"):
        raise UserError(
            f"data.masks_are={kind}: "
            + ("the images have several mask files each. " if several else "each image has one mask file. ")
            + "Type data.masks_are=auto."
        )
    return getattr(reading, kind)()


def understand_coco(files: Sequence[CocoFile], settings: MaskSettings) -> Understood:
    """What the masks of COCO files are; one file a split, all of the same categories.

    Raises UserError if their categories differ, or names are given that the files give.
    """
    if settings.names:
        raise UserError("data.names: COCO annotations name their categories themselves. Leave it out.")
    if any(file.categories != files[0].categories for file in files):
        raise UserError(f"data.masks: the categories of {files[0].path} are not those of another split's file.")
    rows = [ClassRow(name) for name in files[0].categories.values()]
    annotations = {image: drawn for file in files for image, drawn in file.annotations.items()}
    reader = CocoMasks(annotations, len(rows), overlapping=settings.multilabel)
    names = ", ".join(row.name for row in rows[:8]) + (" ..." if len(rows) > 8 else "")
    notes = [f"masks are COCO annotations of {len(rows)} categories: {names}"]
    return Understood(
        _planes_or_background(rows, settings.multilabel),
        reader,
        notes + [note for file in files for note in file.notes],
    )


class _Reading:
    """One method for each kind of mask."""

    def __init__(
        self, pairs: Sequence[Pair], settings: MaskSettings, rows: list[ClassRow] | None, source: str, lenient: bool
    ) -> None:
        self.pairs, self.settings, self.rows, self.source, self.lenient = pairs, settings, rows, source, lenient
        step = max(1, len(pairs) // _PROBED)
        self.probed = list(pairs[::step][:_PROBED])

    def looks_like(self) -> str:
        """The kind, from a few masks."""
        values: set[int] = set()
        colors: set[Color] = set()
        table = [row.color for row in self.rows or () if row.color and row.value is None]
        for pair in self.probed:
            path = pair.masks[0]
            if path.suffix.lower() == ".npy":
                return "npy"
            stored = gray_of(read_plain(path, "mask"))
            if stored.ndim == 3:
                return "color"
            values |= {*np.unique(stored).tolist()}
            if table and stored.dtype == np.uint8:
                colors |= colors_of(path)
        if len(colors) > 1 and colors <= {*table}:
            return "color"  # a palette, or gray levels, and the table has them
        given = self.rows is not None and any(row.value is not None for row in self.rows)
        if given or (self.rows is not None and len(self.rows) > 2) or {1, 255} <= values <= {0, 1, 255}:
            return "index"
        if self.rows is not None and values <= {0, 1}:
            return "binary" if self.settings.multilabel else "index"
        return "binary" if _are_yes_no(values_in(self.pairs, read_gray)) else "index"

    def index(self, read_mask: Callable[[Pair], np.ndarray] = read_gray) -> Understood:
        self._refuse_multilabel("index masks have")
        ignored = None if self.settings.ignore_value is None else self.settings.ignore_value % 65536
        notes = []
        rows = self.rows
        if rows is None:
            found = [value for value in values_in(self.pairs, read_mask) if value != ignored]
            if len(found) > 250:
                raise UserError(
                    f"data.masks: the masks hold {len(found)} different values ({found[0]} to {found[-1]}), and there "
                    "are at most 250 classes. Are these numbers of objects, or probabilities?"
                )
            if not found:
                raise UserError(f"data.masks: every pixel of every mask is void ({ignored}).")
            rows = [ClassRow(f"class {value}", value) for value in found]
            listed = ", ".join(map(str, found[:12])) + (" ..." if len(found) > 12 else "")
            notes.append(f"{len(found)} classes, the values found in the masks: {listed}; classes.txt would name them")
        else:
            notes.append(f"{sum(not row.is_void for row in rows)} classes of {self.source}, index masks")
        rows = [ClassRow(r.name, i if r.value is None else r.value, r.color) for i, r in enumerate(rows)]
        classes = self._with_palette([row for row in rows if not row.is_void])
        raw = {} if ignored is None else {ignored: VOID}
        raw |= {row.value: VOID for row in rows if row.is_void and row.value is not None}
        raw |= {row.value: index for index, row in enumerate(classes) if row.value is not None}
        return Understood(_space(classes, raw), read_mask, notes)

    def binary(self) -> Understood:
        rows = self.rows or [ClassRow(name) for name in ("background", "foreground")]
        rows = rows[-1:] if self.settings.multilabel else rows
        if len(rows) not in (1, 2) or len(rows) != 2 - self.settings.multilabel:
            raise UserError(
                f"data.masks_are=binary: such masks are of two classes, and {self.source} has {len(rows)}. The first "
                "is what is 0."
            )
        void = self.settings.ignore_value
        reader = BinaryMasks(None if void in (0, 1, 255) else void, plane=self.settings.multilabel)
        if self.settings.multilabel:
            labels = LabelSpace((rows[0].name,), class_colors(rows), overlapping=True)
            return Understood(labels, reader, [f"masks of no and yes, one overlapping class: {rows[0].name}"])
        if self.settings.masks_are == "auto" and not self.lenient:
            for pair in self.pairs if values_in(self.pairs, read_gray).keys() - {0, 1, 255} else ():
                reader(pair)  # the file with the stray value is named here, and not in the middle of an epoch
        notes = [f"masks of two values: 0 is {rows[0].name}, the other {rows[1].name}"]
        return Understood(_space(rows, {}), reader, notes)

    def color(self) -> Understood:
        self._refuse_multilabel("colour masks have")
        if self.rows is None or not all(row.color for row in self.rows):
            raise UserError(self._colors_to_paste())
        classes = [row for row in self.rows if not row.is_void]
        means = {row.color: VOID for row in self.rows if row.is_void and row.color}
        means |= {row.color: index for index, row in enumerate(classes) if row.color}
        if len(means) < len(self.rows):
            raise UserError(f"{self.source}: two classes have the same colour.")
        return Understood(
            _space(classes, {}), ColorMasks(means), [f"{len(classes)} classes by the colours of {self.source}"]
        )

    def npy(self) -> Understood:
        array = read_npy(self.probed[0].masks[0])
        if array.ndim != 3:
            return self.index(NpyMasks())
        if not self.settings.multilabel:
            raise UserError(
                f"{self.probed[0].masks[0]}: the array has the shape {array.shape}, planes of overlapping labels. Type "
                "data.multilabel=true, or save one label a pixel: (height, width)."
            )
        rows = self.rows or [ClassRow(f"class {index}") for index in range(len(array))]
        labels = LabelSpace(_names(rows), class_colors(rows), overlapping=True)
        return Understood(labels, NpyMasks(len(rows)), [f"{len(rows)} planes of overlapping labels"])

    def files(self) -> Understood:
        rows = [row for row in self.rows or () if row.name.lower() != "background" and not row.is_void]
        if not rows:
            named = {class_in_name(path, pair.image.stem) for pair in self.pairs for path in pair.masks}
            if not named or "" in named or len(named) > 250:
                raise UserError(
                    "data.names: the names of the mask files do not say which classes there are. If all files are "
                    "objects of one class, give its name: data.names=[cell]"
                )
            rows = [ClassRow(name) for name in sorted(named)]
        if len(rows) > 1:
            reader = ClassFiles(_names(rows))
            for pair in self.pairs:
                for path in pair.masks:
                    reader.class_of(path, pair.image)
        listed = ", ".join(row.name for row in rows[:8]) + (" ..." if len(rows) > 8 else "")
        return Understood(
            _planes_or_background(rows, self.settings.multilabel),
            ClassFiles(_names(rows), overlapping=self.settings.multilabel),
            [f"a mask file for each class or object, of {len(rows)} classes: {listed}"],
        )

    def coco(self) -> Understood:
        raise UserError(
            "data.masks_are=coco: no file of annotations was found. data.masks takes its path below data.root, as "
            "data.masks=annotations.json."
        )

    def _refuse_multilabel(self, what: str) -> None:
        if self.settings.multilabel:
            raise UserError(
                f"data.multilabel=true: {what} one label a pixel. Labels that overlap come as one file a class, as "
                ".npy planes, as COCO annotations, or as a mask of no and yes (data.masks_are=binary)."
            )

    def _with_palette(self, rows: list[ClassRow]) -> list[ClassRow]:
        """Rows with the colours of the first mask's palette, if they have none and it tells them apart."""
        path = self.probed[0].masks[0]
        if path.suffix.lower() == ".npy" or any(row.color for row in rows):
            return rows
        with refusing_broken(path, "mask"), Image.open(path) as picture:
            palette = picture.getpalette("RGB") if picture.mode == "P" else None
        colors = [tuple((palette or [])[3 * row.value : 3 * row.value + 3]) for row in rows if row.value is not None]
        if len(set(colors)) < len(rows) or not all(len(color) == 3 for color in colors):
            return rows
        return [ClassRow(row.name, row.value, color) for row, color in zip(rows, colors, strict=True)]  # type: ignore[arg-type]

    def _colors_to_paste(self) -> str:
        found = sorted(colors_in(self.pairs).items(), key=lambda item: -item[1])
        if len(found) > 250:
            return (
                f"data.masks: the masks, {self.probed[0].masks[0]} for instance, have {len(found)} different colours. "
                "These are photographs, or masks with smoothed edges or from a JPEG, and no labels."
            )
        lines = [
            f"{red} {green} {blue} {_name_of((red, green, blue), i)}" for i, ((red, green, blue), _) in enumerate(found)
        ]
        shown = "\n".join(lines[:40]) + (f"\n... and {len(lines) - 40} more" if len(lines) > 40 else "")
        lacking = f"{self.source} gives no colours" if self.rows else "nothing says what they mean"
        return (
            f"data.masks: the masks are colours, and {lacking}. Save these lines, the colours found from the most to "
            f"the least frequent, as classes.txt beside the images' folder, and write the names of the classes there "
            f"('{'void'}' for what does not count):\n{shown}"
        )


def _are_yes_no(counts: Mapping[int, int]) -> bool:
    """Whether masks with these pixels of each value are of no and yes, perhaps with a few wrong pixels.

    Read as labels, 255 would be void, and one stray pixel would make the class of interest vanish without a word.
    """
    strays = counts.keys() - {0, 255}
    if not strays or counts.keys() <= {0, 1}:
        return True
    wrong, everything = sum(counts[value] for value in strays), sum(counts.values())
    few = 1 not in strays and wrong < 0.001 * counts.get(255, 0)
    smooth = len(strays) > 20 and {0, 255} <= counts.keys() and wrong < 0.1 * everything
    return few or smooth


def _is_mask(path: Path) -> bool:
    """Whether a mask can be read, and is no JPEG."""
    try:
        refuse_jpeg(path)
        read_npy(path) if path.suffix.lower() == ".npy" else read_plain(path, "mask")
    except UserError:
        return False
    return True


def _name_of(color: Color, index: int) -> str:
    return "background" if color == (0, 0, 0) else f"class_{index}"


def _color(color: Sequence[int] | None) -> Color | None:
    return (int(color[0]), int(color[1]), int(color[2])) if color is not None else None


def _names(rows: Iterable[ClassRow]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)


def _space(rows: Sequence[ClassRow], raw: dict[int, int]) -> LabelSpace:
    return LabelSpace(_names(rows), class_colors(rows), raw)


def _planes_or_background(rows: list[ClassRow], overlapping: bool) -> LabelSpace:
    """The classes of planes that may overlap, or of planes drawn over a background, which is class 0."""
    rows = rows if overlapping else [ClassRow("background"), *rows]
    if len(rows) > 250:
        raise UserError(f"data.masks: {len(rows)} classes, and there are at most 250.")
    return LabelSpace(_names(rows), class_colors(rows), overlapping=overlapping)
