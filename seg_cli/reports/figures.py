"""The pictures of a run, as PNG files: learning curves, a confusion matrix, and predictions beside the truth.

Drawn with Matplotlib's objects, without pyplot: nothing global is touched and no display is needed.
"""

import io
import warnings
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.inference.evaluate import Example
from seg_cli.runs.atomic import write_bytes

Row = dict[str, float | None]

DPI = 150
_INK, _GREY, _PALE = "#222222", "#666666", "#e4e4e4"
# Okabe and Ito's colours (2008), which colour-blind people tell apart too, without black and yellow
_BLUE, _ORANGE, _COLORS = "#0072b2", "#d55e00", ("#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#a6cee3", _BLUE, "#08306b"])


# ---- learning curves


def curves(rows: Sequence[Row], path: Path) -> None:
    """Draw losses with their terms, mIoU with its best epoch, the IoU of each class, and the learning rate.

    Args:
        rows: metrics.csv, one dict an epoch with ``epoch`` and any of ``train/loss``, ``train/loss/<term>``,
            ``val/loss``, ``val/miou``, ``val/iou/<class>``, ``lr``; None where there is no value.
        path: PNG file to write.
    """
    figure = _figure(11, 7)
    (loss, miou), (classes, rate) = figure.subplots(2, 2)
    _draw_losses(loss, rows)
    _draw_miou(miou, rows)
    _draw_classes(classes, rows)
    _draw_line(rate, rows, "lr", color=_INK)
    _style(rate, "Learning rate")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")
    last = max((row["epoch"] or 0 for row in rows), default=1)
    for axes in (loss, miou, classes, rate):
        axes.set_xlim(min(1, last - 0.5), last + (0.5 if last == 1 else 0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    for axes in (classes, rate):
        axes.set_xlabel("epoch", color=_GREY, fontsize=9)
    _save(figure, path)


def _draw_losses(axes: Axes, rows: Sequence[Row]) -> None:
    terms = _keys(rows, "train/loss/")
    if len(terms) > 1:  # a single term is the loss itself
        for key, color in zip(terms, cycle(_COLORS), strict=False):
            _draw_line(axes, rows, key, color=color, width=1, label=f"train, {key.split('/', 2)[2]}")
    _draw_line(axes, rows, "train/loss", color=_BLUE, label="train")
    _draw_line(axes, rows, "val/loss", color=_ORANGE, label="val")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    _style(axes, "Loss")


def _draw_miou(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_line(axes, rows, "val/miou", color=_BLUE)
    epochs, values = _series(rows, "val/miou")
    title = "mIoU on val"
    if values:
        best = int(np.argmax(values))
        axes.plot(epochs[best], values[best], "o", color=_ORANGE, markersize=7, zorder=3, clip_on=False)
        title += f": best {values[best]:.3f} in epoch {epochs[best]:.0f}"
    _style(axes, title)
    axes.set_ylim(0, 1)


def _draw_classes(axes: Axes, rows: Sequence[Row]) -> None:
    """A line a class, with its name at its end; of many classes only the best and the worst are named."""
    series = {key.split("/", 2)[2]: _series(rows, key) for key in _keys(rows, "val/iou/")}
    ranked = sorted((name for name in series if series[name][1]), key=lambda name: series[name][1][-1])
    named = ranked if len(ranked) <= 16 else ranked[:6] + ranked[-6:]
    for name in ranked:
        if name not in named:
            axes.plot(*series[name], color=_PALE, linewidth=0.6, zorder=1)
    heights = _spread([series[name][1][-1] for name in named], gap=0.056)
    for name, height, color in zip(named, heights, cycle((_BLUE, _ORANGE, *_COLORS)), strict=False):
        epochs, values = series[name]
        axes.plot(epochs, values, color=color, linewidth=1, marker=_marker(len(values)), markersize=4, clip_on=False)
        axes.annotate(
            name if len(name) <= 24 else f"{name[:23]}…",
            (epochs[-1], values[-1]),
            xytext=(1.04, height),
            textcoords=axes.get_yaxis_transform(),
            arrowprops={
                **{"arrowstyle": "-", "color": color, "linewidth": 0.6},
                **{"relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2},
            },
            color=color,
            fontsize=8,
            va="center",
            parse_math=False,
        )
    others = "" if len(named) == len(ranked) else f", the worst and the best 6 of {len(ranked)}"
    _style(axes, f"IoU on val by class{others}")
    axes.set_ylim(0, 1)


def _spread(values: Sequence[float], *, gap: float) -> list[float]:
    """Heights for labels of ascending values: ``gap`` apart, as near as can be, in 0..1 if they fit."""
    blocks: list[list[float]] = []  # of labels that touch; each block is centred on its values
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and _ends(blocks[-2], gap)[1] + gap > _ends(blocks[-1], gap)[0]:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    heights = [_ends(block, gap)[0] + i * gap for block in blocks for i in range(len(block))]
    for i in range(len(heights)):
        heights[i] = max(heights[i], i * gap)
    for i in range(len(heights)):
        heights[-1 - i] = min(heights[-1 - i], 1 - i * gap)
    return heights


def _ends(block: list[float], gap: float) -> tuple[float, float]:
    center, half = sum(block) / len(block), gap * (len(block) - 1) / 2
    return center - half, center + half


def _keys(rows: Sequence[Row], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))


def _series(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of the rows that have a value."""
    points = [(epoch, value) for row in rows if (epoch := row["epoch"]) and (value := row.get(key)) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _draw_line(
    axes: Axes, rows: Sequence[Row], key: str, *, color: str, width: float = 1.8, label: str | None = None
) -> None:
    epochs, values = _series(rows, key)
    if values:
        marker = _marker(len(values))
        axes.plot(
            epochs,
            values,
            color=color,
            linewidth=width,
            marker=marker,
            markersize=4,
            clip_on=False,
            label=label,
        )


def _marker(points: int) -> str:
    return "o" if points <= 12 else ""


# ---- confusion matrix


def confusion(matrix: np.ndarray, names: Sequence[str], path: Path, *, split: str = "test") -> None:
    """Draw which class was taken for which, in percent of the pixels of each true class.

    Args:
        matrix: (C, C) integers, rows truth, columns prediction.
        names: of the C classes.
        path: PNG file to write.
        split: where the pixels are from.
    """
    count = len(names)
    pixels = matrix.sum(1, keepdims=True)
    shares = matrix / np.maximum(pixels, 1)
    has_numbers = count <= 20
    cell = max(0.44, 3 / count) if has_numbers else max(0.12, 9 / count)  # inches
    figure = _figure(count * cell + 1.6, count * cell + 1.9)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
    size = 9 if has_numbers else 6.5
    rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if has_numbers else {"rotation": 90}
    axes.set_xticks(range(count), names, fontsize=size, parse_math=False, **rotation)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=3)
    axes.set_xlabel("prediction", color=_GREY)
    axes.set_ylabel("truth", color=_GREY)
    axes.spines[:].set_color(_PALE)

    for row in np.flatnonzero(pixels == 0):
        axes.add_patch(
            Rectangle((-0.5, row - 0.5), count, 1, facecolor="#f4f4f4", edgecolor="#c8c8c8", hatch="///", lw=0)
        )
        axes.get_yticklabels()[row].set_color("#a0a0a0")
    if has_numbers:
        for row, column in np.argwhere(shares >= 0.005):
            color = "white" if shares[row, column] > 0.5 else _INK
            text = f"{shares[row, column]:.0%}".rstrip("%")
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
    else:
        bar = figure.colorbar(image, ax=axes, shrink=0.4, aspect=30, pad=0.01, format=lambda share, _: f"{share:.0%}")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, colors=_GREY)

    absent = bool((pixels == 0).any())
    note = "% of the pixels of a true class; void is ignored" + ("\nhatched: not in the truth" if absent else "")
    title_pad = 36 if absent else 22  # points; above the note
    axes.set_title(f"Confusion on {split}", loc="left", fontsize=12, color=_INK, pad=title_pad)
    axes.annotate(note, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=9, color=_GREY)
    _save(figure, path)


# ---- predictions


_PANEL = 2.45  # width of a panel, and all that follows: inches
_GAP, _MARGIN, _TITLE, _LEGEND_ROW = 0.08, 0.15, 0.26, 0.24
_LEGEND_COLUMNS, _LEGEND_LIMIT = 6, 48
_ERROR = (213, 0, 50)


def predictions(examples: Sequence[Example], labels: LabelSpace, path: Path) -> None:
    """Draw a row an example: image, truth, prediction, and where that is wrong; below, the classes' colours.

    Args:
        examples: what to draw, in this order.
        labels: of the dataset.
        path: PNG file to write.
    """
    sizes = [_panel_size(example.truth.shape) for example in examples]
    legend = _legend(examples, labels)
    legend_height = -(-len(legend) // _LEGEND_COLUMNS) * _LEGEND_ROW
    width = 2 * _MARGIN + 4 * _PANEL + 3 * _GAP
    height = 2 * _MARGIN + _TITLE + sum(h + _TITLE + _GAP for _, h in sizes) + legend_height + _GAP
    figure = Figure((width, height), dpi=DPI)

    top = _MARGIN + _TITLE
    for column, heading in enumerate(("image", "truth", "prediction", "errors")):
        left = _MARGIN + column * (_PANEL + _GAP)
        _write(figure, left, top - 0.08, heading, fontsize=11, color=_INK, weight="bold")
    for example, (panel_width, panel_height) in zip(examples, sizes, strict=True):
        top += _TITLE
        _write(figure, _MARGIN, top - 0.06, _describe(example), fontsize=9, color=_GREY)
        for column, panel in enumerate(_panels(example, labels, round(panel_width * DPI), round(panel_height * DPI))):
            left = _MARGIN + column * (_PANEL + _GAP)
            box = (
                left / width,
                1 - (top + panel_height) / height,
                panel_width / width,
                panel_height / height,
            )
            axes = figure.add_axes(box)
            axes.imshow(panel, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
        top += panel_height + _GAP
    figure.legend(
        handles=legend,
        loc="lower left",
        bbox_to_anchor=(_MARGIN / width, _MARGIN / height / 2),
        borderpad=0,
        borderaxespad=0,
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    _save(figure, path)


def _panel_size(shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height in inches of an (H, W) picture; a tall one is made narrower, so that rows stay low."""
    height = min(_PANEL * shape[0] / shape[1], _PANEL * 1.2)
    return height * shape[1] / shape[0], height


def _panels(example: Example, labels: LabelSpace, width: int, height: int) -> list[np.ndarray]:
    """Image, truth, prediction and errors as (height, width, 3) uint8; void is striped."""

    def resize(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)

    shrinks = width < example.image.shape[1]
    image = cv2.resize(example.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    truth, prediction = resize(example.truth), resize(example.prediction)
    void = truth == VOID
    rows, columns = np.ogrid[:height, :width]
    stripes = np.where((rows + columns) // 4 % 2, 255, 205).astype(np.uint8)[..., None]
    painted = np.where(void[..., None], stripes, labels.paint(truth))
    faded = image.mean(2, keepdims=True) * 0.45 + 140
    errors = np.where(void[..., None], stripes, np.repeat(faded, 3, 2)).astype(np.uint8)
    errors[~void & (prediction != truth)] = _ERROR
    return [image, painted, labels.paint(prediction), errors]


def _describe(example: Example) -> str:
    counted = example.truth != VOID
    name = example.name if len(example.name) <= 80 else f"…{example.name[-79:]}"
    if not counted.any():
        return f"{name} · all void"
    wrong = (example.prediction != example.truth)[counted].mean()
    miou = "" if example.miou is None else f" · mIoU {example.miou:.3f}"
    return f"{name}{miou} · {wrong:.1%} of the pixels wrong"


def _legend(examples: Sequence[Example], labels: LabelSpace) -> list[Patch]:
    """The colours of the classes that occur, of void, and of an error."""
    shown = {int(value) for example in examples for value in np.unique((example.truth, example.prediction))}
    classes = sorted(shown - {VOID})
    patches = [
        Patch(facecolor=_hex(labels.colors[i]), edgecolor=_GREY, linewidth=0.4, label=labels.names[i])
        for i in classes[:_LEGEND_LIMIT]
    ]
    if len(classes) > _LEGEND_LIMIT:
        patches.append(Patch(facecolor="none", label=f"and {len(classes) - _LEGEND_LIMIT} more"))
    if VOID in shown:
        patches.append(Patch(facecolor="white", edgecolor="#b0b0b0", hatch="/////", linewidth=0, label="void"))
    return [*patches, Patch(facecolor=_hex(_ERROR), label="error")]


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Text whose base line begins so many inches from the left and the top."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, parse_math=False, **style)


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


# ---- all of them


def _figure(width: float, height: float) -> Figure:
    return Figure((width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(axis="y", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    axes.tick_params(colors=_GREY, labelsize=9, length=0)
    axes.margins(y=0.08)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
