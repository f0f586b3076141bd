"""Sheets of pictures: samples of a dataset under their masks, with the colours of the classes below.

Under a mask a picture shows through; edges of classes are drawn full, void is striped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import to_rgb
from seg_cli.reports.canvas import DPI, GREY, INK, save

# Inches
_PANEL, _GAP, _MARGIN = 2.45, 0.1, 0.18
_TITLE, _HEADING, _CAPTION, _LEGEND_ROW = 0.34, 0.3, 0.2, 0.22
_LEGEND_LIMIT = 60  # classes
_TINT = 0.4  # of a class's colour over the picture
_COLORS = {"error": "#c5003a", "warning": "#a85b00", "": GREY}
_MARK = (255, 0, 170)


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet.

    Attributes:
        image: (H, W, B) uint8 or float32; None where it cannot be read.
        mask: as ``Sample.mask``; None for the picture alone.
        caption: one line below it.
        level: ``error`` or ``warning`` colours the caption.
        marked: (H, W) bool, pixels to point out; None for none.
    """

    image: np.ndarray | None
    mask: np.ndarray | None
    caption: str
    level: str = ""
    marked: np.ndarray | None = None


@dataclass(frozen=True)
class Section:
    """Tiles under a heading, with a line in small print beside it."""

    heading: str
    note: str
    tiles: Sequence[Tile]


