"""How much of the training time there was no data to train on."""

import time
from typing import Any

import torch


class DataWait:
    """Sums up the time between the end of a step and the start of the next.

    On a GPU it is told by the GPU's own clock, by events that are put between its work: a process that waits for data
    while the GPU still computes keeps nobody waiting, and no step waits for the device. Scoring is not counted.

    Args:
        device: on which steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._totals: list[tuple[float, float]] = []  # of each epoch: seconds waited, seconds in all
        self.begin_epoch()

    @property
    def share(self) -> float | None:
        """Over the epochs after the first, in which workers start and files are read for the first time, or over that
        if there are no others; None before its end."""
        counted = self._totals[1:] or self._totals
        return sum(waited for waited, _ in counted) / sum(seconds for _, seconds in counted) if counted else None

    def begin_epoch(self) -> None:
        self._began = self._free = _now(self.device)  # _free: since when there is nothing to train on
        self._waits: list[tuple[Any, Any]] = []

    def begin_step(self) -> None:
        """A batch is there."""
        self._waits.append((self._free, _now(self.device)))

    def end_step(self) -> None:
        self._free = _now(self.device)

    def end_epoch(self) -> float | None:
        """The epoch's share; None if it had no step."""
        if not self._waits:
            return None
        waited, seconds = sum(_seconds(*wait) for wait in self._waits), _seconds(self._began, self._free)
        self._totals.append((waited, seconds))
        return waited / max(seconds, 1e-9)


def _now(device: torch.device) -> Any:
    """A point in time; on a GPU that of all work that it was given before."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1e3
