"""One trial of a search: a run like any other, that is told of to the study after every epoch."""

import gc
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import TrialState

from seg_cli.commands import fit_classical
from seg_cli.commands.composing import resolve
from seg_cli.commands.experiment import prepare
from seg_cli.commands.resume import directory_state, resume_run
from seg_cli.commands.train import carry_out, open_run
from seg_cli.commands.tune import composed
from seg_cli.commands.tune_report import trial_line
from seg_cli.config.explain import explain
from seg_cli.config.schema import validate
from seg_cli.config.search import CLASS_SCORES, COSTS, Objective
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import RunFailed, UserError
from seg_cli.models.classical import is_classical
from seg_cli.runs.run import Run
from seg_cli.runs.study import Study
from seg_cli.training.devices import make_fabric
from seg_cli.training.observer import observed
from seg_cli.training.quiet import quiet

if TYPE_CHECKING:
    import threading

    from seg_cli.commands.tune import Tuning


def run_trial(tuning: "Tuning", study: Study, trial: optuna.Trial) -> None:
    """Carry out a trial and tell the study how it went; one that fails does not raise.

    Raises:
        KeyboardInterrupt: if somebody asked for an end; the trial is given again, and goes on from its checkpoint.
        UserError: if an objective is no number of results.json.
    """
    drawn = study.draw(trial)
    overrides = [*tuning.base, *tuning.search.space.overrides(drawn)]
    print(f"\ntrial {trial.number}: {' '.join(tuning.search.space.overrides(drawn))}", flush=True)
    twin = study.twin(trial)
    if twin is not None and study.replace(trial):
        print(f"trial {trial.number}: dropped, the same as trial {twin.number}; one that was not tried takes its place")
        return
    if twin is not None:  # the same would come of it
        trial.set_user_attr("run", twin.user_attrs.get("run"))
        trial.set_user_attr("reason", f"the same as trial {twin.number}")
        if twin.state is TrialState.PRUNED:
            for epoch, value in twin.intermediate_values.items():
                trial.report(value, epoch)
        study.tell(trial, twin.state, twin.values if twin.state is TrialState.COMPLETE else None)
        print(trial_line(study, trial.number), flush=True)
        return
    try:
        with study.held(trial) as lost, composed(overrides, number=trial.number) as cfg:
            _carry_out(tuning, study, trial, cfg, lost)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(trial_line(study, trial.number), flush=True)


def _carry_out(tuning: "Tuning", study: Study, trial: optuna.Trial, cfg: DictConfig, lost: "threading.Event") -> None:
    watch = Watch(study, trial, lost, epochs=tuning.config["trainer"]["max_epochs"])
    try:
        with observed(watch):
            results = _train(tuning, trial, cfg, watch)
        values = [value_of(results, objective) for objective in tuning.search.objectives]
    except KeyboardInterrupt:
        if watch.pruned:
            trial.set_user_attr("reason", watch.pruned)
            _tidy(tuning, watch.run)
            study.tell(trial, TrialState.PRUNED)
        elif not lost.is_set():
            study.give_again(trial, "interrupted", counts=False)
            raise
    except NoSuchScore:
        study.tell(trial, TrialState.FAIL)
        raise
    except Exception as error:
        told = explain(error)
        if told is None:
            traceback.print_exception(error)
        reason = str(told) if told else f"{type(error).__name__}: {error}"
        print(f"error: {reason}", flush=True)
        trial.set_user_attr("reason", reason[:1000])
        study.tell(trial, TrialState.FAIL)
    else:
        _tidy(tuning, watch.run)
        study.tell(trial, TrialState.COMPLETE, values)


def _tidy(tuning: "Tuning", run: Run | None) -> None:
    """Remove the checkpoints from which a trial that has ended could go on; hundreds of trials would fill a disk."""
    if run is not None and not tuning.keep_last:
        for path in (run.last_checkpoint, run.previous_checkpoint):
            path.unlink(missing_ok=True)


