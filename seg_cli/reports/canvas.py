"""What the pictures of a run have in common: colours, fonts and sizes, and how a figure becomes a PNG file.

Drawn with Matplotlib's objects, without pyplot: nothing global is touched and no display is needed.
"""

import io
import warnings
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from seg_cli.runs.atomic import write_bytes

DPI = 150
INK, GREY, PALE = "#222222", "#666666", "#e4e4e4"
# Okabe and Ito's colours (2008), which colour-blind people tell apart too, without black and yellow
BLUE, ORANGE, COLORS = "#0072b2", "#d55e00", ("#009e73", "#cc79a7", "#56b4e9", "#e69f00")
ABSENT: dict[str, Any] = {"facecolor": "#f4f4f4", "edgecolor": "#c8c8c8", "hatch": "///", "lw": 0}


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that finds room for its labels by itself."""
    return Figure((width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def style(axes: Axes, title: str) -> None:
    """The look of axes with lines: a title at the left, and as little ink as possible."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    axes.tick_params(colors=GREY, labelsize=9, length=0)
    axes.margins(y=0.08)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
