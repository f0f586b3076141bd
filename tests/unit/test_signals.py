"""Signals that ask for an end: noted while training goes, and handled as before afterwards."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from seg_cli.training.signals import ASKING, Interrupted, StopSignals, obey_at_once

NUMBERS = [getattr(signal, name) for name in ASKING]


@pytest.fixture(autouse=True)
def _harmless() -> Iterator[None]:
    """A signal that nobody handles must not end the tests."""

    def unhandled(number: int, frame: object) -> None:
        raise AssertionError(f"nobody handled {signal.Signals(number).name}")

    before = {number: signal.signal(number, unhandled) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", ASKING)
def test_a_signal_is_noted_and_nothing_is_raised(name: str) -> None:
    with StopSignals() as stop:
        assert stop.received is None
        send(name)
        assert stop.received == name


def test_the_first_signal_counts() -> None:
    with StopSignals() as stop:
        for name in ("SIGUSR1", "SIGTERM", "SIGUSR1", "SIGTERM"):
            send(name)
        assert stop.received == "SIGUSR1"


@pytest.mark.parametrize("first", ASKING)
def test_ctrl_c_after_a_signal_is_obeyed_at_once(first: str) -> None:
    with StopSignals() as stop:
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send("SIGINT")
        assert stop.received == first


@pytest.mark.parametrize("fails", [False, True])
def test_handlers_are_those_of_before_however_it_ends(fails: bool) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(ZeroDivisionError) if fails else StopSignals():  # noqa: SIM117 - the outer one may be none
        with StopSignals():
            assert all(signal.getsignal(number) not in before for number in NUMBERS)
            if fails:
                raise ZeroDivisionError
    assert [signal.getsignal(number) for number in NUMBERS] == before
    with pytest.raises(AssertionError, match="nobody handled SIGTERM"):
        send("SIGTERM")


def in_a_thread(action: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors


@pytest.mark.parametrize("make", [StopSignals, obey_at_once])
def test_outside_of_the_main_thread_handlers_stay_as_they_are(make: Callable) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]

    def run() -> None:
        with make():
            assert [signal.getsignal(number) for number in NUMBERS] == before

    in_a_thread(run)
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("name", ASKING)
def test_where_there_is_nothing_to_save_a_signal_ends_it_at_once(name: str) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(Interrupted, match=name), obey_at_once():
        send(name)
    assert [signal.getsignal(number) for number in NUMBERS] == before
