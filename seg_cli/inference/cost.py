"""What a model costs to run."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.inference_mode()
def count_flops(model: nn.Module, size: Sequence[int], in_channels: int = 3) -> int:
    """Floating-point operations for one image of (height, width), a multiply-add counting as two.

    Convolutions and matrix products are counted, as is usual. The model is run once, in eval mode, and then has the
    mode that it had.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    image = torch.zeros(1, in_channels, *size, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        model(image)
    model.train(training)
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak of this process: allocated on a CUDA device, or resident where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where getrusage gives a process that was begun by a larger one the other's peak
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
