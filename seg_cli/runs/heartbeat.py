"""Signs of life: a thread touches files every 15 seconds for as long as a run is being worked on."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seg_cli.runs.runner import seconds_since

INTERVAL = 15.0
"""Seconds between two touches; ``runner.PATIENCE`` is four of them."""

NAME = "heartbeat"
"""Of the file in a run directory. It is there while somebody works on the run, and where somebody was killed."""


@contextmanager
def beating(path: Path, *, also: Callable[[], None] | None = None, every: float = INTERVAL) -> Iterator[None]:
    """Touch a file now and every few seconds, until the block ends; a file that was made for it is removed then.

    Args:
        path: the file; its folder must exist.
        also: what else is to be done each time; an exception of it is lost.
        every: seconds.
    """
    made = not path.exists()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            with suppress(OSError):  # a file system that is away for a moment
                os.utime(path)
            if also is not None:
                also()

    with suppress(OSError):  # a full disk is found out by those who have something to write
        path.touch()
    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1.0)
        if made:
            with suppress(OSError):
                path.unlink()


def silence(folder: Path) -> float:
    """Seconds since whoever works on a run was heard of: its heartbeat, or a newer status.json; infinite without."""
    return min(seconds_since(folder / NAME), seconds_since(folder / "status.json"))
