"""The pictures of ``metrics=calibration`` and ``metrics=distance``: a reliability curve, and mIoU by size of crop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seg_cli.reports.canvas import BLUE, GREY, INK, ORANGE, PALE, new_figure, save
from seg_cli.reports.canvas import style as set_style


def reliability(results: Mapping[str, Any], path: Path, *, split: str = "test") -> None:
    """Draw accuracy over confidence, the gap between them, and how many pixels have which confidence.

    Args:
        results: of ``Calibration.results``.
        path: PNG file to write.
        split: where the pixels are from.
    """
    curve = results["curve"]
    borders = np.linspace(0, 1, len(curve) + 1)
    centers, width = (borders[:-1] + borders[1:]) / 2, 1 / len(curve)
    pixels = np.array([row["pixels"] for row in curve], float)
    seen = [
        (center, row["confidence"], row["accuracy"])
        for center, row in zip(centers, curve, strict=True)
        if row["pixels"]
    ]
    figure = new_figure(5.2, 6.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ece = "" if results["ece"] is None else f": ECE {results['ece']:.3f}"
    set_style(top, f"Reliability on {split}{ece}")
    top.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle="--", label="as sure as right")
    if seen:
        positions, confidence, accuracy = (np.array(column) for column in zip(*seen, strict=True))
        top.bar(positions, accuracy, width * 0.92, color=BLUE, label="accuracy")
        gaps = confidence - accuracy
        look = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 0.8}
        top.bar(positions, gaps, width * 0.92, bottom=accuracy, label="gap to the confidence", **look)
    top.set_ylim(0, 1)
    top.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    set_style(bottom, "Share of the pixels")
    bottom.bar(centers, pixels / max(pixels.sum(), 1), width * 0.92, color=PALE, edgecolor=GREY, linewidth=0.5)
    bottom.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bottom.set_xlim(0, 1)
    bottom.set_xlabel("confidence", color=GREY, fontsize=9)
    save(figure, path)


def miou_by_crop(results: Mapping[str, Mapping[str, Any]], path: Path, *, split: str = "test") -> None:
    """Draw mIoU over the size of the crop, the smallest (farthest) crop at the right: a line a model.

    Args:
        results: name of a line -> its ``Distance.results``.
        path: PNG file to write.
        split: where the pixels are from.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    colors = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
    for i, (name, result) in enumerate(results.items()):
        points = sorted((crop["size"], crop["miou"]) for crop in result["crops"] if crop["miou"] is not None)
        if points:
            axes.plot(*zip(*points, strict=True), color=colors[i % len(colors)], marker="o", markersize=4, label=name)
    set_style(axes, f"mIoU by crop around the vanishing point on {split}")
    if len(results) > 1 and axes.lines:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    sizes = sorted({crop["size"] for result in results.values() for crop in result["crops"]})
    axes.set_xticks(sizes, [f"{size:.0%}" for size in sizes])
    axes.invert_xaxis()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("height and width of the crop, of the image's", color=GREY, fontsize=9)
    save(figure, path)
