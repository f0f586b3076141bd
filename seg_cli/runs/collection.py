"""Run directories found and read in bulk, as tables and reports of thousands of runs need them.

Without Hydra, OmegaConf and torch. What was read is kept in the user's cache folder, under the sizes and times of the
files that it came from; it may be deleted at any time.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seg_cli.config.flat import flat
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.runs.remembered import cache_file, keep, recall
from seg_cli.runs.sections import Sections

_FILES = ("config.yaml", "status.json", "results.json", "environment.json", "per_image.csv")


@dataclass(frozen=True)
class Record:
    """A run directory as far as tables need it.

    Attributes:
        folder: of the run.
        state: of status.json; ``unknown`` where there is none.
        reason: why it failed or was interrupted.
        results: results.json without lists (confusion matrices, curves); of ``eval/NAME`` where that was asked for.
            None where the run has none yet, or where they cannot be read.
        problem: what cannot be read, as a sentence; None where all is well.
        dates: when it started and ended, as status.json says.
        environment: ``commit``, ``changed``, ``hardware`` and ``version``, each perhaps None.
        stamp: sizes and times of its files; what was computed of them is valid as long as it is the same.
        sections: numbers of the sections of its config.
    """

    folder: Path
    state: str
    reason: str | None
    results: dict[str, Any] | None
    problem: str | None
    dates: tuple[str, str]
    environment: dict[str, Any]
    stamp: tuple[Any, ...]
    sections: tuple[int, ...]
    all_sections: Sections = field(repr=False, compare=False)
    evaluation: str | None = None

    @property
    def finished(self) -> bool:
        """Whether it came to its end and has scores that can be read."""
        return self.state == "finished" and self.results is not None and self.problem is None

    @property
    def per_image(self) -> Path:
        """Where the counts of its images are."""
        folder = self.folder / "eval" / self.evaluation if self.evaluation else self.folder
        return folder / "per_image.csv"

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain values. Raises UserError if it cannot be read."""
        try:
            parsed = [self.all_sections.parse(number) for number in self.sections]
        except ValueError as error:
            raise UserError(f"{self.folder / 'config.yaml'}: the file is damaged ({error}).") from None
        return {key: value for section in parsed for key, value in section.items()}

    @cached_property
    def choices(self) -> dict[str, str]:
        """Group -> what was chosen: of the scoring where it has been scored, else of the configuration."""
        found = self.results["choices"] if self.results else self.config.get("choices")
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}

    @property
    def seed(self) -> Any:
        return (self.results or self.config).get("seed")

    def value(self, key: str) -> Any:
        """A choice (``model``), a setting (``optimizer.lr``), ``pretrained``, ``name``, ``seed``.

        Raises KeyError if it has no such thing.
        """
        if key in self.choices:
            return self.choices[key]
        if key in ("seed", "name", "pretrained", "precision", "checkpoint") and self.results and key in self.results:
            return self.results[key]
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise KeyError(key)
            node = node[part]
        if isinstance(node, Mapping) and node:
            raise KeyError(key)
        return node


@dataclass(frozen=True)
class Collection:
    """The runs under some folders.

    Attributes:
        records: one a run, sorted by folder.
        unreadable: folders that could not be looked into, as sentences.
    """

    records: list[Record]
    unreadable: list[str]

    def check_key(self, key: str, what: str) -> None:
        """Raises UserError if no run knows the key, with did-you-mean."""
        for record in self.records:
            with suppress(KeyError):
                record.value(key)
                return
        known = list(dict.fromkeys(name for record in self.records for name in known_keys(record)))
        raise UserError(
            f"{what}: no run has '{key}'.{did_you_mean(key, known)} It is a group (model, loss, data), a setting as in "
            "optimizer.lr, or pretrained."
        )


