"""What of a request to SLURM cannot work, found out before anything is submitted."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.runs import slurm

_PLACE = "hydra.launcher."


@dataclass(frozen=True)
class Resources:
    """What is asked for each job, in the words of ``conf/hydra/launcher/slurm.yaml``."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    nodes: int
    tasks_per_node: int
    gpus_per_node: int | None
    cpus_per_task: int | None
    mem_gb: float | None
    timeout_min: int

    @property
    def parameters(self) -> dict[str, Any]:
        """The same as sbatch calls them, without what is left to SLURM."""
        memory = None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M"
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "gpus_per_node": self.gpus_per_node or None,
            "cpus_per_task": self.cpus_per_task,
            "mem": memory,
            "time": self.timeout_min,
        }
        return {key: value for key, value in asked.items() if value is not None}


def check(asked: Resources, jobs: Sequence[DictConfig]) -> None:
    """Whether SLURM has what is asked for, and the jobs can use it.

    Args:
        asked: for each job.
        jobs: their composed configurations.

    Raises:
        UserError: for the first thing that cannot work.
    """
    if not slurm.is_there():
        raise UserError(
            "hydra/launcher=slurm: there is no sbatch or no squeue here. Type this on a machine from which jobs are "
            "submitted, or choose another launcher, as hydra/launcher=joblib."
        )
    for name in ("nodes", "tasks_per_node", "timeout_min"):
        if getattr(asked, name) < 1:
            raise UserError(f"{_PLACE}{name}={getattr(asked, name)}: it must be 1 or more.")
    _check_partition(asked, slurm.partitions())
    with _environment("SLURM_NNODES", str(asked.nodes)):  # which trainer=ddp_slurm reads, as it will in the job
        for job in jobs:
            _check_processes(asked, job)
    _ask_slurm(asked)


def _check_partition(asked: Resources, partitions: Sequence[slurm.Nodes]) -> None:
    names = list(dict.fromkeys(group.partition for group in partitions))
    if asked.partition is not None and not set(asked.partition.split(",")) <= set(names):
        raise UserError(
            f"{_PLACE}partition={asked.partition}: there is no such partition.{did_you_mean(asked.partition, names)} "
            f"SLURM has: {', '.join(names)}."
        )
    chosen = (
        asked.partition.split(",") if asked.partition else [group.partition for group in partitions if group.default]
    )
    there = [group for group in partitions if group.partition in chosen]
    where = f"partition {asked.partition}" if asked.partition else f"the default partition, {', '.join(set(chosen))},"
    if not there:
        return  # no default partition: SLURM will say so
    memory = max(group.memory for group in there) / 1024
    gpus, cpus = max(group.gpus for group in there), max(group.cpus for group in there)
    cpus_asked = (asked.cpus_per_task or 1) * asked.tasks_per_node
    minutes = None if any(group.minutes is None for group in there) else max(group.minutes or 0 for group in there)
    instead = "Ask for less, or choose another one with hydra.launcher.partition=NAME."
    if (asked.gpus_per_node or 0) > gpus:
        raise UserError(
            f"{_PLACE}gpus_per_node={asked.gpus_per_node}: the machines of {where} have "
            f"{f'at most {gpus} GPUs' if gpus else 'no GPUs'}. "
            f"{instead if gpus else 'Type hydra.launcher.gpus_per_node=0, or hydra.launcher.partition=NAME.'}"
        )
    if cpus_asked > cpus:
        raise UserError(
            f"{_PLACE}cpus_per_task={asked.cpus_per_task} with tasks_per_node={asked.tasks_per_node}: the machines of "
            f"{where} have at most {cpus} cores. {instead}"
        )
    if asked.mem_gb is not None and asked.mem_gb > memory:
        raise UserError(
            f"{_PLACE}mem_gb={asked.mem_gb:g}: the machines of {where} have at most {memory:.4g} GB. {instead}"
        )
    if asked.nodes > sum(group.count for group in there):
        raise UserError(
            f"{_PLACE}nodes={asked.nodes}: {where} has {sum(group.count for group in there)} machines. {instead}"
        )
    if minutes is not None and asked.timeout_min > minutes:
        raise UserError(
            f"{_PLACE}timeout_min={asked.timeout_min}: in {where} jobs run for at most {minutes:g} minutes. A job "
            "whose time is over goes back into the queue and goes on, so that less will do."
        )


def _check_processes(asked: Resources, job: DictConfig) -> None:
    """Whether the processes that srun starts are those that a job's trainer makes use of."""
    try:
        devices, nodes = job.trainer.devices, job.trainer.nodes
        accelerator = job.trainer.accelerator
    except OmegaConfBaseException:  # which the job will say better
        return
    gpus, tasks = asked.gpus_per_node or 0, asked.tasks_per_node
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus)
    if asked.nodes * tasks > 1:
        if nodes != asked.nodes:
            raise UserError(
                f"{_PLACE}nodes={asked.nodes} tasks_per_node={tasks} with trainer.nodes={nodes}: srun would start "
                f"{asked.nodes * tasks} processes. Type trainer=ddp_slurm, which takes what srun started."
            )
        if devices not in ("auto", tasks):
            raise UserError(
                f"{_PLACE}tasks_per_node={tasks} with trainer.devices={devices}: a process uses one device. "
                f"Type hydra.launcher.tasks_per_node={devices}, or trainer.devices=auto."
            )
        if not on_cpu and tasks != gpus:
            raise UserError(
                f"{_PLACE}tasks_per_node={tasks} with gpus_per_node={gpus}: there is a process for each GPU. "
                f"Type hydra.launcher.tasks_per_node={max(gpus, 1)} hydra.launcher.gpus_per_node={max(gpus, 1)}."
            )
        return
    if nodes != 1:
        raise UserError(
            f"trainer.nodes={nodes} with {_PLACE}nodes={asked.nodes}: SLURM would give each job "
            f"{asked.nodes} machine. Type hydra.launcher.nodes={nodes}."
        )
    if accelerator == "gpu" and not gpus:
        raise UserError(
            f"trainer.accelerator=gpu with {_PLACE}gpus_per_node={asked.gpus_per_node}: jobs would see no GPU. "
            "Type hydra.launcher.gpus_per_node=1."
        )
    if not on_cpu and devices != "auto" and devices > gpus:
        raise UserError(
            f"trainer.devices={devices} with {_PLACE}gpus_per_node={gpus}: each job would see {gpus}. "
            f"Type hydra.launcher.gpus_per_node={devices}."
        )


def _ask_slurm(asked: Resources) -> None:
    """What only SLURM itself knows: accounts, their limits, constraints."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in asked.parameters.items()]
    try:
        done = subprocess.run(
            ["sbatch", "--test-only", *words, "--wrap=true"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"hydra/launcher=slurm: sbatch does not answer ({error}).") from None
    if done.returncode:
        said = " ".join(done.stderr.replace("sbatch: error:", "").replace("allocation failure:", "").split())
        raise UserError(
            f"hydra/launcher=slurm: SLURM would not take such jobs ({said}). They are asked for with "
            f"{' '.join(words)}, which hydra.launcher.KEY=VALUE changes."
        )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
