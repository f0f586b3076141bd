"""``segrun tune sweep=NAME``: search for settings, with as many workers as there are machines for.

The trials lie in a storage that all workers share, see ``runs/study.py``; whoever types the same command, here or
elsewhere, is one more worker, and goes on with what there is. Each trial is a run like any other, in outputs/<name>/.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from seg_cli.commands.tune_workers import BASIC, at_work, is_orphan, is_worker, launch, start_here, take_gpus
from seg_cli.config.explain import explain
from seg_cli.config.schema import validate
from seg_cli.config.search import Search
from seg_cli.errors import RunFailed, UserError
from seg_cli.training.signals import obey_at_once

if TYPE_CHECKING:
    from seg_cli.runs.study import Study

_OWN = ("sweep", "workers", "storage", "keep_last", "name")
"""Keys of conf/tune.yaml that no training has, and the one that it is given."""

_ROUNDS = 3  # of workers that end without having done anything
_LOOK_EVERY = 1.0  # seconds
_GRACE = 20  # looks, within which workers end that have nothing to do


@dataclass(frozen=True)
class Tuning:
    """A search on this command line.

    Attributes:
        name: of the study.
        search: what is asked for.
        base: overrides that all trials have in common.
        config: of a training with these alone.
        storage: where the trials are kept.
        workers: how many.
        keep_last: whether the checkpoints stay from which ended trials can be trained longer.
    """

    name: str
    search: Search
    base: tuple[str, ...]
    config: dict[str, Any]
    storage: str
    workers: int
    keep_last: bool

    @property
    def folder(self) -> Path:
        return Path("outputs") / self.name

    def open(self) -> "Study":
        """The study; raises UserError if it cannot be reached, or is another one."""
        from seg_cli.commands.resume import differences
        from seg_cli.runs.storage import open_storage, without_password
        from seg_cli.runs.study import Study

        epochs = self.config["trainer"]["max_epochs"]
        storage = open_storage(self.storage)
        study = Study(self.name, storage, self.search, seed=self.config["seed"], epochs=epochs)
        common = {key: value for key, (_, value) in differences({}, self.config).items()}
        about = {
            "space": self.search.space.describe(),
            "objectives": {objective.name: objective.direction for objective in self.search.objectives},
            "base": common,
        }
        study.identify(about, place=without_password(self.storage))
        return study


def run(cfg: DictConfig) -> None:
    """Search until as many trials are finished as were asked for.

    Raises:
        UserError: for a search that cannot be made as asked for; before anything runs.
        RunFailed: if too many trials failed.
    """
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        raise UserError("-m: segrun tune starts its trials itself, without -m. Type workers=4 for four at a time.")
    if importlib.util.find_spec("optuna") is None:
        raise UserError("segrun tune: Optuna is not installed. Type: pip install 'segrun[tune]'")
    tuning = read(cfg)
    if is_worker():
        take_gpus(tuning.config["trainer"]["devices"])
        return _work(tuning, waits=False)
    check_space(tuning)
    study = tuning.open()
    study.fill()

    from seg_cli.commands.tune_report import announce, conclude, opening

    print(opening(tuning, study), flush=True)
    launcher = HydraConfig.get().launcher._target_
    try:
        with obey_at_once():
            if study.done:
                pass
            elif tuning.workers == 1 and launcher == BASIC:
                _work(tuning, waits=True)
            else:
                start = start_here if launcher == BASIC else partial(launch, worker)
                _in_rounds(tuning, study, start, announce(tuning, study))
    except KeyboardInterrupt as interrupt:
        interrupt.__notes__ = ["To go on, type the same command"]
        raise
    finally:
        print(conclude(tuning, study), flush=True)
    if not study.done:
        failed = study.failed
        reason = failed[-1].user_attrs.get("reason", "for no known reason") if failed else "no worker did anything"
        finished, budget = len(study.finished), study.budget
        raise RunFailed(
            f"{len(failed)} trial{'s' * (len(failed) != 1)} failed, and {finished} of {budget} "
            f"{'is' if finished == 1 else 'are'} finished. The last one that failed: {reason} "
            "To try on, mend that, and type the same command with a larger sweep.failures."
        )
    return None


def worker(cfg: DictConfig) -> None:
    """What a launcher runs as one of its jobs."""
    with at_work():
        _work(read(cfg), waits=False)


def read(cfg: DictConfig) -> Tuning:
    """What is asked for on this command line. Raises UserError for what is wrong about it."""
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    search = Search.parse(settings["sweep"])
    base = _common(search, list(HydraConfig.get().overrides.task), settings["name"], settings["sweep"]["space"])
    with composed(base) as training:
        config = cast(dict[str, Any], OmegaConf.to_container(training, resolve=True))
    storage = settings["storage"] or str(Path("outputs") / settings["name"] / "study.journal")
    more = {key: settings[key] for key in ("workers", "keep_last")}
    return Tuning(name=settings["name"], search=search, base=tuple(base), config=config, storage=storage, **more)


@contextmanager
def composed(overrides: Sequence[str], *, number: int = 0) -> Iterator[DictConfig]:
    """The config of a training with these overrides, which is the current one inside, as if Hydra ran the job.

    Args:
        overrides: as on the command line.
        number: of the job.
    """
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration("train", list(overrides), run_mode=RunMode.RUN)
    with read_write(cfg), open_dict(cfg):
        # As in a multirun, so that processes that a trial starts repeat the trial and not this command.
        cfg.hydra.mode = RunMode.MULTIRUN
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
    task = deepcopy(cfg)
    with read_write(task), open_dict(task):
        del task["hydra"]
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        yield task
    finally:
        HydraConfig.instance().cfg = before


def check_space(tuning: Tuning) -> None:
    """Whether every choice exists and every setting takes the ends of its range, as far as the config tells."""
    space = tuning.search.space
    for point in space.examples():
        overrides = [*tuning.base, *space.overrides(point)]
        try:
            with composed(overrides) as cfg:
                validate(cfg)
        except Exception as error:
            told = explain(error, overrides)
            if told is None:
                raise
            raise UserError(f"sweep.space: {told}") from None


def _common(search: Search, asked: list[str], name: str, space: Mapping[str, Any]) -> list[str]:
    """The overrides of all trials: the sweep's own settings, unless the command line says otherwise, and its."""
    parsed = OverridesParser.create().parse_overrides(asked)
    of_training = []
    for override in parsed:
        key, text = override.key_or_group, override.input_line
        if key.partition(".")[0] in _OWN:
            continue
        if override.is_delete() or override.package is not None:
            raise UserError(f"{text}: a search takes key=value and group=choice alone, since best.yaml repeats them.")
        if key == "benchmark":
            raise UserError(f"{text}: a benchmark is a matrix of its own. Type segrun -m {text}, or leave it out here.")
        if key == "run_dir":
            raise UserError(f"{text}: each trial has a run directory of its own in outputs/<name>/. Type name=NAME.")
        of_training.append(override)
    keys = {override.key_or_group for override in of_training}
    base = list(search.settings) if "experiment" not in keys else []  # an experiment says how to train, too
    own = OverridesParser.create().parse_overrides(base)
    kept = [str(override.input_line) for override in own if override.key_or_group not in keys]
    latest = {override.key_or_group: str(override.input_line) for override in of_training}
    drawn = {parameter.key: parameter.name for parameter in search.space.parameters}
    for key, text in latest.items():
        if key in drawn:
            parts = drawn[key].split(".")
            # A name that is written with dots, and not nested, cannot be reached from the command line.
            reached = parts[0] in space and (len(parts) == 1 or isinstance(space[parts[0]], Mapping))
            how = f", as with ~sweep.space.{drawn[key]}" if reached else ""
            raise UserError(f"{text}: the search draws {key} itself. Leave one out{how}.")
    return [*kept, *latest.values(), f"name={name}"]


