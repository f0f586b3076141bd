"""Where the jobs of ``segrun -m`` run: ``hydra/launcher=joblib``, ``slurm`` or ``ray``.

Each is a thin layer over an engine that is installed as an extra. What cannot work is said before anything is sent
off. Those of SLURM and Ray come back when the last of their jobs has ended, however it ended.
"""

import importlib
import importlib.util
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from seg_cli.commands import slurm_checks
from seg_cli.errors import RunFailed, UserError
from seg_cli.runs import slurm
from seg_cli.runs.jobs import Jobs

_LOOK = 2.0
"""Seconds between two looks into SLURM's queue."""

_ARRAY = 1000
"""Jobs in one array; SLURM takes that many unless told otherwise."""

_SETTLE = 5.0
"""Seconds that a shared file system may take to show what a job wrote in its last moment."""


def register() -> None:
    """Tell Hydra of the launchers, for the rest of this process."""
    plugins = Plugins.instance()  # which loads those that are installed
    # Hydra would hold our conf/hydra/launcher/joblib.yaml to the settings of the plugin's choice of that name.
    ConfigStore.instance().repo.get("hydra", {}).get("launcher", {}).pop("joblib.yaml", None)
    for launcher in (Joblib, Slurm, Ray):
        plugins.class_name_to_class[f"hydra_plugins.segrun.{launcher.__name__}"] = launcher


class Ended(RunFailed):
    """A job ended, and its process never said how."""


