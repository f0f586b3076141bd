"""The pictures of a table: which methods cannot be told apart, and what quality costs in speed; PNG or PDF files."""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from seg_cli.reports.canvas import BLUE, DPI, GREY, INK, ORANGE, PALE, new_figure, save, style
from seg_cli.reports.statistics import Ranking
from seg_cli.runs.atomic import write_bytes

_LONGEST = 44  # letters of a name


# ---- critical difference


def critical_difference(names: Sequence[str], ranking: Ranking, path: Path, *, title: str, units: str) -> None:
    """Draw average ranks on a line, the best at the left, with bars over methods that cannot be told apart.

    After Demšar (2006, JMLR 7), figure 1.

    Args:
        names: of the methods.
        ranking: theirs, see ``statistics.rank``.
        path: PNG file to write, or PDF by its suffix.
        title: what was ranked, as "mIoU on test".
        units: what the ranks are averages over, as "images".
    """
    count = len(names)
    order = sorted(range(count), key=lambda i: ranking.ranks[i])
    bars = _cliques([ranking.ranks[i] for i in order], ranking.critical)
    left = ceil(count / 2)
    sides = order[:left], order[left:]
    row, lane, top = 0.26, 0.11, 1.35  # inches
    under = len(bars) * lane + 0.3
    before, after = (0.85 + max((_size(_short(names[i]), 9)[0] for i in part), default=0) for part in sides)
    line = max(4.2, min(8.0, 0.55 * count), 6.8 - before - after)
    width, height = before + line + after, top + under + left * row + 0.2
    figure = Figure((width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()

    low, high = floor(min(ranking.ranks)), ceil(max(ranking.ranks))
    high = max(high, low + 1)

    def at(rank: float) -> float:
        return before + (rank - low) / (high - low) * line

    axes.plot((before, before + line), (top, top), color=INK, linewidth=1)
    step = max(1, round((high - low) / 10))
    for rank in range(low, high + 1):
        long = rank % step == 0 or high - low < 10
        axes.plot((at(rank),) * 2, (top - (0.08 if long else 0.04), top), color=INK, linewidth=0.8)
        if long:
            axes.text(at(rank), top - 0.12, str(rank), ha="center", fontsize=8, color=GREY)
    _draw_ruler(axes, ranking.critical, line / (high - low), before, top - 0.42, line)
    for number, (first, last) in enumerate(bars):
        y = top + 0.14 + number * lane
        ends = at(ranking.ranks[order[first]]) - 0.04, at(ranking.ranks[order[last]]) + 0.04
        axes.plot(ends, (y, y), color=ORANGE, linewidth=2.6, solid_capstyle="round")
    for place, i in enumerate(order):
        is_left = place < left
        y = top + under + row * ((place if is_left else count - 1 - place) + 0.3)
        x, end = at(ranking.ranks[i]), before - 0.08 if is_left else before + line + 0.08
        axes.plot((x, x, end), (top, y, y), color=BLUE, linewidth=0.8)
        align = "right" if is_left else "left"
        shift = -0.06 if is_left else 0.06
        name, number_text = _short(names[i]), f"{ranking.ranks[i]:.2f}"
        text = f"{name}  {number_text}" if is_left else f"{number_text}  {name}"
        axes.text(end + shift, y, text, ha=align, va="center", fontsize=9, color=INK, parse_math=False)
    p = f"p = {ranking.p:.2g}" if ranking.p >= 0.001 else "p < 0.001"
    test = "Friedman" if count > 2 else "Wilcoxon"
    note = f"average rank over {ranking.units} {units}, 1 is best; {test} {p}; bars: cannot be told apart (Nemenyi)"
    axes.text(0.2, 0.3, title, fontsize=11, color=INK, va="center", parse_math=False)
    axes.text(0.2, 0.55, note, fontsize=8, color=GREY, va="center", parse_math=False)
    _write(figure, path)


def _draw_ruler(axes: Axes, critical: float, inches: float, left: float, y: float, line: float) -> None:
    """How wide the critical difference is; one that is wider than the line ends in an arrow."""
    length = critical * inches
    fits = length <= line
    axes.plot((left, left + min(length, line)), (y, y), color=GREY, linewidth=1)
    axes.plot((left, left), (y - 0.05, y + 0.05), color=GREY, linewidth=1)
    if fits:
        axes.plot((left + length,) * 2, (y - 0.05, y + 0.05), color=GREY, linewidth=1)
    else:
        axes.plot((left + line,), (y,), color=GREY, marker=">", markersize=4)
    axes.text(left + min(length, line) + 0.1, y, f"CD {critical:.2f}", va="center", fontsize=8, color=GREY)


def _cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last of each longest run of ascending ranks within the critical difference, of two and more."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(i for i in range(first, len(ranks)) if ranks[i] - ranks[first] < critical or i == first)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _write(figure: Figure, path: Path) -> None:
    if path.suffix != ".pdf":
        save(figure, path)
        return
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    write_bytes(path, buffer.getvalue())


def _size(text: str, points: float) -> np.ndarray:
    """Width and height of a text, in inches."""
    figure = Figure(dpi=DPI)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        label = figure.text(0, 0, text, fontsize=points, parse_math=False)
        box = label.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    return np.array((box.width, box.height)) / DPI


def _short(name: str, letters: int = _LONGEST) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


# ---- speed and quality


@dataclass(frozen=True)
class Point:
    """A method: images a second, its score, and the interval of that (NaN where there is none)."""

    name: str
    speed: float
    quality: float
    low: float
    high: float


def speed_quality(points: Sequence[Point], path: Path, *, metric: str, hardware: str = "") -> None:
    """Draw quality against images a second, and a line through the methods that no other beats in both.

    Args:
        points: speeds above 0. Those without a speed or a quality are left out.
        path: PNG file to write, or PDF by its suffix.
        metric: what the quality is, as "mIoU on test".
        hardware: what the speed was measured on.
    """
    known = [point for point in points if point.speed > 0 and np.isfinite((point.speed, point.quality)).all()]
    front = _front(known)
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    style(axes, "")
    axes.set_title(f"{metric} against speed", loc="left", fontsize=11, color=INK, parse_math=False)
    axes.set_xscale("log")
    axes.set_xlabel("images a second" + (f", {hardware}" if hardware else ""), color=GREY, fontsize=9, parse_math=False)
    axes.grid(axis="x", which="major", color=PALE, linewidth=0.8)
    if not known:
        axes.text(0.5, 0.5, "no method has both", transform=axes.transAxes, ha="center", color=GREY)
        _write(figure, path)
        return
    bars = [point for point in known if np.isfinite((point.low, point.high)).all()]
    for point in bars:
        axes.plot((point.speed,) * 2, (point.low, point.high), color="#b0b0b0", alpha=0.6, linewidth=1.4, zorder=1)
    steps = sorted(((known[i].speed, known[i].quality) for i in front), reverse=True)
    axes.step(*zip(*steps, strict=True), where="post", color=ORANGE, linewidth=1, zorder=2)
    for kind, color, label in ((True, ORANGE, "no other is better in both"), (False, BLUE, None)):
        of_kind = [(point.speed, point.quality) for i, point in enumerate(known) if (i in front) == kind]
        if of_kind:
            axes.plot(*zip(*of_kind, strict=True), "o", color=color, markersize=6, zorder=3, label=label)
    _set_limits(axes, known)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower left")
    _label(figure, axes, known, steps)
    _write(figure, path)


def _front(points: Sequence[Point]) -> set[int]:
    """The points that no other beats in one of speed and quality without being worse in the other."""
    return {
        i
        for i, own in enumerate(points)
        if not any(
            other.speed >= own.speed
            and other.quality >= own.quality
            and (other.speed > own.speed or other.quality > own.quality)
            for other in points
        )
    }


def _set_limits(axes: Axes, points: Sequence[Point]) -> None:
    speeds = np.array([point.speed for point in points])
    factor = max((speeds.max() / speeds.min()) ** 0.25, 1.3)  # room for names
    axes.set_xlim(speeds.min() / factor, speeds.max() * factor)
    # a log axis of less than a decade has no label else
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}" if speeds.max() / speeds.min() < 8 else "")
    axes.tick_params(which="minor", labelsize=8, colors=GREY, length=0)


def _label(figure: Figure, axes: Axes, points: Sequence[Point], steps: Sequence[tuple[float, float]]) -> None:
    """A name at each point where there is room: beside it, else further and further away at the end of a line."""
    FigureCanvasAgg(figure).draw()  # finds the place of the axes, where they shall stay
    figure.set_layout_engine("none")
    frame, points_a_pixel = np.array(axes.get_window_extent().extents), 72 / figure.dpi
    centers = [axes.transData.transform((point.speed, point.quality)) for point in points]
    taken = [_Box((*(center - 9), *(center + 9)), 3) for center in centers]
    taken += [_line(axes, (a.speed, a.low), (a.speed, a.high), 1) for a in points if np.isfinite(a.low + a.high)]
    for (speed, quality), (lower_speed, higher) in pairwise(steps):
        taken.append(_line(axes, (lower_speed, quality), (speed, quality), 4))
        taken.append(_line(axes, (lower_speed, quality), (lower_speed, higher), 4))
    for i in sorted(range(len(points)), key=lambda i: -points[i].quality):
        name = _short(points[i].name, 36)
        size = _size(name, 8) * figure.dpi + 4
        places = np.array([_place(centers[i], size, offset / points_a_pixel, angle) for offset, angle in _around()])
        offsets = np.array([offset for offset, _ in _around()])
        costs = 3 * (size.prod() - _shared(places, frame)) + 8 * offsets
        for other in taken[:i] + taken[i + 1 :]:  # its own point may be touched
            costs += other.weight * _shared(places, np.array(other.extents))
        x0, y0, x1, y1 = places[np.argmin(costs)]
        taken.append(_Box((x0, y0, x1, y1), 3))
        if offsets[np.argmin(costs)] > 6:
            axes.annotate(
                "",
                (points[i].speed, points[i].quality),
                xytext=np.clip(centers[i], (x0, y0), (x1, y1)) * points_a_pixel,
                textcoords="figure points",
                arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
                zorder=2.5,
            )
        axes.annotate(
            name,
            (points[i].speed, points[i].quality),
            xytext=((x0 + 2) * points_a_pixel, (y0 + y1) / 2 * points_a_pixel),
            textcoords="figure points",
            fontsize=8,
            color=INK,
            va="center",
            parse_math=False,
            zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


@dataclass(frozen=True)
class _Box:
    """Pixels that a name should not cover: x0, y0, x1, y1, and how bad it is."""

    extents: tuple[float, float, float, float]
    weight: float


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float], weight: float) -> _Box:
    """The pixels of an upright or level line."""
    (x0, y0), (x1, y1) = axes.transData.transform((start, end))
    return _Box((min(x0, x1) - 2, min(y0, y1) - 2, max(x0, x1) + 2, max(y0, y1) + 2), weight)


def _around() -> Iterator[tuple[float, float]]:
    """Distances in points and angles in degrees, the best first."""
    for distance in (6, 14, 24, 36, 50, 70, 95, 125):
        for angle in (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240):
            yield distance, angle


def _place(center: np.ndarray, size: np.ndarray, distance: float, angle: float) -> np.ndarray:
    """x0, y0, x1, y1 of a text whose nearest edge is so far from the point, in pixels."""
    direction = np.array((np.cos(np.radians(angle)), np.sin(np.radians(angle)))).round(6)
    middle = center + direction * distance + np.sign(direction) * size / 2 * (np.abs(direction) > 0.4)
    return np.concatenate([middle - size / 2, middle + size / 2])


def _shared(places: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(places, 4), (4,) -> (places,) square pixels that both have."""
    sides = np.minimum(places[:, 2:], other[2:]) - np.maximum(places[:, :2], other[:2])
    return sides.clip(0).prod(1)
