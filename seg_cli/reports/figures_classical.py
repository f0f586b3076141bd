"""Pictures of classical methods: each step on one image, and what was learned; and quality by number of samples."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.ticker import NullLocator

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.inference.evaluate import Example
from seg_cli.models.classical.kmeans import KMeans
from seg_cli.models.classical.method import Method, Step
from seg_cli.models.classical.pixel_forest import PixelForest
from seg_cli.models.classical.threshold import Threshold
from seg_cli.reports.canvas import BLUE, COLORS, GREY, INK, ORANGE, new_figure, save, style
from seg_cli.reports.figures import class_patches

_PANEL = 2.6  # inches
_COLUMNS = 4
_LONGEST = 480  # pixels of a panel's longer side
_FEATURES = 20  # in the picture of importances
_AXES = {"gray": ("gray",), "lab": ("L*", "a*", "b*"), "rgb": ("red", "green", "blue")}


def draw_method(method: Method, image: np.ndarray, example: Example, labels: LabelSpace, folder: Path) -> None:
    """Draw what a fitted method does with an image: ``steps.png``, and the picture that is special to the method.

    That is ``histogram.png`` of a threshold, ``clusters.png`` of k-means, ``importances.png`` of a forest.

    Args:
        method: fitted.
        image: (H, W, B) as the method is given it.
        example: the same image as it is looked at, with truth and prediction.
        labels: of the dataset.
        folder: where the PNG files go.
    """
    _draw_steps(method.steps(image), example, labels, folder / "steps.png")
    if isinstance(method, Threshold) and method.method != "adaptive":
        _draw_histogram(method, image, labels, folder / "histogram.png")
    if isinstance(method, KMeans):
        _draw_clusters(method, labels, folder / "clusters.png")
    if isinstance(method, PixelForest):
        _draw_importances(method, folder / "importances.png")


def quality_by_images(
    scores: Mapping[str, Mapping[int, Sequence[float]]], path: Path, *, title: str, measure: str = "mIoU on test"
) -> None:
    """Draw quality against the number of training images: a line a model, a dot a run.

    Args:
        scores: model -> training images -> a score of each run.
        path: PNG file to write.
        title: of the picture, such as the dataset.
        measure: what a score is.
    """
    figure = new_figure(7, 4.4)
    axes = figure.subplots()
    last = {model: float(np.mean(of[max(of)])) for model, of in scores.items()}
    markers, taken = cycle("os^Dv"), list[str]()
    for model, color in zip(
        sorted(scores, key=lambda name: -last[name]), cycle((BLUE, ORANGE, *COLORS, INK)), strict=False
    ):
        counts = sorted(scores[model])
        means = [float(np.mean(scores[model][count])) for count in counts]
        line = "--" if color in taken else "-"  # where there are more methods than colours
        taken.append(color)
        axes.plot(counts, means, line, color=color, marker=next(markers), markersize=5, linewidth=1.6, label=model)
        for count in counts:
            axes.plot([count] * len(scores[model][count]), scores[model][count], "_", color=color, markersize=7)
    every = sorted({count for of in scores.values() for count in of})
    style(axes, title)
    axes.set_xscale("log")
    axes.set_xticks(every, [str(count) for count in every])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training images", color=GREY, fontsize=9)
    axes.set_ylabel(measure, color=GREY, fontsize=9)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


# ---- steps


def _draw_steps(steps: Sequence[Step], example: Example, labels: LabelSpace, path: Path) -> None:
    """The image, each step, prediction and truth, in rows of at most four, and which colour is which class."""
    panels = [
        ("image", example.image),
        *((step.title, _look(step.picture)) for step in steps),
        ("prediction", labels.paint(example.prediction)),
        ("truth (black: void)" if (example.truth == VOID).any() else "truth", labels.paint(example.truth)),
    ]
    height, width = example.image.shape[:2]
    rows = -(-len(panels) // _COLUMNS)
    columns = -(-len(panels) // rows)
    figure = new_figure(columns * _PANEL, rows * (_PANEL * min(height / width, 1.5) + 0.35) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (heading, picture) in zip(grid, panels, strict=False):
        axes.imshow(_smaller(picture), interpolation="nearest")
        axes.set_title(heading, loc="left", fontsize=9, color=INK, parse_math=False)
    patches = class_patches((example.truth, example.prediction), labels)
    style_of = {"frameon": False, "fontsize": 8, "labelcolor": INK, "ncols": min(len(patches), 2 * columns)}
    figure.legend(handles=patches, loc="outside lower left", handlelength=1.2, columnspacing=1.2, **style_of)
    save(figure, path)


def _look(picture: np.ndarray) -> np.ndarray:
    """A step's picture as (H, W, 3) uint8."""
    if picture.dtype == bool:
        gray = np.where(picture, 255, 0).astype(np.uint8)
    elif picture.dtype == np.float32:
        # A few very strong edges shall not leave all others black.
        low, high = np.percentile(picture, (0.5, 99.5)).tolist()
        gray = np.clip((picture - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    else:
        return _region_colors(int(picture.max()) + 1)[picture] if picture.ndim == 2 else picture
    return np.repeat(gray[..., None], 3, 2)


def _region_colors(count: int) -> np.ndarray:
    """(count, 3) uint8: colours that differ from number to number; 0 is black."""
    numbers = np.arange(count)
    hsv = np.stack(((numbers * 0.618034) % 1, 0.35 + 0.4 * (numbers % 3) / 2, 0.65 + 0.35 * (numbers % 2)), 1)
    colors = (hsv_to_rgb(hsv) * 255).astype(np.uint8)
    colors[0] = 0
    return colors


def _smaller(picture: np.ndarray) -> np.ndarray:
    factor = _LONGEST / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


# ---- what was learned


def _draw_histogram(method: Threshold, image: np.ndarray, labels: LabelSpace, path: Path) -> None:
    """The histogram of an image with its cuts, and which class each level is."""
    values = method.values(image)
    cuts = method.cuts(values)
    figure = new_figure(6.4, 3.2)
    axes = figure.subplots()
    counts = np.bincount(values.ravel(), minlength=256) / values.size
    bounds = [0.0, *(float(cut) + 0.5 for cut in cuts), 255.0]
    for level, (low, high) in enumerate(pairwise(bounds)):
        inside = (np.arange(256) >= low) & (np.arange(256) <= high)
        name = labels.names[int(method.learned["class_of"][level])]
        axes.bar(np.arange(256)[inside], counts[inside], width=1.0, color=(BLUE, ORANGE, *COLORS)[level])
        axes.annotate(
            f"{method.names[level]}:\n{name}",
            ((low + high) / 2, 1.0),
            xycoords=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
            parse_math=False,
        )
    for cut in cuts:
        axes.axvline(float(cut) + 0.5, color=INK, linewidth=1)
    style(axes, "")
    axes.set_xlim(0, 255)
    axes.set_xlabel(f"{method.channel} of one test image; cuts at {', '.join(f'{cut:g}' for cut in cuts)}", fontsize=9)
    axes.set_ylabel("share of the pixels", fontsize=9, color=GREY)
    save(figure, path)


def _draw_clusters(method: KMeans, labels: LabelSpace, path: Path) -> None:
    """Training pixels and cluster centers in colour space, in the colours of the classes that clusters are."""
    learned = method.learned
    names = _AXES.get(learned["space"], ())
    bands = learned["centers"].shape[1] - 2 * bool(method.position)
    names = names if len(names) == bands else tuple(f"band {number + 1}" for number in range(bands))
    figure = new_figure(6.4 if bands == 1 else 9, 3.6)
    pairs = [(0, 0)] if bands == 1 else [(0, 1), (0, 2), (1, 2)][: 3 if bands > 2 else 1]
    colors = labels.palette[learned["class_of"]] / 255
    nearest = ((learned["examples"][:, None] - learned["centers"]) ** 2).sum(2).argmin(1)
    grid: Sequence[Axes] = figure.subplots(1, len(pairs), squeeze=False)[0]
    jitter = np.random.default_rng(0).random(len(nearest))
    for axes, (across, up) in zip(grid, pairs, strict=True):
        heights = jitter if bands == 1 else learned["examples"][:, up]
        axes.scatter(learned["examples"][:, across], heights, c=colors[nearest], s=4, linewidths=0)
        middles = np.full(len(colors), 0.5) if bands == 1 else learned["centers"][:, up]
        axes.scatter(learned["centers"][:, across], middles, c=colors, s=60, edgecolors=INK, linewidths=1)
        style(axes, "")
        axes.set_xlabel(names[across], fontsize=9, color=GREY)
        axes.set_ylabel("" if bands == 1 else names[up], fontsize=9, color=GREY)
        if bands == 1:
            axes.set_yticks([])
    figure.suptitle(
        f"{method.clusters} clusters of training pixels, in the colours of their classes", fontsize=10, color=INK
    )
    save(figure, path)


def _draw_importances(method: PixelForest, path: Path) -> None:
    """Which features the trees asked for, and how much purer that made them."""
    values, names = method.learned["importances"], method.feature_names()
    order = np.argsort(-values, kind="stable")[:_FEATURES][::-1]
    figure = new_figure(6.4, 0.6 + 0.24 * len(order))
    axes = figure.subplots()
    axes.barh([names[number] for number in order], values[order], color=BLUE)
    style(axes, f"Importance, the first {len(order)} of {len(names)} features")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the impurity that splits on it removed", fontsize=9, color=GREY)
    save(figure, path)