def collect(folders: Sequence[str | Path], *, evaluation: str | None = None) -> Collection:
    """Find and read the runs under folders: every folder with a config.yaml, at any depth, hidden ones left out.

    Args:
        folders: run directories, or folders that hold some.
        evaluation: take the scores of ``RUN/eval/<evaluation>`` instead of those of the run.

    Raises:
        UserError: if a folder does not exist.
    """
    records: dict[tuple[int, int], Record] = {}
    sections = Sections()
    unreadable: list[str] = []
    for given in folders:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise UserError(f"{given}: there is no such folder. Runs are kept in outputs/<name>/<date>_<time>.")
        for identity, record in _collect(folder, evaluation, sections, unreadable):
            records.setdefault(identity, record)
    return Collection(sorted(records.values(), key=lambda record: str(record.folder)), unreadable)


def known_keys(record: Record) -> list[str]:
    """What ``Record.value`` answers for this run."""
    return [*record.choices, "seed", "name", "pretrained", *flat(record.config)]


# ---- finding


def _find(root: str, unreadable: list[str]) -> Iterable[tuple[str, dict[str, os.DirEntry[str]]]]:
    """The run directories at or below a folder, with their entries by name."""
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = {entry.name: entry for entry in listing}
        except OSError as error:
            unreadable.append(f"{folder}: {error.strerror}")
            continue
        if "config.yaml" in entries:
            yield folder, entries
            continue
        for name, entry in entries.items():
            with suppress(OSError):
                if name.startswith(".") or not entry.is_dir():
                    continue
                if entry.is_symlink():  # which may lead in a circle
                    target = os.path.realpath(entry.path)
                    if target in seen:
                        continue
                    seen.add(target)
                waiting.append(entry.path)


def _collect(
    folder: Path, evaluation: str | None, sections: Sections, unreadable: list[str]
) -> Iterable[tuple[tuple[int, int], Record]]:
    cache = cache_file("runs", folder.resolve(), evaluation)
    texts, known = _read_cache(cache)
    numbers = [sections.number(text) for text in texts]
    found: dict[str, Any] = {}
    fresh = False
    root = str(folder)
    for path, entries in _find(root, unreadable):
        stamp, identity = _stamp(path, entries, evaluation)
        name = path[len(root) :]
        read: dict[str, Any] | None = None
        if name in known and known[name][0] == stamp:
            read = known[name][1]
            own = tuple(numbers[number] for number in read["sections"])
        if read is None:
            fresh = True
            read = _read(Path(path), sections, evaluation)
            own = tuple(read["sections"])
        found[name] = (stamp, read, own)
        record = Record(
            folder=Path(path),
            state=read["state"],
            reason=read["reason"],
            results=read["results"],
            problem=read["problem"],
            dates=tuple(read["dates"]),
            environment=read["environment"],
            stamp=tuple(map(tuple, stamp)),
            sections=own,
            all_sections=sections,
            evaluation=evaluation,
        )
        yield identity, record
    if fresh or len(found) != len(known):
        places = {
            number: place for place, number in enumerate(dict.fromkeys(n for *_, own in found.values() for n in own))
        }
        runs = {
            name: [stamp, {**read, "sections": [places[number] for number in own]}]
            for name, (stamp, read, own) in found.items()
        }
        keep(cache, {"sections": [sections.texts[number] for number in places], "runs": runs})


def _stamp(path: str, entries: Mapping[str, os.DirEntry[str]], evaluation: str | None) -> tuple[list, tuple[int, int]]:
    """Sizes and times of the files of a run; and what tells it from all other runs."""
    stats = [_stat(entries[name].stat) if name in entries else None for name in _FILES]
    if evaluation:
        stats += [_stat(lambda n=name: os.stat(f"{path}/eval/{evaluation}/{n}")) for name in _FILES[2::2]]  # type: ignore[misc]
    first = stats[0]
    return (
        [[stat.st_size, stat.st_mtime_ns] if stat else [0, 0] for stat in stats],
        (first.st_dev, first.st_ino) if first and first.st_ino else (0, hash(path)),
    )


def _stat(ask: Callable[[], os.stat_result]) -> os.stat_result | None:
    try:
        return ask()
    except OSError:
        return None


# ---- reading


