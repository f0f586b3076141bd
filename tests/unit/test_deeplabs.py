"""DeepLab v2, LargeFOV, v3 and its cascade: rates, sums, multi-grid, two output strides, and sizes against others'."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_parameters
from seg_cli.models.crf import DenseCRF
from seg_cli.models.deeplabv2 import DeepLabV2
from seg_cli.models.deeplabv3 import ASPP, DeepLabV3, DeepLabV3Cascade
from seg_cli.models.dilation import dilate_chain
from seg_cli.models.encoder import Encoder
from seg_cli.models.output_strides import TwoStrides
from seg_cli.models.outputs import Outputs


def pictures(*size: int) -> Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def rates_of(blocks: Sequence[nn.Module] | nn.Module) -> list[int]:
    """The rate of the last 3x3 convolution in each block."""
    convs = [[m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)] for block in blocks]
    assert all(conv.padding == conv.dilation for found in convs for conv in found)
    return [found[-1].dilation[0] for found in convs]


def meta_flops(model: nn.Module, side: int) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, side, side))
    return counter.get_total_flops()


# ---- v2


@pytest.mark.parametrize(("stride", "rates"), [(8, [6, 12, 18, 24]), (16, [3, 6, 9, 12]), (32, [1, 3, 4, 6])])
def test_the_rates_of_v2_follow_the_output_stride(stride: int, rates: list[int]) -> None:
    model = DeepLabV2(encoder=Encoder("resnet10t", output_stride=stride), num_classes=3)
    assert rates_of(model.head.scores) == rates


def test_v2_sums_the_scores_of_its_branches() -> None:
    model = DeepLabV2(encoder=Encoder("resnet10t", output_stride=8), num_classes=3).eval()
    x = model.encoder(pictures(1, 3, 64, 64))[-1]
    scores = torch.stack([conv(x) for conv in model.head.scores]).sum(0)
    expected = nn.functional.interpolate(scores, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(model(pictures(1, 3, 64, 64)), expected, rtol=1e-4, atol=1e-4)


def test_atrous_kernels_start_from_their_centers() -> None:
    models = [
        DeepLabV2(encoder=Encoder("resnet10t"), num_classes=3).head.scores,
        DeepLabV2(encoder=Encoder("resnet10t"), num_classes=3, fc_channels=8).decoder.branches,
        DeepLabV3(encoder=Encoder("resnet10t"), num_classes=3, channels=8).decoder.branches[1:],
    ]
    for kernels in [next(branch.parameters()) for branches in models for branch in branches]:
        assert kernels[:, :, 1, 1].all()
        assert kernels.count_nonzero() == kernels[:, :, 1, 1].numel()


def test_v2_has_the_papers_size_on_vgg16_and_resnet101() -> None:
    """LargeFOV: 20.5 million (arXiv:1412.7062). The ResNet: torchvision's count less its classifier's."""
    with torch.device("meta"):
        vgg, resnet = Encoder("vgg16"), Encoder("resnet101", output_stride=8)
        large_fov = DeepLabV2(encoder=vgg, num_classes=21, fc_channels=1024, rates=[12])
        aspp_l = DeepLabV2(encoder=vgg, num_classes=21, fc_channels=1024)
        aspp = DeepLabV2(encoder=resnet, num_classes=21)
    branch = (512 * 9 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21
    assert count_parameters(large_fov) == 14_714_688 + branch
    assert round(count_parameters(large_fov) / 1e6, 1) == 20.5
    assert count_parameters(aspp_l) == 14_714_688 + 4 * branch
    assert count_parameters(aspp) == 44_549_160 - 1000 * 2049 + 4 * (2048 * 9 + 1) * 21


def test_the_crf_of_v2_works_in_evaluation_alone() -> None:
    torch.manual_seed(0)
    encoder = Encoder("resnet10t", output_stride=8)
    model = DeepLabV2(encoder=encoder, num_classes=3, crf=True, crf_window=3, crf_iterations=2).eval()
    images = pictures(1, 3, 34, 40)
    found, crf = model(images), model.crf
    model.crf = None
    plain = model(images)
    assert torch.equal(found, DenseCRF(window=3, iterations=2)(plain, images))
    assert not torch.equal(found, plain)
    model.crf = crf
    torch.manual_seed(0)
    trained = model.train()(images)
    model.crf = None
    torch.manual_seed(0)
    assert torch.equal(model(images), trained)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates": []}, r"rates=\[\]: at least one rate"),
        ({"rates": [6, 0]}, r"rates=\[6, 0\]: .* each at least 1"),
        ({"fc_channels": -1}, r"fc_channels=-1: 0 \(none\) or more"),
        ({"crf": True, "crf_window": 4}, r"^crf_window=4: an odd number"),
        ({"crf": True, "crf_smoothness": [3]}, r"^crf_smoothness=\[3\]: a weight, a sigma in pixels"),
    ],
)
def test_wrong_settings_of_v2_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV2(encoder=Encoder("resnet10t"), num_classes=3, **settings)


def test_a_chain_of_layers_is_dilated_from_the_stride_on_that_it_shall_end_at() -> None:
    """DeepLab's VGG: the last two poolings go by 1, the convolutions between them dilate by 2."""
    with torch.device("meta"):
        body = Encoder("vgg11").body
        dilate_chain(body.children(), 8)
        maps = body(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[-2:]) for x in maps] == [(64, 96), (32, 48), (16, 24), (8, 12), (8, 12), (8, 12)]
    assert [m.dilation[0] for m in body.modules() if isinstance(m, nn.Conv2d)] == [1] * 6 + [2] * 2
    assert [m.stride for m in body.modules() if isinstance(m, nn.MaxPool2d)] == [2, 2, 2, 1, 1]


