"""``classes.txt``: names of classes with their values and colours; and colours for classes that have none."""

import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_cli.errors import UserError

Color = tuple[int, int, int]

VOID_NAME = "void"
"""What stands for a class in the table and is none: its pixels are not counted."""


@dataclass(frozen=True)
class ClassRow:
    """A line of the table: what a class is called, and how masks say it; None where the line does not say it."""

    name: str
    value: int | None = None
    color: Color | None = None

    @property
    def is_void(self) -> bool:
        return self.name.lower() == VOID_NAME


def read_class_table(path: Path) -> list[ClassRow]:
    """The rows of a file of lines ``NAME``, ``VALUE NAME``, ``R G B NAME`` or ``VALUE R G B NAME``.

    Without a value, the value of a class is the number of its line, from 0. Blanks, commas and colons may stand
    between the numbers. Empty lines and those that begin with # are left out.

    Raises:
        UserError: if a line is none of these, lines are of different kinds, or a name, value or colour repeats; names
            the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the table of classes cannot be read ({error}).") from None
    rows: list[ClassRow] = []
    kind = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}: '{line.strip()}'"
        match = re.fullmatch(r"((?:\d+[\s,:;]+)*)([^\d\s].*?)\s*", line.strip())
        numbers = [int(digits) for digits in re.findall(r"\d+", match[1])] if match else []
        if match is None or len(numbers) not in (0, 1, 3, 4):
            raise UserError(
                f"{where} is no class. A line is NAME, VALUE NAME, R G B NAME or VALUE R G B NAME, as in '3 road' or "
                "'128 64 128 road'."
            )
        if kind not in (None, len(numbers)):
            raise UserError(f"{where} has {len(numbers)} numbers before the name, and the lines above have {kind}.")
        kind = len(numbers)
        color = numbers[-3:] if kind >= 3 else None
        if color and max(color) > 255:
            raise UserError(f"{where}: the parts of a colour are 0 to 255.")
        value = numbers[0] if kind in (1, 4) else None
        rows.append(ClassRow(match[2], value, (color[0], color[1], color[2]) if color else None))
        for what in ("name", "value", "color"):
            mine = getattr(rows[-1], what)
            if mine is not None and mine in [getattr(row, what) for row in rows[:-1]]:
                raise UserError(f"{where}: the {what.replace('color', 'colour')} is that of a line above.")
    if not any(not row.is_void for row in rows):
        raise UserError(f"{path}: the table names no class. Write one name a line.")
    return rows


def distinct_colors(count: int) -> list[Color]:
    """Colours that are told apart: hues by the golden ratio, in turns of four strengths."""
    strengths = ((0.9, 1.0), (0.7, 0.6), (0.4, 1.0), (1.0, 0.4))  # saturation and value
    colors = []
    for index in range(count):
        saturation, value = strengths[index // 5 % 4]
        red, green, blue = colorsys.hsv_to_rgb((0.02 + index * 0.618034) % 1, saturation, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def class_colors(rows: Sequence[ClassRow]) -> list[Color]:
    """The colours of rows; where one has none, another that no row has. A background is gray."""
    taken = {row.color for row in rows}
    fresh = iter(color for color in distinct_colors(2 * len(rows) + 1) if color not in taken)
    gray: Color = (96, 96, 96)
    grays = {"background"} if gray not in taken else set()
    return [row.color or (gray if row.name.lower() in grays else next(fresh)) for row in rows]
