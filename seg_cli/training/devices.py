"""Devices and processes: which there are, and how a run is spread over them."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy

from seg_cli.errors import UserError


def device_of(settings: Mapping[str, Any]) -> torch.device:
    """The first device that ``accelerator`` (auto, cpu, gpu) means on this machine.

    Raises:
        UserError: if a GPU is asked for where there is none, or more GPUs than there are.
    """
    accelerator, devices = settings["accelerator"], settings.get("devices", "auto")
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
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
        raise UserError(f"trainer.devices={devices}: this machine has {gpus} GPUs. Allowed are auto and 1 to {gpus}.")
    return torch.device("cuda" if torch.cuda.is_available() else "mps")


def make_fabric(settings: Mapping[str, Any], device: torch.device, *, thaws: bool) -> Fabric:
    """The processes of a run, launched: from here on this code runs in each of them.

    Args:
        settings: the ``trainer`` group.
        device: what ``device_of`` found.
        thaws: whether parts of the model are frozen in some epochs and learn in others.

    Raises:
        UserError: if FSDP is to thaw parts, which it cannot.
    """
    devices, nodes, name = settings["devices"], settings["nodes"], settings["strategy"]
    strategy: str | Strategy = "auto"
    if name == "fsdp":
        if thaws:
            raise UserError(
                "trainer.strategy=fsdp: sharded parameters cannot be frozen and thawed. Type finetune=none."
            )
        strategy = FSDPStrategy(state_dict_type="full", use_orig_params=True)
    elif name == "ddp" or nodes > 1 or (devices != "auto" and devices > 1):
        # Frozen parameters have no gradient in some epochs; without this, DDP would wait for one.
        strategy = DDPStrategy(find_unused_parameters=thaws)
    if device.type == "cpu" and devices == "auto":
        devices = 1
    fabric = Fabric(accelerator=device.type, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def is_alone(fabric: Fabric) -> bool:
    """Whether there is one process."""
    return fabric.world_size == 1 or isinstance(fabric.strategy, SingleDeviceStrategy)