# ---- v3


@pytest.mark.parametrize(("stride", "rates"), [(32, [3, 6, 9]), (16, [6, 12, 18]), (8, [12, 24, 36])])
def test_the_rates_of_v3_follow_the_output_stride(stride: int, rates: list[int]) -> None:
    model = DeepLabV3(encoder=Encoder("resnet10t", output_stride=stride), num_classes=3, channels=8)
    assert rates_of(model.decoder.branches[1:]) == rates


def test_aspp_sets_its_branches_and_the_mean_side_by_side() -> None:
    torch.manual_seed(0)
    aspp, x = ASPP(4, 6, [1, 2, 3], 0.0).eval(), torch.randn(2, 4, 5, 7)
    mean = aspp.pooled(x.mean((2, 3), keepdim=True)).expand(2, 6, 5, 7)
    expected = aspp.merge(torch.cat([*(branch(x) for branch in aspp.branches), mean], 1))
    torch.testing.assert_close(aspp(x), expected)
    assert aspp.train()(x[:1]).shape == (1, 6, 5, 7)  # one image: no batch norm on its mean
    separable = ASPP(4, 6, [2], 0.0, separable=True)
    assert count_parameters(aspp) - count_parameters(ASPP(4, 6, [1, 2], 0.0)) == 4 * 6 * 9 + 2 * 6 + 6 * 6
    assert [m.groups for m in separable.branches[1].modules() if isinstance(m, nn.Conv2d)] == [4, 1]


