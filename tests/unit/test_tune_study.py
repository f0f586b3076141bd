"""A study that workers share: budgets, trials that are given again, storages, and journals that were cut off."""

import datetime
import importlib.util
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from seg_cli.config.search import Search
from seg_cli.errors import UserError
from seg_cli.runs import storage as storages
from seg_cli.runs.runner import PATIENCE, describe_runner
from seg_cli.runs.storage import open_storage
from seg_cli.runs.study import Study

SECTION = {
    "space": {
        "optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "loss": ["ce", "dice"],
        "depth": {"low": 1, "high": 3, "when": {"loss": "dice"}},
        "sizes": [[1, 2], None],
    },
    "objectives": ["miou"],
    "trials": 4,
    "failures": 3,
}
GRID = SECTION | {
    "space": {"loss": ["ce", "dice"], "depth": {"low": 1, "high": 3, "when": {"loss": "dice"}}},
    "sampler": "grid",
}
GONE = {"host": "elsewhere", "pid": 1, "born": 1, "job": None, "tries": 0}


def study(place: Path | str, section: Mapping[str, Any] = SECTION, **changes: Any) -> Study:
    place = str(place) if str(place).endswith((".journal", ".db")) else str(Path(place) / "study.journal")
    return Study("mine", open_storage(place), Search.parse({**section, **changes}), seed=3, epochs=5)


@pytest.mark.parametrize("name", ["study.journal", "study.db"])
def test_a_budget_of_finished_trials(tmp_path: Path, name: str) -> None:
    mine = study(tmp_path / name)
    drawn = []
    for number, state in enumerate([TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE]):
        trial = mine.take()
        assert trial is not None
        drawn.append(mine.draw(trial))
        assert mine.tell(trial, state, [number / 10] if state is TrialState.COMPLETE else None)
    assert len(mine.finished) == 3
    assert len(mine.failed) == 1
    assert not mine.done
    trial = mine.take()
    assert trial is not None
    assert mine.take() is None  # the last one is running
    mine.tell(trial, TrialState.COMPLETE, [0.5])
    assert mine.done
    assert mine.take() is None
    again = study(tmp_path / name, trials=5)
    assert len(again.finished) == 4
    assert again.take() is not None
    for values in drawn:
        assert ("depth" in values) == (values["loss"] == "dice")
        assert values["sizes"] in ([1, 2], None)


def test_what_is_drawn_follows_from_seed_and_number(tmp_path: Path) -> None:
    def all_drawn(place: Path, *, anew: bool) -> list[dict[str, Any]]:
        place.mkdir()
        mine, drawn = study(place), []
        for _ in range(4):
            mine = study(place) if anew else mine
            trial = mine.take()
            assert trial is not None
            drawn.append(mine.draw(trial))
            mine.tell(trial, TrialState.COMPLETE, [0.5])
        return drawn

    first = all_drawn(tmp_path / "a", anew=False)
    assert first == all_drawn(tmp_path / "b", anew=True)
    assert len({values["optimizer.lr"] for values in first}) == 4


@pytest.mark.parametrize("name", ["study.journal", "study.db"])
def test_many_workers_make_exactly_what_was_asked_for(tmp_path: Path, name: str) -> None:
    study(tmp_path / name)
    made: list[int] = []

    def work() -> None:
        mine = study(tmp_path / name, trials=9)
        while (trial := mine.take()) is not None:
            mine.draw(trial)
            time.sleep(0.01)
            mine.tell(trial, TrialState.COMPLETE, [0.1])
            made.append(trial.number)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == len(study(tmp_path / name).finished) == 9


