"""The charts of a page, in the plotting library's terms but for colours, which the page puts in by its theme.

A colour is named ``@0`` to ``@5`` (Okabe and Ito's, which colour-blind people tell apart), ``@ink``, ``@soft`` or
``@line``; classes have those of the pictures. Every chart stands beside the same numbers as a table, and lines differ
in their dashes or markers too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, float | None]
Chart = dict[str, Any]

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_NUMBERS_IN_CELLS = 20  # classes


def lines(
    rows: Sequence[Row],
    series: Sequence[tuple[str, str]],
    *,
    alt: str,
    stages: Sequence[tuple[int, str]] = (),
    best: str | None = None,
    top: float | None = None,
    height: int = 280,
    colors: Mapping[str, str] | None = None,
) -> Chart | None:
    """Lines over epochs; None where no row has a value.

    Args:
        rows: of metrics.csv.
        series: (key, name), the first drawn boldest.
        alt: says what is to be seen.
        stages: (first epoch, name) of the stages of a training.
        best: the key whose highest point is marked.
        top: of the y axis; None lets the values say.
        height: in pixels, without the legend.
        colors: name -> ``#rrggbb``; a line that has one lies on a wider one, as it may be as pale as the paper.
    """
    data: list[Any] = []
    last = max((row.get("epoch") or 0 for row in rows), default=0)
    for number, (key, name) in enumerate(series):
        pairs = ((row.get("epoch"), row.get(key)) for row in rows)
        points = [(epoch, value) for epoch, value in pairs if epoch and value is not None]
        if not points:
            continue
        place = {"x": [epoch for epoch, _ in points], "y": _short(value for _, value in points)}
        own = (colors or {}).get(name)
        dash = _DASHES[number // 2 % len(_DASHES)] if number > 1 and not own else "solid"
        width = 2.2 if number < 2 or own else 1.4
        if own:
            ground = {"color": "@soft", "width": width + 1}
            data.append(
                {**place, "mode": "lines", "line": ground, "legendgroup": key, "showlegend": False, "hoverinfo": "skip"}
            )
        data.append(
            {
                **place,
                "name": _plain(name),
                "legendgroup": key,
                "mode": "lines+markers" if len(points) < 15 else "lines",
                "line": {"color": own or f"@{number % 6}", "width": width, "dash": dash},
                "marker": {"size": 5, "symbol": number % 8},
                "hovertemplate": "%{y:.4g}<extra>%{fullData.name}, epoch %{x}</extra>",
            }
        )
        if key == best:
            epoch, value = max(points, key=lambda point: point[1])
            data.append(
                {
                    "x": [epoch],
                    "y": [value],
                    "mode": "markers+text",
                    "text": [f"best {value:.3f}"],
                    "textposition": "top left" if epoch > last / 2 else "top right",
                    "textfont": {"color": "@ink"},
                    "marker": {"color": "@1", "size": 11, "symbol": "star"},
                    "showlegend": False,
                    "hoverinfo": "skip",
                    "cliponaxis": False,
                }
            )
    if not data:
        return None
    legend = 0 if len(series) == 1 else 22 * -(-len(series) // 4)
    return {
        "data": data,
        "alt": alt,
        "height": height + legend,
        "layout": {
            "xaxis": {"showgrid": False, **({"dtick": 1} if last <= 10 else {"nticks": 8, "tickformat": "d"})},
            "yaxis": {"rangemode": "tozero", **({"range": [0, top]} if top else {})},
            "showlegend": len(series) > 1,
            "shapes": [_edge(first) for first, _ in stages[1:]],
            "annotations": [_stage(first, name) for first, name in stages],
        },
    }


def bars(
    names: Sequence[str], values: Sequence[float | None], intervals: Sequence[tuple[float, float] | None], *, alt: str
) -> Chart:
    """A bar a class, the first on top, with its interval."""
    shown = [value or 0.0 for value in values]
    spans = [pair or (value, value) for value, pair in zip(shown, intervals, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(shown, spans, strict=True)]
    below = [max(0.0, value - low) for value, (low, _) in zip(shown, spans, strict=True)]
    said = []
    for name, value, pair in zip(names, values, intervals, strict=True):
        score = "occurs nowhere" if value is None else f"{value:.3f}"
        said.append(_plain(f"{name}: {score}" + (f", 95% interval {pair[0]:.3f} to {pair[1]:.3f}" if pair else "")))
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": _short(shown),
                "y": list(range(len(names))),
                "marker": {"color": "@0", "opacity": 0.85},
                "error_x": {
                    **{"type": "data", "symmetric": False, "array": _short(above), "arrayminus": _short(below)},
                    **{"color": "@ink", "thickness": 1.2, "width": 3},
                },
                "customdata": said,
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        ],
        "alt": alt,
        "height": 60 + 34 * len(names),
        "layout": {
            "bargap": 0.5,
            "xaxis": {"range": [0, 1], "side": "top", "tickformat": ".1f"},
            "yaxis": {**_class_axis(names), "showgrid": False},
            "showlegend": False,
        },
    }


def heat_map(matrix: np.ndarray, names: Sequence[str], *, alt: str) -> Chart:
    """A confusion matrix (C, C), rows truth, in shares of the pixels of a true class; hovering shows pixels."""
    classes = len(names)
    pixels = matrix.sum(1, keepdims=True)
    shares = np.round(matrix / np.maximum(pixels, 1), 4)
    cell = 34 if classes <= _NUMBERS_IN_CELLS else max(5, 700 // classes)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [row if of else [None] * classes for row, of in zip(shares.tolist(), pixels[:, 0], strict=True)],
        "x": list(range(classes)),
        "y": list(range(classes)),
        "zmin": 0,
        "zmax": 1,
        "colorscale": "@shades",
        "showscale": classes > _NUMBERS_IN_CELLS,
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0},
        "pixels": matrix.tolist(),
        "names": [_plain(name) for name in names],
        "xgap": 1 if classes <= 60 else 0,
        "ygap": 1 if classes <= 60 else 0,
    }
    if classes <= _NUMBERS_IN_CELLS:
        trace["numbers"] = [
            [f"{value * 100:.0f}" if value >= 0.005 else "" for value in row] for row in shares.tolist()
        ]
    axis = _class_axis(names)
    return {
        "data": [trace],
        "alt": alt,
        "height": max(320, cell * classes + 150),
        "layout": {
            "xaxis": {**axis, "title": {"text": "prediction"}, "showgrid": False, "autorange": True, "tickangle": -45},
            "yaxis": {**axis, "title": {"text": "truth"}, "showgrid": False, "autorange": "reversed"},
            "showlegend": False,
        },
    }


def right_and_wrong(matrix: np.ndarray, names: Sequence[str], *, alt: str) -> Chart:
    """Of labels that overlap, (C, 2, 2): what is right, missed and wrongly found of the union of each class."""
    parts = matrix[:, (1, 1, 0), (1, 0, 1)]  # (C, 3): tp, fn, fp
    shares = parts / np.maximum(parts.sum(1), 1)[:, None]
    kinds = (("right (the IoU)", "@0", ""), ("missed", "@1", "/"), ("wrongly found", "@3", "x"))
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": kind,
                "x": _short(shares[:, place]),
                "y": list(range(len(names))),
                "marker": {"color": color, "pattern": {"shape": pattern, "size": 5, "solidity": 0.25}},
                "customdata": [
                    _plain(f"{name}: {pixels:,} pixels {kind}")
                    for name, pixels in zip(names, parts[:, place], strict=True)
                ],
                "hovertemplate": "%{customdata} (%{x:.1%})<extra></extra>",
            }
            for place, (kind, color, pattern) in enumerate(kinds)
        ],
        "alt": alt,
        "height": 110 + 26 * len(names),
        "layout": {
            "barmode": "stack",
            "bargap": 0.35,
            "xaxis": {"range": [0, 1], "tickformat": ".0%"},
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 12, "color": "@soft"}},
            "yaxis": {**_class_axis(names), "showgrid": False},
        },
    }


def reliability(curve: Sequence[Row], *, alt: str) -> Chart:
    """Accuracy over confidence."""
    seen = [row for row in curve if row["pixels"]]
    return {
        "data": [
            {
                "x": [0, 1],
                "y": [0, 1],
                "mode": "lines",
                "name": "as sure as right",
                "line": {"color": "@soft", "dash": "dash", "width": 1},
                "hoverinfo": "skip",
            },
            {
                "x": _short(row["confidence"] or 0 for row in seen),
                "y": _short(row["accuracy"] or 0 for row in seen),
                "customdata": [f"{row['pixels']:,.0f} pixels" for row in seen],
                "mode": "lines+markers",
                "name": "this model",
                "line": {"color": "@0", "width": 2},
                "hovertemplate": "confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata}<extra></extra>",
            },
        ],
        "alt": alt,
        "height": 340,
        "layout": {
            "xaxis": {"title": {"text": "confidence"}, "range": [0, 1]},
            "yaxis": {"title": {"text": "accuracy"}, "range": [0, 1.02]},
        },
    }


def series_of(rows: Iterable[Row], prefix: str) -> list[str]:
    """The keys of metrics.csv that begin so."""
    return list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))


def _class_axis(names: Sequence[str]) -> dict[str, Any]:
    """Names as labels of numbers: two names that look alike are still two places."""
    step = max(1, len(names) // 120 + 1)
    places = list(range(0, len(names), step))
    labels = [name if len(name) <= 22 else f"{name[:21]}…" for name in (names[place] for place in places)]
    return {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": [_plain(label) for label in labels],
        "autorange": "reversed",
        "automargin": True,
    }


def _edge(first: int) -> dict[str, Any]:
    return {
        **{"type": "line", "x0": first - 0.5, "x1": first - 0.5, "y0": 0, "y1": 1, "yref": "paper"},
        "line": {"color": "@soft", "width": 1, "dash": "dot"},
    }


def _stage(first: int, name: str) -> dict[str, Any]:
    return {
        **{"x": first - 0.4 if first > 1 else first, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom"},
        **{"text": _plain(name), "showarrow": False, "font": {"size": 11, "color": "@soft"}},
    }


def _short(values: Iterable[float]) -> list[float]:
    """Four digits that count: what a chart can show, in a third of the letters."""
    return [float(f"{value:.4g}") for value in values]


def _plain(text: str) -> str:
    """Text in which the plotting library finds no tags of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
