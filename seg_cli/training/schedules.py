"""Learning-rate schedules: functions from the share of training done to a factor on the learning rate.

Being functions of progress alone, they fit any number of epochs and need no state to resume.
"""

import math
from typing import Protocol

from seg_cli.errors import UserError


class Schedule(Protocol):
    def __call__(self, progress: float) -> float:
        """Share of the steps done, 0 to 1 -> factor on the learning rate."""
        ...


class Poly:
    """``(1 - progress)^power`` after a linear warm-up, as the DeepLab papers decay (Chen 2016, arXiv:1606.00915).

    Args:
        power: 0.9 in the papers; 0 keeps the learning rate.
        warmup: share of training in which the learning rate climbs from 0.
    """

    def __init__(self, *, power: float = 0.9, warmup: float = 0.0) -> None:
        _check_share("warmup", warmup)
        if not power >= 0:
            raise UserError(f"scheduler.power={power}: the power must be 0 or more.")
        self.power, self.warmup = power, warmup

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return max(0.0, 1 - (progress - self.warmup) / (1 - self.warmup)) ** self.power


class OneCycle:
    """Up along half a cosine, then down along another to almost nothing (Smith 2018, arXiv:1803.09820).

    Args:
        warmup: share of training in which the learning rate climbs.
        start: factor at the first step.
        end: factor at the last step.
    """

    def __init__(self, *, warmup: float = 0.25, start: float = 0.04, end: float = 1e-4) -> None:
        _check_share("warmup", warmup)
        self.warmup, self.start, self.end = warmup, start, end

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return _cosine(self.start, 1.0, progress / self.warmup)
        return _cosine(1.0, self.end, min(1.0, (progress - self.warmup) / (1 - self.warmup)))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"scheduler.{name}={value}: it is a share of training, 0 or more and less than 1.")
