"""What a search says and leaves behind: lines about trials, a table, pictures, and the best as an experiment."""

import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from seg_cli.commands.next_step import own_choices
from seg_cli.config.secrets import mask_secrets, without_secrets
from seg_cli.config.space import override
from seg_cli.reports.search import SHOWN, Trial, ranked, search_csv, search_table
from seg_cli.runs.atomic import write_text
from seg_cli.runs.storage import without_password
from seg_cli.runs.study import FINISHED, Study

if TYPE_CHECKING:
    from seg_cli.commands.tune import Tuning

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def opening(tuning: "Tuning", study: Study) -> str:
    """What is going to happen."""
    search = tuning.search
    goals = ", ".join(f"{objective.name} ({objective.direction})" for objective in search.objectives)
    names = ", ".join(parameter.name for parameter in search.space.parameters)
    workers = f"{tuning.workers} worker{'s' * (tuning.workers > 1)}"
    done = f", {len(study.finished)} of them finished already" if study.finished else ""
    common = shlex.join(mask_secrets(text) for text in (*own_choices(), *tuning.base))
    return (
        f"study {tuning.name}: {study.budget} trials{done}, {workers}, sampler {search.sampler.name}, pruner "
        f"{search.pruner.name}\nobjectives: {goals}; parameters: {names}\n"
        f"all trials: segrun {common}\nstorage: {without_password(tuning.storage)}"
    )


def trial_line(study: Study, number: int) -> str:
    """How a trial went, and how the search stands."""
    trial = study.trials()[number]
    names = [objective.name for objective in study.search.objectives]
    said = "given again" if "lost" in trial.user_attrs else _STATES.get(trial.state, "given back")
    if trial.state is TrialState.COMPLETE:
        said = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, trial.values, strict=True))
    note = trial.user_attrs.get("reason", "")
    best = [other for other in _best(study) if len(names) == 1]
    stands = f"best {best[0].value:.4g} in trial {best[0].number}, " if best else ""
    line = f"trial {number}: {said}{f' ({note})' if note else ''}; "
    return f"{line}{stands}{len(study.finished)} of {study.budget} finished"


def announce(tuning: "Tuning", study: Study) -> Callable[[], None]:
    """A function that says a line on each trial that ended since it was called last."""
    known = {trial.number for trial in study.trials(*FINISHED, TrialState.FAIL)}

    def say() -> None:
        for trial in study.trials(*FINISHED, TrialState.FAIL):
            if trial.number not in known:
                known.add(trial.number)
                drawn = " ".join(tuning.search.space.overrides(trial.user_attrs.get("drawn", {})))
                print(f"{trial_line(study, trial.number)} · {drawn}", flush=True)

    return say


