"""``segrun -m``: a run for every combination of what varies; what is done is left out, and what died is gone on with.

It is a sweeper of Hydra, so that any launcher runs the jobs. Each job decides for itself, where it runs, what there is
to do (``multirun``); here is who sends them off, watches them, and says in the end what they came to.
"""

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from seg_cli.commands.composing import Composer, Store, copied, resolve
from seg_cli.commands.help import VERBS
from seg_cli.commands.launchers import Ended
from seg_cli.commands.multirun import identify, look_up
from seg_cli.config.schema import validate
from seg_cli.config.sweeps import MATRIX, as_values
from seg_cli.errors import RunFailed, SegrunError, UserError
from seg_cli.reports.jobs import count_states, end_line, job_table, known_line, varied
from seg_cli.runs.claims import Note, Place, all_newest
from seg_cli.runs.jobs import Job, Jobs
from seg_cli.runs.known import known_runs
from seg_cli.runs.run import Run, numbered_names
from seg_cli.training.signals import obey_at_once

_LOOK = 1.0
"""Seconds between two looks at the jobs."""

_GRACE = 10.0
"""Seconds that a launcher has to notice that all of its jobs have ended, and that jobs have to end when asked to."""

_BEGIN = 180.0
"""Seconds that a job on this machine, which was sent off, has to begin."""


def register() -> None:
    """Tell Hydra of the sweeper, for the rest of this process."""
    Plugins.instance().class_name_to_class[MATRIX] = Matrix


