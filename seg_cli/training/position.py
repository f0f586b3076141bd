"""Where a run is: what a checkpoint holds besides weights, so that a run goes on as if it had never stopped."""

import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor


@dataclass
class Position:
    """How far a run is, and what it found so far. Plain values alone, so that a checkpoint is read without pickles.

    Attributes:
        epoch: whole epochs that are done.
        seen: samples of the epoch after them that are done, over all processes.
        batch: samples of the batches, over all processes, in which they were done.
        skipped: samples before them that were done in batches of another size, on another number of processes.
        step: steps of the optimiser, over all epochs.
        rows: of metrics.csv.
        best_miou, best_epoch: of the best scoring so far, and its epoch from 0; None before the first.
        waited: scorings since then.
        thawed: part of the model -> the step from which it learns after it was frozen; -1 while it is frozen.
        seconds: of training and scoring, over all sittings.
    """

    epoch: int = 0
    seen: int = 0
    batch: int = 0
    skipped: int = 0
    step: int = 0
    rows: list[dict[str, float | None]] = field(default_factory=list)
    best_miou: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    thawed: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Position":
        return cls(**state)


class LossSums:
    """Losses of an epoch, summed on the device over the samples that this process has seen."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no double
        self.names: list[str] = []
        self.sums = torch.zeros(0, dtype=self.dtype, device=device)

    def add(self, losses: dict[str, Tensor], samples: int) -> None:
        if not self.names:
            self.names = list(losses)
            self.sums = torch.zeros(len(losses) + 1, dtype=self.dtype, device=self.device)
        ones = torch.ones((), dtype=self.dtype, device=self.device)
        self.sums += samples * torch.stack([*(value.to(self.dtype) for value in losses.values()), ones])

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Means over the samples of all processes."""
        sums = self.sums.clone()
        if fabric.world_size > 1:
            torch.distributed.all_reduce(sums)
        values = (sums[:-1] / sums[-1]).tolist() if self.names else []
        return dict(zip(self.names, values, strict=True))

    def reset(self) -> None:
        self.names = []

    def state_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "sums": self.sums.tolist() if self.names else []}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.names = list(state["names"])
        self.sums = torch.tensor(state["sums"], dtype=self.dtype, device=self.device)


def process_states(fabric: Fabric, losses: LossSums) -> list[dict[str, Any]]:
    """What each process has of its own, in the order of their ranks: its random generators, and its sums of losses."""
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    own: dict[str, Any] = {
        "losses": losses.state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, cached),
    }
    if fabric.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(fabric.device)
    if fabric.world_size == 1:
        return [own]
    states: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(states, own)
    return states


def restore_process_state(states: list[dict[str, Any]], fabric: Fabric, losses: LossSums) -> None:
    """Undo ``process_states``. With another number of processes generators stay as they are, and sums are united."""
    if len(states) != fabric.world_size:
        if fabric.is_global_zero:
            for state in states:
                other = LossSums(losses.device)
                other.load_state_dict(state["losses"])
                losses.names, losses.sums = other.names, other.sums + (losses.sums if losses.names else 0)
        elif states[0]["losses"]["names"]:
            losses.names = list(states[0]["losses"]["names"])
            losses.sums = torch.zeros(len(losses.names) + 1, dtype=losses.dtype, device=losses.device)
        return
    own = states[fabric.global_rank]
    losses.load_state_dict(own["losses"])
    torch.set_rng_state(own["torch"])
    version, numbers, gauss = own["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, place, has_gauss, cached = own["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    if "cuda" in own and fabric.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], fabric.device)
