"""What was taken for what, as a PNG file: a confusion matrix, or where labels overlap what is right of each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from seg_cli.reports.canvas import ABSENT, BLUE, COLORS, GREY, INK, ORANGE, PALE, new_figure, save

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#a6cee3", BLUE, "#08306b"])


def draw_confusion(matrix: np.ndarray, names: Sequence[str], path: Path, *, split: str = "test") -> None:
    """Draw the counts of a split, as ``Evaluation.matrix`` has them.

    Args:
        matrix: (C, C) integers, rows truth, columns prediction: a heat map, in percent of the pixels of each true
            class. Where labels overlap (C, 2, 2), the ``[[tn, fp], [fn, tp]]`` of each class: a bar a class, in percent
            of its pixels in truth or prediction.
        names: of the C classes.
        path: PNG file to write.
        split: where the pixels are from.
    """
    draw = _draw_bars if matrix.ndim == 3 else _draw_heat_map
    draw(matrix, names, path, split)


def _draw_heat_map(matrix: np.ndarray, names: Sequence[str], path: Path, split: str) -> None:
    count = len(names)
    pixels = matrix.sum(1, keepdims=True)
    shares = matrix / np.maximum(pixels, 1)
    has_numbers = count <= 20
    cell = max(0.44, 3 / count) if has_numbers else max(0.12, 9 / count)  # inches
    figure = new_figure(count * cell + 1.6, count * cell + 1.9)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
    size = 9 if has_numbers else 6.5
    rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if has_numbers else {"rotation": 90}
    axes.set_xticks(range(count), names, fontsize=size, parse_math=False, **rotation)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=3)
    axes.set_xlabel("prediction", color=GREY)
    axes.set_ylabel("truth", color=GREY)
    axes.spines[:].set_color(PALE)

    for row in np.flatnonzero(pixels == 0):
        axes.add_patch(Rectangle((-0.5, row - 0.5), count, 1, **ABSENT))
        axes.get_yticklabels()[row].set_color("#a0a0a0")
    if has_numbers:
        for row, column in np.argwhere(shares >= 0.005):
            color = "white" if shares[row, column] > 0.5 else INK
            text = f"{shares[row, column]:.0%}".rstrip("%")
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
    else:
        bar = figure.colorbar(image, ax=axes, shrink=0.4, aspect=30, pad=0.01, format=lambda share, _: f"{share:.0%}")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, colors=GREY)

    absent = bool((pixels == 0).any())
    note = "% of the pixels of a true class; void is ignored" + ("\nhatched: not in the truth" if absent else "")
    _head(axes, f"Confusion on {split}", note)
    save(figure, path)


def _draw_bars(matrix: np.ndarray, names: Sequence[str], path: Path, split: str) -> None:
    """Of each class what is right, missed and wrongly found: the sum is the union, so what is right is the IoU."""
    count = len(names)
    parts = matrix[:, (1, 1, 0), (1, 0, 1)]  # (C, 3): tp, fn, fp
    union = parts.sum(1)
    shares = parts / np.maximum(union, 1)[:, None]
    has_numbers = count <= 40
    figure = new_figure(8, count * (0.34 if has_numbers else 0.13) + 1.7)
    axes = figure.add_subplot()
    rows = np.arange(count)
    kinds = ("right (the IoU)", "missed", "wrongly found")
    for share, start, kind, color in zip(
        shares.T, shares.cumsum(1).T - shares.T, kinds, (BLUE, ORANGE, COLORS[3]), strict=True
    ):
        axes.barh(rows, share, 0.8, start, color=color, label=kind)
        if has_numbers:
            for row in np.flatnonzero(share >= 0.03):
                text, ink = f"{share[row]:.0%}".rstrip("%"), INK if color == COLORS[3] else "white"
                middle = (start[row] + share[row] / 2, float(row))
                axes.text(*middle, text, ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_yticks(rows, names, fontsize=9 if has_numbers else 6.5, parse_math=False)
    for row in np.flatnonzero(union == 0):
        axes.add_patch(Rectangle((0, row - 0.4), 1, 0.8, **ABSENT))
        axes.get_yticklabels()[row].set_color("#a0a0a0")
    axes.set_xlim(0, 1)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    absent = "; hatched: in neither" if (union == 0).any() else ""
    _head(axes, f"Right and wrong on {split}", f"% of the pixels of a class in truth or prediction{absent}")
    save(figure, path)


def _head(axes: Axes, title: str, note: str) -> None:
    """A title, and a note of one or two lines between it and the axes."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=22 + 14 * note.count("\n"))
    axes.annotate(note, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=9, color=GREY)