def draw_sheet(
    title: str, sections: Sequence[Section], labels: LabelSpace, legend: Sequence[str], path: Path, *, columns: int = 4
) -> None:
    """Draw a sheet.

    Args:
        title: of the whole.
        sections: from top to bottom; those without tiles are left out.
        labels: names and colours.
        legend: a word behind the name of each class (its share), and one more for void.
        path: PNG file to write.
        columns: tiles in a row.
    """
    sections = [section for section in sections if section.tiles]
    shown = _legend(labels, legend)
    per_row = max(1, min(columns, 6))
    legend_rows = -(-len(shown) // per_row)
    rows = [[section.tiles[i : i + columns] for i in range(0, len(section.tiles), columns)] for section in sections]
    heights = [[max(_panel_size(tile)[1] for tile in row) for row in section] for section in rows]
    width = 2 * _MARGIN + columns * _PANEL + (columns - 1) * _GAP
    body = sum(_HEADING + sum(height + _CAPTION + _GAP for height in section) for section in heights)
    figure = Figure((width, 2 * _MARGIN + _TITLE + body + legend_rows * _LEGEND_ROW + _GAP), dpi=DPI, facecolor="white")

    top = _MARGIN + _TITLE
    _write(figure, _MARGIN, top - 0.13, title, columns, fontsize=13, color=INK, weight="bold")
    for section, section_rows, section_heights in zip(sections, rows, heights, strict=True):
        top += _HEADING
        _write(figure, _MARGIN, top - 0.1, section.heading, columns, fontsize=11, color=INK, weight="bold")
        _write(figure, width - _MARGIN, top - 0.1, section.note, columns, fontsize=9, color=GREY, ha="right")
        for tiles, height in zip(section_rows, section_heights, strict=True):
            for column, tile in enumerate(tiles):
                left = _MARGIN + column * (_PANEL + _GAP)
                _draw_tile(figure, tile, labels, left, top)
                color = _COLORS[tile.level]
                _write(figure, left, top + _panel_size(tile)[1] + 0.14, tile.caption, 1, fontsize=8, color=color)
            top += height + _CAPTION + _GAP
    figure.legend(
        handles=shown,
        loc="lower left",
        bbox_to_anchor=(_MARGIN / figure.get_figwidth(), _MARGIN / figure.get_figheight() / 2),
        borderpad=0,
        borderaxespad=0,
        ncols=per_row,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.3,
        columnspacing=1.4,
    )
    save(figure, path)


def overlay(tile: Tile, labels: LabelSpace, width: int, height: int) -> np.ndarray:
    """The picture of a tile, (height, width, 3) uint8: the mask's colours over the image."""
    assert tile.image is not None
    image = to_rgb(tile.image)
    shrinks = width < image.shape[1]
    flags = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC if min(image.shape[:2]) > 64 else cv2.INTER_NEAREST
    picture = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=flags)
    if tile.mask is not None:
        top = _resize(_topmost(tile.mask), width, height)
        is_class = top < labels.num_classes
        colors = labels.palette[top]
        tinted = (picture * (1 - _TINT) + colors * _TINT).astype(np.uint8)
        picture = np.where(is_class[..., None], tinted, picture)
        edges = is_class & (cv2.morphologyEx(top, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0)
        picture[edges] = colors[edges]
        rows, columns = np.ogrid[:height, :width]
        stripes = np.where((rows + columns) // 4 % 2, 255, 190).astype(np.uint8)[..., None]
        void = top == VOID
        picture[void] = (picture * 0.25 + stripes * 0.75).astype(np.uint8)[void]
    if tile.marked is not None:
        picture[_resize(tile.marked.astype(np.uint8), width, height) > 0] = _MARK
    return picture


def _topmost(mask: np.ndarray) -> np.ndarray:
    """(H, W) class indices of a mask, as ``LabelSpace.paint`` shows it: of overlapping labels the last one.

    A pixel of no class is ``VOID - 1`` there, and is not painted.
    """
    if mask.ndim == 2:
        return mask
    top = np.full(mask.shape[1:], VOID - 1, np.uint8)
    top[(mask == VOID).all(0)] = VOID
    for index, plane in enumerate(mask):
        top[plane == 1] = index
    return top


def _resize(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(mask), (width, height), interpolation=cv2.INTER_NEAREST)


def _panel_size(tile: Tile) -> tuple[float, float]:
    """Width and height in inches; a tall picture is made narrower and a long one is at least as high as its name."""
    height, width = (3, 4) if tile.image is None else tile.image.shape[:2]
    panel_height = min(max(_PANEL * height / width, 0.2), _PANEL * 1.1)
    return min(_PANEL, panel_height * width / height), panel_height


def _draw_tile(figure: Figure, tile: Tile, labels: LabelSpace, left: float, top: float) -> None:
    width, height = _panel_size(tile)
    whole_width, whole_height = figure.get_size_inches()
    box = (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    axes = figure.add_axes(box)
    if tile.image is None:
        axes.set_facecolor("#f4f4f4")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#c8c8c8")
        axes.text(
            0.5, 0.5, "cannot be read", transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=9
        )
        return
    axes.imshow(overlay(tile, labels, round(width * DPI), round(height * DPI)), interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _legend(labels: LabelSpace, words: Sequence[str]) -> list[Patch]:
    named = list(zip(labels.names, labels.colors, words, strict=False))
    patches = [
        Patch(facecolor=_hex(color), edgecolor=GREY, linewidth=0.4, label=f"{_short(name, 24)}  {word}")
        for name, color, word in named[:_LEGEND_LIMIT]
    ]
    if len(named) > _LEGEND_LIMIT:
        patches.append(Patch(facecolor="none", label=f"and {len(named) - _LEGEND_LIMIT} more"))
    void = Patch(facecolor="white", edgecolor="#b0b0b0", hatch="/////", linewidth=0, label=f"void  {words[-1]}")
    return [*patches, void]


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _write(figure: Figure, left: float, top: float, text: str, columns: int, *, fontsize: float, **style: Any) -> None:
    """Text whose base line begins so many inches from the left and the top, cut to so many columns."""
    width, height = figure.get_size_inches()
    text = _short(text, int(columns * _PANEL / (fontsize * 0.0075)))
    figure.text(left / width, 1 - top / height, text, fontsize=fontsize, parse_math=False, **style)


def _short(text: str, letters: int) -> str:
    """Text with its middle left out where it is too long: the end of a file's name tells most."""
    if len(text) <= letters:
        return text
    return f"{text[: letters // 3]}…{text[len(text) - (letters - letters // 3 - 1) :]}"
