"""Semantic FPN: the pyramid and the sum, by hand; its size against SMP's and what papers report."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seg_cli.inference.cost import count_parameters
from seg_cli.models.encoder import Encoder
from seg_cli.models.fpn import FPN


def test_the_pyramid_goes_down_by_sums_and_its_levels_are_summed_at_stride_4() -> None:
    torch.manual_seed(0)
    model = FPN(encoder=Encoder("resnet10t"), num_classes=3, pyramid_channels=8, channels=32).eval()
    decoder = model.decoder
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    features = model.encoder(images)
    pyramid = [lateral(x) for lateral, x in zip(decoder.laterals, features[1:], strict=True)]
    for i in (2, 1, 0):
        pyramid[i] = pyramid[i] + F.interpolate(pyramid[i + 1], scale_factor=2, mode="nearest")
    total = torch.zeros(1, 32, 16, 24)
    for i, x in enumerate(pyramid):
        x = decoder.smooths[i](x)
        for step in range(max(1, i)):  # stride 4 and 8: one convolution, 16: two, 32: three
            conv, norm, _ = decoder.levels[i].convs[step]
            x = F.group_norm(F.conv2d(x, conv.weight, padding=1), 32, norm.weight, norm.bias).relu()
            x = F.interpolate(x, scale_factor=2, mode="bilinear") if i else x
        total = total + x
    expected = F.interpolate(model.head.conv(total), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("upsample", "down", "up"),
    [(None, "nearest", "bilinear"), ("nearest", "nearest", "nearest"), ("area", "area", "area")],
)
def test_one_operator_may_take_the_place_of_both(upsample: str | None, down: str, up: str) -> None:
    model = FPN(encoder=Encoder("resnet10t"), num_classes=3, upsample=upsample)
    assert {step.kind for step in model.decoder.downs} == {down}
    assert {step.kind for level in model.decoder.levels for step in level.ups} == {up}
    assert model.head.up.kind == up


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_without_lins_convolutions_it_is_as_large_as_smps(encoder: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        ours = FPN(encoder=Encoder(encoder), num_classes=19, smooth=False)
        theirs = smp.FPN(encoder, encoder_weights=None, classes=19)
    assert count_parameters(ours) == count_parameters(theirs)
    assert meta_flops(ours, 128) == meta_flops(theirs, 128)


@pytest.mark.parametrize(("encoder", "millions", "giga"), [("resnet50d", 28.5, 45.6), ("resnet101d", 47.5, 65.1)])
def test_with_them_it_has_the_size_that_is_published(encoder: str, millions: float, giga: float) -> None:
    """Quoted at second hand from PVT v2 (arXiv:2106.13797).

    150 classes, multiply-adds at 512x512, three 3x3 in the ResNet's stem.
    """
    with torch.device("meta"):
        model = FPN(encoder=Encoder(encoder), num_classes=150)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.06)
    assert meta_flops(model, 512) / 2e9 == pytest.approx(giga, rel=0.01)


def meta_flops(model: nn.Module, side: int) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, side, side))
    return counter.get_total_flops()


def test_encoders_of_one_stride_are_summed_at_that_stride() -> None:
    model = FPN(encoder=Encoder("vit_tiny_patch16_224"), num_classes=3, pyramid_channels=8, channels=32).eval()
    assert model.decoder.stride == 16
    assert model(torch.zeros(1, 3, 50, 64, dtype=torch.uint8)).shape == (1, 3, 50, 64)


def test_a_dilated_encoder_and_unpooling_fit() -> None:
    model = FPN(encoder=Encoder("resnet10t", output_stride=8), num_classes=3, pyramid_channels=8, channels=32).eval()
    assert [len(level.ups) for level in model.decoder.levels] == [0, 1, 1, 1]
    assert model(torch.zeros(1, 3, 50, 64, dtype=torch.uint8)).shape == (1, 3, 50, 64)
    vgg = FPN(encoder=Encoder("vgg11_bn"), num_classes=3, pyramid_channels=8, channels=32, upsample="max_unpool").eval()
    assert vgg(torch.zeros(1, 3, 50, 64, dtype=torch.uint8)).shape == (1, 3, 50, 64)


def test_channels_fit_the_groups_of_the_norm() -> None:
    with pytest.raises(ValueError, match=r"channels=100: a multiple of 32"):
        FPN(encoder=Encoder("resnet10t"), num_classes=3, channels=100)
