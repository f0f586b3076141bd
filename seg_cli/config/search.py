"""What a search is asked for: the section ``sweep`` of ``segrun tune``, checked before anything is loaded or run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seg_cli.config.space import Space, written
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "grid": "RandomSampler",  # all combinations are put into the queue beforehand, and nothing is left to draw
}
"""What ``sweep.sampler`` may be, and the class of Optuna behind it."""

PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "threshold": "ThresholdPruner",
}
"""What ``sweep.pruner`` may be, and the class of Optuna behind it."""

SCORES = ("miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "fw_iou")
CLASS_SCORES = ("iou", "dice", "precision", "recall")
COSTS = {
    "images_per_second": "maximize",
    "train_seconds": "minimize",
    "parameters": "minimize",
    "flops": "minimize",
    "peak_memory_bytes": "minimize",
}
"""Objectives of ``results.json: cost``, and which way each is better."""

_KEYS = ("space", "objectives", "trials", "failures", "sampler", "pruner", "settings")
_DIRECTIONS = ("maximize", "minimize")
_GRID = 10_000  # points


@dataclass(frozen=True)
class Objective:
    """A number of results.json, and which way it is better.

    Attributes:
        name: a score on val as ``miou``, ``iou:Car`` or ``boundary.iou.mean``, or a cost as ``images_per_second``.
        direction: ``maximize`` or ``minimize``.
    """

    name: str
    direction: str


@dataclass(frozen=True)
class Tool:
    """A sampler or a pruner: its name here, and its own settings."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """A search as it is asked for.

    Attributes:
        space: what is drawn.
        objectives: what is to become better; several give a Pareto front.
        trials: how many are to be finished.
        failures: after how many failed ones the search gives up.
        sampler, pruner: how values are chosen, and trials without a chance ended.
        settings: overrides under which trials run, where the command line does not say otherwise.
    """

    space: Space
    objectives: tuple[Objective, ...]
    trials: int
    failures: int
    sampler: Tool
    pruner: Tool
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> "Search":
        """Read the section ``sweep``, as plain values.

        Raises:
            UserError: for an unknown key, a value that is not allowed, and parts that do not go together.
        """
        for key in section:
            if key not in _KEYS:
                raise UserError(
                    f"sweep.{key}: there is no such key.{did_you_mean(str(key), _KEYS)} Keys: {', '.join(_KEYS)}."
                )
        for key in ("space", "objectives", "trials"):
            if key not in section:
                raise UserError(f"sweep.{key}: the sweep does not have it. Keys: {', '.join(_KEYS)}.")
        objectives = _objectives(section["objectives"])
        search = cls(
            space=Space.parse(section["space"]),
            objectives=objectives,
            trials=_count(section["trials"], "sweep.trials"),
            failures=_count(section.get("failures", 10), "sweep.failures"),
            sampler=_tool(section.get("sampler", "tpe"), SAMPLERS, "sweep.sampler"),
            pruner=_tool(section.get("pruner", "none"), PRUNERS, "sweep.pruner"),
            settings=_settings(section.get("settings", [])),
        )
        if len(objectives) > 1 and search.pruner.name != "none":
            raise UserError(
                f"sweep.pruner={search.pruner.name}: there are {len(objectives)} objectives, and a trial is pruned "
                "by one only. Type sweep.pruner=none."
            )
        if search.pruner.name != "none" and objectives[0].name != "miou":
            raise UserError(
                f"sweep.pruner={search.pruner.name}: trials are pruned by val/miou of each epoch, and the objective is "
                f"{objectives[0].name}. Type sweep.pruner=none."
            )
        if search.sampler.name == "grid" and search.space.count() > _GRID:
            raise UserError(
                f"sweep.sampler=grid: the space has {search.space.count():.0f} points, and a grid at most {_GRID}. "
                "Give ranges a step, or choose another sampler."
            )
        return search


def _objectives(value: Any) -> tuple[Objective, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise UserError("sweep.objectives: there are none. Write one, as in [miou].")
    found = tuple(_objective(item) for item in items)
    names = [objective.name for objective in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"sweep.objectives: {name} stands there twice.")
    return found


def _objective(item: Any) -> Objective:
    settings = item if isinstance(item, Mapping) else {"name": item}
    for key in settings:
        if key not in ("name", "direction"):
            said = did_you_mean(str(key), ("name", "direction"))
            raise UserError(f"sweep.objectives: an objective has no key '{key}'.{said} Keys: name, direction.")
    name = settings.get("name")
    classes = [f"{score}:CLASS" for score in CLASS_SCORES]
    known = (*SCORES, *COSTS)
    nested = isinstance(name, str) and ((name.partition(":")[0] in CLASS_SCORES and ":" in name) or "." in name)
    if not isinstance(name, str) or (name not in known and not nested):
        raise UserError(
            f"sweep.objectives: there is no score '{written(name)}'.{did_you_mean(str(name), known)} Scores: "
            f"{', '.join((*known, *classes))}, or a number of results.json below val, as in boundary.iou.mean."
        )
    direction = settings.get("direction", COSTS.get(name, "maximize"))
    if direction not in _DIRECTIONS:
        raise UserError(
            f"sweep.objectives: the direction of {name} is {written(direction)}. It must be maximize or minimize."
            f"{did_you_mean(str(direction), _DIRECTIONS)}"
        )
    return Objective(name, direction)


def _count(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={written(value)}: it must be a whole number >= 1.")
    return value


def _tool(value: Any, known: Mapping[str, str], key: str) -> Tool:
    settings = dict(value) if isinstance(value, Mapping) else {"name": "none" if value is None else value}
    name = settings.pop("name", None)
    if name not in known:
        raise UserError(
            f"{key}={written(name)}: there is no such {key.rpartition('.')[2]}.{did_you_mean(str(name), known)} There "
            f"are: {', '.join(known)}; with settings as in {key}={{name: {next(iter(known))}, SETTING: VALUE}}."
        )
    return Tool(name, settings)


def _settings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and "=" in item for item in value):
        raise UserError(
            f"sweep.settings={written(value)}: it must be a list of overrides, as in [trainer.max_epochs=3, loss=dice]."
        )
    return tuple(value)
