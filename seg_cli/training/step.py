"""A step of the optimiser: gradients over its batches, on all processes, in as much memory as there is."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from seg_cli.data.loading import Batch
from seg_cli.errors import RunFailed
from seg_cli.inference.evaluate import autocast
from seg_cli.inference.memory import is_out_of_memory
from seg_cli.training.shards import is_sharded, load_optimizer, whole
from seg_cli.training.task import SegmentationTask


class Stepper:
    """The optimiser of a run, and how gradients come about.

    Args:
        task: model, loss and optimiser.
        fabric: the processes; the model is moved to its device and wrapped here.
        clip: largest norm of all gradients together; None leaves them as they are.
        dtype: of autocast; None computes in float32.
        say: shows a line to people.
        lr_factor: on the learning rates that the optimiser was made with.

    Attributes:
        chunks: parts into which each batch is split since memory did not do for a whole one.
    """

    def __init__(
        self,
        task: SegmentationTask,
        *,
        fabric: Fabric,
        clip: float | None,
        dtype: torch.dtype | None,
        say: Callable[[str], None],
        lr_factor: float = 1.0,
    ) -> None:
        self.task, self.fabric, self.clip, self.dtype, self.say = task, fabric, clip, dtype, say
        self.device = fabric.device
        self.module = fabric.setup_module(task)
        self.optimizer = task.configure_optimizers()
        self.base_lr = [group["lr"] * lr_factor for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.chunks = 1

    def step(self, batches: list[Batch], *, guarded: bool) -> dict[str, Tensor]:
        """One step over the mean gradients of these batches.

        Args:
            batches: on the device.
            guarded: whether all processes agree that memory did before they exchange gradients; without it, many
                processes cannot recover from running out of it.

        Returns:
            The loss under the empty name, and its parts as ``/ce``; means over the samples, on the device.

        Raises:
            RunFailed: if memory does not do for a single sample.
        """
        # Processes that hold parts of parameters cannot compute without each other, and so cannot try again alone.
        losses = self._gradients(batches, guarded=guarded and not is_sharded(self.fabric))
        if self.clip is not None:
            # Fused optimisers undo the fp16 loss scale inside their step; to undo it before is what they allow for.
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses

    def set_learning_rates(self, factor: float, of_part: Mapping[str, float]) -> None:
        """``factor`` times the learning rate of each group, times that of its part where it has one."""
        for group, base in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = base * group["lr_factor"] * factor * of_part.get(group["part"], 1.0)

    def state_dict(self) -> dict[str, Any]:
        """All processes must ask."""
        optimizer = whole(self.optimizer.state_dict(), torch.device("cpu"))
        return {"optimizer": optimizer, "scaler": self.scaler.state_dict(), "chunks": self.chunks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"]["state"])
        for group, saved in zip(self.optimizer.param_groups, state["optimizer"]["param_groups"], strict=True):
            group["lr"] = saved["lr"]  # of the latest step, which a checkpoint before the next one says again
        self.scaler.load_state_dict(state["scaler"])
        self.chunks = state["chunks"]

    def _gradients(self, batches: list[Batch], *, guarded: bool) -> dict[str, Tensor]:
        """Fill the gradients; where memory does not do, with batches in more parts. Returns the mean losses."""
        alone = self.fabric.world_size == 1
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            error: RuntimeError | None = None
            try:
                # Guarded, gradients are summed over the processes only after all of them are known to be there.
                losses = self._backward(batches, sync=not guarded)
            except RuntimeError as caught:
                if not is_out_of_memory(caught) or not (alone or guarded):
                    raise
                error = caught.with_traceback(None)  # whose frames would hold on to all that was computed
            full = error is not None
            if not (any_of(self.fabric, full) if guarded else full):
                break
            self._split_more(max(len(batch.names) for batch in batches), error)
        if guarded and not alone:
            for parameter in self.task.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.fabric.world_size
        return losses

    def _backward(self, batches: list[Batch], *, sync: bool) -> dict[str, Tensor]:
        parts = [part for batch in batches for part in batch.split(self.chunks)]
        samples = sum(len(part.names) for part in parts)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            share = len(part.names) / samples
            quiet = self.fabric.world_size > 1 and not (sync and last)
            with self.fabric.no_backward_sync(self.module) if quiet else nullcontext():
                with autocast(self.device, self.dtype):
                    loss, terms = self.module(part.images, part.masks)
                weighed = loss if share == 1 else loss * share
                self.fabric.backward(self.scaler.scale(weighed), model=self.module)
            parts_of_loss = {"": loss.detach()} | {f"/{name}": value for name, value in terms.items()}
            for name, value in parts_of_loss.items():
                sums[name] = sums[name] + value * share if name in sums else value * share
        return sums

    def _split_more(self, samples: int, error: RuntimeError | None) -> None:
        """Have each batch computed in twice as many parts; the gradients of a step stay those of the whole batch."""
        if self.chunks >= samples:
            raise RunFailed(
                "Memory does not do for a single sample. Try a smaller loader.crop, a smaller model, or precision=bf16."
            ) from error
        self.chunks = min(samples, self.chunks * 2)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(
            f"note: memory does not do for batches of {samples}; each is computed in {self.chunks} parts from now on, "
            "and a step is still of the whole batch."
        )


def any_of(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is set in any process. All of them must ask; waits for the device where there are several."""
    return bool(largest_of(fabric, int(flag)))


def largest_of(fabric: Fabric, number: int) -> int:
    """The largest of the processes' numbers. All of them must ask; waits for the device where there are several."""
    if fabric.world_size == 1:
        return number
    numbers = torch.tensor(number, device=fabric.device)
    torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
    return int(numbers)
