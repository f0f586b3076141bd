"""Signals that ask for an end: noted, and obeyed between two steps, when there is something whole to save."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


class StopSignals:
    """While it is open, Ctrl-C, SIGTERM and SIGUSR1 are noted instead of obeyed; a second Ctrl-C is obeyed at once.

    SLURM sends SIGTERM when a job's time is over or it is preempted, and SIGUSR1 where ``--signal`` asks for it.

    Attributes:
        received: the name of the first signal, as ``SIGTERM``; None while there is none.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            for name in _ASKING:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
