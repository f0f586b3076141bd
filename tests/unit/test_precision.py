"""``precision.mode``: what auto means on a device, and what a mode is called elsewhere."""

import pytest
import torch
from torch import nn

from seg_cli.errors import UserError
from seg_cli.training import precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.mark.parametrize(("has", "mode"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_cpu_has_the_instructions(monkeypatch: pytest.MonkeyPatch, has: bool, mode: str) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has)
    assert precision.resolve("auto", CPU) == mode


@pytest.mark.parametrize(("has", "mode"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_gpu_does_not_emulate_it(monkeypatch: pytest.MonkeyPatch, has: bool, mode: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert precision.resolve("auto", CUDA) == mode


def test_auto_is_fp32_elsewhere() -> None:
    assert precision.resolve("auto", MPS) == "fp32"


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_other_modes_are_taken_as_they_are(mode: str) -> None:
    assert precision.resolve(mode, CUDA) == mode


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"precision=fp16: half precision needs a GPU.*precision=auto, bf16 or fp32"):
        precision.resolve("fp16", CPU)


@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_what_autocast_computes_in(mode: str, dtype: torch.dtype | None) -> None:
    assert precision.autocast_dtype(mode) == dtype


def test_asking_this_cpu_gives_an_answer() -> None:
    assert precision.cpu_has_bf16() in (True, False)
    assert precision.has_bf16(CPU) == precision.cpu_has_bf16()


def test_gradients_of_dilated_depthwise_convolutions_in_bfloat16_are_right() -> None:
    """Without the shield they are off by their own size, in channels-last order and at this size of map."""
    torch.manual_seed(0)
    images = torch.randn(4, 480, 24, 32).contiguous(memory_format=torch.channels_last)
    model = nn.Sequential(nn.Conv2d(480, 480, 3, padding=2, dilation=2, groups=480), nn.ReLU(), nn.Conv2d(480, 8, 1))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision.shield_dilated_depthwise(model)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(images)
        logits.float().square().mean().backward()
        gradients.append(model[0].weight.grad.clone())
    exact, found = gradients
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.05