def conclude(tuning: "Tuning", study: Study) -> str:
    """Write the table, the pictures and the best as files; returns where they are, and what to type next.

    The table itself goes to the terminal here.
    """
    trials = summarise(study)
    if not any(trial.state == "complete" for trial in trials):
        return f"no trial of {tuning.name} is complete yet, so that there is no best one"
    objectives = [objective.name for objective in tuning.search.objectives]
    parameters = [parameter.name for parameter in tuning.search.space.parameters]
    folder = tuning.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "trials.csv", search_csv(trials, objectives, parameters))
    shares = draw(study, trials, folder / "figures")
    order = ranked(trials, maximize=tuning.search.objectives[0].direction == "maximize")
    front = [trial for trial in order if trial.best]
    for trial in front:
        write_experiment(tuning, trial, folder / "experiment" / f"trial_{trial.number}.yaml", f"trial_{trial.number}")
    write_experiment(tuning, front[0], folder / "experiment" / "best.yaml", "best")
    write_experiment(tuning, front[0], folder / "best.yaml", "best")

    console = Console(soft_wrap=False)
    console.print()
    console.print(search_table(order, objectives, parameters))
    more = [f"{len(trials) - SHOWN} more trials are in {folder / 'trials.csv'}"] if len(trials) > SHOWN else []
    if shares:
        more.append("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
    if len(objectives) > 1:
        numbers = ", ".join(str(trial.number) for trial in front)
        more.append(f"best in one objective or the other: trials {numbers}, as experiment=trial_{front[0].number} etc.")
    own = [of.path for of in HydraConfig.get().runtime.config_sources if of.provider == "command-line"]
    there = f" 'hydra.searchpath=[{','.join(f'file://{path}' for path in own)}]'" if own else ""
    return "\n".join(
        [
            *more,
            f"written: {folder / 'best.yaml'}, trials.csv, figures/",
            f"best  {front[0].run}",
            f"next  segrun --config-dir {folder} experiment=best{there}",
        ]
    )


def summarise(study: Study) -> list[Trial]:
    """The trials in the order of their numbers, without those that were given again."""
    best = {trial.number for trial in _best(study)}
    found = []
    for trial in study.trials():
        if trial.state not in _STATES or "lost" in trial.user_attrs:
            continue
        seconds = trial.duration.total_seconds() if trial.duration else None
        found.append(
            Trial(
                number=trial.number,
                state=_STATES[trial.state],
                values=tuple(trial.values) if trial.state is TrialState.COMPLETE else None,
                best=trial.number in best,
                drawn=dict(trial.user_attrs.get("drawn", {})),
                epochs=tuple(sorted(trial.intermediate_values.items())),
                seconds=seconds,
                run=str(trial.user_attrs.get("run") or ""),
                note=str(trial.user_attrs.get("reason", "")),
            )
        )
    return found


def draw(study: Study, trials: list[Trial], folder: Path) -> dict[str, float]:
    """Draw history, slices, importance and, of several objectives, the Pareto front; returns the importances."""
    from seg_cli.reports import figures_tune

    search = study.search
    folder.mkdir(parents=True, exist_ok=True)
    names = [objective.name for objective in search.objectives]
    maximize = [objective.direction == "maximize" for objective in search.objectives]
    figures_tune.history(trials, names, maximize, folder / "history.png")
    sources = {of.name: of.source for of in search.space.parameters}
    figures_tune.slices(trials, names[0], sources, folder / "slices.png")
    shares = importances(study)
    if shares:
        figures_tune.importance(shares, names[0], folder / "importance.png")
    if len(names) > 1:
        figures_tune.pareto(trials, names, folder / "pareto.png")
    return shares


def importances(study: Study) -> dict[str, float]:
    """Which share of the first objective's variance each parameter explains (fANOVA: Hutter 2014).

    Those that all complete trials have are looked at. Empty where there is too little to tell: fewer than four
    trials, all with the same value, or one parameter.
    """
    import optuna

    complete = study.trials(TrialState.COMPLETE)
    common = [of.name for of in study.search.space.parameters if all(of.name in trial.params for trial in complete)]
    if len(complete) < 4 or len(common) < 2 or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found: dict[str, float] = {}
    with suppress(ValueError, RuntimeError):  # a parameter that had one value in all trials
        found = optuna.importance.get_param_importances(
            study.optuna, evaluator=evaluator, params=common, target=lambda trial: trial.values[0]
        )
    return found


def write_experiment(tuning: "Tuning", trial: Trial, path: Path, name: str) -> None:
    """Write an experiment file that makes the run of a trial again."""
    content = experiment([*tuning.base, *tuning.search.space.overrides(trial.drawn)], name=f"{tuning.name}_{name}")
    values = ", ".join(
        f"{of.name} {value:.6g}" for of, value in zip(tuning.search.objectives, trial.values or (), strict=True)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# @package _global_\n# Trial {trial.number} of the study {tuning.name}: {values}\n"
    content = without_secrets(content, os.environ)
    write_text(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def experiment(overrides: list[str], *, name: str) -> dict[str, Any]:
    """The content of an experiment file that says what overrides of a training say, those of its experiment included.

    It names the choices that are not the default ones, and the settings that do not follow from the choices.
    """
    usual, _ = _composed([])
    chosen, wanted = _composed(overrides)
    chosen = {group: choice for group, choice in chosen.items() if group not in ("experiment", "benchmark")}
    _, follows = _composed([override(group, choice) for group, choice in chosen.items()])
    others = [{f"override /{group}": choice} for group, choice in chosen.items() if usual.get(group) != choice]
    settings = _beyond(wanted, follows)
    return {"defaults": [*others, "_self_"], **settings, "name": name}


def _composed(overrides: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The choices that overrides of a training make, and its config with references as they are written."""
    from seg_cli.commands.tune import composed

    with composed(overrides) as cfg:
        chosen = HydraConfig.get().runtime.choices
        choices = {group: choice for group, choice in chosen.items() if choice and not group.startswith("hydra/")}
        return dict(reversed(choices.items())), cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def _beyond(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be set for ``given`` to become ``wanted``."""
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            below = _beyond(value, given[key])
            found |= {key: below} if below else {}
        elif key not in given or value != given[key]:
            found[key] = value
    return found


def _best(study: Study) -> list[FrozenTrial]:
    """The trials that no other one beats: in one objective the first with the best value."""
    if not study.trials(TrialState.COMPLETE):
        return []
    if len(study.search.objectives) > 1:
        return list(study.optuna.best_trials)
    return [study.optuna.best_trial]
