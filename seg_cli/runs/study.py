"""The trials of a search, which any number of workers on any number of machines take from one storage.

A trial that is being computed bears its worker's name and a number that grows every few seconds. Where that number
stands still, or the process is seen to be gone, the trial is ended and its values are given again. Finished trials
count against the budget, and running ones do as long as somebody is on them, so that workers together make as many as
were asked for.
"""

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from seg_cli.config.search import Search
from seg_cli.config.space import Choices, Parameter, written
from seg_cli.errors import UserError
from seg_cli.runs.runner import describe_runner, lives
from seg_cli.runs.samplers import make_pruner, make_sampler

INTERVAL = 15.0
"""Seconds between two signs of life; ``runner.PATIENCE`` is four of them."""

_TRIES = 3  # how often a trial is begun whose worker is gone each time; a trial may be what kills it
_POINTS = 10_000  # of a space whose points are counted
_ABOUT = "segrun"
_CONTESTS = 7  # how often the last trial is tried for, with up to 6 s between
_NOBODY = {"host": None, "pid": 0, "born": None, "job": None, "tries": 0}
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Study:
    """A search in its storage.

    Args:
        name: of the study.
        storage: an opened one.
        search: what was asked for.
        seed: of the sampler.
        epochs: of a whole training.
    """

    def __init__(self, name: str, storage: BaseStorage, search: Search, *, seed: int, epochs: int) -> None:
        self.name, self.search, self._storage = name, search, storage
        self.optuna = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=make_sampler(search.sampler, seed=seed),
            pruner=make_pruner(search.pruner, epochs=epochs),
            directions=[optuna.study.StudyDirection[of.direction.upper()] for of in search.objectives],
            load_if_exists=True,
        )
        self._heard: dict[int, tuple[Any, float]] = {}
        points = search.space.combinations() or [] if search.space.count() <= _POINTS else None
        self._points = points and [{name: self._label(name, value) for name, value in of.items()} for of in points]

    # ---- what it is about

    def identify(self, about: Mapping[str, Any], *, place: str) -> None:
        """See that it is the study that it is taken for; a new one is told.

        Args:
            about: ``space`` and ``objectives`` as plain values, and ``base``: what the trials have in common.
            place: of the storage, in words.

        Raises:
            UserError: if the storage has a study of this name that is about something else.
        """
        now = json.loads(json.dumps(about))
        before = self.optuna.user_attrs.get(_ABOUT)
        if before is None:
            if self.optuna.get_trials(deepcopy=False):
                raise UserError(f"name={self.name}: {place} has a study of this name that segrun did not make.")
            self.optuna.set_user_attr(_ABOUT, now)
            before = self.optuna.user_attrs[_ABOUT]
        changes = [_difference(part, before.get(part), now[part]) for part in now if before.get(part) != now[part]]
        if changes:
            raise UserError(
                f"name={self.name}: {place} has a study of this name that searches otherwise: {'; '.join(changes)}. "
                f"Give this one another name, as in name={self.name}_2, or ask for what that one asked for."
            )

    # ---- counting

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Those in some states, or all, in the order of their numbers."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    @property
    def finished(self) -> list[FrozenTrial]:
        """Those that count: complete or pruned."""
        return self.trials(*FINISHED)

    @property
    def failed(self) -> list[FrozenTrial]:
        """Those that failed by themselves, so that they are not given again."""
        return [trial for trial in self.trials(TrialState.FAIL) if "lost" not in trial.user_attrs]

    @property
    def running(self) -> list[FrozenTrial]:
        """Those that a worker has taken and not ended, gone or not."""
        return self.trials(TrialState.RUNNING)

    @property
    def on_cluster(self) -> list[FrozenTrial]:
        """Running ones in the hands of SLURM jobs other than this one."""
        own = (None, os.environ.get("SLURM_JOB_ID"))
        return [trial for trial in self.running if trial.user_attrs.get("owner", {}).get("job") not in own]

    @property
    def done(self) -> bool:
        """Whether as many trials are finished as were asked for, or as there are points."""
        return len(self.finished) >= self.budget

    @property
    def budget(self) -> int:
        """How many are to be finished: as many as were asked for, and no more than there are points."""
        return self.search.trials if self._points is None else min(self.search.trials, len(self._points))

    @property
    def gave_up(self) -> bool:
        """Whether too many have failed to go on."""
        failed = len(self.failed)
        return failed >= self.search.failures or (failed >= _TRIES and not self.finished)

    # ---- taking trials

    def fill(self) -> None:
        """Put all points of a grid into the queue, where that is the sampler and it was not done before."""
        if self.search.sampler.name != "grid" or self.optuna.get_trials(deepcopy=False):
            return
        for point in self._points or ():
            self.optuna.enqueue_trial(point, skip_if_exists=True)

    def take(self) -> optuna.Trial | None:
        """The next trial, for this process; None if there is none to be had now."""
        self.collect()
        for tries in range(_CONTESTS):
            if self.gave_up or self._taken() >= self.budget:
                return None
            trial = self.optuna.ask()
            trial.set_user_attr("owner", describe_runner())
            if self._taken() <= self.budget:
                return trial
            # Several took the last one at once. Neither clocks nor numbers tell who was first, since machines differ
            # in the ones and a trial given back has an old other; so each gives way, and one comes back before others.
            trial.set_user_attr("owner", _NOBODY)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            time.sleep(random.SystemRandom().random() * 0.1 * 2**tries)  # not of a seed that all share
        return None

    def _taken(self) -> int:
        """How many trials are finished or running, by one reading: one that ends between two would be in neither."""
        return len(self.trials(*FINISHED, TrialState.RUNNING))

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial: name of a parameter -> value."""

        def suggest(parameter: Parameter) -> Any:
            name, source = parameter.name, parameter.source
            if isinstance(source, Choices):
                labels = [written(value) for value in source.values]
                return source.values[labels.index(trial.suggest_categorical(name, labels))]
            if source.whole:
                low, high = int(source.low), int(source.high)
                return trial.suggest_int(name, low, high, step=int(source.step or 1), log=source.log)
            return trial.suggest_float(name, source.low, source.high, step=source.step, log=source.log)

        drawn = self.search.space.draw(suggest)
        trial.set_user_attr("drawn", drawn)
        return drawn

    def twin(self, trial: optuna.Trial) -> FrozenTrial | None:
        """A finished trial of the same values, of which the same would come."""
        return next((other for other in self.finished if other.params == trial.params), None)

    def replace(self, trial: optuna.Trial) -> bool:
        """Drop a trial that repeats another, and put a point into the queue that nobody has tried; False if all were.

        Samplers come back to the best point again and again where there are few.
        """
        tried = {
            _key(other.system_attrs.get("fixed_params", {}) | other.params)
            for other in self.trials()
            if "lost" not in other.user_attrs
        }
        left = [point for point in self._points or () if _key(point) not in tried]
        if not left:
            return False
        trial.set_user_attr("lost", True)
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        self.optuna.enqueue_trial(random.Random(trial.number).choice(left))
        return True

    def tell(self, trial: optuna.Trial | FrozenTrial, state: TrialState, values: list[float] | None = None) -> bool:
        """End a trial; whether it was still ours to end. A storage that is away for a minute is waited for."""
        for pause in (1, 4, 15, 40, None):
            try:
                self.optuna.tell(trial.number, values, state)
                return True
            except Exception:  # every storage has errors of its own
                with suppress(Exception):
                    if self._state(trial.number).is_finished():  # somebody took this process for dead
                        return False
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    # ---- those who are gone

    @contextmanager
    def held(self, trial: optuna.Trial, *, every: float = INTERVAL) -> Iterator[threading.Event]:
        """Give signs of life of a trial while the block runs; the event is set if somebody took it away."""
        over, lost = threading.Event(), threading.Event()

        def beat() -> None:
            count = 0
            while not over.wait(every):
                count += 1
                # A storage that is away for a moment is no reason to stop.
                with suppress(Exception):
                    if self._state(trial.number).is_finished():
                        lost.set()
                        return
                    trial.set_user_attr("beat", count)
                    self._listen()
            self._storage.remove_session()

        thread = threading.Thread(target=beat, daemon=True, name="trial")
        thread.start()
        try:
            yield lost
        finally:
            over.set()
            thread.join(timeout=5.0)

    def collect(self) -> list[int]:
        """End the trials whose workers are gone, and put their values into the queue; their numbers."""
        self._listen()
        lost = [trial for trial in self.running if not self._is_alive(trial)]
        return [trial.number for trial in lost if self.give_again(trial, "its worker is gone", counts=True)]

    def give_again(self, trial: optuna.Trial | FrozenTrial, reason: str, *, counts: bool) -> bool:
        """End a trial as failed and put its values into the queue, for whoever comes; whether it was ours to end.

        Args:
            trial: which.
            reason: why it ended.
            counts: whether it is given again a few times only.
        """
        now = next(other for other in self.trials() if other.number == trial.number)
        tries = now.user_attrs.get("tries", 1)
        again = not counts or tries < _TRIES
        try:
            self._storage.set_trial_user_attr(now._trial_id, "reason", reason if again else f"{reason}, {tries} times")
            if again:
                self._storage.set_trial_user_attr(now._trial_id, "lost", True)
            self.optuna.tell(now.number, state=TrialState.FAIL)
        except (ValueError, OptunaError):  # another worker was faster
            return False
        if again:
            values = now.system_attrs.get("fixed_params", {}) | now.params
            attributes = {"tries": tries + int(counts), "again": now.number, "run": now.user_attrs.get("run")}
            self.optuna.enqueue_trial(values, user_attrs=attributes)
        return True

    def _is_alive(self, trial: FrozenTrial) -> bool:
        silent = time.monotonic() - self._heard[trial.number][1] if trial.number in self._heard else 0.0
        return lives(trial.user_attrs.get("owner", _NOBODY), silent=silent)

    def _listen(self) -> None:
        """Note which running trials gave a sign of life since the last time, by the clock of this process."""
        for trial in self.running:
            sign = (trial.user_attrs.get("owner"), trial.user_attrs.get("beat"))
            if self._heard.get(trial.number, (None, 0.0))[0] != sign:
                self._heard[trial.number] = (sign, time.monotonic())

    def _state(self, number: int) -> TrialState:
        return self.optuna.get_trials(deepcopy=False)[number].state

    def _label(self, name: str, value: Any) -> Any:
        parameter = next(of for of in self.search.space.parameters if of.name == name)
        return written(value) if isinstance(parameter.source, Choices) else value


def _key(point: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset((name, round(value, 12) if isinstance(value, float) else value) for name, value in point.items())


def _difference(part: str, before: Any, now: Any) -> str:
    """What is different about a part, down to the first setting that is."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) != now.get(key):
                return f"{part} has {key} {_said(before.get(key))} there and {_said(now.get(key))} here"
    return f"{part} is {_said(before)} there and {_said(now)} here"


def _said(value: Any) -> str:
    return "not at all" if value is None else written(value)
