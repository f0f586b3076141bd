"""The pictures of a run, as PNG files: learning curves, and predictions beside the truth."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.inference.evaluate import Example
from seg_cli.reports.canvas import BLUE, COLORS, DPI, GREY, INK, ORANGE, PALE, new_figure, save, style

Row = dict[str, float | None]


# ---- learning curves


def curves(rows: Sequence[Row], path: Path, *, colors: Mapping[str, tuple[int, int, int]] | None = None) -> None:
    """Draw losses with their terms, mIoU with its best epoch, the IoU of each class, and the learning rate.

    Args:
        rows: metrics.csv, one dict an epoch with ``epoch`` and any of ``train/loss``, ``train/loss/<term>``,
            ``val/loss``, ``val/miou``, ``val/iou/<class>``, ``lr``; None where there is no value.
        path: PNG file to write.
        colors: class -> (red, green, blue) in 0..255, as in the pictures of predictions; None: any.
    """
    figure = new_figure(11, 7)
    (loss, miou), (classes, rate) = figure.subplots(2, 2)
    _draw_losses(loss, rows)
    _draw_miou(miou, rows)
    _draw_classes(classes, rows, colors or {})
    _draw_line(rate, rows, "lr", color=INK)
    style(rate, "Learning rate")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")
    last = max((row["epoch"] or 0 for row in rows), default=1)
    for axes in (loss, miou, classes, rate):
        axes.set_xlim(min(1, last - 0.5), last + (0.5 if last == 1 else 0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    for axes in (classes, rate):
        axes.set_xlabel("epoch", color=GREY, fontsize=9)
    save(figure, path)


def _draw_losses(axes: Axes, rows: Sequence[Row]) -> None:
    terms = _keys(rows, "train/loss/")
    if len(terms) > 1:  # a single term is the loss itself
        for key, color in zip(terms, cycle(COLORS), strict=False):
            _draw_line(axes, rows, key, color=color, width=1, label=f"train, {key.split('/', 2)[2]}")
    _draw_line(axes, rows, "train/loss", color=BLUE, label="train")
    _draw_line(axes, rows, "val/loss", color=ORANGE, label="val")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    style(axes, "Loss")


def _draw_miou(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_line(axes, rows, "val/miou", color=BLUE)
    epochs, values = _series(rows, "val/miou")
    title = "mIoU on val"
    if values:
        best = int(np.argmax(values))
        axes.plot(epochs[best], values[best], "o", color=ORANGE, markersize=7, zorder=3, clip_on=False)
        title += f": best {values[best]:.3f} in epoch {epochs[best]:.0f}"
    style(axes, title)
    axes.set_ylim(0, 1)


def _draw_classes(axes: Axes, rows: Sequence[Row], colors: Mapping[str, tuple[int, int, int]]) -> None:
    """A line a class, with its name at its end; of many classes only the best and the worst are named.

    A class has its own colour, on a grey line that is a little wider: some classes are as pale as the paper.
    """
    series = {key.split("/", 2)[2]: _series(rows, key) for key in _keys(rows, "val/iou/")}
    ranked = sorted((name for name in series if series[name][1]), key=lambda name: series[name][1][-1])
    named = ranked if len(ranked) <= 16 else ranked[:6] + ranked[-6:]
    for name in ranked:
        if name not in named:
            axes.plot(*series[name], color=PALE, linewidth=0.6, zorder=1)
    heights = _spread([series[name][1][-1] for name in named], gap=0.056)
    for name, height, other in zip(named, heights, cycle((BLUE, ORANGE, *COLORS)), strict=False):
        epochs, values = series[name]
        color = "#{:02x}{:02x}{:02x}".format(*colors[name]) if name in colors else other
        axes.plot(epochs, values, color=GREY, linewidth=2, clip_on=False)
        axes.plot(epochs, values, color=color, linewidth=1.4, marker=_marker(len(values)), markersize=4, clip_on=False)
        axes.annotate(
            name if len(name) <= 24 else f"{name[:23]}…",
            (epochs[-1], values[-1]),
            xytext=(1.04, height),
            textcoords=axes.get_yaxis_transform(),
            arrowprops={
                **{"arrowstyle": "-", "color": color, "linewidth": 0.6},
                **{"relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 2},
            },
            color=INK,
            fontsize=8,
            va="center",
            parse_math=False,
        )
    others = "" if len(named) == len(ranked) else f", the worst and the best 6 of {len(ranked)}"
    style(axes, f"IoU on val by class{others}")
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
    sizes = [_panel_size(example.image.shape) for example in examples]
    legend = _legend(examples, labels)
    legend_height = -(-len(legend) // _LEGEND_COLUMNS) * _LEGEND_ROW
    width = 2 * _MARGIN + 4 * _PANEL + 3 * _GAP
    height = 2 * _MARGIN + _TITLE + sum(h + _TITLE + _GAP for _, h in sizes) + legend_height + _GAP
    figure = Figure((width, height), dpi=DPI)

    top = _MARGIN + _TITLE
    for column, heading in enumerate(("image", "truth", "prediction", "errors")):
        left = _MARGIN + column * (_PANEL + _GAP)
        _write(figure, left, top - 0.08, heading, fontsize=11, color=INK, weight="bold")
    for example, (panel_width, panel_height) in zip(examples, sizes, strict=True):
        top += _TITLE
        _write(figure, _MARGIN, top - 0.06, _describe(example), fontsize=9, color=GREY)
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
        labelcolor=INK,
    )
    save(figure, path)


def _panel_size(shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height in inches of a picture (H, W, 3); a tall one is made narrower, so that rows stay low."""
    height = min(_PANEL * shape[0] / shape[1], _PANEL * 1.2)
    return height * shape[1] / shape[0], height


