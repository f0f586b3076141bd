"""What a sweep (``segrun -m``) tells its user: one line a job, with what the job varies."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig

from seg_cli.config.secrets import mask_secrets

MATRIX = "hydra_plugins.segrun.Matrix"
"""What the sweeper of ``segrun -m`` is called. Hydra takes plugins from a namespace of its own alone."""

ORDER = "order.json"
"""In the folder of a matrix: the jobs that a launcher's numbers 0, 1, ... mean."""

_IN_FULL = (f"{BasicSweeper.__module__}.{BasicSweeper.__name__}", MATRIX)


class JobLines(Callback):
    """Prints ``job 2 of 6: model=fpn loss=ce`` when a job of a sweep starts.

    Hydra hands a copy of it to the workers of every launcher, so the number of jobs is known there too. Other
    sweepers than Hydra's own decide on the next job as they go; then the number of jobs is left out.
    """

    def __init__(self) -> None:
        self._jobs = 0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        # So that hydra.sweep.dir can hold ${name}, which asks Hydra for the choice of data.
        HydraConfig.instance().set_config(config)
        if config.hydra.sweeper._target_ in _IN_FULL:
            params = (config.hydra.sweeper.params or {}).items()
            self._jobs = count_jobs([*(f"{key}={as_values(value)}" for key, value in params), *_overrides(config)])

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
            return
        of_all = f" of {self._jobs}" if self._jobs else ""
        number = job_number(Path(config.hydra.sweep.dir), config.hydra.job.num)
        print(f"job {number + 1}{of_all}: {mask_secrets(' '.join(_overrides(config)))}", flush=True)


def as_values(value: object) -> str:
    """Values of ``hydra.sweeper.params`` as on the command line: a list means several."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple | ListConfig) else str(value)


def count_jobs(overrides: Sequence[str]) -> int:
    """How many jobs Hydra's own sweeper makes of these overrides."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return len(list(chain.from_iterable(BasicSweeper.split_arguments(parsed, max_batch_size=None))))


def job_number(folder: Path, number: int) -> int:
    """The job that a launcher's number means, which is only given those that are to be done; from 0.

    Args:
        folder: of the matrix, ``hydra.sweep.dir``.
        number: the launcher's; it is the job's where nothing else is said.
    """
    try:
        return int(json.loads((folder / ORDER).read_text(encoding="utf-8"))[number])
    except (OSError, ValueError, IndexError, TypeError, KeyError):
        return number


def _overrides(config: DictConfig) -> list[str]:
    return [str(override) for override in config.hydra.overrides.task]