def test_whoever_reads_an_sqlite_file_to_write_it_holds_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "study.db"))
    assert isinstance(storage, RDBStorage)
    other = sqlite3.connect(tmp_path / "study.db", timeout=0.05, isolation_level=None)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM trials")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_of_two_who_take_the_last_trial_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose trial bears an earlier time than the other's, and is written later, as between two machines."""
    first, second = study(tmp_path, trials=1), study(tmp_path, trials=1)
    taken = []

    def ask_late() -> optuna.Trial:
        taken.append(first.take())
        trial = optuna.trial.create_trial(state=TrialState.RUNNING)
        trial.datetime_start = datetime.datetime(2020, 1, 1)
        return optuna.Trial(second.optuna, second._storage.create_new_trial(second.optuna._study_id, trial))

    monkeypatch.setattr(second.optuna, "ask", ask_late)
    assert second.take() is None
    assert [trial.number for trial in taken if trial] == [0]
    assert first.tell(taken[0], TrialState.COMPLETE, [0.5])
    assert second.take() is None
    assert [trial.number for trial in second.trials()] == [0, 1]  # which was not asked a third time


def test_the_last_trial_goes_to_somebody_if_two_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = study(tmp_path, trials=1), study(tmp_path, trials=1)
    ask = mine.optuna.ask
    rivals = []

    def ask_together() -> optuna.Trial:
        if not rivals:
            rivals.append(other.optuna.ask())
        return ask()

    def give_way(_: float) -> None:
        other._storage.set_trial_state_values(rivals[0]._trial_id, TrialState.WAITING)

    monkeypatch.setattr(mine.optuna, "ask", ask_together)
    monkeypatch.setattr(time, "sleep", give_way)
    trial = mine.take()
    assert trial is not None
    assert mine.collect() == []
    assert [other.number for other in mine.running] == [trial.number]


def test_too_many_failures_end_it(tmp_path: Path) -> None:
    mine = study(tmp_path)
    for _ in range(3):
        trial = mine.take()
        assert trial is not None
        mine.tell(trial, TrialState.FAIL)
    assert mine.gave_up
    assert mine.take() is None
    assert study(tmp_path, failures=10).gave_up  # three, and none has come to an end


def test_a_trial_of_a_process_that_is_gone_is_given_again(tmp_path: Path) -> None:
    mine = study(tmp_path)
    trial = mine.take()
    assert trial is not None
    drawn = mine.draw(trial)
    trial.set_user_attr("run", "outputs/mine/first")
    assert mine.collect() == []  # this process is there
    trial.set_user_attr("owner", describe_runner() | {"pid": 2**22 + 1})
    other = study(tmp_path)
    assert other.collect() == [trial.number]
    assert not mine.tell(trial, TrialState.COMPLETE, [1.0])  # it is no longer ours
    again = other.take()
    assert again is not None
    assert again.user_attrs["run"] == "outputs/mine/first"
    assert other.draw(again) == drawn
    assert other.failed == []  # it counts neither as finished nor as failed
    other.tell(again, TrialState.COMPLETE, [0.5])
    assert len(other.finished) == 1


def test_a_trial_on_another_machine_is_given_again_when_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("seg_cli.runs.study.time.monotonic", lambda: now[0])
    mine = study(tmp_path)
    trial = mine.take()
    assert trial is not None
    trial.set_user_attr("owner", GONE)
    other = study(tmp_path)
    assert other.collect() == []  # heard of for the first time
    now[0] += PATIENCE - 1
    assert other.collect() == []
    trial.set_user_attr("beat", 1)
    now[0] += 2
    assert other.collect() == []  # there was a sign of life
    now[0] += PATIENCE + 1
    assert other.collect() == [trial.number]


def test_a_trial_whose_workers_keep_dying_fails_in_the_end(tmp_path: Path) -> None:
    mine = study(tmp_path)
    for _ in range(3):
        trial = mine.take()
        assert trial is not None
        trial.set_user_attr("owner", describe_runner() | {"born": 1})
        assert study(tmp_path).collect() == [trial.number]
    assert [trial.user_attrs["reason"] for trial in mine.failed] == ["its worker is gone, 3 times"]
    assert not mine.trials(TrialState.WAITING)


def test_an_interrupted_trial_is_given_again_as_often_as_needed(tmp_path: Path) -> None:
    mine = study(tmp_path)
    for _ in range(5):
        trial = mine.take()
        assert trial is not None
        mine.draw(trial)
        assert mine.give_again(trial, "interrupted", counts=False)
    assert mine.failed == []
    assert len(mine.trials(TrialState.WAITING)) == 1


