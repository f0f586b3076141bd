"""Which learning rate? Smith (2015), arXiv:1506.01186: let it grow from step to step, and look at the loss.

Too small, and nothing moves; too large, and the loss climbs. In between it falls, and fastest where the curve is
steepest.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from seg_cli.data.loading import Batch
from seg_cli.training.step import Stepper

_DIVERGED = 4  # times the best loss so far
_SMOOTH = 0.03  # of all steps, the width of the bell over which the loss is averaged
_RECENT = 0.8  # weight of the past in the mean that decides when to stop


@dataclass(frozen=True)
class LrCurve:
    """What was seen.

    Attributes:
        rates: (steps,) learning rates of the optimiser, rising.
        losses: (steps,) of the batch at each.
        smoothed: (steps,) the losses, averaged over neighbours; the middle of the bell is on the step.
        steepest: the learning rate where the smoothed loss falls fastest, over a factor of the learning rate; None
            where it does not fall.
        lowest: where the smoothed loss is lowest.
        diverged: whether it stopped because the loss climbed.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float | None
    lowest: float
    diverged: bool


def find_lr(
    stepper: Stepper,
    batches: Iterable[Batch],
    *,
    configured: float,
    first: float,
    last: float,
    steps: int,
    accumulate: int = 1,
) -> LrCurve:
    """Train while the learning rate grows from ``first`` to ``last`` by the same factor each step, or the loss climbs.

    Args:
        stepper: of a task as a run begins with it; its weights are changed.
        batches: of training, at least ``steps * accumulate``.
        configured: ``optimizer.lr``, with which the stepper was made; learning rates are in its place.
        first, last: learning rates.
        steps: of the optimiser.
        accumulate: batches a step.
    """
    rates, losses = [], []
    recent = best = math.nan
    diverged = False
    source = iter(batches)
    for step in range(steps):
        rate = first * (last / first) ** (step / (steps - 1))
        stepper.set_learning_rates(rate / configured, {})
        collected = [batch.to(stepper.device) for _, batch in zip(range(accumulate), source, strict=False)]
        if not collected:
            break
        loss = float(stepper.step(collected, guarded=True)[""])
        diverged = not math.isfinite(loss)
        if not diverged:
            rates.append(rate)
            losses.append(loss)
            recent = loss if step == 0 else _RECENT * recent + (1 - _RECENT) * loss
            best = recent if step == 0 else min(best, recent)
            diverged = recent > best + (_DIVERGED - 1) * abs(best)
        if diverged:
            break
    return read_curve(np.array(rates), np.array(losses), steps=steps, diverged=diverged)


def read_curve(rates: np.ndarray, losses: np.ndarray, *, steps: int, diverged: bool) -> LrCurve:
    """What the losses at these learning rates say.

    Args:
        rates, losses: (n,) each.
        steps: from the first learning rate to the last, had it not stopped before.
        diverged: whether it did.
    """
    smoothed = smooth(losses, width=_SMOOTH * steps)
    low = int(smoothed.argmin()) if len(smoothed) else 0
    steepest = None
    noise = float(np.std(losses[: low + 1] - smoothed[: low + 1])) if low else 0.0
    if low >= 2 and smoothed[:low].max() - smoothed[low] > 2 * noise:
        slopes = np.gradient(smoothed[: low + 1])  # steps are equal in the logarithm of the learning rate
        steepest = float(rates[int(slopes.argmin())])
    lowest = float(rates[low]) if len(rates) else math.nan
    return LrCurve(rates, losses, smoothed, steepest, lowest, diverged)


def smooth(values: np.ndarray, *, width: float) -> np.ndarray:
    """Means over neighbours, with weights of a Gaussian of so many steps; at the ends of those neighbours there are."""
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / width) ** 2)
    return weights @ values / weights.sum(1) if len(values) else values
