"""FCN: which maps are scored, how the scores are summed, and what the sums start as."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_parameters
from seg_cli.models.encoder import Encoder
from seg_cli.models.fcn import FCN


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def larger(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_scores_of_several_strides_are_summed_on_the_way_up(finest: int) -> None:
    torch.manual_seed(0)
    model = FCN(encoder=Encoder("resnet10t"), num_classes=3, finest_stride=finest, upsample="bilinear").eval()
    convs = [module for module in model.head.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.in_channels for conv in convs] == [512, 256, 128][: len(convs)]
    assert len(convs) == {32: 1, 16: 2, 8: 3}[finest]
    for conv in convs:
        nn.init.normal_(conv.weight, std=0.1)
        nn.init.normal_(conv.bias)
    images = pictures(2, 64, 96)
    with torch.no_grad():
        *_, stride8, stride16, stride32 = model.encoder(images)
        expected = convs[0](stride32)
        for conv, features in zip(convs[1:], (stride16, stride8), strict=False):
            expected = larger(expected, 2) + conv(features)
        torch.testing.assert_close(model(images), larger(expected, finest))


@pytest.mark.parametrize("finest", [16, 8])
def test_the_sums_start_as_the_scores_of_the_deepest_map(finest: int) -> None:
    model = FCN(encoder=Encoder("resnet10t"), num_classes=3, finest_stride=finest, upsample="nearest").eval()
    images = pictures(1, 64, 64)
    with torch.no_grad():
        logits = model(images)
        deepest = model.head.score(model.encoder(images)[-1])
    assert deepest.std() > 0
    torch.testing.assert_close(logits, F.interpolate(deepest, scale_factor=32, mode="nearest"))
    model(images).square().mean().backward()
    assert all(skip[1].weight.grad.any() for skip in model.head.skips)  # zeros that learn


def test_the_paper_scores_vgg_right_behind_its_poolings() -> None:
    encoder = Encoder("vgg11")
    model = FCN(encoder=encoder, num_classes=3).eval()
    pooled: list[Tensor] = []
    for layer in encoder.body.children():
        if isinstance(layer, nn.MaxPool2d):
            layer.register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
    scored: list[Tensor] = []
    for conv in [model.head.score, *(skip[1] for skip in model.head.skips)]:
        conv.register_forward_hook(lambda _module, inputs, _output: scored.append(inputs[0]))
    with torch.no_grad():
        model(pictures(1, 64, 64))
    assert [x.shape[-1] for x in pooled] == [32, 16, 8, 4, 2]
    assert len(scored) == 3
    for found, expected in zip(scored, pooled[:1:-1], strict=True):  # pool5, pool4, pool3
        assert torch.equal(found, expected)


def test_learned_upsampling_starts_as_bilinear_interpolation() -> None:
    """Away from the border, where the one sees zeros and the other the border repeated."""
    models = []
    for kind in ("transposed", "bilinear"):
        torch.manual_seed(0)
        models.append(FCN(encoder=Encoder("resnet10t"), num_classes=3, upsample=kind).eval())
    images = pictures(1, 192, 192)
    with torch.no_grad():
        learned, fixed = (model(images) for model in models)
    torch.testing.assert_close(learned[..., 64:-64, 64:-64], fixed[..., 64:-64, 64:-64])
    ups = [module for module in models[0].modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [(up.kernel_size[0], up.stride[0]) for up in ups] == [(4, 2), (4, 2), (16, 8)]


def test_the_classifier_of_vgg_becomes_convolutions() -> None:
    with torch.device("meta"):
        model = FCN(encoder=Encoder("vgg16"), num_classes=21, fc_channels=4096, upsample="bilinear")
    fc6, fc7 = (module for module in model.decoder if isinstance(module, nn.Conv2d))
    assert (tuple(fc6.weight.shape), tuple(fc7.weight.shape)) == ((4096, 512, 7, 7), (4096, 4096, 1, 1))
    assert [module.p for module in model.decoder if isinstance(module, nn.Dropout)] == [0.5, 0.5]
    # VGG-16's convolutions, fc6 and fc7 as published, and the three scores.
    vgg = 14_714_688 + 102_764_544 + 16_781_312
    assert count_parameters(model) == vgg + 21 * (4096 + 1 + 512 + 1 + 256 + 1)
    assert count_parameters(model) == pytest.approx(134e6, rel=0.01)  # the paper's table 1


def test_any_size_with_the_classifier_and_unpooling() -> None:
    model = FCN(encoder=Encoder("vgg11"), num_classes=3, fc_channels=8, upsample="max_unpool").eval()
    assert model(pictures(1, 33, 70)).shape == (1, 3, 33, 70)


def test_dilated_encoders_have_fewer_steps() -> None:
    model = FCN(encoder=Encoder("resnet10t", output_stride=16), num_classes=3, upsample="bilinear").eval()
    assert len(model.head.skips) == 1
    assert model.head.last.factor == 8
    assert model(pictures(1, 32, 48)).shape == (1, 3, 32, 48)
    with pytest.raises(UserError, match=r"model\.finest_stride=32: the deepest map of this encoder has stride 16\."):
        FCN(encoder=Encoder("resnet10t", output_stride=16), num_classes=3, finest_stride=32)


def test_wrong_settings_are_named() -> None:
    encoder = Encoder("resnet10t")
    with pytest.raises(ValueError, match=r"^finest_stride=4: allowed are 32, 16 and 8"):
        FCN(encoder=encoder, num_classes=3, finest_stride=4)
    with pytest.raises(ValueError, match=r"^fc_channels=-1: allowed are 0 .* and above"):
        FCN(encoder=encoder, num_classes=3, fc_channels=-1)
    with pytest.raises(UserError, match=r"model needs one of stride 8"):
        FCN(encoder=Encoder("vit_tiny_patch16_224"), num_classes=3)


@pytest.mark.parametrize("fc_channels", [0, 32])
def test_it_learns_two_pictures(fc_channels: int) -> None:
    torch.manual_seed(0)
    model = FCN(encoder=Encoder("resnet10t"), num_classes=2, fc_channels=fc_channels).train()
    squares = torch.arange(8)
    masks = torch.stack([(squares[:, None] + squares) % 2, (squares[:, None] > 3).expand(8, 8).long()])
    masks = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)  # (2, 64, 64), patches of 8x8
    images = masks.unsqueeze(1).expand(-1, 3, -1, -1) * 150.0 + 40 * torch.rand(2, 3, 64, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
