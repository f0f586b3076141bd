"""DeconvNet: the layers of table 2, the bottom at several sizes of image, and what cannot be trained."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_parameters
from seg_cli.models.deconvnet import Bottleneck, DeconvNet, DeconvNormAct
from seg_cli.models.encoder import Encoder


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def small() -> DeconvNet:
    torch.manual_seed(0)
    return DeconvNet(encoder=Encoder("vgg11_bn"), num_classes=3, bottleneck=8).eval()


def test_the_layers_are_those_of_table_2() -> None:
    with torch.device("meta"):
        model = DeconvNet(encoder=Encoder("vgg16_bn"), num_classes=21)
    bottom = [
        layer for layer in model.decoder.bottleneck.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert [tuple(layer.weight.shape) for layer in bottom] == [(4096, 512, 7, 7), (4096, 4096, 1, 1), (4096, 512, 7, 7)]
    assert [type(layer) for layer in bottom] == [nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d]
    outputs = [
        [layer.out_channels for layer in stage.modules() if isinstance(layer, nn.ConvTranspose2d)]
        for stage in model.decoder.up.convs
    ]
    assert outputs == [[512, 512, 512], [512, 512, 256], [256, 256, 128], [128, 64], [64, 64]]
    assert tuple(model.head.weight.shape) == (21, 64, 1, 1)
    assert count_parameters(model) == pytest.approx(252e6, rel=0.002)  # section 4: about 252 M


@pytest.mark.parametrize(("size", "places"), [((64, 70), (1, 1)), ((224, 224), (1, 1)), ((225, 300), (2, 4))])
def test_an_image_of_224_goes_through_a_single_vector(
    small: DeconvNet, size: tuple[int, int], places: tuple[int, int]
) -> None:
    seen: list[Tensor] = []
    hook = small.decoder.bottleneck.fc7.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        logits = small(pictures(1, *size))
    hook.remove()
    assert seen[0].shape == (1, 8, *places)
    assert logits.shape == (1, 3, *size)


def test_small_maps_are_filled_with_zeros_to_a_whole_window() -> None:
    torch.manual_seed(0)
    bottleneck = Bottleneck(4, 6).eval()
    x = torch.rand(2, 4, 2, 9)
    filled = torch.zeros(2, 4, 7, 9)
    filled[:, :, :2] = x
    with torch.no_grad():
        assert bottleneck(x).shape == x.shape
        assert torch.equal(bottleneck(x), bottleneck(filled)[:, :, :2])
        window = torch.rand(1, 4, 7, 7)
        vector = F.conv2d(window, bottleneck.fc6[0].weight).flatten() / (1 + 1e-5) ** 0.5
        vector = bottleneck.fc7[0].weight.flatten(1) @ vector.relu() / (1 + 1e-5) ** 0.5
        drawn = torch.einsum("c,cohw->ohw", vector.relu(), bottleneck.deconv[0].weight) / (1 + 1e-5) ** 0.5
        torch.testing.assert_close(bottleneck(window)[0], drawn.relu())


def test_values_go_back_to_where_the_maxima_were(small: DeconvNet) -> None:
    unpooled: list[Tensor] = []
    hooks = [
        unpool.register_forward_hook(lambda _module, _inputs, output: unpooled.append(output))
        for unpool in small.decoder.up.unpools
    ]
    images = pictures(1, 64, 96)
    with torch.no_grad():
        small(images)
        maps = small.encoder(images)[-2::-1]  # before each pooling, deepest first
    for hook in hooks:
        hook.remove()
    assert len(unpooled) == 5
    for sparse, features in zip(unpooled, maps, strict=True):
        is_maximum = features == F.max_pool2d(features, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert sparse.any()
        assert not (sparse.bool() & ~is_maximum).any()


def test_deconvolutions_start_with_the_variance_of_he() -> None:
    torch.manual_seed(0)
    weight = DeconvNormAct(64, 256)[0].weight
    assert weight.shape == (64, 256, 3, 3)
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_one_small_image_cannot_be_normalised_in_training() -> None:
    bottleneck = Bottleneck(4, 6).train()
    assert bottleneck(torch.rand(2, 4, 7, 7)).shape == (2, 4, 7, 7)
    assert bottleneck(torch.rand(1, 4, 7, 8)).shape == (1, 4, 7, 8)
    with pytest.raises(UserError, match=r"^loader\.batch_size: DeconvNet's bottleneck .* Type loader\.batch_size=2"):
        bottleneck(torch.rand(1, 4, 7, 7))
    assert bottleneck.eval()(torch.rand(1, 4, 7, 7)).shape == (1, 4, 7, 7)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"^bottleneck=0: a number of channels is at least 1"):
        DeconvNet(encoder=Encoder("vgg11_bn"), num_classes=3, bottleneck=0)
    with pytest.raises(UserError, match=r"^encoder\.name=resnet10t: DeconvNet undoes .* Type encoder=vgg16_bn, or"):
        DeconvNet(encoder=Encoder("resnet10t"), num_classes=3)
