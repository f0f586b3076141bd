"""Signals that ask for an end: noted, and obeyed between two steps, when there is something whole to save."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


class Interrupted(KeyboardInterrupt):
    """Somebody asked for an end; ``args`` holds the name of the signal, or another reason."""


@contextmanager
def obey_at_once(asking: Sequence[str] = ASKING) -> Iterator[None]:
    """While it is open, these signals raise ``Interrupted``: for where there is nothing to save."""

    def obey(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = _handle(obey, asking)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignals:
    """While it is open, Ctrl-C, SIGTERM and SIGUSR1 are noted instead of obeyed; a second Ctrl-C is obeyed at once.

    SLURM sends SIGTERM when a job's time is over or it is preempted, and SIGUSR1 where ``--signal`` asks for it.

    Attributes:
        received: the name of the first signal, as ``SIGTERM``, or why else an end was asked for; None until then.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._before = _handle(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self, reason: str) -> None:
        """Ask for an end as a signal does; ``reason`` is what is said of it."""
        self.received = self.received or reason

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name


def _handle(handler: Callable[[int, FrameType | None], None], asking: Sequence[str] = ASKING) -> dict[int, Any]:
    """Have these signals handled so; returns what handled them before, nothing outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no handlers
        return {}
    numbers = [getattr(signal, name) for name in asking if hasattr(signal, name)]
    return {number: signal.signal(number, handler) for number in numbers}