@pytest.mark.parametrize(("stride", "rates"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid_multiplies_the_rates_of_the_last_stage(stride: int, rates: list[int]) -> None:
    encoder = Encoder("resnet26", output_stride=stride)  # two blocks in the last stage
    DeepLabV3(encoder=encoder, num_classes=3, channels=8)
    assert rates_of(encoder.body.layer4) == rates[:2]
    with torch.device("meta"):
        encoder = Encoder("resnet50", output_stride=stride)
        DeepLabV3(encoder=encoder, num_classes=3, channels=8)
    assert rates_of(encoder.body.layer4) == rates
    encoder = Encoder("resnet26", output_stride=stride)
    DeepLabV3(encoder=encoder, num_classes=3, channels=8, multi_grid=[2, 1])
    assert rates_of(encoder.body.layer4) == [rates[1], rates[0]]


def test_multi_grid_is_for_the_blocks_of_resnets() -> None:
    with pytest.raises(UserError, match=r"model\.multi_grid=\[1, 2, 4\]: encoder\.name=convnext_atto is no ResNet"):
        DeepLabV3(encoder=Encoder("convnext_atto"), num_classes=3, multi_grid=[1, 2, 4])
    with pytest.raises(ValueError, match=r"multi_grid=\[1, 2, 4\]: the last stage of encoder\.name=resnet10t has 1 bl"):
        DeepLabV3(encoder=Encoder("resnet10t"), num_classes=3, multi_grid=[1, 2, 4])
    with pytest.raises(ValueError, match=r"multi_grid=\[0\]: .* each at least 1"):
        DeepLabV3(encoder=Encoder("resnet10t"), num_classes=3, multi_grid=[0])


@pytest.mark.parametrize("name", ["resnet10t", "resnetblur18", "convnext_atto", "mobilenetv3_small_050"])
@pytest.mark.parametrize("strides", [(16, 8), (8, 32)])
def test_an_encoder_at_another_stride_is_the_one_that_was_built_so(name: str, strides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    here, there = (Encoder(name, output_stride=stride).eval() for stride in strides)
    there.load_state_dict(here.state_dict())
    images = pictures(1, 3, 32, 64)
    with torch.no_grad():
        before, expected = here(images), there(images)
        switch = TwoStrides(here, strides[1], [])
        assert (switch.train, switch.eval) == strides
        switch.switch(here, False)
        assert here.strides == there.strides
        for found, right in zip(here(images), expected, strict=True):
            assert torch.equal(found, right)
        switch.switch(here, True)
        for found, right in zip(here(images), before, strict=True):
            assert torch.equal(found, right)


def test_v3_evaluates_at_another_stride_with_the_weights_that_it_trains() -> None:
    torch.manual_seed(0)
    model = DeepLabV3(
        encoder=Encoder("resnet10t", output_stride=16), num_classes=3, channels=8, eval_output_stride=8
    ).train()
    right = DeepLabV3(encoder=Encoder("resnet10t", output_stride=8), num_classes=3, channels=8).eval()
    right.decoder.set_rates([12, 24, 36])
    images = pictures(2, 3, 48, 64)
    names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for model_now in (model, deepcopy(model)):  # the copy does not share weights or layers with the first
        for _ in range(2):
            assert rates_of(model_now.train().decoder.branches[1:]) == [6, 12, 18]
            assert rates_of(model_now.encoder.body.layer4) == [2]
            model_now(images).square().mean().backward()
            optimizer.step()
            model_now.eval()
            assert rates_of(model_now.decoder.branches[1:]) == [12, 24, 36]
            assert rates_of(model_now.encoder.body.layer4) == [4]
            assert list(model_now.state_dict()) == names
            right.load_state_dict({key.replace("ups.16", "ups.8"): v for key, v in model_now.state_dict().items()})
            with torch.no_grad():
                torch.testing.assert_close(model_now(images), right(images))


def test_strides_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"eval_output_stride=4: allowed are null \(as in training\), 8, 16 and 32"):
        DeepLabV3(encoder=Encoder("resnet10t"), num_classes=3, eval_output_stride=4)
    with pytest.raises(ValueError, match=r"upsample=transposed: .* eval_output_stride=8 is not allowed beside 16"):
        DeepLabV3(
            encoder=Encoder("resnet10t", output_stride=16), num_classes=3, eval_output_stride=8, upsample="transposed"
        )
    with pytest.raises(UserError, match=r"eval_output_stride=8: encoder\.name=vit_tiny_patch16_224"):
        DeepLabV3(encoder=Encoder("vit_tiny_patch16_224"), num_classes=3, eval_output_stride=8)


@pytest.mark.parametrize(("encoder", "stride"), [("resnet18", 8), ("resnet50", 16)])
def test_v3_is_within_5_percent_of_smps(encoder: str, stride: int) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        ours = DeepLabV3(encoder=Encoder(encoder, output_stride=stride), num_classes=19)
        theirs = smp.DeepLabV3(encoder, encoder_weights=None, classes=19, encoder_output_stride=stride)
    # The 3x3 convolution with its norm that the paper has not; no norm on the image's mean, but a bias.
    assert count_parameters(theirs) - count_parameters(ours) == 256 * 256 * 9 + 2 * 256 + 256
    assert count_parameters(ours) == pytest.approx(count_parameters(theirs), rel=0.05)
    assert meta_flops(ours, 128) == pytest.approx(meta_flops(theirs, 128), rel=0.05)


def test_v3_is_within_5_percent_of_torchvisions() -> None:
    make = pytest.importorskip("torchvision").models.segmentation.deeplabv3_resnet50
    with torch.device("meta"):
        ours = DeepLabV3(encoder=Encoder("resnet50", output_stride=8), num_classes=21, aux_weight=0.5)
        theirs = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
        without = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=False)
    assert count_parameters(theirs) - count_parameters(ours) == 256 * 256 * 9 + 2 * 256 + 256
    assert count_parameters(ours) == pytest.approx(count_parameters(theirs), rel=0.05)
    assert meta_flops(ours, 128) == pytest.approx(meta_flops(without, 128), rel=0.05)


def test_the_second_head_of_v3_is_there_in_training_alone() -> None:
    model = DeepLabV3(encoder=Encoder("resnet10t", output_stride=16), num_classes=4, channels=8, aux_weight=0.5)
    outputs = model.train()(pictures(1, 3, 50, 70))
    assert isinstance(outputs, Outputs)
    assert [logits.shape for logits in (outputs.logits, *outputs.aux)] == [(1, 4, 50, 70)] * 2
    assert isinstance(model.eval()(pictures(1, 3, 50, 70)), Tensor)
    with pytest.raises(ValueError, match=r"aux_weight=-1: 0"):
        DeepLabV3(encoder=Encoder("resnet10t"), num_classes=4, aux_weight=-1)


# ---- the cascade


def test_the_rates_of_the_cascade_double_from_copy_to_copy() -> None:
    with torch.device("meta"):
        encoder = Encoder("resnet50", output_stride=16)
        model = DeepLabV3Cascade(encoder=encoder, num_classes=21, eval_output_stride=8)
    assert rates_of(encoder.body.layer4) == [2, 4, 2]
    assert [rates_of(stage) for stage in model.decoder.stages] == [[4, 8, 4], [8, 16, 8], [16, 32, 16]]
    model.eval()
    assert rates_of(encoder.body.layer4) == [4, 8, 4]
    assert [rates_of(stage) for stage in model.decoder.stages] == [[8, 16, 8], [16, 32, 16], [32, 64, 32]]
    block = 2048 * 512 + 512 * 512 * 9 + 512 * 2048 + 2 * (512 + 512 + 2048)  # a bottleneck without projection
    assert count_parameters(model) == 25_557_032 - 1000 * 2049 + 9 * block + 2049 * 21


@pytest.mark.parametrize(("name", "stride"), [("resnet10t", 16), ("resnet18", 32), ("seresnext26d_32x4d", 16)])
def test_copies_have_the_shape_of_the_last_stage_and_pass_on_what_they_get_at_first(name: str, stride: int) -> None:
    torch.manual_seed(0)
    model = DeepLabV3Cascade(encoder=Encoder(name, output_stride=stride), num_classes=3, copies=2).eval()
    x = torch.rand(1, model.encoder.channels[-1], 5, 3)
    torch.testing.assert_close(model.decoder(x), x)
    first, second = model.decoder.stages
    assert len(first) == len(second) == len(model.encoder.body.layer4)
    assert not torch.equal(first[0].conv1.weight, second[0].conv1.weight)
    assert model(pictures(1, 3, 50, 70)).shape == (1, 3, 50, 70)


def test_the_cascade_wants_a_resnet_and_a_copy() -> None:
    with pytest.raises(UserError, match=r"encoder\.name=convnext_atto: the cascade copies the last blocks of a ResNet"):
        DeepLabV3Cascade(encoder=Encoder("convnext_atto"), num_classes=3)
    with pytest.raises(ValueError, match=r"copies=0: 1 or more"):
        DeepLabV3Cascade(encoder=Encoder("resnet10t"), num_classes=3, copies=0)
