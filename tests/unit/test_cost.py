"""What a model costs: parameters and operations, counted by hand for small ones."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from seg_cli.inference.cost import count_flops, count_parameters, peak_memory


class OneConv(nn.Module):
    """A 3x3 convolution from 3 to 8 channels with stride 2, and a norm."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images.float()))


def test_parameters_by_hand() -> None:
    assert count_parameters(OneConv()) == 3 * 8 * 9 + 8 + 2 * 8


@pytest.mark.parametrize("channels", [3, 4])
def test_operations_of_a_convolution_by_hand(channels: int) -> None:
    """A multiply-add is two, for each of 8 channels at 5x6 positions."""
    assert count_flops(OneConv(channels), (10, 12), channels) == 2 * (channels * 9) * 8 * 5 * 6


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = OneConv().train(training)
    before = model.norm.running_mean.clone()  # type: ignore[union-attr]
    count_flops(model, (10, 12))
    assert model.training == model.norm.training == training
    torch.testing.assert_close(model.norm.running_mean, before)


def test_peak_memory_is_in_bytes() -> None:
    assert 50 * 2**20 < peak_memory(torch.device("cpu")) < 2**40


def test_the_peak_is_of_this_process_alone() -> None:
    show = "print(peak_memory(torch.device('cpu')) >> 20)"
    code = f"import torch; from seg_cli.inference.cost import peak_memory; {show}"
    held = torch.ones(1500 << 20, dtype=torch.uint8)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert peak_memory(torch.device("cpu")) >= len(held)
    assert 50 < int(said) < 1200
