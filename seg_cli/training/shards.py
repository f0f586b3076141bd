"""Models in parts, a part of every parameter on each process (Zhao 2023, arXiv:2304.11277), and whole again."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Have each process keep a part of every parameter, of its gradient and of what the optimiser remembers of it.

    The whole model is one unit: some models use a part's weights without calling its forward, which is where smaller
    units would put their weights together.
    """
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def is_sharded(fabric: Fabric) -> bool:
    """Whether each process holds a part of every parameter."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def whole(state: Any, device: torch.device | None = None) -> Any:
    """A state with whole tensors where it has parts of them, and otherwise as it is. All processes must ask.

    Args:
        state: tensors in dicts and lists.
        device: where what is put together goes; None leaves it where its parts are.
    """
    if isinstance(state, Tensor):
        return state.full_tensor().to(device) if hasattr(state, "full_tensor") else state
    if isinstance(state, dict):
        return {key: whole(value, device) for key, value in state.items()}
    return [whole(value, device) for value in state] if isinstance(state, list) else state


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state; each process takes its parts."""
    own = module.state_dict()
    module.load_state_dict({key: _part_like(own.get(key), value) for key, value in state.items()})


def load_optimizer(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Load what a whole optimiser remembers of each parameter; its settings stay those that it was made with."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # What has not the parameter's shape, such as a count of steps, is no part of anything.
    parts = {
        number: {
            key: _part_like(parameters[number], value)
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for key, value in remembered.items()
        }
        for number, remembered in state.items()
    }
    optimizer.load_state_dict({"state": parts, "param_groups": optimizer.state_dict()["param_groups"]})


def _part_like(own: Any, value: Tensor) -> Tensor:
    """This process's part of a whole tensor, where its counterpart ``own`` is such a part."""
    if not hasattr(own, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