def _train(tuning: "Tuning", trial: optuna.Trial, cfg: DictConfig, watch: "Watch") -> Mapping[str, Any]:
    """Train, or go on with the run of a worker that is gone; what results.json holds."""
    begun = trial.user_attrs.get("run")
    if begun is not None and (run := _go_on(Path(begun), watch)) is not None:
        return run.results
    quiet()
    if OmegaConf.select(cfg, "logger.wandb.group", default="none") is None:
        with open_dict(cfg):
            cfg.logger.wandb.group = tuning.name
    validate(cfg)
    config = resolve(cfg)
    if is_classical(config):  # which makes its run directory itself, under the name that any job gets
        folder = tuning.folder / f"{Path(HydraConfig.get().sweep.dir).name}_{trial.number}"
        fit_classical.run(config)
        trial.set_user_attr("run", str(folder))
        return Run.open(folder).results
    experiment = prepare(config)
    run = open_run(config)
    trial.set_user_attr("run", str(run.folder))
    watch.run = run
    fabric = make_fabric(experiment.config["trainer"], experiment.device, thaws=experiment.thaws)
    directory = Run(fabric.broadcast(run.folder))
    carry_out(experiment, directory, fabric, checkpoint=None)
    return directory.results


def _go_on(folder: Path, watch: "Watch") -> Run | None:
    """The run of an earlier try, when it has come to its end; None if there is nothing to go on with."""
    try:
        run = Run.open(folder)
        if directory_state(run) != "finished":
            if not run.last_checkpoint.exists():
                return None
            if (run.folder / "metrics.csv").exists():
                for row in run.metrics:
                    watch.report(int(row["epoch"] or 0), row.get("val/miou"))
            watch.trial.set_user_attr("run", str(folder))
            watch.run = run
            resume_run(run)
    except UserError as error:
        print(f"note: {error} The trial begins anew.", flush=True)
        return None
    return run


class Watch:
    """Tells the study of every epoch, and ends a trial that is to be pruned or was taken away.

    Attributes:
        pruned: why it was pruned; empty if it was not.
        run: its run directory, once there is one.
    """

    def __init__(self, study: Study, trial: optuna.Trial, lost: "threading.Event", *, epochs: int) -> None:
        self.trial, self.pruned = trial, ""
        self.run: Run | None = None
        self._study, self._lost, self._epochs = study, lost, epochs

    def __call__(self, epoch: int, scores: Mapping[str, float]) -> str | None:
        if self._lost.is_set():
            return "another worker took this trial over, because this one was not heard of"
        if not self.report(epoch, scores.get("val/miou")) or epoch >= self._epochs:
            return None
        if self.trial.should_prune():
            self.pruned = f"pruned by {self._study.search.pruner.name} after epoch {epoch}"
        return self.pruned or None

    def report(self, epoch: int, miou: float | None) -> bool:
        """Tell the study of a score; whether there was something to tell."""
        if miou is None or len(self._study.search.objectives) > 1:
            return False
        self.trial.report(miou, epoch)
        return True


class NoSuchScore(UserError):
    """An objective that no run of this search can have, so that there is no use in another trial."""


def value_of(results: Mapping[str, Any], objective: Objective) -> float:
    """An objective's value: a score on val, or a cost.

    Raises:
        NoSuchScore: if results.json has no such number.
        RunFailed: if it is not defined for this run.
    """
    name = objective.name
    if name in COSTS:
        found = results["cost"].get(name)
    elif name.partition(":")[0] in CLASS_SCORES and ":" in name:
        score, _, wanted = name.partition(":")
        classes = results["splits"]["val"]["classes"]
        if wanted not in classes:
            raise NoSuchScore(
                f"sweep.objectives: there is no class '{wanted}'.{did_you_mean(wanted, classes)} Classes: "
                f"{', '.join(classes)}."
            )
        found = classes[wanted][score]
    else:
        found = results["splits"]["val"]
        for key in name.split("."):
            if not isinstance(found, Mapping) or key not in found:
                known = ", ".join(found) if isinstance(found, Mapping) else "a number"
                raise NoSuchScore(
                    f"sweep.objectives: results.json has no '{name}' below val; instead of '{key}' there is: {known}."
                )
            found = found[key]
        if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
            raise NoSuchScore(f"sweep.objectives: '{name}' of results.json is no number.")
    if found is None or not math.isfinite(found):
        raise RunFailed(f"{name} is {'not defined' if found is None else found} for this run.")
    return float(found)
