"""PSPNet: the pyramid of means against PyTorch's, the second head, and its size against what is published."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seg_cli.inference.cost import count_parameters
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.pspnet import PSPNet, PyramidPooling, part_weights


@pytest.mark.parametrize("size", [(6, 12), (7, 11), (4, 5), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_means_over_parts_are_those_of_adaptive_pooling(size: tuple[int, int], count: int) -> None:
    x = torch.randn(2, 3, *size)
    means = (x.flatten(2) @ part_weights(size, count, x).T).unflatten(2, (count, count))
    torch.testing.assert_close(means, F.adaptive_avg_pool2d(x, count))


def test_the_pyramid_stands_behind_the_map() -> None:
    torch.manual_seed(0)
    pooling, x = PyramidPooling(8, [1, 2, 3, 6]).eval(), torch.randn(2, 8, 7, 9)
    found = pooling(x)
    expected = [x]
    for conv, count in zip(pooling.convs, (1, 2, 3, 6), strict=True):
        level = conv(F.adaptive_avg_pool2d(x, count))  # 2 of 8 channels
        expected.append(F.interpolate(level, (7, 9), mode="bilinear"))
    torch.testing.assert_close(found, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_the_pyramid_is_as_large_as_smps() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.PSPNet("resnet18", encoder_weights=None, encoder_depth=5).decoder.psp
    assert count_parameters(PyramidPooling(512, [1, 2, 3, 6])) == count_parameters(theirs)


def test_it_has_the_size_that_is_published() -> None:
    """Quoted at second hand from SegFormer (arXiv:2105.15203).

    150 classes, multiply-adds at 512x512, the deep stem of ResNet-D.
    """
    with torch.device("meta"):
        model = PSPNet(encoder=Encoder("resnet101d", output_stride=8), num_classes=150).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 512, 512, dtype=torch.uint8))
    assert count_parameters(model) / 1e6 == pytest.approx(68.1, abs=0.06)
    assert counter.get_total_flops() / 2e9 == pytest.approx(256.4, rel=0.01)


def test_the_second_head_is_there_in_training_alone() -> None:
    model = PSPNet(encoder=Encoder("resnet10t", output_stride=8), num_classes=4, channels=16)
    images = torch.zeros(1, 3, 50, 70, dtype=torch.uint8)
    outputs = model.train()(images)  # one image: batch norm sees no single values
    assert isinstance(outputs, Outputs)
    assert [logits.shape for logits in (outputs.logits, *outputs.aux)] == [(1, 4, 50, 70)] * 2
    assert model.aux_weight == 0.4
    first = model.head["aux"][0][0]
    assert (first.in_channels, first.out_channels) == (model.encoder.channels[-2], model.encoder.channels[-2] // 4)
    assert isinstance(model.eval()(images), torch.Tensor)


def test_without_weight_there_is_no_second_head() -> None:
    model = PSPNet(encoder=Encoder("resnet10t", output_stride=8), num_classes=4, channels=16, aux_weight=0).train()
    assert set(model.head) == {"main"}
    assert isinstance(model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)), torch.Tensor)


def test_bins_may_be_others_than_divide_the_channels() -> None:
    model = PSPNet(encoder=Encoder("resnet10t", output_stride=8), num_classes=4, channels=16, bins=[1, 2, 4]).eval()
    assert isinstance(model.decoder[1], nn.Sequential)
    assert model.decoder[1][0].in_channels == 512 + 3 * 170
    assert model(torch.zeros(1, 3, 40, 40, dtype=torch.uint8)).shape == (1, 4, 40, 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": []}, r"bins=\[\]: at least one number"),
        ({"bins": [1, 0]}, r"bins=\[1, 0\]: .* each at least 1"),
        ({"aux_weight": -0.4}, r"aux_weight=-0\.4: 0 \(no second head\) or more"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PSPNet(encoder=Encoder("resnet10t"), num_classes=4, **settings)
