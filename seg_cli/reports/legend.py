"""The colours of the classes with their names, as a picture to lay beside predictions."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seg_cli.data.labels import LabelSpace
from seg_cli.reports.canvas import DPI, GREY, INK, save

_ROWS = 24  # classes in a column
_ROW, _COLUMN = 0.22, 2.4  # inches


def draw_legend(labels: LabelSpace, path: Path) -> None:
    """Write a PNG file with a swatch and the name of each class, in their order."""
    columns = -(-labels.num_classes // _ROWS)
    rows = -(-labels.num_classes // columns)
    figure = Figure((columns * _COLUMN, (rows + 1) * _ROW), dpi=DPI, facecolor="white")
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in labels.colors]
    named = zip(labels.names, colors, strict=True)
    legend = figure.legend(
        handles=[Patch(facecolor=color, edgecolor=GREY, linewidth=0.4, label=name[:30]) for name, color in named],
        loc="center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    save(figure, path)