def _read(folder: Path, sections: Sections, evaluation: str | None) -> dict[str, Any]:
    """What there is to know of a run; what cannot be read is said in ``problem``."""
    problems: list[str] = []
    status = _json(folder / "status.json", problems) or {}
    results = _json(folder / "results.json", problems)
    environment = _json(folder / "environment.json", []) or {}
    if results is not None and evaluation:
        path = folder / "eval" / evaluation / "results.json"
        scored = _json(path, problems)
        results = _scored_again(results, scored) if scored else None
    if results is not None and (wrong := _wrong(results)):
        problems.append(f"{folder / 'results.json'}: {wrong}")
        results = None
    numbers: list[int] = []
    try:
        numbers = sections.add((folder / "config.yaml").read_text(encoding="utf-8"))
        if not any(sections.texts[number].startswith("model:") for number in numbers):
            problems.append(f"{folder / 'config.yaml'}: this is not the configuration of a run")
        for number in numbers:
            sections.parse(number)
    except (OSError, ValueError) as error:
        numbers = []
        problems.append(f"{folder / 'config.yaml'}: the file is damaged ({error})")
    return {
        "state": str(status.get("state", "unknown")),
        "reason": None if status.get("reason") is None else str(status["reason"]),
        "results": None if results is None else _slim(results),
        "problem": problems[0] if problems else None,
        "dates": [str(status.get("started") or ""), str(status.get("ended") or "")],
        "environment": _describe(environment),
        "sections": numbers,
    }


def _json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing, or damaged, which is added to the problems."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path}: the file is damaged ({error})")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path}: the file is damaged (it holds no JSON object)")
        return None
    return value


def _scored_again(results: Mapping[str, Any], scored: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a run with the scores of an evaluation."""
    data = {"data": {**(results.get("data") or {}), **(scored.get("data") or {})}}
    return {**results, **{key: scored.get(key) for key in ("splits", "choices", "checkpoint")}, **data}


def _wrong(results: Mapping[str, Any]) -> str | None:
    """Why these results cannot be used; None where they can."""
    from seg_cli.runs.run import SCHEMA  # brings OmegaConf, which takes longer than what is remembered

    schema = results.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        return f"written with schema {schema}, and this version of segrun reads {SCHEMA}"
    splits, choices = results.get("splits"), results.get("choices")
    if not isinstance(choices, dict) or not isinstance(splits, dict):
        return "the file is damaged (it has no choices or no splits)"
    for name, split in splits.items():
        if not isinstance(split, dict) or not isinstance(split.get("classes"), dict):
            return f"the file is damaged (split '{name}' has no classes)"
        if not all(isinstance(of, dict) for of in split["classes"].values()):
            return f"the file is damaged (classes of split '{name}')"
    return None


def _slim(value: Any) -> Any:
    """Without lists, which tables do not show."""
    if isinstance(value, dict):
        return {key: _slim(of) for key, of in value.items() if not isinstance(of, list) or key == "image_size"}
    return value


def _describe(environment: Mapping[str, Any]) -> dict[str, Any]:
    git, cpu, gpus, packages = (environment.get(key) or {} for key in ("git", "cpu", "gpus", "packages"))
    return {
        "commit": git.get("commit") if isinstance(git, dict) else None,
        "changed": bool(git.get("changed")) if isinstance(git, dict) else False,
        "hardware": str(gpus[0]) if gpus else (cpu.get("model") if isinstance(cpu, dict) else None),
        "version": packages.get("segrun") if isinstance(packages, dict) else None,
    }


# ---- the cache


def _read_cache(path: Path) -> tuple[list[str], dict[str, Any]]:
    value = recall(path)
    texts, runs = value.get("sections"), value.get("runs")
    if not isinstance(texts, list) or not isinstance(runs, dict):
        return [], {}
    fields = {"state", "reason", "results", "problem", "dates", "environment", "sections"}
    for entry in runs.values():
        sound = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict) and fields <= entry[1].keys()
        if not sound or not all(isinstance(n, int) and 0 <= n < len(texts) for n in entry[1]["sections"]):
            return [], {}
    return texts, runs