def test_signs_of_life_and_a_trial_that_was_taken_away(tmp_path: Path) -> None:
    mine = study(tmp_path)
    trial = mine.take()
    assert trial is not None
    with mine.held(trial, every=0.02) as lost:
        for _ in range(100):
            time.sleep(0.02)
            if mine.running[0].user_attrs.get("beat", 0) >= 2:
                break
        assert mine.running[0].user_attrs["beat"] >= 2
        assert not lost.is_set()
        study(tmp_path).give_again(trial, "taken for dead", counts=True)
        assert lost.wait(5)


def test_a_grid_is_every_point_once(tmp_path: Path) -> None:
    mine = study(tmp_path, GRID, trials=20)
    mine.fill()
    study(tmp_path, GRID, trials=20).fill()
    points = []
    while (trial := mine.take()) is not None:
        points.append(mine.draw(trial))
        mine.tell(trial, TrialState.COMPLETE, [0.5])
    assert points == [{"loss": "ce"}, *({"loss": "dice", "depth": depth} for depth in (1, 2, 3))]
    assert mine.done
    assert mine.budget == 4


def test_where_there_are_few_points_each_is_made_once_whatever_the_sampler_likes(tmp_path: Path) -> None:
    section = GRID | {"sampler": {"name": "tpe", "n_startup_trials": 1}, "trials": 9}
    mine = study(tmp_path, section)
    assert mine.budget == 4  # ce, and dice with three depths
    drawn = []
    for _ in range(60):
        if mine.done:
            break
        trial = mine.take()
        assert trial is not None
        values = mine.draw(trial)
        if mine.twin(trial) is not None:
            assert mine.replace(trial)
            continue
        drawn.append(str(values))
        mine.tell(trial, TrialState.COMPLETE, [1.0 if values["loss"] == "ce" else 0.0])
    assert len(drawn) == len(set(drawn)) == 4
    assert mine.done
    assert not mine.failed


def test_a_study_of_another_space_is_refused(tmp_path: Path) -> None:
    about = {"space": {"lr": {"low": 1}}, "objectives": {"miou": "maximize"}, "base": {"data.train": 8}}
    study(tmp_path).identify(about, place="here")
    study(tmp_path).identify(dict(reversed(about.items())), place="here")
    with pytest.raises(UserError) as refused:
        study(tmp_path).identify(about | {"space": {"lr": {"low": 2}}}, place="here")
    assert "here has a study of this name that searches otherwise" in str(refused.value)
    assert "space has lr {low:1} there and {low:2} here" in str(refused.value)
    with pytest.raises(UserError, match=r"base has data\.train 8 there and not at all here"):
        study(tmp_path).identify(about | {"base": {}}, place="here")


# ---- storages


def test_a_journal_that_ends_in_half_a_line_goes_on(tmp_path: Path) -> None:
    mine = study(tmp_path)
    trial = mine.take()
    assert trial is not None
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"a"' + b" " * 5000)  # the machine stopped here
    other = study(tmp_path)
    assert [running.number for running in other.running] == [trial.number]
    second = other.take()
    assert second is not None
    mine.tell(trial, TrialState.COMPLETE, [0.5])
    assert len(study(tmp_path).finished) == 1


