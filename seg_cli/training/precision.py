"""``precision.mode``: in which number format to compute, and whether this device is made for it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from seg_cli.errors import UserError

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(mode: str, device: torch.device) -> str:
    """``auto`` to ``bf16`` where the device has the instructions and ``fp32`` elsewhere; other modes as they are.

    Raises UserError for fp16 on a CPU, which has no loss scaling and loses small gradients.
    """
    if mode == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if mode == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16: half precision needs a GPU. On a CPU choose precision=auto, bf16 or fp32.")
    return mode


def autocast_dtype(mode: str) -> torch.dtype | None:
    """What autocast computes in for a resolved mode; None for float32 throughout."""
    return _DTYPES[mode]


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast on the device and not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return cpu_has_bf16()
    return False


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16, AMX, or Arm's bf16)."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def shield_dilated_depthwise(model: nn.Module) -> None:
    """Keep a fault of PyTorch's CPU library away from the gradients of a model.

    In bfloat16 and channels-last order, oneDNN (torch 2.12) gives depthwise convolutions with dilation wrong gradients
    of their weights on maps from about 24x32 on, some of them from memory that was never written. In the other memory
    order they are right, so these layers get their input and their weights in that one.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and max(layer.dilation) > 1:
            weight = layer.weight.data
            layer.weight.data = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(weight)
            layer.register_forward_pre_hook(_in_plain_order)


def _in_plain_order(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() if x.device.type == "cpu" else x for x in inputs)
