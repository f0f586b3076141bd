"""Folders for what a verb finds, besides run directories."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from seg_cli.errors import UserError
from seg_cli.runs.run import numbered_names


def open_folder(kind: str, config: Mapping[str, Any]) -> Path:
    """``config["out"]``, which may exist, or else a new ``outputs/<kind>/<name>/<date>_<time>``.

    Jobs of a sweep have one each, with their number behind it.

    Raises:
        UserError: if it cannot be made.
    """
    hydra = HydraConfig.get()
    job = f"_{hydra.job.num}" if hydra.mode == RunMode.MULTIRUN else ""
    if config["out"]:
        folder, numbered = Path(config["out"] + job).expanduser(), False
    else:
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder, numbered = Path("outputs") / kind / config["name"] / f"{stamp}{job}", True
    for candidate in numbered_names(folder):
        try:
            candidate.mkdir(parents=True, exist_ok=not numbered)
            return candidate
        except FileExistsError:
            if not numbered:
                raise UserError(f"out={folder}: this is a file, and a folder is needed.") from None
        except OSError as error:
            raise UserError(f"out={folder}: the folder cannot be made ({error.strerror}).") from None
    raise UserError(f"{folder}: there are a thousand folders of this name and second already.")
