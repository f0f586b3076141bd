"""The picture of the learning-rate finder: the loss over the learning rate, and what is suggested."""

from pathlib import Path

from seg_cli.reports.canvas import BLUE, GREY, INK, ORANGE, PALE, new_figure, save, style
from seg_cli.training.lr_finder import LrCurve


def draw_lr_curve(curve: LrCurve, configured: float, path: Path) -> None:
    """Draw the losses, their smoothed course, and three learning rates: suggested, of the lowest loss, configured.

    Args:
        curve: with at least one step.
        configured: ``optimizer.lr``.
        path: PNG file to write.
    """
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(curve.rates, curve.losses, ".", color=GREY, alpha=0.35, markersize=4, label="loss of a batch")
    axes.plot(curve.rates, curve.smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    if curve.rates[0] <= configured <= curve.rates[-1]:
        axes.axvline(configured, color=PALE, linewidth=1.5, zorder=0, label=f"optimizer.lr now, {configured:.3g}")
    low = int(curve.smoothed.argmin())
    axes.plot(curve.rates[low], curve.smoothed[low], "o", color=INK, markersize=6, label=f"lowest, {curve.lowest:.3g}")
    title = "Learning rate: the loss does not fall"
    if curve.steepest is not None:
        at = int(abs(curve.rates - curve.steepest).argmin())
        label = f"steepest, {curve.steepest:.3g}"
        axes.plot(curve.steepest, curve.smoothed[at], "o", color=ORANGE, markersize=8, zorder=3, label=label)
        title = f"Learning rate: the loss falls fastest at {curve.steepest:.2g}"
    style(axes, title)
    # One wild batch at the end must not press the rest flat.
    bottom, top = float(curve.smoothed.min()), float(curve.smoothed.max())
    axes.set_ylim(bottom - 0.1 * (top - bottom or 1), top + 0.1 * (top - bottom or 1))
    axes.set_xlabel("optimizer.lr", color=GREY, fontsize=9)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")
    save(figure, path)