def _panels(example: Example, labels: LabelSpace, width: int, height: int) -> list[np.ndarray]:
    """Image, truth, prediction and errors as (height, width, 3) uint8; void is striped."""
    shrinks = width < example.image.shape[1]
    image = cv2.resize(example.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    faded = np.repeat(image.mean(2, keepdims=True) * 0.45 + 140, 3, 2).astype(np.uint8)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    stripes = np.repeat(np.where((rows + columns) // 4 % 2, 255, 205).astype(np.uint8)[..., None], 3, 2)
    masks = []
    for mask in (example.truth, example.prediction):
        masks.append(mask[..., rows * mask.shape[-2] // height, columns * mask.shape[-1] // width])  # the nearest
    truth, prediction = masks
    void, wrong = _void_and_wrong(truth, prediction)
    painted = [_paint(mask, labels, faded) for mask in masks]
    painted[0][void] = stripes[void]
    errors = np.where(void[..., None], stripes, faded)
    errors[wrong] = _ERROR
    return [image, *painted, errors]


def _paint(mask: np.ndarray, labels: LabelSpace, ground: np.ndarray) -> np.ndarray:
    """A mask in the colours of its classes; overlapping ones on a ground, with the outlines of what lies below."""
    painted = labels.paint(mask)
    if mask.ndim == 2:
        return painted
    painted = np.where((mask == 1).any(0)[..., None], painted, ground)
    for plane, color in zip(mask == 1, labels.colors, strict=True):
        outlines, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, color, 2)
    return painted


def _void_and_wrong(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) booleans: void, and wrong; where labels overlap void for all classes, and wrong for one or more."""
    void = truth == VOID
    wrong = (prediction != truth) & ~void
    return (void, wrong) if truth.ndim == 2 else (void.all(0), wrong.any(0))


def _describe(example: Example) -> str:
    counted = example.truth != VOID
    name = example.name if len(example.name) <= 80 else f"…{example.name[-79:]}"
    if not counted.any():
        return f"{name} · all void"
    wrong = (example.prediction != example.truth)[counted].mean()
    miou = "" if example.miou is None else f" · mIoU {example.miou:.3f}"
    return f"{name}{miou} · {wrong:.1%} of the {'pixels' if counted.ndim == 2 else 'decisions'} wrong"


def _legend(examples: Sequence[Example], labels: LabelSpace) -> list[Patch]:
    """The colours of the classes that occur, of void, and of an error."""
    masks = [mask for example in examples for mask in (example.truth, example.prediction)]
    patches = class_patches(masks, labels)
    if VOID in set[int]().union(*map(_occurring, masks)):
        patches.append(Patch(facecolor="white", edgecolor="#b0b0b0", hatch="/////", linewidth=0, label="void"))
    return [*patches, Patch(facecolor=_hex(_ERROR), label="error")]


def class_patches(masks: Sequence[np.ndarray], labels: LabelSpace) -> list[Patch]:
    """For a legend: the colours of the classes that occur in masks; of many, the first."""
    classes = sorted(set[int]().union(*map(_occurring, masks)) - {VOID})
    patches = [
        Patch(facecolor=_hex(labels.colors[i]), edgecolor=GREY, linewidth=0.4, label=labels.names[i])
        for i in classes[:_LEGEND_LIMIT]
    ]
    if len(classes) > _LEGEND_LIMIT:
        patches.append(Patch(facecolor="none", label=f"and {len(classes) - _LEGEND_LIMIT} more"))
    return patches


def _occurring(mask: np.ndarray) -> set[int]:
    """The classes of a mask, and void if pixels are painted as that."""
    if mask.ndim == 2:
        return {int(value) for value in np.unique(mask)}
    classes = {int(index) for index in np.flatnonzero((mask == 1).any((1, 2)))}
    return classes | ({VOID} if (mask == VOID).all(0).any() else set())


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Text whose base line begins so many inches from the left and the top."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, parse_math=False, **style)


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
