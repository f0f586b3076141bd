"""Who watches trainings: told of epochs in turn, and heard when they want an end."""

import pytest

from seg_cli.training.observer import observed, tell
from seg_cli.training.signals import StopSignals


def test_observers_are_told_while_they_look() -> None:
    seen: list[tuple[int, float]] = []

    def first(epoch: int, scores: object) -> str | None:
        seen.append((epoch, scores["val/miou"]))  # type: ignore[index]
        return None

    with observed(first), observed(lambda epoch, _: "enough" if epoch == 2 else None):
        assert tell(1, {"val/miou": 0.1}) is None
        assert tell(2, {"val/miou": 0.2}) == "enough"
    assert tell(3, {"val/miou": 0.3}) is None
    assert seen == [(1, 0.1), (2, 0.2)]


def test_an_observer_is_gone_after_an_error() -> None:
    with pytest.raises(KeyError), observed(lambda *_: "still there"):
        raise KeyError
    assert tell(1, {}) is None


def test_the_first_reason_to_end_counts() -> None:
    with StopSignals() as stop:
        assert stop.received is None
        stop.ask("pruned")
        stop.ask("something else")
        assert stop.received == "pruned"
