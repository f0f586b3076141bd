"""Devices and processes: which there are, and how a run is spread over them."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from seg_cli.errors import UserError
from seg_cli.training.launch import World, WorldEnvironment, end_children, follow_parent, start_world, world_around
from seg_cli.training.shards import shard

_PATIENCE = timedelta(minutes=10)
"""For one exchange between processes. That one of them is gone is noticed in seconds, see ``companions``; this is for
one that hangs, and longer than it takes one to read the first batch, to compile or to write a checkpoint."""


def device_of(settings: Mapping[str, Any]) -> torch.device:
    """The first device that ``accelerator`` (auto, cpu, gpu) means on this machine.

    Args:
        settings: the ``trainer`` group, whose processes are checked too, or ``accelerator`` alone.

    Raises:
        UserError: if a GPU is asked for where there is none, or more GPUs than there are; and as ``check_processes``
            does.
    """
    device = _device_of(settings)
    if "nodes" in settings:
        check_processes(settings, device)
    return device


def _device_of(settings: Mapping[str, Any]) -> torch.device:
    accelerator, devices = settings["accelerator"], settings.get("devices", "auto")
    gpus = _gpus()
    if accelerator == "cpu" or (accelerator == "auto" and not gpus):
        if settings.get("strategy") == "fsdp":
            raise UserError(
                "trainer.strategy=fsdp: parameters are sharded over GPUs, and this run is on a CPU. Type "
                "trainer=default, or trainer=cpu_ddp for several processes on CPUs."
            )
        return torch.device("cpu")
    if not gpus:
        raise UserError(
            "accelerator=gpu: torch finds no GPU on this machine. Type accelerator=cpu (trainer.accelerator=cpu for "
            "training), or see what is missing: segrun doctor."
        )
    if devices != "auto" and devices > gpus:
        raise UserError(
            f"trainer.devices={devices}: of this machine's GPUs, {gpus} can be used here. Allowed are auto and 1 to "
            f"{gpus}. (Under SLURM each process must see all GPUs of its node: ask for them with --gpus-per-node.)"
        )
    return torch.device("cuda" if torch.cuda.is_available() else "mps")


def make_fabric(settings: Mapping[str, Any], device: torch.device, *, thaws: bool) -> Fabric:
    """The processes of a run, launched: from here on this code runs in each of them.

    Args:
        settings: the ``trainer`` group.
        device: what ``device_of`` found.
        thaws: whether parts of the model are frozen in some epochs and learn in others.

    Raises:
        UserError: as ``check_processes`` does.
    """
    check_processes(settings, device)
    world = world_around()
    if world is None:
        _end_earlier_job()
        count = _local_count(settings, device)
        world = start_world(count) if count > 1 else World()
    rank_zero_only.rank = world.rank  # type: ignore[attr-defined]
    strategy: str | Strategy = "auto"
    if settings["strategy"] == "fsdp":
        strategy = ModelParallelStrategy(
            shard, data_parallel_size=world.size, tensor_parallel_size=1, timeout=_PATIENCE
        )
    elif world.size > 1:
        # Frozen parameters have no gradient in some epochs; without this, DDP would wait for one.
        strategy = DDPStrategy(find_unused_parameters=thaws, timeout=_PATIENCE)
    fabric = Fabric(
        accelerator=device.type,
        devices=world.local_size,
        num_nodes=world.nodes,
        strategy=strategy,
        plugins=[WorldEnvironment(world)],
    )
    follow_parent()
    fabric.launch()
    return fabric


def check_processes(settings: Mapping[str, Any], device: torch.device) -> None:
    """Whether the processes that the ``trainer`` group asks for are there, or can be started here.

    Raises:
        UserError: if torchrun or srun started others, nobody started those of other machines, or there is nothing to
            shard over.
    """
    devices, nodes, world = settings["devices"], settings["nodes"], world_around()
    if world is None and nodes > 1:
        raise UserError(
            f"trainer.nodes={nodes}: segrun starts the processes of one machine, and this one was started alone. "
            "Start it on every machine at once, with srun (see trainer=ddp_slurm) or with torchrun --nnodes."
        )
    if world is not None and (nodes, devices) not in ((world.nodes, "auto"), (world.nodes, world.local_size)):
        raise UserError(
            f"trainer.nodes={nodes} trainer.devices={devices}: {world.starter} started {world.local_size} on each of "
            f"{world.nodes} machines. Type trainer.nodes={world.nodes} trainer.devices={world.local_size}."
        )
    if settings["strategy"] == "fsdp" and (world.size if world else _local_count(settings, device)) == 1:
        raise UserError(
            "trainer.strategy=fsdp: parameters are sharded over several GPUs, and this run has one. "
            "Type trainer=default."
        )


def _local_count(settings: Mapping[str, Any], device: torch.device) -> int:
    """Processes to be started on this machine."""
    devices = settings["devices"]
    if devices != "auto":
        return int(devices)
    return 1 if device.type == "cpu" else max(1, _gpus())


def _end_earlier_job() -> None:
    """Where an earlier job of a sweep had processes of its own: leave them, so that this one can have others."""
    end_children()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _gpus() -> int:
    return torch.cuda.device_count() or int(torch.backends.mps.is_available())
