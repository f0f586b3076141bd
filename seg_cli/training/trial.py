"""Trials before a run: what a step needs in memory and in time. They leave the model as it was."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seg_cli.data.geometry import Size
from seg_cli.data.labels import LabelSpace
from seg_cli.inference.evaluate import autocast
from seg_cli.training.task import SegmentationTask

_FEW, _MORE = 2, 4
"""Samples of the two batches from which the memory of any other follows. Of one sample, some batch norms have nothing
to take statistics of."""


@contextmanager
def unchanged(task: SegmentationTask) -> Iterator[None]:
    """What happens to the weights inside, to batch statistics and to torch's random generators is undone after it."""
    weights = {key: value.clone() for key, value in task.state_dict().items()}
    learning = [parameter.requires_grad for parameter in task.parameters()]
    modes = {module: module.training for module in task.modules()}
    epoch = task.loss.epoch
    gpus = {parameter.device for parameter in task.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(gpus)):
            yield
    finally:
        task.load_state_dict(weights)
        for parameter, learns in zip(task.parameters(), learning, strict=True):
            parameter.requires_grad_(learns).grad = None
        for module, mode in modes.items():
            module.training = mode
        task.loss.epoch = epoch


def random_samples(
    labels: LabelSpace, samples: int, *, bands: int, size: Size, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images (N, B, H, W) uint8 in channels_last order and masks, of noise: what they hold costs no memory."""
    images = torch.randint(0, 256, (samples, bands, *size), dtype=torch.uint8, device=device)
    planes = (labels.num_classes,) if labels.overlapping else ()
    values = 2 if labels.overlapping else labels.num_classes
    masks = torch.randint(0, values, (samples, *planes, *size), dtype=torch.uint8, device=device)
    return images.contiguous(memory_format=torch.channels_last), masks


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step needs on a device.

    Attributes:
        parameters: weights and batch statistics.
        gradients: of what learns.
        optimizer: its state.
        fixed, sample: what is kept for the backward pass, whatever the batch, and for each of its samples.
    """

    parameters: int
    gradients: int
    optimizer: int
    fixed: float
    sample: float

    def activations(self, samples: int) -> int:
        return round(self.fixed + self.sample * samples)

    def total(self, samples: int) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations(samples)


def measure_memory(
    task: SegmentationTask,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> StepMemory:
    """What steps need, from steps with two small batches; memory grows by the same with each sample.

    On a GPU it is what was allocated at the peak. On a CPU it is what the backward pass is given: what comes and goes
    inside single operations is not in it.

    Args:
        task: on the device, with what learns set to learn.
        draw: a number of samples -> images and masks on the device.
        device, dtype: where, and in which precision of autocast.
    """
    optimizer = task.configure_optimizers()
    measure = _peak if device.type == "cuda" else _saved
    train_step(task, optimizer, *draw(_FEW), device=device, dtype=dtype)  # the optimiser has its state from now on
    few, more = (measure(task, draw(samples), device, dtype) for samples in (_FEW, _MORE))
    sample = max(0.0, (more - few) / (_MORE - _FEW))
    learning = [parameter for parameter in task.parameters() if parameter.requires_grad]
    state = [value for of in optimizer.state.values() for value in of.values() if isinstance(value, Tensor)]
    return StepMemory(
        parameters=_bytes([*task.parameters(), *task.buffers()]),
        gradients=_bytes(learning),
        optimizer=_bytes(state),
        fixed=max(0.0, few - _FEW * sample),
        sample=sample,
    )


def train_step(
    task: SegmentationTask,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """A step of this process alone: forward, backward, optimiser. Learning rates are so small that nothing blows up."""
    for group in optimizer.param_groups:
        group["lr"] = 1e-12
    _backward(task, images, masks, device, dtype)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def seconds_a_step(step: Callable[[], None], *, device: torch.device, steps: int = 3) -> float:
    """The median of a few steps, after one to warm up."""
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _backward(
    task: SegmentationTask, images: Tensor, masks: Tensor, device: torch.device, dtype: torch.dtype | None
) -> None:
    with autocast(device, dtype):
        loss, _ = task.training_step(images, masks)
    loss.backward()


def _saved(
    task: SegmentationTask, samples: tuple[Tensor, Tensor], device: torch.device, dtype: torch.dtype | None
) -> int:
    """Bytes that the forward pass keeps for the backward pass, besides the parameters; and the samples."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*task.parameters(), *task.buffers()]}
    kept: dict[int, int] = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in samples}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _backward(task, *samples, device, dtype)
    _drop_gradients(task)
    return sum(kept.values())


def _peak(
    task: SegmentationTask, samples: tuple[Tensor, Tensor], device: torch.device, dtype: torch.dtype | None
) -> int:
    """Bytes on the GPU at the peak of a step, besides parameters, gradients and what the optimiser has."""
    before = torch.cuda.memory_allocated(device) - _bytes(samples)
    torch.cuda.reset_peak_memory_stats(device)
    _backward(task, *samples, device, dtype)
    gradients = _bytes([parameter.grad for parameter in task.parameters() if parameter.grad is not None])
    _drop_gradients(task)
    return max(0, torch.cuda.max_memory_allocated(device) - before - gradients)


def _drop_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
