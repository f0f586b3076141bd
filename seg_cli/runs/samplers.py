"""How a search chooses values, and which trials it ends early: Optuna's samplers and pruners by our names."""

import importlib.util
import inspect
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from seg_cli.config.search import PRUNERS, SAMPLERS, Tool
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError

_PLAIN = ("int", "float", "bool", "str")
_STEADY = ("qmc",)  # samplers whose draws belong to one sequence, that of one seed
_NEEDS = {"cmaes": "cmaes", "gp": "scipy", "qmc": "scipy"}


def make_sampler(tool: Tool, *, seed: int) -> BaseSampler:
    """The sampler of a search.

    Args:
        tool: which, and its settings.
        seed: of the search. What a trial draws follows from it, from the trial's number and from the trials that are
            finished, not from which worker draws, nor from how often the search was interrupted.

    Raises:
        UserError: for a setting that the sampler does not have, or a package that it needs.
    """
    made: Any = PlainCmaEs if tool.name == "cmaes" else getattr(optuna.samplers, SAMPLERS[tool.name])
    settings = _checked(tool, made, "sweep.sampler")
    package = _NEEDS.get(tool.name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(
            f"sweep.sampler={tool.name}: it needs a package that is not installed. Type: pip install {package}"
        )
    warns = inspect.signature(made).parameters.get("warn_independent_sampling")
    quiet = {"warn_independent_sampling": False} if warns is not None and warns.default is True else {}

    def make(seed: int) -> BaseSampler:
        sampler: BaseSampler = made(**quiet, **settings, seed=seed)
        return sampler

    _try(lambda: make(seed), tool, "sweep.sampler")
    return make(seed) if tool.name in _STEADY else SeededByTrial(make, seed)


def make_pruner(tool: Tool, *, epochs: int) -> BasePruner:
    """The pruner of a search.

    Args:
        tool: which, and its settings.
        epochs: of a whole training; hyperband's ``max_resource`` unless it is given.

    Raises:
        UserError: for a setting that the pruner does not have, or needs.
    """
    made = getattr(optuna.pruners, PRUNERS[tool.name])
    settings = _checked(tool, made, "sweep.pruner")
    if tool.name == "hyperband":
        settings = {"max_resource": epochs} | settings
    pruner: BasePruner = _try(lambda: made(**settings), tool, "sweep.pruner")
    return pruner


class PlainCmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's CMA-ES, which takes its state from the storage as it left it there, and executes nothing in its place.

    Optuna keeps that state as a pickle among the attributes of trials, and a storage may be somebody else's file.
    """

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {
                key: value for key, value in trial.system_attrs.items() if key.startswith(self._attr_key_optimizer)
            }
            if parts:
                return unpickled(bytes.fromhex(self._concat_optimizer_attrs(parts)))
        return None


class _Plain(pickle.Unpickler):
    """Makes the objects of cmaes and NumPy that such a state holds, and none else."""

    def find_class(self, module: str, name: str) -> Any:
        package, _, rest = module.partition(".")
        if package == "cmaes" and name in ("CMA", "SepCMA", "CMAwM"):
            return super().find_class(module, name)
        if package == "numpy" and (rest.partition(".")[0], name) in _OF_NUMPY:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # how bytes are written in an old form
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


_OF_NUMPY = {
    *(("", "ndarray"), ("", "dtype")),
    *((core, name) for core in ("core", "_core") for name in ("_reconstruct", "scalar", "_frombuffer")),
    *(("random", name) for name in ("__randomstate_ctor", "__bit_generator_ctor", "MT19937")),
}


def unpickled(state: bytes) -> Any:
    """The state of a CMA-ES.

    Raises:
        UserError: if it holds anything but the numbers of one.
    """
    try:
        return _Plain(io.BytesIO(state)).load()
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(
            f"storage: the state of sweep.sampler=cmaes in it is not one that a search has left ({error}). Choose "
            "another storage or name."
        ) from None


class SeededByTrial(BaseSampler):
    """A sampler that begins anew with each trial, with a seed that follows from the trial's number.

    Args:
        make: seed -> sampler.
        seed: of the search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._number, self._sampler = -1, make(seed)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            self._number, self._sampler = trial.number, self._make(seed)
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial).after_trial(study, trial, state, values)


def _checked(tool: Tool, made: type, key: str) -> dict[str, Any]:
    allowed = _settings(made)
    for name in tool.settings:
        if name not in allowed:
            listed = f"Settings: {', '.join(allowed)}." if allowed else "It has none."
            raise UserError(
                f"{key}.{name}: {tool.name} has no such setting.{did_you_mean(str(name), allowed)} {listed}"
            )
    return dict(tool.settings)


def _settings(made: type) -> list[str]:
    """The settings of a class that are plain values and no objects."""
    found = inspect.signature(made).parameters.values()
    plain = [p.name for p in found if {word.strip() for word in str(p.annotation).split("|")} & {*_PLAIN, *_CLASSES}]
    return [name for name in plain if name != "seed"]


_CLASSES = tuple(f"<class '{name}'>" for name in _PLAIN)  # how annotations read that are no text


def _try(make: Callable[[], Any], tool: Tool, key: str) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).replace(
            f"{SAMPLERS.get(tool.name) or PRUNERS[tool.name]}.__init__() ", ""
        )
        raise UserError(f"{key}={tool.name}: {reason}.".replace("..", ".")) from None
