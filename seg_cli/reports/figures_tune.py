"""The pictures of a search, as PNG files: its history, a slice along each parameter, importances, the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from seg_cli.config.space import Choices, Range, written
from seg_cli.reports.canvas import BLUE, GREY, INK, ORANGE, PALE, new_figure, save, style
from seg_cli.reports.search import Trial

_COLUMNS = 3
_LABEL = 28  # letters of a choice


def history(trials: Sequence[Trial], objectives: Sequence[str], maximize: Sequence[bool], path: Path) -> None:
    """Draw each objective over the number of the trial, with the best so far; pruned ones with their last score.

    Args:
        trials: in the order of their numbers.
        objectives: names.
        maximize: for each whether more is better.
        path: PNG file to write.
    """
    figure = new_figure(8, 3.6 * len(objectives))
    for i, axes in enumerate(figure.subplots(len(objectives), squeeze=False)[:, 0]):
        done = [(trial.number, trial.values[i]) for trial in trials if trial.state == "complete" and trial.values]
        pruned = [(trial.number, trial.epochs[-1][1]) for trial in trials if trial.state == "pruned" and trial.epochs]
        if pruned and len(objectives) == 1:
            axes.plot(*zip(*pruned, strict=True), "x", color=GREY, markersize=5, label="pruned, last score")
        failed = [trial.number for trial in trials if trial.state == "failed"]
        for number in failed:
            axes.axvline(number, color=PALE, linewidth=1.2, zorder=0)
        if failed:
            axes.plot([], [], color=PALE, linewidth=1.2, label="failed")
        numbers, values = zip(*done, strict=True)
        axes.plot(numbers, values, "o", color=BLUE, markersize=5, label="complete", clip_on=False)
        best = (np.maximum if maximize[i] else np.minimum).accumulate(values)
        until = max(trial.number for trial in trials)
        axes.step([*numbers, until], [*best, best[-1]], where="post", color=ORANGE, linewidth=1.6, label="best so far")
        style(axes, f"{objectives[i]} of each trial")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set_xlabel("trial", color=GREY, fontsize=9)
    save(figure, path)


def slices(trials: Sequence[Trial], objective: str, parameters: Mapping[str, Range | Choices], path: Path) -> None:
    """Draw the first objective over each parameter, later trials darker.

    Args:
        trials: the complete ones count.
        objective: its name.
        parameters: name -> what it is drawn from.
        path: PNG file to write.
    """
    rows = -(-len(parameters) // _COLUMNS)
    columns = min(len(parameters), _COLUMNS)
    figure = new_figure(4.2 * columns, 3.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(parameters) :]:
        axes.set_axis_off()
    for axes, (name, source) in zip(grid, parameters.items(), strict=False):
        shown = [trial for trial in trials if trial.state == "complete" and trial.values and name in trial.drawn]
        values = [trial.values[0] for trial in shown if trial.values]
        drawn = [trial.drawn[name] for trial in shown]
        places = _choices(axes, source, drawn) if isinstance(source, Choices) else _numbers(axes, source, drawn)
        order = [trial.number for trial in shown]
        axes.scatter(
            places, values, c=order, cmap="Blues", vmin=-max(order, default=1), edgecolors=GREY, linewidths=0.5
        )
        best = [(place, value) for place, value, trial in zip(places, values, shown, strict=True) if trial.best]
        for place, value in best:
            axes.plot(place, value, "o", color=ORANGE, markersize=8, zorder=3)
        style(axes, name if len(name) <= 34 else f"…{name[-33:]}")
        axes.title.set_fontsize(9)
        axes.title.set_parse_math(False)
        axes.tick_params(labelsize=8)
    for row in range(rows):
        grid[row * columns].set_ylabel(objective, color=GREY, fontsize=9)
    save(figure, path)


def importance(shares: Mapping[str, float], objective: str, path: Path) -> None:
    """Draw how much of the spread of an objective each parameter explains.

    Args:
        shares: name of a parameter -> share, from the largest on; they sum to 1.
        objective: its name.
        path: PNG file to write.
    """
    figure = new_figure(7, 1.2 + 0.42 * len(shares))
    axes = figure.subplots()
    names = [name if len(name) <= 40 else f"…{name[-39:]}" for name in list(shares)[::-1]]
    bars = axes.barh(range(len(shares)), list(shares.values())[::-1], color=BLUE, height=0.62)
    axes.bar_label(bars, fmt="%.2f", padding=4, fontsize=9, color=INK)
    axes.set_yticks(range(len(shares)), names, parse_math=False)
    style(axes, f"Importance for {objective} (share of its variance, fANOVA)")
    axes.grid(visible=False)
    axes.set_xlim(0, max(1e-9, *shares.values(), 0.1) * 1.15)
    save(figure, path)


def pareto(trials: Sequence[Trial], objectives: Sequence[str], path: Path) -> None:
    """Draw the first objective against the second; the trials that no other one beats in both are joined.

    Args:
        trials: the complete ones count.
        objectives: names, two at least.
        path: PNG file to write.
    """
    figure = new_figure(7.5, 5)
    axes = figure.subplots()
    shown = [
        (trial.values[1], trial.values[0], trial) for trial in trials if trial.state == "complete" and trial.values
    ]
    axes.plot([x for x, _, _ in shown], [y for _, y, _ in shown], "o", color=BLUE, markersize=5, alpha=0.6)
    front = sorted((x, y, trial.number) for x, y, trial in shown if trial.best)
    axes.plot([x for x, _, _ in front], [y for _, y, _ in front], "o-", color=ORANGE, markersize=7, linewidth=1.2)
    for x, y, number in front:
        axes.annotate(str(number), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8, color=INK)
    style(axes, f"{objectives[0]} against {objectives[1]}: {len(front)} of {len(shown)} trials are best, with numbers")
    positive = all(x > 0 for x, _, _ in shown)
    if positive and max((x for x, _, _ in shown), default=1) > 8 * min((x for x, _, _ in shown), default=1):
        axes.set_xscale("log")
    axes.set_xlabel(objectives[1], color=GREY, fontsize=9)
    axes.set_ylabel(objectives[0], color=GREY, fontsize=9)
    save(figure, path)


def _numbers(axes: Axes, source: Range, values: Sequence[float]) -> list[float]:
    """Places of numbers on an axis that is as long as their range."""
    low, high = source.low, source.high
    if source.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 3.0), numticks=8))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        edge = (high / low) ** 0.05
        axes.set_xlim(low / edge, high * edge)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=source.whole))
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return list(values)


def _choices(axes: Axes, source: Choices, values: Sequence[Any]) -> list[float]:
    """Places of choices on an axis, each with its name; of the same choice a little apart."""
    names = [written(value) for value in source.values]
    axes.set_xticks(
        range(len(names)),
        [name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…" for name in names],
        rotation=30 if max(map(len, names), default=0) * len(names) > 24 else 0,
        ha="right" if max(map(len, names), default=0) * len(names) > 24 else "center",
        parse_math=False,
    )
    axes.set_xlim(-0.6, max(len(names), 1) - 0.4)
    places, seen = [], dict.fromkeys(names, 0)
    for name in map(written, values):
        places.append(names.index(name) + 0.12 * math.sin(2.4 * seen[name]))
        seen[name] += 1
    return places
