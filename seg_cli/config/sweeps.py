"""What a sweep (``segrun -m``) tells its user: one line a job, with what the job varies."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"


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
        if config.hydra.sweeper._target_ == _BASIC_SWEEPER:
            params = (config.hydra.sweeper.params or {}).items()
            self._jobs = count_jobs([*(f"{key}={value}" for key, value in params), *_overrides(config)])

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
            return
        of_all = f" of {self._jobs}" if self._jobs else ""
        print(f"job {config.hydra.job.num + 1}{of_all}: {' '.join(_overrides(config))}", flush=True)


def count_jobs(overrides: Sequence[str]) -> int:
    """How many jobs Hydra's own sweeper makes of these overrides."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return len(list(chain.from_iterable(BasicSweeper.split_arguments(parsed, max_batch_size=None))))


def _overrides(config: DictConfig) -> list[str]:
    return [str(override) for override in config.hydra.overrides.task]
