"""Learning-rate schedules: functions from the share of training done to a factor on the learning rate.

Being functions of progress alone, they fit any number of epochs and need no state to resume; but for ``Plateau``, which
follows the scores.
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
        _check_factor("start", start)
        _check_factor("end", end)
        self.warmup, self.start, self.end = warmup, start, end

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return _cosine(self.start, 1.0, progress / self.warmup)
        return _cosine(1.0, self.end, min(1.0, (progress - self.warmup) / (1 - self.warmup)))


class Cosine:
    """Down along half a cosine after a linear warm-up (Loshchilov 2016, arXiv:1608.03983, without restarts).

    Args:
        warmup: share of training in which the learning rate climbs from 0.
        end: factor at the last step.
    """

    def __init__(self, *, warmup: float = 0.05, end: float = 0.0) -> None:
        _check_share("warmup", warmup)
        _check_factor("end", end)
        self.warmup, self.end = warmup, end

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return _cosine(1.0, self.end, min(1.0, (progress - self.warmup) / (1 - self.warmup)))


class Constant:
    """The same learning rate throughout, after a linear warm-up.

    Args:
        warmup: share of training in which the learning rate climbs from 0.
    """

    def __init__(self, *, warmup: float = 0.0) -> None:
        _check_share("warmup", warmup)
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        return progress / self.warmup if progress < self.warmup else 1.0


class Plateau:
    """Down by a factor whenever val mIoU has not risen for some scorings.

    Args:
        factor: on the learning rate each time.
        patience: scorings without a better mIoU after which the learning rate falls.
        least: factor below which it does not fall.
        warmup: share of training in which the learning rate climbs from 0.
    """

    def __init__(self, *, factor: float = 0.5, patience: int = 5, least: float = 1e-3, warmup: float = 0.0) -> None:
        _check_share("warmup", warmup)
        _check_factor("factor", factor)
        _check_factor("least", least)
        if not patience >= 1:
            raise UserError(f"scheduler.patience={patience}: it is a number of scorings, 1 or more.")
        self.factor, self.patience, self.least, self.warmup = factor, patience, least, warmup
        self.current, self.best, self.waited = 1.0, -math.inf, 0

    def __call__(self, progress: float) -> float:
        return self.current * (progress / self.warmup if progress < self.warmup else 1.0)

    def observe(self, score: float) -> None:
        """Take note of a val mIoU."""
        if score > self.best:
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.current, self.waited = max(self.least, self.current * self.factor), 0

    def state_dict(self) -> dict[str, float]:
        return {"current": self.current, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.current, self.best, self.waited = state["current"], state["best"], int(state["waited"])


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"scheduler.{name}={value}: it is a share of training, 0 or more and less than 1.")


def _check_factor(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"scheduler.{name}={value}: it is a factor on the learning rate, 0 to 1.")
