"""SegNet: the mirrored layers, the positions that they are handed, and SegNet-Basic against its definition."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops, count_parameters
from seg_cli.models.encoder import Encoder
from seg_cli.models.segnet import SegNet, SegNetBasic


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


# conv5_3_D to conv1_2_D of the authors' network, by unpooling.
VGG16_MIRRORED = [
    [(512, 512), (512, 512), (512, 512)],
    [(512, 512), (512, 512), (512, 256)],
    [(256, 256), (256, 256), (256, 128)],
    [(128, 128), (128, 64)],
    [(64, 64)],
]


def test_the_decoder_mirrors_vgg16() -> None:
    with torch.device("meta"):
        model = SegNet(encoder=Encoder("vgg16_bn"), num_classes=11)
    found = [
        [(layer.in_channels, layer.out_channels) for layer in stage.modules() if isinstance(layer, nn.Conv2d)]
        for stage in model.decoder.convs
    ]
    assert found == VGG16_MIRRORED
    assert (model.head.in_channels, model.head.out_channels, model.head.kernel_size) == (64, 11, (3, 3))


def test_cost_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        model = SegNet(encoder=Encoder("vgg16_bn"), num_classes=11)
    decoder = sum(9 * inputs * outputs + 2 * outputs for stage in VGG16_MIRRORED for inputs, outputs in stage)
    assert count_parameters(model) == 14_723_136 + decoder + 9 * 64 * 11 + 11  # VGG-16's convolutions with batch norm
    # arXiv:1606.02147, table 3: 29.46 M parameters, and 286.03 GFLOPs for 640x360, which is padded to 640x384 here.
    assert count_parameters(model) == pytest.approx(29.46e6, rel=0.001)
    assert count_flops(model, (384, 640)) * 360 / 384 == pytest.approx(286.03e9, rel=0.02)


def test_values_go_back_to_where_the_maxima_were() -> None:
    """At every step: what is not 0 behind an unpooling stands where the encoder's map has the maximum of a window."""
    encoder = Encoder("vgg11_bn")
    model = SegNet(encoder=encoder, num_classes=3).eval()
    unpooled: list[Tensor] = []
    for unpool in model.decoder.unpools:
        unpool.register_forward_hook(lambda _module, _inputs, output: unpooled.append(output))
    images = pictures(2, 64, 96)
    with torch.no_grad():
        model(images)
        maps = encoder(images)[-2::-1]  # before each pooling, deepest first
    assert len(unpooled) == 5
    for sparse, features in zip(unpooled, maps, strict=True):
        is_maximum = features == F.max_pool2d(features, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert sparse.shape == features.shape
        assert sparse.any()
        assert not (sparse.bool() & ~is_maximum).any()
        assert (sparse.bool().unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)) <= 1).all()


def test_other_encoders_are_refused_with_a_sentence() -> None:
    assert SegNet(encoder=Encoder("vgg13_bn"), num_classes=3).eval()(pictures(1, 33, 40)).shape == (1, 3, 33, 40)
    with pytest.raises(UserError, match=r"^encoder\.name=resnet10t: SegNet undoes .* Type encoder=vgg16_bn, or"):
        SegNet(encoder=Encoder("resnet10t"), num_classes=3)
    with pytest.raises(UserError, match=r"^encoder\.name=convnext_atto: SegNet undoes"):
        SegNet(encoder=Encoder("convnext_atto"), num_classes=3)


@pytest.mark.parametrize("name", ["segnet", "deconvnet"])
def test_it_brings_its_encoder_and_the_command_line_may_choose_another(
    compose_config: Callable[..., DictConfig], name: str
) -> None:
    config = compose_config(f"model={name}")
    assert config.encoder.name == config.model.encoder.name == "vgg16_bn"
    config = compose_config(f"model={name}", "encoder=resnet50")
    assert config.encoder.name == config.model.encoder.name == "resnet50"
    config = compose_config(f"model={name}", "encoder.name=vgg19_bn", "encoder.weights=imagenet")
    assert dict(config.model.encoder)["name"] == "vgg19_bn"
    assert config.model.encoder.weights == "imagenet"
    assert "defaults" not in config.model


# ---- SegNet-Basic


def test_segnet_basic_is_its_definition() -> None:
    """Section 3.1: 7x7 convolutions without bias, batch norm, ReLU in the encoder alone, poolings undone in turn."""
    torch.manual_seed(0)
    model = SegNetBasic(num_classes=5, channels=8).train()
    images = pictures(2, 48, 64)
    state = dict(model.named_parameters())
    expected = (images / 255 - 0.5) / 0.5

    def conv_norm(x: Tensor, place: str) -> Tensor:
        x = F.conv2d(x, state[f"{place}.0.weight"], padding=3)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        weight, bias = (state[f"{place}.1.{key}"].view(1, -1, 1, 1) for key in ("weight", "bias"))
        return weight * x + bias

    with torch.no_grad():
        positions = []
        for step in range(4):
            expected = conv_norm(expected, f"encoder.convs.{step}").relu()
            expected, where = F.max_pool2d(expected, 2, return_indices=True)
            positions.append(where)
        for step in range(4):
            expected = conv_norm(F.max_unpool2d(expected, positions[3 - step], 2), f"decoder.convs.{step}")
        expected = F.conv2d(expected, state["head.weight"], state["head.bias"])
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_segnet_basic_has_the_size_of_the_paper() -> None:
    model = SegNetBasic(num_classes=11)
    kernels = 49 * (3 * 64 + 7 * 64 * 64)
    assert count_parameters(model) == kernels + 8 * 2 * 64 + 64 * 11 + 11 == 1_416_075
    assert count_parameters(model) == pytest.approx(1.425e6, rel=0.01)  # table 1


def test_the_padding_of_segnet_basic_repeats_the_border_and_is_cut_off() -> None:
    model = SegNetBasic(num_classes=3, channels=4, in_channels=2).eval()
    images = pictures(1, 37, 50)[:, :2]
    rows, columns = torch.arange(48).clamp(max=36), torch.arange(64).clamp(max=49)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (1, 3, 37, 50)
        assert torch.equal(logits, model(images[..., rows, :][..., columns])[..., :37, :50])


def test_segnet_basic_learns_two_pictures() -> None:
    torch.manual_seed(0)
    model = SegNetBasic(num_classes=2, channels=16).train()
    squares = torch.arange(8)
    masks = torch.stack([(squares[:, None] + squares) % 2, (squares[:, None] > 3).expand(8, 8).long()])
    masks = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)  # (2, 64, 64), patches of 8x8
    images = masks.unsqueeze(1).expand(-1, 3, -1, -1) * 150.0 + 40 * torch.rand(2, 3, 64, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
