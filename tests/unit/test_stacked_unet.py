"""Stacked U-Nets: the paper's three networks, their resolution, their dilation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_parameters
from seg_cli.models.stacked_unet import StackedUNet, UNetBlock

SUNET_64: dict[str, Any] = {}
SUNET_128 = {"channels": 128, "outputs": [512, 1024, 1536, 2048]}
SUNET_7_128 = {"channels": 128, "blocks": [2, 7, 7, 1], "outputs": [512, 1280, 2048, 2304]}
TINY: dict[str, Any] = {"channels": 8, "blocks": [1, 2, 1, 1], "outputs": [16, 24, 32, 40]}


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def by_hand(n: int, blocks: list[int], outputs: list[int], classes: int) -> int:
    """The layers of the authors' code, without biases but that of the classifier; a batch norm has 2 a channel."""
    stem = 7 * 7 * 3 * 64 + 2 * 64 + 9 * 64 * 128 + 2 * 128 + 9 * 128 * 128 + 64 * 128
    total, inputs = stem, 128
    for count, out, levels in zip(blocks, outputs, (2, 2, 2, 1), strict=True):
        for _ in range(count):
            total += 2 * inputs + inputs * n  # norm, to n channels
            total += levels * 2 * (2 * n + 9 * n * n)  # down
            total += (levels - 1) * (2 * 2 * n + 9 * 2 * n * n) + (2 * n + 9 * n * n)  # first ones up
            total += levels * (2 * n + 9 * n * n) + 2 * n + n * out  # second ones, to the block's channels
            total += inputs * out if inputs != out else 0  # shortcut
            inputs = out
    return total + 2 * inputs + inputs * classes + classes


@pytest.mark.parametrize(
    ("settings", "millions", "tolerance"),
    [
        (SUNET_64, 6.9, 0.01),
        (SUNET_128, 24.6, 0.01),
        (SUNET_7_128, 37.7, 0.04),  # the authors' code has 2048 channels where the paper's count is that of 1792
        (SUNET_7_128 | {"outputs": [512, 1280, 1792, 2304]}, 37.7, 0.002),
    ],
)
def test_parameters_are_those_of_the_paper(settings: dict[str, Any], millions: float, tolerance: float) -> None:
    with torch.device("meta"):
        count = count_parameters(StackedUNet(num_classes=1000, **settings))
    assert count == pytest.approx(1e6 * millions, rel=tolerance)
    blocks, outputs = settings.get("blocks", [2, 4, 4, 1]), settings.get("outputs", [256, 512, 768, 1024])
    assert count == by_hand(settings.get("channels", 64), blocks, outputs, 1000)


@pytest.mark.parametrize(
    ("output_stride", "multiple", "third", "fourth"),
    [
        (32, 64, [1] * 8, [1] * 4),
        (16, 64, [1] * 8, [2, 4, 4, 2]),
        (8, 32, [2, 4, 4, 8, 4, 2, 8, 4], [4, 8, 8, 4]),
    ],
)
def test_resolution_is_kept_by_dilation(output_stride: int, multiple: int, third: list[int], fourth: list[int]) -> None:
    """The rates in the order of a block's layers: down, down again; up (the outer, then the inner)."""
    model = StackedUNet(num_classes=2, output_stride=output_stride, **TINY).eval()
    with torch.no_grad():
        assert model.encoder(pictures(1, 128, 64)).shape == (1, 40, 128 // output_stride, 64 // output_stride)
    assert model.encoder.multiple == multiple

    def rates(stage: nn.Module) -> list[int]:
        convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        return [conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)]

    assert rates(model.encoder.stages[2]) == third
    assert rates(model.encoder.stages[3]) == fourth
    assert set(rates(model.encoder.stages[0]) + rates(model.encoder.stages[1])) == {1}


@pytest.mark.parametrize(("levels", "dilation"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_block_adds_a_u_net_to_what_it_got(levels: int, dilation: int) -> None:
    torch.manual_seed(0)
    block, x = UNetBlock(12, 4, 12, levels, dilation).eval(), torch.randn(2, 12, 8, 16)
    nails = [m for m in block.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(nails) == (levels if dilation == 1 else 0)
    with torch.no_grad():
        assert block(x).shape == x.shape
        assert not torch.allclose(block(x), x)
        nn.init.zeros_(block.expand[-1].weight)
        assert torch.equal(block(x), x)


def test_a_block_looks_far_but_keeps_the_resolution() -> None:
    """One value is felt by 20 and more in a row; eight 3x3 convolutions without halvings would make it 17."""
    torch.manual_seed(0)
    block = UNetBlock(4, 4, 4, 2, 1).eval()
    x = torch.randn(1, 4, 32, 32)
    y = x.clone()
    y[..., 16, 16] += 1
    with torch.no_grad():
        changed = (block(y) - block(x)).abs().amax((0, 1)) > 1e-7
    rows = changed.any(1).nonzero().flatten()
    assert 20 <= rows.max() - rows.min() + 1 <= 32


def test_degridding_stands_between_the_stages_and_the_classifier() -> None:
    plain, model = (StackedUNet(num_classes=2, degrid=degrid, **TINY) for degrid in (False, True))
    convs = [m for m in model.decoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.dilation[0]) for c in convs] == [(40, 512, 2), (512, 512, 1)]
    more = 9 * 40 * 512 + 9 * 512 * 512 + 2 * 2 * 512 + (512 - 40) * 2
    assert count_parameters(model) - count_parameters(plain) == more


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"output_stride=4: allowed are 8, 16 and 32"):
        StackedUNet(num_classes=2, output_stride=4)
    with pytest.raises(ValueError, match=r"blocks=\[2, 4\]: it must be four positive numbers"):
        StackedUNet(num_classes=2, blocks=[2, 4])
    with pytest.raises(ValueError, match=r"outputs=\[8, 0, 8, 8\]: it must be four positive numbers"):
        StackedUNet(num_classes=2, outputs=[8, 0, 8, 8])
    with pytest.raises(ValueError, match=r"upsample=max_unpool: this network has no max pooling"):
        StackedUNet(num_classes=2, upsample="max_unpool")
    with pytest.raises(UserError, match=r"Did you mean 'bicubic'"):
        StackedUNet(num_classes=2, upsample="bicubik", **TINY)


def test_it_learns_two_pictures() -> None:
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    masks = torch.stack([(y - 20) ** 2 + (x - 24) ** 2 < 256, (y - 40) ** 2 + (x - 30) ** 2 < 256]).long()
    images = (pictures(2, 64, 64) // 4 + 90 * masks.unsqueeze(1)).to(torch.uint8)
    model = StackedUNet(num_classes=2, **TINY)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(images), masks)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
