"""Where a search keeps its trials: Optuna's journal in a file, an SQLite file, or a database by its URL."""

import importlib.util
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import Engine, event

from seg_cli.errors import UserError

_WAIT = 15  # seconds for a database to answer, or an SQLite file to be free
_LOCKED = 30  # seconds after which the lock of a process that is gone is broken
_FORMS = "a path that ends in .journal or .db, or a URL as postgresql://USER@HOST/DATABASE"
_DRIVERS = {  # module -> what to install
    **{"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"},
    **{"mysqldb": "mysqlclient", "mysql": "mysql-connector-python", "mysqlconnector": "mysql-connector-python"},
}
_TIMEOUTS = {  # what the drivers call the time in which a database must answer
    **dict.fromkeys(("postgresql+psycopg2", "postgresql+psycopg"), "connect_timeout"),
    **dict.fromkeys(("mysql", "mysql+pymysql", "mysql+mysqldb", "mariadb+pymysql"), "connect_timeout"),
    **{"postgresql+pg8000": "timeout", "mysql+mysqlconnector": "connection_timeout", "sqlite": "timeout"},
}

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to say about trials is said by us
warnings.filterwarnings("ignore", category=ExperimentalWarning)


class Journal(JournalFileBackend):
    """Optuna's journal in a file, which also takes what a machine leaves that stops in the middle of a line.

    Args:
        path: of the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        # The path is absolute because the lock stands beside it. The lock is a file that is made anew each time, which
        # tells those who wait that it changed hands; the time of a symbolic link would be that of the journal.
        self._own_lock = JournalFileOpenLock(str(path.absolute()), grace_period=_LOCKED)
        super().__init__(str(path.absolute()), self._own_lock)
        self._own_path = path.absolute()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._own_lock.acquire()
        try:
            self._drop_half_a_line()
            self._append(logs)
        finally:
            self._own_lock.release()

    def _append(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        with self._own_path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def _drop_half_a_line(self) -> None:
        with self._own_path.open("r+b") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 4096)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                file.truncate(end)


def open_storage(storage: str) -> BaseStorage:
    """Open a storage, making its file, or the tables of a database, where there are none.

    Args:
        storage: a path ending in ``.journal`` or ``.db``, or a URL of SQLAlchemy's.

    Raises:
        UserError: if it cannot be reached, or is not of a form that is known.
    """
    if "://" in storage:
        return _open_database(storage)
    path = Path(storage).expanduser()
    if path.suffix not in (".journal", ".db", ".sqlite"):
        raise UserError(f"storage={storage}: it must be {_FORMS}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"storage={storage}: {path.parent} cannot be made ({error.strerror}).") from None
    if path.suffix != ".journal":
        return _open_database(f"sqlite:///{path.absolute()}", said=storage)
    try:
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(13, "Permission denied")
        return JournalStorage(Journal(path))
    except OSError as error:
        raise UserError(f"storage={storage}: the file cannot be written ({error.strerror}).") from None
    except (ValueError, KeyError, OptunaError) as error:
        raise UserError(
            f"storage={storage}: the journal is damaged ({error}). Choose another storage or name."
        ) from None


def _open_database(url: str, *, said: str | None = None) -> BaseStorage:
    said = said or without_password(url)
    kind = url.partition("://")[0]
    if kind in ("postgres", "postgresql"):  # the driver that is there, whichever this SQLAlchemy would take
        drivers = ("psycopg", "psycopg2")
        driver = next((name for name in drivers if importlib.util.find_spec(name) is not None), drivers[0])
        url, kind = f"postgresql+{driver}{url[len(kind) :]}", f"postgresql+{driver}"
    arguments = {_TIMEOUTS[kind]: _WAIT} if kind in _TIMEOUTS else {}
    try:
        database = RDBStorage(url, engine_kwargs={"connect_args": arguments, "pool_pre_ping": True})
    except ImportError as error:
        module = error.name or kind.partition("+")[2] or kind
        package = _DRIVERS.get(module, module)
        raise UserError(f"storage={said}: its driver is not installed. Type: pip install {package}") from None
    except Exception as error:  # SQLAlchemy's, a driver's and Optuna's are of many kinds
        reason = " ".join(without_password(str(error)).partition("(Background on")[0].partition("[SQL:")[0].split())
        raise UserError(f"storage={said}: it cannot be reached ({reason[:300]}). It must be {_FORMS}.") from None
    if kind.startswith("sqlite"):
        _write_by_turns(database.engine)
    return database


def _write_by_turns(engine: Engine) -> None:
    """Have each transaction hold an SQLite file from its beginning.

    Optuna takes a waiting trial by reading its state and writing another; SQLite has no lock of a row, and by itself
    locks the file for the second only, so that two workers that read at once would both have the trial.
    """

    def begin_by_hand(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", begin_by_hand)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # of connections that were made before


def without_password(text: str) -> str:
    """The text with the passwords of URLs replaced by ***."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
