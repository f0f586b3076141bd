"""Claims: of many who want to make the same run, exactly one does; what its holder leaves behind can be taken."""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from seg_cli.runs.claims import Claim, Note, Place, all_newest, held, holding, newest, read, record, take


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "outputs" / "shapes")


def say(place: Place, number: int, **changes: Any) -> Path:
    """Rewrite a claim on ``f`` as another process would have left it."""
    path = place.claims / f"f.{number}"
    content = json.loads(path.read_text())
    content["process"] |= changes
    path.write_text(json.dumps(content))
    return path


def test_a_claim_is_taken_once_and_free_afterwards(place: Place) -> None:
    claim = take(place, "f")
    assert isinstance(claim, Claim)
    assert (claim.number, claim.run, claim.fingerprint) == (1, None, "f")
    other = take(place, "f")
    assert isinstance(other, Note)
    assert (other.busy, other.process["pid"]) == (True, os.getpid())
    assert isinstance(take(place, "g"), Claim), "another run is another claim"
    claim.note_run(place.folder / "run_0")
    claim.release()
    again = take(place, "f")
    assert isinstance(again, Claim)
    assert (again.number, again.run) == (2, place.folder / "run_0"), "it leads to what the first one has made"


def test_the_claim_of_a_dead_process_of_this_machine_is_free(place: Place) -> None:
    assert isinstance(take(place, "f"), Claim)
    say(place, 1, born=-1.0)  # the pid is in use again, by a process that was born at another time
    assert isinstance(take(place, "f"), Claim)


def test_the_claim_of_another_machine_is_free_after_a_minute_of_silence(place: Place) -> None:
    assert isinstance(take(place, "f"), Claim)
    path = say(place, 1, host="elsewhere")
    assert isinstance(take(place, "f"), Note)
    silent = time.time() - 120
    os.utime(path, (silent, silent))
    assert isinstance(take(place, "f"), Claim)


def test_a_claim_that_cannot_be_read_is_being_written_for_a_minute(place: Place) -> None:
    assert isinstance(take(place, "f"), Claim)
    path = place.claims / "f.1"
    path.write_text("{")
    assert isinstance(take(place, "f"), Note)
    silent = time.time() - 120
    os.utime(path, (silent, silent))
    assert isinstance(take(place, "f"), Claim)


@pytest.mark.parametrize("run", ["../other/run", "/tmp/run", "..", "a/b"])
def test_a_claim_leads_to_no_folder_but_those_beside_it(place: Place, run: str) -> None:
    claim = take(place, "f")
    assert isinstance(claim, Claim)
    claim.note_run(place.folder / "own")
    assert read(claim.path).run == place.folder / "own"
    content = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps(content | {"run": run}))
    assert read(claim.path).run is None


def test_who_was_taken_for_dead_does_not_write_any_more(place: Place) -> None:
    first = take(place, "f")
    assert isinstance(first, Claim)
    say(place, 1, born=-1.0)
    second = take(place, "f")
    assert isinstance(second, Claim)
    assert (first.lost, second.lost) == (True, False)
    left = (place.claims / "f.1").read_text()
    first.note_run(place.folder / "mine")
    assert (place.claims / "f.1").read_text() == left
    note = newest(place, "f")
    assert note is not None
    assert (note.number, note.run) == (2, None)


def test_holding_lets_go_whatever_happens(place: Place) -> None:
    claim = take(place, "f")
    assert isinstance(claim, Claim)
    seen: list[Claim | None] = []

    def work() -> None:
        with holding(claim):
            seen.append(held())
            raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        work()
    assert seen == [claim]
    assert held() is None
    assert not all_newest(place)["f"].held
    assert (place.claims / "f.1").exists(), "a number never comes twice"


def test_a_run_that_was_made_without_a_claim_is_noted(place: Place) -> None:
    record(place, "f", place.folder / "single")
    assert {name: (note.run, note.held) for name, note in all_newest(place).items()} == {
        "f": (place.folder / "single", False)
    }


def test_places_of_one_folder_are_apart() -> None:
    place = Place.of({"run_dir": "somewhere/r", "name": "shapes"})
    assert (place.folder, place.prefix, place.claims) == (Path("somewhere"), "r_", Path("somewhere/.r_claims"))
    assert Place.of({"run_dir": None, "name": "x"}) == Place(Path("outputs/x"))


def race(folder: Path, rounds: int, start: Any, won: Any) -> None:
    """Take claim after claim, as fast as the others do, and let none go."""
    start.wait()
    for number in range(rounds):
        if isinstance(take(Place(folder), str(number)), Claim):
            won[number] += 1


def test_of_many_processes_exactly_one_wins_each_claim(place: Place) -> None:
    fork = multiprocessing.get_context("fork")
    rounds, racers = 40, 6
    start, won = fork.Barrier(racers), fork.Array("i", rounds)
    for number in range(0, rounds, 2):  # every other one belongs to somebody who is dead
        assert isinstance(take(place, str(number)), Claim)
        path = place.claims / f"{number}.1"
        path.write_text(path.read_text().replace('"born": ', '"born": 1'))
    processes = [fork.Process(target=race, args=(place.folder, rounds, start, won)) for _ in range(racers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    # A winner that ends is dead, and the next may take its claim: a second win of a round has the next number.
    numbers = {name: note.number for name, note in all_newest(place).items()}
    assert all(won[n] >= 1 for n in range(rounds))
    assert all(numbers[str(n)] == won[n] + (1 - n % 2) for n in range(rounds)), "one winner for each number"
