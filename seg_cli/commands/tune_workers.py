"""The workers of a search: processes on this machine, or jobs of a launcher, each of which takes trials until none is
left. Here they are started, watched, and ended with the one who started them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict, read_write

from seg_cli.config.explain import explain
from seg_cli.runs.heartbeat import beating
from seg_cli.runs.jobs import Job, Jobs, running
from seg_cli.runs.requeue import is_queued_again

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_PLACE = "SEGRUN_TUNE_WORKER"  # environment variable of processes that were started here: "number of count by parent"
_LOOK_EVERY = 1.0  # seconds
_GRACE = 10.0  # seconds in which a launcher may notice that its jobs have ended
_FAREWELL = 120.0  # seconds that a worker has to save what it has, when it is asked to end


def is_worker() -> bool:
    """Whether this process was started by ``start_here``."""
    return _PLACE in os.environ


def is_orphan() -> bool:
    """Whether who started this worker is gone. It ends after its trial then, since others will be started."""
    return is_worker() and os.getppid() != int(os.environ[_PLACE].split()[2])


# ---- on this machine


def start_here(count: int, logs: Path) -> Generator[None, None, None]:
    """Processes on this machine that repeat this command; gives the word every second until they are gone."""
    logs.mkdir(parents=True, exist_ok=True)
    command = this_command()
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "COLUMNS": "120"}
    processes: dict[subprocess.Popen, Path] = {}
    try:
        for number in range(count):
            log = logs / f"{_now()}_{number}.log"
            environment[_PLACE] = f"{number} {count} {os.getpid()}"
            with log.open("ab") as file:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
            processes[process] = log
        while any(process.poll() is None for process in processes):
            time.sleep(_LOOK_EVERY)
            yield
    finally:
        _end(list(processes))
        for process, log in processes.items():
            if process.returncode:
                print(f"a worker ended with status {process.returncode}: {log}", flush=True)


def this_command() -> list[str]:
    """What starts a process that does what this one was asked to."""
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    options = [f"--config-dir={folder}" for folder in folders]
    return [sys.executable, "-m", "seg_cli", "tune", *options, *_of_hydra(), *hydra.overrides.task]


def take_gpus(devices: int | str) -> None:
    """Leave to a process of ``start_here`` its GPUs, before it uses any. Its runs see no others."""
    import torch

    number, count, _ = map(int, os.environ[_PLACE].split())
    there = torch.cuda.device_count()
    if there > 1:
        seen = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(there)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share_of(number, count, devices, seen))


def share_of(number: int, count: int, devices: int | str, gpus: Sequence[str]) -> list[str]:
    """The GPUs of one of several workers: as many as a trial uses, each one's behind those of the one before.

    Args:
        number: of the worker, from 0, of ``count``.
        devices: that a trial uses; ``auto`` divides all of them.
        gpus: names of all.
    """
    wanted = max(1, len(gpus) // count) if devices == "auto" else min(int(devices), len(gpus))
    return [gpus[(number * wanted + i) % len(gpus)] for i in range(wanted)]


def _end(processes: list[subprocess.Popen]) -> None:
    """End workers that are still there; they save what they have."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_FAREWELL)
        process.kill()
        process.wait()


# ---- jobs of a launcher


def launch(task: Callable[[Any], None], count: int, logs: Path) -> Generator[None, None, None]:
    """Jobs of the launcher that was chosen; gives the word every second until they are gone.

    A launcher whose job was killed hard may wait for it for ever, so that jobs say for themselves, in files, whether
    they are there.

    Args:
        task: what each does with its config, within ``at_work``.
        count: how many.
        logs: the folder below which these files are, and those of the launcher.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, TaskFunction

    folder = logs / _now()
    loader = GlobalHydra.instance().config_loader()
    overrides = list(HydraConfig.get().overrides.task)
    own = [*_of_hydra(), f"hydra.sweep.dir='{folder}'"]
    if "n_jobs" in HydraConfig.get().launcher and not any("launcher.n_jobs=" in text for text in own):
        own.append(f"hydra.launcher.n_jobs={count}")  # joblib's: how many at a time
    config = loader.load_configuration("tune", [*own, *overrides], run_mode=RunMode.MULTIRUN)
    with read_write(config), open_dict(config):
        config.hydra.mode = RunMode.MULTIRUN
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # so that hydra.sweep.dir can be resolved
    raised: list[Exception] = []
    jobs = Jobs(folder)
    try:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
            task_function=cast(TaskFunction, task),
            config=config,
        )

        def work() -> None:
            try:
                for job in launcher.launch([overrides] * count, initial_job_idx=0):
                    with _collected(raised):
                        _ = job.return_value
            except Exception as error:
                raised.append(error)

        thread = threading.Thread(target=work, daemon=True, name="launcher")
        thread.start()
        try:
            while _going(jobs, count, launched=thread.is_alive()):
                thread.join(_LOOK_EVERY)
                yield
            thread.join(_GRACE)
        except (KeyboardInterrupt, GeneratorExit):
            _end_jobs(jobs, count)
            raise
    finally:
        HydraConfig.instance().cfg = before
    if raised and not any(jobs.path(number).exists() for number in range(count)):
        raise raised[0]  # nothing was begun
    for number in range(count):
        job = jobs.read(number)
        if job.state in ("failed", "lost"):
            print(f"worker {number} is gone: {job.reason}", file=sys.stderr, flush=True)


@contextmanager
def at_work() -> Iterator[None]:
    """Say that this job of a launcher is there, for as long as the block runs, and how it ended."""
    hydra = HydraConfig.get()
    jobs = Jobs(Path(hydra.sweep.dir))
    job = running(Job(int(hydra.job.num)))
    jobs.write(job)
    with beating(jobs.path(job.number)):
        try:
            yield
        except BaseException as error:
            reason = str(explain(error) or error) or type(error).__name__
            ended = Job(job.number) if is_queued_again() else replace(job, state="failed", reason=reason)
            jobs.write(ended)
            raise
        jobs.write(replace(job, state="finished"))


def _going(jobs: Jobs, count: int, *, launched: bool) -> bool:
    """Whether there is a job at work, or one that may still begin."""
    states = [jobs.read(number).state for number in range(count)]
    return "running" in states or (launched and "waiting" in states)


def _end_jobs(jobs: Jobs, count: int) -> None:
    """Ask jobs on this machine to end, and wait until they have saved what they have; those of a cluster go on."""
    asked = set[int]()
    end = time.monotonic() + _FAREWELL
    while time.monotonic() < end:
        there = [job for job in map(jobs.read, range(count)) if job.state == "running" and job.process is not None]
        ours = [of.process for of in there if of.process and of.process["host"] == socket.gethostname()]
        pids = [process["pid"] for process in ours if not process["job"]]
        for pid in set(pids) - asked:
            asked.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if not pids:
            return
        time.sleep(_LOOK_EVERY / 4)


@contextmanager
def _collected(raised: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raised.append(error)


def _of_hydra() -> list[str]:
    """Hydra's own settings on this command line."""
    return [text for text in HydraConfig.get().overrides.hydra if not text.startswith("hydra.mode=")]


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
