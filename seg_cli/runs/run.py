"""The run directory: made, written and read here and nowhere else. Its contract stands in docs/run-directory.md."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from seg_cli.config.secrets import without_secrets
from seg_cli.config.yaml_text import to_yaml
from seg_cli.errors import UserError
from seg_cli.runs.atomic import write_json, write_text

State = Literal["running", "finished", "failed", "interrupted"]

SCHEMA = 1
"""Of results.json; raised when a reader of the old form would misunderstand the new one."""


@dataclass(frozen=True)
class Run:
    """A run directory and what is in it.

    Every reader raises UserError naming the file if it is missing or damaged.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path, *, numbered: bool) -> "Run":
        """Make a new run directory.

        Args:
            folder: where.
            numbered: if the folder exists, take ``folder-2``, ``folder-3`` and so on, instead of refusing.

        Raises:
            UserError: if the folder exists or cannot be made. A run is never written over another.
        """
        run = cls(_new_folder(folder, numbered))
        for name in ("checkpoints", "figures"):
            (run.folder / name).mkdir()
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """A run directory that exists. Raises UserError if it is not one."""
        path = Path(folder).expanduser()
        if not (path / "config.yaml").is_file():
            what = "is not a run directory (it has no config.yaml)" if path.is_dir() else "does not exist"
            raise UserError(f"run={folder}: {path.absolute()} {what}. Runs are kept in outputs/<name>/<date>_<time>.")
        return cls(path)

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "previous.ckpt"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    def new_evaluation(self, name: str | None = None) -> "Run":
        """A new folder in ``eval/``, for results.json and per_image.csv of another scoring of this run.

        Args:
            name: of the folder, which must be new; None takes the time.

        Raises:
            UserError: if there are scores of that name.
        """
        self.check_evaluation(name)
        name = name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return Run(_new_folder(self.folder / "eval" / name, numbered=True))

    def check_evaluation(self, name: str | None) -> None:
        """Raises UserError if there are scores of that name already."""
        if name is not None and (self.folder / "eval" / name).exists():
            raise UserError(f"name={name}: {self.folder / 'eval' / name} has scores already. Choose another name.")

    # ---- writing

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml. A secret among the settings stays out of it, see ``without_secrets``."""
        write_text(self.folder / "config.yaml", to_yaml(without_secrets(config, os.environ)))

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_json(self.folder / "environment.json", environment)

    def write_status(
        self,
        state: State,
        *,
        reason: str | None = None,
        epoch: int | None = None,
        step: int | None = None,
        process: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Update status.json.

        Args:
            state: what the run is now.
            reason: why it failed or was interrupted.
            epoch, step: how many are done; None keeps what was written before.
            process: who runs it, see ``describe_runner``; None keeps what was written before.
            fingerprint: of what was asked for; None keeps what was written before.
        """
        path = self.folder / "status.json"
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        before = self.status if path.is_file() else {"epoch": 0, "step": 0, "started": now}
        done = {
            "epoch": before["epoch"] if epoch is None else epoch,
            "step": before["step"] if step is None else step,
        }
        ended = None if state == "running" else now
        runner: Any = process or before.get("process")
        who = {"process": dict(runner)} if runner else {}
        asked = fingerprint or before.get("fingerprint")
        what = {"fingerprint": asked} if asked else {}
        times = {"started": before["started"], "ended": ended}
        write_json(path, {"state": state, "reason": reason, **done, **times, **what, **who})

    def write_metrics(self, rows: list[dict[str, float | None]]) -> None:
        """Write metrics.csv, one row an epoch; columns are all keys of all rows, empty where a row has none."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_text(self.folder / "metrics.csv", _to_csv(columns, ([row.get(key) for key in columns] for row in rows)))

    def write_class_weights(self, weights: Mapping[str, Any]) -> None:
        write_json(self.folder / "class_weights.json", weights)

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.folder / "results.json", results)

    def write_per_image(self, columns: list[str], rows: Iterable[list[Any]]) -> None:
        write_text(self.folder / "per_image.csv", _to_csv(columns, rows))

    # ---- reading

    @cached_property
    def config(self) -> DictConfig:
        """The composed, resolved configuration."""
        path = self.folder / "config.yaml"
        try:
            config = OmegaConf.load(path)
            OmegaConf.resolve(config)  # for secrets it has the names of environment variables
        except InterpolationResolutionError:
            named = re.findall(r"\$\{oc\.env:([^}]+)\}", path.read_text(encoding="utf-8"))
            missing = ", ".join(dict.fromkeys(name for name in named if name not in os.environ)) or "unknown"
            raise UserError(
                f"{path}: it takes secrets from environment variables that are not set: {missing}. Set them as they "
                "were when the run was made."
            ) from None
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{path}: the file cannot be read ({error}).") from None
        if not isinstance(config, DictConfig) or "model" not in config:
            raise UserError(f"{path}: this is not the configuration of a run.")
        return config

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json: what it ran on, and under ``resumed`` what was different later."""
        return self._read_json("environment.json")

    @property
    def status(self) -> dict[str, Any]:
        """status.json: state, reason, epochs and steps done, times, and who runs it."""
        return self._read_json("status.json")

    @property
    def class_weights(self) -> dict[str, Any]:
        """The weights of the classes in the loss. Raises UserError for a run whose loss has none."""
        return self._read_json("class_weights.json")

    @property
    def results(self) -> dict[str, Any]:
        """The final numbers. Raises UserError for a run that has none, or one of a schema newer than this program."""
        results = self._read_json("results.json")
        if results.get("schema") != SCHEMA:
            raise UserError(
                f"{self.folder / 'results.json'}: written with schema {results.get('schema')}, and this version of "
                f"segrun reads {SCHEMA}."
            )
        return results

    @property
    def metrics(self) -> list[dict[str, float | None]]:
        """metrics.csv: one dict an epoch, None where the epoch has no value."""
        rows = self._read_csv("metrics.csv")
        try:
            return [{key: float(value) if value else None for key, value in row.items()} for row in rows]
        except (TypeError, ValueError):  # a row longer than the header gives a list
            raise UserError(f"{self.folder / 'metrics.csv'}: the file is damaged (not all of it is numbers).") from None

    @property
    def per_image(self) -> list[dict[str, str]]:
        """per_image.csv as it is, one dict a row."""
        return self._read_csv("per_image.csv")

    def _read_csv(self, name: str) -> list[dict[str, str]]:
        path = self.folder / name
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: the file cannot be read ({error}).") from None

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            state = "" if name == "status.json" else f" The run's state is '{self._state()}'."
            raise UserError(f"{path}: this run has no {name}.{state}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: the file is damaged ({error}).") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}: the file is damaged (it holds no JSON object).")
        return value

    def _state(self) -> str:
        try:
            return str(self.status.get("state", "unknown"))
        except UserError:
            return "unknown"


def numbered_names(folder: Path) -> Iterator[Path]:
    """``folder``, ``folder-2``, ``folder-3`` and so on, up to a thousand of what begins in one second."""
    yield folder
    yield from (folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))


def _new_folder(folder: Path, numbered: bool) -> Path:
    for candidate in numbered_names(folder):
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            if not numbered:
                raise UserError(
                    f"run_dir={folder}: this folder exists already, and a run is never written over another. "
                    "Choose a new folder, or leave run_dir out."
                ) from None
        except OSError as error:
            where = f"{folder}" if numbered else f"run_dir={folder}"  # chosen by us, or by the user
            raise UserError(
                f"{where}: the folder cannot be made ({error.strerror}). Work in a folder that you may write to, or "
                "type run_dir=DIR."
            ) from None
    raise UserError(f"{folder}: there are a thousand runs of this name and second already.")


def _to_csv(columns: list[str], rows: Iterable[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