# ---- workers


def _work(tuning: Tuning, *, waits: bool) -> None:
    """Take trials until none is left; then, if asked to, wait for those of others, which may be given again."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "segrun tune: a worker is one process, and several were started together. Start one a worker; "
            "trainer.devices=N lets each trial use several devices of its machine."
        )
    from seg_cli.commands.trials import run_trial

    study = tuning.open()
    said = False
    while not (study.done or study.gave_up or is_orphan()):
        trial = study.take()
        if trial is not None:
            run_trial(tuning, study, trial)
        elif not waits or not study.running:
            return
        else:
            if not said:
                print("waiting for the trials of other workers", flush=True)
            said = True
            time.sleep(_LOOK_EVERY)


def _in_rounds(
    tuning: Tuning,
    study: "Study",
    start: Callable[[int, Path], Generator[None, None, None]],
    announce: Callable[[], None],
) -> None:
    """Have workers do what is to be done; when they are gone and something is left, have others go on."""
    idle = 0
    while not (study.done or study.gave_up) and idle < _ROUNDS:
        before = (len(study.finished), len(study.failed))
        # Workers on a cluster go on when the one who started them is gone.
        count = min(tuning.workers - len(study.on_cluster), study.budget - len(study.finished))
        if count > 0:
            with closing(start(count, tuning.folder / "workers")) as words:
                _listen(words, study, announce)
        study.collect()
        idle = 0 if before != (len(study.finished), len(study.failed)) else idle + 1
        while study.running and not study.done:  # somebody else's, who types the same command
            time.sleep(_LOOK_EVERY)
            study.collect()
            announce()
        announce()


def _listen(words: Generator[None, None, None], study: "Study", announce: Callable[[], None]) -> None:
    """Say what comes of the trials, until the workers are gone, or those that are left have nothing to do."""
    over = 0
    for _ in words:
        announce()
        over = over + 1 if study.done and not study.running else 0
        if over > _GRACE:  # jobs may be in the queue of a cluster still
            return
