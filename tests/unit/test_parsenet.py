"""ParseNet: normalisation, context beside each place, the two fusions, and the paper's network on VGG-16."""

import pytest
import torch
import torch.nn.functional as F

from seg_cli.inference.cost import count_parameters
from seg_cli.models.encoder import Encoder
from seg_cli.models.parsenet import L2Norm, ParseNet


def test_each_place_has_length_one_times_the_scale_of_its_channels() -> None:
    norm, x = L2Norm(2, 10.0), torch.tensor([[3.0, 0.0], [4.0, 0.0]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([6.0, 0.0, 8.0, 0.0]))
    with torch.no_grad():
        norm.scale[1] = 5
    torch.testing.assert_close(norm(x).flatten(), torch.tensor([6.0, 0.0, 4.0, 0.0]))
    norm(x).sum().backward()
    assert norm.scale.grad is not None
    torch.testing.assert_close(norm.scale.grad.flatten(), torch.tensor([0.6, 0.8]))


def test_early_fusion_is_one_classifier_on_the_map_beside_its_repeated_context() -> None:
    torch.manual_seed(0)
    model = ParseNet(encoder=Encoder("resnet10t", output_stride=8), num_classes=5).eval()
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    deepest = model.encoder(images)[-1]  # (2, 512, 8, 6)
    context = F.normalize(deepest.mean((2, 3), keepdim=True), dim=1).expand_as(deepest)
    beside = 10 * torch.cat((F.normalize(deepest, dim=1), context), 1)
    local, far = model.head.local_scores[0], model.head.context_scores[0]
    scores = F.conv2d(beside, torch.cat((local.weight, far.weight), 1), local.bias)
    expected = F.interpolate(scores, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_late_fusion_scores_map_and_context_as_they_are() -> None:
    model = ParseNet(encoder=Encoder("resnet10t"), num_classes=5, fusion="late").eval()
    x = torch.randn(1, 512, 3, 4)
    ((local,), (context,)) = model.decoder([x])
    assert torch.equal(local, x)
    torch.testing.assert_close(context, x.mean((2, 3), keepdim=True))
    assert not list(model.decoder.parameters())


def test_maps_of_several_strides_are_scored_and_summed_at_the_finest() -> None:
    torch.manual_seed(0)
    model = ParseNet(encoder=Encoder("resnet10t"), num_classes=5, levels=3, upsample="nearest").eval()
    assert model(torch.zeros(1, 3, 64, 40, dtype=torch.uint8)).shape == (1, 5, 64, 40)
    maps = [torch.randn(1, 5, 4, 4), torch.randn(1, 5, 2, 2), torch.randn(1, 5, 1, 1)]
    nothing = [torch.zeros(1, 5, 1, 1)] * 3
    model.head.local_scores = torch.nn.ModuleList(torch.nn.Identity() for _ in maps)
    model.head.context_scores = torch.nn.ModuleList(torch.nn.Identity() for _ in maps)
    scores = maps[0] + sum(F.interpolate(x, (4, 4)) for x in maps[1:])
    torch.testing.assert_close(model.head(maps, nothing, {}), F.interpolate(scores, (32, 32)))
    assert [norm.scale.shape[0] for norm in model.decoder.local_norms] == model.encoder.channels[-3:]


def test_on_vgg16_it_is_largefov_with_scales_and_a_second_classifier() -> None:
    """LargeFOV has 20.5 million parameters (arXiv:1412.7062): VGG-16's convolutions, fc6, fc7, scores."""
    with torch.device("meta"):
        model = ParseNet(encoder=Encoder("vgg16"), num_classes=21, fc_channels=1024)
    large_fov = 14_714_688 + (512 * 9 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21
    assert round(large_fov / 1e6, 1) == 20.5
    assert count_parameters(model) == large_fov + 2 * 1024 + 1024 * 21


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 6}, r"levels=6: encoder\.name=resnet10t has 5 feature maps, so that 1 to 5 are allowed"),
        ({"levels": 0}, r"levels=0: "),
        ({"fusion": "middle"}, r"fusion=middle: allowed are early and late"),
        ({"scale": 0}, r"scale=0: a positive number"),
        ({"fc_channels": -1}, r"fc_channels=-1: 0 \(none\) or more"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParseNet(encoder=Encoder("resnet10t"), num_classes=4, **settings)