class Worker:
    """Runs a job in whichever process a launcher has for it.

    Args:
        config: of the matrix.
        context, task: as Hydra gives them to launchers.
    """

    def __init__(self, config: DictConfig, context: HydraContext, task: TaskFunction) -> None:
        self._config, self._context, self._task = config, context, task
        self._state = Singleton.get_state()
        self._folder, self._path = os.getcwd(), [path for path in sys.path if path]

    def __call__(self, overrides: list[str], number: int) -> JobReturn:
        """Run the job of these overrides; ``number`` is the launcher's."""
        with suppress(OSError):  # a machine that has the folder elsewhere
            os.chdir(self._folder)
        sys.path += [path for path in self._path if path not in sys.path]
        Singleton.set_state(self._state)
        setup_globals()
        config = self._context.config_loader.load_sweep_config(self._config, overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = slurm.own_job() or f"{os.getpid()}", number
        return run_job(
            hydra_context=self._context,
            task_function=self._task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit puts back into SLURM's queue where a signal comes before the training minds them itself."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self, *arguments)


class _Launcher(Launcher):
    """What the launchers share: what Hydra hands to them."""

    comes_back_last = True
    """Whether ``launch`` returns when all its jobs have ended, and not before."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    @property
    def _folder(self) -> Path:
        return Path(str(self.config.hydra.sweep.dir))

    def _compose(self, overrides: Sequence[Sequence[str]]) -> list[DictConfig]:
        load = self.hydra_context.config_loader.load_sweep_config
        return [load(self.config, list(texts)) for texts in overrides]


class Joblib(_Launcher):
    """Several jobs at a time on this machine, each in a process of joblib's; they share its cores and GPUs.

    Args:
        n_jobs: how many at a time; -1 is one on each core.
    """

    def __init__(self, *, n_jobs: int) -> None:
        self._n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        _require("joblib", "hydra_plugins.hydra_joblib_launcher")
        if self._n_jobs < -1 or self._n_jobs == 0:
            raise UserError(f"hydra.launcher.n_jobs={self._n_jobs}: it must be 1 or more, or -1 for all cores.")
        engine: Any = importlib.import_module("hydra_plugins.hydra_joblib_launcher.joblib_launcher")
        self._engine: Launcher = engine.JoblibLauncher(n_jobs=self._n_jobs, prefer="processes", pre_dispatch="n_jobs")
        self._engine.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._engine.launch(job_overrides, initial_job_idx)


class Slurm(_Launcher):
    """Jobs of SLURM, as an array.

    Args:
        partition, account, qos, constraint, exclude: as sbatch takes them; null leaves it to SLURM.
        nodes: machines a job.
        tasks_per_node: processes that srun starts on each; with 1, segrun starts those of one machine itself.
        gpus_per_node, cpus_per_task: of a job.
        mem_gb: memory on each machine, in GB.
        timeout_min: minutes of a try; a job that is not done then goes back into the queue.
        signal_delay_s: seconds before that at which it is told to save.
        array_parallelism: how many jobs run at a time.
        name: of the jobs.
        setup: commands for the shell before a job begins.
        additional_parameters: what else sbatch is given, as {mail-type: END}.
        submitit_folder: where scripts and logs lie; all machines must see it.
    """

    def __init__(
        self,
        *,
        partition: str | None,
        account: str | None,
        qos: str | None,
        constraint: str | None,
        exclude: str | None,
        nodes: int,
        tasks_per_node: int,
        gpus_per_node: int | None,
        cpus_per_task: int | None,
        mem_gb: float | None,
        timeout_min: int,
        signal_delay_s: int,
        array_parallelism: int,
        name: str,
        setup: ListConfig | None,
        additional_parameters: DictConfig,
        submitit_folder: str,
    ) -> None:
        self._asked = slurm_checks.Resources(
            partition=partition,
            account=account,
            qos=qos,
            constraint=constraint,
            exclude=exclude,
            nodes=nodes,
            tasks_per_node=tasks_per_node,
            gpus_per_node=gpus_per_node,
            cpus_per_task=cpus_per_task,
            mem_gb=mem_gb,
            timeout_min=timeout_min,
        )
        self._rest = {
            "name": name,
            "signal_delay_s": signal_delay_s,
            "array_parallelism": array_parallelism,
            "setup": None if setup is None else [str(line) for line in setup],
        }
        self._more = dict(OmegaConf.to_container(additional_parameters))  # type: ignore[arg-type]
        self._submitit_folder = submitit_folder

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        _require("slurm", "submitit")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        slurm_checks.check(self._asked, self._compose(job_overrides))
        # The signal that a training obeys by saving and going back into the queue; jobs inherit the variable.
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
        submitit: Any = importlib.import_module("submitit")
        executor = submitit.SlurmExecutor(folder=self._submitit_folder, max_num_timeout=1000)
        signal = {"signal": f"USR1@{self._rest['signal_delay_s']}", "requeue": True}
        given = {key: value for key, value in self._rest.items() if value is not None and key != "name"}
        executor.update_parameters(
            **given,
            **self._asked.parameters,
            job_name=self._rest["name"],
            stderr_to_stdout=True,
            additional_parameters={**signal, **self._more},
        )
        worker = Worker(self.config, self.hydra_context, self.task_function)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs: list[Any] = []
        for start in range(0, len(numbers), _ARRAY):
            part = slice(start, start + _ARRAY)
            jobs += executor.map_array(worker, [list(texts) for texts in job_overrides[part]], numbers[part])
            slurm.note_submitted(self._folder, [job.job_id for job in jobs[start:]])
        named = jobs[0].job_id + (f" to {jobs[-1].job_id}" if len(jobs) > 1 else "")
        print(f"SLURM has taken {len(jobs)} job{'s' * (len(jobs) > 1)}: {named}", flush=True)
        self._say_where(jobs[0].paths.stdout.parent.parent)
        _wait_for([job.job_id for job in jobs])
        end = time.monotonic() + _SETTLE
        return [_returned(job, end=end) for job in jobs]

    def _say_where(self, logs: Path) -> None:
        """Where what the jobs say is written; of a matrix, which alone has a folder of jobs, also how to watch it."""
        folder = self._folder
        if Jobs(folder).is_there:
            print(f"watch: segrun status {folder} --follow\nend: segrun cancel {folder}")
        print(f"logs: {os.path.relpath(logs)}/*/*.out", flush=True)


class Ray(_Launcher):
    """Tasks of Ray, on this machine or on all of a cluster's.

    Args:
        address: of a running cluster, or ``auto`` for the one that this machine is part of; null starts one here.
        num_cpus, num_gpus: of each job; null GPUs means one where there are any.
        memory_gb: that Ray sets aside for each job; null for none.
    """

    def __init__(
        self, *, address: str | None, num_cpus: float, num_gpus: float | None, memory_gb: float | None
    ) -> None:
        self._address, self._num_cpus, self._num_gpus, self._memory = address, num_cpus, num_gpus, memory_gb

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        _require("ray", "ray")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        ray: Any = importlib.import_module("ray")
        if not ray.is_initialized():
            try:
                ray.init(address=self._address, include_dashboard=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"hydra.launcher.address={self._address}: Ray cannot be reached "
                    f"({' '.join(str(error).split())[:300]})."
                ) from None
        try:
            resources = self._resources(ray)
            worker = ray.put(Worker(self.config, self.hydra_context, self.task_function))
            task = ray.remote(max_retries=0, **resources)(_job)
            waiting = [
                task.remote(worker, list(texts), number) for number, texts in enumerate(job_overrides, initial_job_idx)
            ]
            return [_returned_by(ray, job) for job in waiting]
        finally:
            ray.shutdown()  # what Ray has started here ends with this thread anyway, and the next batch has another

    def _resources(self, ray: Any) -> dict[str, float]:
        """What each job is given. Raises UserError if no machine has that much."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self._num_gpus
        if gpus is None:
            gpus = 1 if any(machine.get("GPU") for machine in machines) else 0
        asked = {"num_cpus": ("CPU", self._num_cpus), "num_gpus": ("GPU", gpus)}
        if self._memory is not None:
            asked["memory_gb"] = ("memory", self._memory * 2**30)
        for setting, (resource, amount) in asked.items():
            most = max((machine.get(resource, 0) for machine in machines), default=0)
            if amount > most:
                unit = 2**30 if resource == "memory" else 1
                raise UserError(
                    f"hydra.launcher.{setting}={amount / unit:g}: no machine of this Ray cluster has more than "
                    f"{most / unit:.4g}. Nothing was started."
                )
        return {"memory" if setting == "memory_gb" else setting: amount for setting, (_, amount) in asked.items()}


def _job(worker: Callable[[list[str], int], JobReturn], overrides: list[str], number: int) -> JobReturn:
    return worker(overrides, number)


def _returned_by(ray: Any, job: Any) -> JobReturn:
    try:
        returned: JobReturn = ray.get(job)
        return returned
    except ray.exceptions.RayError as error:  # its process was killed, or asked to end
        return _failed(f"its process of Ray is gone ({(str(error).splitlines() or [''])[0]}).")


def _require(extra: str, module: str) -> None:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise UserError(
            f"hydra/launcher={extra}: {module.rpartition('.')[2]} is not installed. Type: pip install 'segrun[{extra}]'"
        )


def _wait_for(jobs: list[str]) -> None:
    """Come back when none of these jobs of SLURM is in its queue, which knows without accounting."""
    absent = 0
    while absent < 2:  # a job that goes back into the queue may not be in it for a moment
        time.sleep(_LOOK)
        there = slurm.queued(jobs)
        if there is not None:
            absent = 0 if there else absent + 1


def _returned(job: Any, *, end: float) -> JobReturn:
    """What a job of submitit's gave back; where there is nothing, it is waited for until ``end``."""
    while not job.paths.result_pickle.exists():
        if time.monotonic() > end:
            return _failed(f"SLURM job {job.job_id} ended without a word{_last_words(job.paths.stdout)}")
        time.sleep(0.2)
    with job.paths.result_pickle.open("rb") as file:
        outcome, result = pickle.load(file)
    if outcome == "success":
        returned: JobReturn = result
        return returned
    return _failed(f"SLURM job {job.job_id}: {str(result).strip().splitlines()[-1]}")


def _last_words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ", and left no log. Do all machines see this folder?"
    return f". The end of {log}: {' / '.join(lines[-3:])}"


def _failed(reason: str) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=Ended(reason))