class Matrix(Sweeper):
    """A run for every combination.

    Args:
        params: what varies, key -> values as on the command line, which wins.
        table: of a benchmark: what ``segrun table`` is asked for in the end.
    """

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher

    def __init__(self, params: Mapping[str, Any] | None = None, table: Mapping[str, Any] | None = None) -> None:
        self._params, self._table = dict(params or {}), dict(table or {})
        self._order: list[int] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self._task = config, task_function
        # In workers too, jobs are composed by what is given to the launcher.
        loader: Any = hydra_context.config_loader
        self.hydra_context = HydraContext(config_loader=Composer(loader), callbacks=hydra_context.callbacks)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the matrix.

        Raises:
            UserError: if nothing can be composed of the arguments, or every job was a wrong request.
            RunFailed: if a job failed or was lost.
            KeyboardInterrupt: if somebody asked for an end.
        """
        if self.config.hydra.job.config_name in VERBS and self.config.hydra.job.config_name != "train":
            return self._sweep_plainly(arguments)
        _check_alone()
        overrides = self._combine(arguments)
        self._jobs = Jobs(self._make_folder())
        self._jobs.write_request(OmegaConf.to_container(self.config, enum_to_str=True))
        self.launcher = self._make_launcher()
        jobs, twins = self._survey(overrides)
        todo = [job.number for job in jobs if job.state == "waiting" and job.number not in twins]
        if known := known_line(jobs, todo=len(todo)):
            print(known, flush=True)
        self._jobs.write_plan(jobs)
        try:
            if todo:
                with obey_at_once():
                    self._run(todo, overrides)
        except KeyboardInterrupt as interrupt:
            jobs = self._collect(jobs, todo, twins)
            self._show(jobs)
            interrupt.add_note(f"{count_states(jobs)}. To go on: the same command again.")
            raise
        jobs = self._look_again(self._collect(jobs, todo, twins), overrides)
        self._conclude(jobs)
        return None

    # ---- before

    def _sweep_plainly(self, arguments: list[str]) -> None:
        """Another verb for every combination. Each job has said itself what was wrong."""
        jobs = self._make_launcher().launch(self._combine(arguments), initial_job_idx=0)
        with suppress(OSError):  # of a folder that is not there, or that a launcher has written to
            Path(self.config.hydra.sweep.dir).rmdir()
        errors = [job._return_value for job in jobs if job.status is JobStatus.FAILED]
        if errors:
            kind = UserError if all(isinstance(error, UserError) for error in errors) else RunFailed
            raise kind(f"{len(errors)} of {len(jobs)} job{'s' * (len(jobs) > 1)} failed; see above.")

    def _combine(self, arguments: list[str]) -> list[list[str]]:
        """The overrides of each job."""
        params = [f"{key}={as_values(value)}" for key, value in self._params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*params, *arguments])
        for override in parsed:
            if override.key_or_group == "benchmark" and override.is_sweep_override():
                raise UserError(f"{override.input_line}: a benchmark is a matrix of its own. Run one after the other.")
        (combined,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        return combined

    def _make_folder(self) -> Path:
        """The folder of this matrix, which no other one has."""
        asked = Path(self.config.hydra.sweep.dir)
        for folder in numbered_names(asked):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                problem = f"hydra.sweep.dir={folder}: the folder cannot be made ({error.strerror})."
                raise UserError(f"{problem} Work in a folder that you may write to.") from None
            if folder != asked:  # another matrix began in the same second
                with read_write(self.config.hydra), open_dict(self.config.hydra):
                    self.config.hydra.sweep.dir = str(folder)
                    self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
            return folder
        raise UserError(f"hydra.sweep.dir={asked}: there are a thousand of this name already. Choose another one.")

    def _make_launcher(self) -> Launcher:
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=self._task, config=self.config
        )

    def _survey(self, overrides: Sequence[list[str]]) -> tuple[list[Job], dict[int, int]]:
        """What is known of each job before it is run, and jobs that ask for the same run as an earlier one."""
        store = Store(self._jobs.folder.parent / ".composed", self.config)
        places: dict[Place, tuple[dict[str, Note], dict[str, Run]]] = {}
        first: dict[tuple[Place, str], int] = {}
        jobs, twins = [], {}
        for number, texts in enumerate(overrides):
            job = Job(number, overrides=texts)
            config = store.get(texts) or self._resolve(texts, store)
            if config is not None:
                place, fingerprint = Place.of(config), identify(config)
                twin = first.setdefault((place, fingerprint), number)
                if twin != number:
                    twins[number] = twin
                else:
                    if place not in places:
                        places[place] = all_newest(place), known_runs(place)
                    job = look_up(job, config, fingerprint, place, *places[place])
            jobs.append(job)
        store.save()
        return jobs, twins

    def _resolve(self, overrides: list[str], store: Store) -> dict[str, Any] | None:
        """A job's configuration; None if it is wrong, which the job will say. What cannot be composed is raised."""
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        task = copied(cfg)
        with read_write(task), open_dict(task):
            del task["hydra"]
        before = HydraConfig.instance().cfg
        HydraConfig.instance().cfg = cast(Any, cfg)  # set_config copies it
        try:
            validate(task)
            config = resolve(task)
        except (SegrunError, OmegaConfBaseException):
            return None
        finally:
            HydraConfig.instance().cfg = before
        store.put(overrides, config, OmegaConf.to_container(task))
        return config

    # ---- while it runs

    def _run(self, todo: list[int], overrides: Sequence[list[str]]) -> None:
        """Run jobs. Those that the end of another one's process took along are sent off again, and those that were lost
        alone, once, so that it is seen whose fault it was."""
        waiting = list(todo)
        while waiting:
            error = self._launch(waiting, overrides)
            left = [number for number in waiting if self._jobs.read(number).state == "waiting"]
            if error is not None and len(left) == len(waiting):
                raise error
            if left:
                print(f"{len(left)} jobs had not begun when the launcher ended; they are sent off again", flush=True)
            waiting = left
        for number in todo:
            job = self._jobs.read(number)
            if job.state == "lost":
                print(f"job {number + 1} was lost; it is gone on with, alone", flush=True)
                self._jobs.write(replace(job, state="waiting", process=None, reason=None))
                self._launch([number], overrides)

    def _launch(self, numbers: list[int], overrides: Sequence[list[str]]) -> BaseException | None:
        """Give jobs to the launcher, and come back when none of them is running. Returns what the launcher raised."""
        start = len(self._order)
        self._order += numbers
        self._jobs.write_order(self._order)
        batch = [overrides[number] for number in numbers]
        # Not by its class, of which there are two: Hydra, looking for plugins, loads the file anew.
        if type(self.launcher).__name__ == "BasicLauncher":
            self.launcher.launch(batch, initial_job_idx=start)
            return None
        raised: list[BaseException] = []

        def launch() -> None:
            try:
                returned = self.launcher.launch(batch, initial_job_idx=start)
                raised.extend(job._return_value for job in returned if isinstance(job._return_value, Ended))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=launch, daemon=True, name="launcher")
        thread.start()
        try:
            self._watch(numbers, thread)
        except KeyboardInterrupt:
            self._end(numbers)
            raise
        return raised[0] if raised else None

    def _watch(self, numbers: Sequence[int], thread: threading.Thread) -> None:
        """Come back when all jobs have ended, whatever the launcher knows of it: one whose job was killed hard may wait
        for ever."""
        ours = getattr(self.launcher, "comes_back_last", False)  # also knows of jobs that are in the queue again
        on_cluster = "slurm" in type(self.launcher).__name__.lower() and not ours
        ended: set[int] = set()
        going, began, ended_at = list(numbers), set[int](), None
        while going:
            thread.join(_LOOK)
            if ended_at is None and not thread.is_alive():
                ended_at = time.monotonic()
            for number in list(going):
                job = self._jobs.read(number)
                if job.state in ("waiting", "running"):
                    ended.discard(number)
                elif number not in ended:
                    ended.add(number)
                    print(end_line(job, ended=len(ended), of=len(numbers)), flush=True)
                if job.state == "running":
                    began.add(number)
                elif job.state == "waiting":
                    began.discard(number)
                elif ended_at is not None or not ours:
                    going.remove(number)
            over = ended_at is not None and not began.intersection(going) and not on_cluster
            if over and ended_at is not None and (ours or time.monotonic() - ended_at > _BEGIN):
                return
        thread.join(_GRACE)

    def _end(self, numbers: Sequence[int]) -> None:
        """Ask jobs on this machine to end; those of a cluster go on."""
        asked: set[int] = set()
        end = time.monotonic() + 3 * _GRACE
        while time.monotonic() < end:
            jobs = [self._jobs.read(number) for number in numbers]
            ours = [job for job in jobs if job.state == "running" and job.process and _is_ours(job.process)]
            if not ours:
                return
            if time.monotonic() > end - 2.5 * _GRACE:  # those that Ctrl-C has reached have had time to say so
                for job in ours:
                    if job.number not in asked and job.process:
                        asked.add(job.number)
                        os.kill(job.process["pid"], signal.SIGTERM)
            time.sleep(_LOOK / 4)

    # ---- afterwards

    def _collect(self, jobs: Sequence[Job], done: Sequence[int], twins: Mapping[int, int]) -> list[Job]:
        """What all jobs have come to."""
        ran = set(done)
        found = [
            replace(self._jobs.read(job.number), overrides=job.overrides) if job.number in ran else job for job in jobs
        ]
        for number, twin in twins.items():
            same = found[twin]
            found[number] = replace(
                same, number=number, overrides=found[number].overrides, remark=f"same as job {twin + 1}"
            )
        return found

    def _look_again(self, jobs: list[Job], overrides: Sequence[list[str]]) -> list[Job]:
        """What has become since of those that somebody else was making."""
        theirs = [job.number for job in jobs if job.state == "elsewhere"]
        found, twins = self._survey([overrides[number] for number in theirs])
        for number, now in zip(theirs, found, strict=True):
            if now.state == "waiting" and now.number not in twins:
                jobs[number] = replace(
                    jobs[number], state="lost", reason="who was making it has ended without a result"
                )
            elif now.state != "elsewhere" and now.number not in twins:
                jobs[number] = replace(now, number=number, remark="made elsewhere")
        return jobs

    def _show(self, jobs: Sequence[Job]) -> None:
        if not all(job.wrong for job in jobs):  # otherwise the errors have said it all
            console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 1000)
            console.print(job_table(jobs, varied(jobs) or _keys(jobs[0])))

    def _conclude(self, jobs: Sequence[Job]) -> None:
        """The table, what to type next, and the exit status."""
        self._show(jobs)
        wrong = [job for job in jobs if job.wrong]
        if len(wrong) == len(jobs):
            raise UserError(f"none of the {len(jobs)} jobs was a request that can be carried out; see above.")
        undone = [job for job in jobs if job.state not in ("finished", "elsewhere")]
        if not undone:
            if going := sum(job.state == "elsewhere" for job in jobs):
                folder = self._jobs.folder
                print(f"still being made elsewhere: {going}. Follow them: segrun status {folder} --follow", flush=True)
                print("then, for the table of all: the same command again", flush=True)
            self._make_table(jobs)
            return
        failed = any(job.state == "failed" for job in undone)
        again = "; retry=failed tries those again that failed" if failed else ""
        raise RunFailed(
            f"{len(undone)} of {len(jobs)} job{'s' * (len(jobs) > 1)} did not finish ({count_states(jobs)}). "
            f"The same command goes on with what is left{again}."
        )

    def _make_table(self, jobs: Sequence[Job]) -> None:
        """The table of a benchmark; or how to make one."""
        rows = self._table.get("rows") or [key for key in varied(jobs) if key not in ("seed", "retry")]
        words = [str(Path(jobs[0].run).parent) if jobs[0].run else f"outputs/{self.config.name}"]
        for key, value in {**self._table, "rows": rows}.items():
            if value:
                words += [f"--{key}", as_values(value)]
        print(f"table: segrun table {shlex.join(words)}\npage: segrun report {shlex.quote(words[0])}", flush=True)
        if not self._table or any(job.state != "finished" for job in jobs):
            return
        try:
            from seg_cli.commands import table
        except ImportError:
            return
        try:
            table.main(words)
        except SegrunError as error:
            print(f"note: the table cannot be made: {error}", flush=True)


def _check_alone() -> None:
    many = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if max(many, int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))) > 1:
        raise UserError(
            "-m: a matrix is run by one process, and torchrun or srun started several. Start it without them; "
            "trainer.devices=N starts the processes of each job, and hydra/launcher says where jobs run."
        )


def _is_ours(process: Mapping[str, Any]) -> bool:
    return process["host"] == socket.gethostname() and not process["job"] and process["pid"] != os.getpid()


def _keys(job: Job) -> list[str]:
    return [text.lstrip("+").partition("=")[0] for text in job.overrides]
