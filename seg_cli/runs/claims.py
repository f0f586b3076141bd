"""Claims: of those who want to make the same run, one does.

A claim is a file ``<place>/.claims/<fingerprint>.<number>``. It says who holds it, and which run directory it has led
to. Who finds the newest one free, or its holder gone, makes the file with the next number, which is an atomic act of
the file system (a hard link, safe on NFS, where locks are not): exactly one of many succeeds. Only its holder rewrites
a claim, and none is ever removed, so that a number never comes twice, whatever a client of NFS has cached.

    claim = take(place, fingerprint)
    if isinstance(claim, Note):          # somebody is on it: claim.process, claim.run
        ...
    with holding(claim):                 # signs of life every 15 seconds; free in the end
        claim.note_run(folder)
"""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_cli.runs.atomic import write_text
from seg_cli.runs.heartbeat import INTERVAL, beating
from seg_cli.runs.runner import describe_runner, lives, named_process, seconds_since

_NOBODY: Mapping[str, Any] = {"host": "", "pid": 0, "born": None, "job": None, "tries": 0}
_holding: "list[Claim]" = []


@dataclass(frozen=True)
class Place:
    """Where the runs of a matrix lie.

    Attributes:
        folder: whose subfolders they are.
        prefix: with which their names begin; empty where the folder has no other runs.
    """

    folder: Path
    prefix: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Place":
        """Where runs with this configuration go as jobs of a matrix: outputs/<name>/, or beside ``run_dir``."""
        if config["run_dir"]:
            asked = Path(config["run_dir"]).expanduser()
            return cls(asked.parent, f"{asked.name}_")
        return cls(Path("outputs") / config["name"])

    @property
    def claims(self) -> Path:
        """The folder of its claims."""
        return self.folder / f".{self.prefix}claims"


@dataclass(frozen=True)
class Note:
    """What a claim says.

    Attributes:
        path, number: the file, and its number.
        held: whether its holder has not let go of it.
        process: its holder, see ``describe_runner``.
        run: the run directory, as far as there is one.
    """

    path: Path
    number: int
    held: bool
    process: Mapping[str, Any]
    run: Path | None

    @property
    def busy(self) -> bool:
        """Whether somebody is on it right now."""
        return self.held and lives(self.process, silent=seconds_since(self.path))


class Claim:
    """A claim that this process holds.

    Attributes:
        path, number: the file, and its number.
        run: the run directory that it has led to, here or in the hands of an earlier holder.
        also_note: who else is told of that run directory.
    """

    def __init__(self, path: Path, number: int, run: Path | None) -> None:
        self.path, self.number, self.run = path, number, run
        self.also_note: Callable[[Path], None] | None = None

    def note_run(self, run: Path) -> None:
        """Say which run directory it has led to."""
        self.run = run
        self._write(held=True)
        if self.also_note is not None:
            self.also_note(run)

    def release(self) -> None:
        """Let go of it."""
        self._write(held=False)

    @property
    def fingerprint(self) -> str:
        """What it is a claim on."""
        return self.path.stem

    @property
    def lost(self) -> bool:
        """Whether somebody took this process for dead, and holds it now."""
        return _numbered(self.path, self.number + 1).exists()

    def _write(self, *, held: bool) -> None:
        if not self.lost:
            write_text(self.path, _content(held=held, run=self.run))


def take(place: Place, fingerprint: str) -> Claim | Note:
    """Claim a run: a Claim if this process has it now, otherwise the Note of who is on it."""
    place.claims.mkdir(parents=True, exist_ok=True)
    first = place.claims / f"{fingerprint}.1"
    note = newest(place, fingerprint)
    while note is None or not note.busy:
        number, run = (1, None) if note is None else (note.number + 1, note.run)
        path = _numbered(first, number)
        if _make(path, _content(held=True, run=run)):
            return Claim(path, number, run)
        note = newest(place, fingerprint, start=number)
    return note


def newest(place: Place, fingerprint: str, *, start: int = 1) -> Note | None:
    """The note that counts, or None if there is none; ``start`` is a number that is known to be taken."""
    path, found = place.claims / f"{fingerprint}.{start}", None
    while path.exists():
        found, path = path, _numbered(path, int(path.suffix[1:]) + 1)
    return None if found is None else read(found)


def all_newest(place: Place) -> dict[str, Note]:
    """The notes that count of all fingerprints of a place, read in one go."""
    numbers: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(place.claims) as files:
        for file in files:
            fingerprint, _, number = file.name.partition(".")
            if fingerprint and number.isdigit():
                numbers[fingerprint] = max(int(number), numbers.get(fingerprint, 0))
    return {fingerprint: read(place.claims / f"{fingerprint}.{number}") for fingerprint, number in numbers.items()}


def read(path: Path) -> Note:
    """What a claim says. One that cannot be read is being written, or, once it is a minute old, nobody's."""
    number = int(path.suffix[1:])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        run = None
        if content["run"]:
            run = path.parent.parent / content["run"]
            if run.parent != path.parent.parent or run.name == "..":  # whoever goes on with a run writes into it
                raise ValueError(f"{content['run']} is no run beside this claim")
        process = named_process(content["process"]) or _NOBODY
        return Note(path, number, bool(content["held"]), dict(process), run)
    except (OSError, ValueError, KeyError, TypeError):
        return Note(path, number, True, _NOBODY, None)


def record(place: Place, fingerprint: str, run: Path) -> None:
    """Note a run that was made without a claim, as those outside of a matrix are, unless somebody is on it."""
    claim = take(place, fingerprint)
    if isinstance(claim, Claim):
        claim.run = run
        claim.release()


@contextmanager
def holding(claim: Claim, *, every: float = INTERVAL) -> Iterator[Claim]:
    """Hold a claim while the block runs, with signs of life, and let go of it afterwards.

    A process that was taken for dead (its machine slept, its network was away) ends at once when it notices, lest two
    write into one run directory.
    """

    def look() -> None:
        if claim.lost:
            print(
                f"error: this process was not heard of for a while, and another one goes on with {claim.run}. "
                "It has ended.",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

    _holding.append(claim)
    try:
        with beating(claim.path, also=look, every=every):
            yield claim
    finally:
        _holding.remove(claim)
        with suppress(OSError):
            claim.release()


def held() -> Claim | None:
    """The claim that this process holds, where it works on a job of a matrix."""
    return _holding[-1] if _holding else None


def _numbered(path: Path, number: int) -> Path:
    return path.with_suffix(f".{number}")


def _content(*, held: bool, run: Path | None) -> str:
    return json.dumps({"held": held, "process": describe_runner(), "run": None if run is None else run.name})


def _make(path: Path, content: str) -> bool:
    """Make a file that must not be there yet, whole from the first moment; whether that was us."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            return _make_exclusively(path, content)  # a file system without hard links
        # The answer of NFS may get lost, and the second try say that the file is there: the number of names tells.
        return os.stat(name).st_nlink == 2
    finally:
        with suppress(OSError):
            os.unlink(name)


def _make_exclusively(path: Path, content: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True
