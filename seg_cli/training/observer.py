"""Who is told of every epoch of the trainings in this process, and may end them: a search does (``segrun tune``)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Observer = Callable[[int, Mapping[str, float]], str | None]
"""Is given the epoch, from 1, and its scores, none where it was not scored; a text ends the training, and says why."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """While it is open, trainings in this process tell of their epochs, in the first process of each."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def tell(epoch: int, scores: Mapping[str, float]) -> str | None:
    """Tell of an epoch; returns why the training is to end, None if it is not."""
    reasons = [observer(epoch, scores) for observer in _observers]
    return next(filter(None, reasons), None)