def test_a_lock_that_a_process_left_behind_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path)
    (tmp_path / "study.journal.lock").touch()
    monkeypatch.setattr(storages, "_LOCKED", 3)
    began = time.monotonic()
    assert study(tmp_path).take() is not None
    assert time.monotonic() - began >= 3


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("study.txt", "it must be a path that ends in .journal or .db, or a URL"),
        ("/proc/nowhere/study.journal", "/proc/nowhere cannot be made"),
        ("/proc/nowhere/study.db", "/proc/nowhere cannot be made"),
        ("sqlite:////proc/nowhere/study.db", "it cannot be reached"),
        ("nosuch://user:secret@host/base", "storage=nosuch://user:***@host/base: it cannot be reached"),
        ("mysql+nosuch://user:secret@host/base", "storage=mysql+nosuch://user:***@host/base: it cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_sentence(storage: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        open_storage(storage)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("postgresql://me:secret@host/base", "'psycopg[binary]'"),
        ("postgresql+psycopg2://me@host/base", "psycopg2-binary"),
        ("mysql+mysqldb://me@host/base", "mysqlclient"),
        ("mysql+pymysql://me@host/base", "pymysql"),
    ],
)
def test_a_driver_that_is_missing_is_one_sentence(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg", "psycopg2", "MySQLdb", "pymysql"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails, as where it is not installed
    monkeypatch.setattr(storages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        open_storage(url)
    assert str(refused.value).endswith(f"its driver is not installed. Type: pip install {package}")
    assert "secret" not in str(refused.value)


@contextmanager
def place_of_a_server(user: str | None) -> Iterator[tuple[str, int]]:
    """A folder of that user's, and a port that nobody has."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if user:
            shutil.chown(folder, user)
        server.close()
        yield folder, port


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of an empty database of a server that is started for it."""
    if not any(importlib.util.find_spec(name) for name in ("psycopg", "psycopg2")):
        pytest.skip("no driver of PostgreSQL is installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.getuid() == 0 else None  # it does not run as root
    with place_of_a_server(user) as (folder, port):
        data = [str(found[-1] / "initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "me"]
        subprocess.run(data, user=user, cwd=folder, check=True, capture_output=True)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        control = [str(found[-1] / "pg_ctl"), "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w"]
        subprocess.run([*control, "start"], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://me@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], user=user, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def mysql() -> Iterator[str]:
    """The same of MariaDB, which speaks as MySQL does."""
    if importlib.util.find_spec("pymysql") is None:
        pytest.skip("no driver of MySQL is installed")
    program, install = (shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("mariadbd", "mariadb-install-db"))
    if program is None or install is None:
        pytest.skip("MariaDB is not installed")
    import pymysql

    user = "mysql" if os.getuid() == 0 else None  # it does not run as root
    with place_of_a_server(user) as (folder, port):
        data = [install, "--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal"]
        subprocess.run(data, user=user, cwd=folder, check=True, capture_output=True)
        files = [f"--datadir={folder}/data", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        serve = [program, "--no-defaults", *files, f"--port={port}", "--bind-address=127.0.0.1"]
        with subprocess.Popen(serve, user=user, cwd=folder, stderr=subprocess.DEVNULL) as running:
            try:
                for _ in range(300):
                    if Path(f"{folder}/pid").exists():
                        break
                    time.sleep(0.1)
                with pymysql.connect(unix_socket=f"{folder}/socket", user="root") as connection:
                    for line in (
                        "create database trials",
                        "create user me@'127.0.0.1'",
                        "grant all on trials.* to me@'127.0.0.1'",
                    ):
                        connection.cursor().execute(line)
                yield f"mysql+pymysql://me@127.0.0.1:{port}/trials"
            finally:
                running.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("server", ["postgres", "mysql"])
def test_workers_share_a_database(server: str, request: pytest.FixtureRequest) -> None:
    section = {**SECTION, "trials": 12}
    url: str = request.getfixturevalue(server)
    ends: list[int] = []

    def work() -> None:
        mine = Study("mine", open_storage(url), Search.parse(section), seed=3, epochs=5)
        while (trial := mine.take()) is not None:
            mine.draw(trial)
            time.sleep(0.05)
            mine.tell(trial, TrialState.COMPLETE, [trial.number / 10])
            ends.append(trial.number)

    first = Study("mine", open_storage(url), Search.parse(section), seed=3, epochs=5)
    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert first.done
    assert len(first.finished) == len(ends) == len(set(ends)) == 12


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("nonsense\nmore of it\n")
    with pytest.raises(UserError, match="the journal is damaged"):
        study(tmp_path)
