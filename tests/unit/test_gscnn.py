"""Gated-SCNN: the gates, the shape stream, the image's gradients, and that edges and classes are learned together."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP as TorchvisionASPP

from seg_cli.errors import UserError
from seg_cli.losses import CrossEntropy, Sum
from seg_cli.losses.edges import DualTask, EdgeLoss, true_edges
from seg_cli.models.encoder import Encoder
from seg_cli.models.gscnn import ASPP, GSCNN, GatedConv, ShapeStream, gradient_magnitude
from seg_cli.models.outputs import Outputs


def small(encoder: str = "resnet10t", output_stride: int = 8, channels: int = 16) -> GSCNN:
    torch.manual_seed(0)
    return GSCNN(encoder=Encoder(encoder, output_stride=output_stride), num_classes=3, channels=channels)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def disks(size: int = 64) -> tuple[Tensor, Tensor]:
    """Two noisy pictures of a disk and a square, and their masks of three classes."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    first = ((x - 20) ** 2 + (y - 30) ** 2 < 150).long() + 2 * ((x > 40) & (y > 25) & (y < 50))
    masks = torch.stack((first, first.T))
    noise = torch.randint(0, 60, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
    return (60 * masks.unsqueeze(1) + noise).to(torch.uint8), masks


# ---- the image's gradients


def test_the_gradient_of_a_step_stands_beside_it_and_is_0_elsewhere() -> None:
    """From black to white: 4 of at most 4 across, 0 down."""
    images = torch.tensor([0, 0, 0, 255, 255, 255], dtype=torch.uint8).expand(2, 3, 5, 6)
    found = gradient_magnitude(images, (5, 6))
    assert found.shape == (2, 1, 5, 6)
    torch.testing.assert_close(found[0, 0, 2], torch.tensor([0, 0, 0.5**0.5, 0.5**0.5, 0, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient_magnitude(images.mT, (6, 5)), found.mT)


def test_the_gradient_stays_below_1_and_the_padding_has_none() -> None:
    images = torch.randint(0, 2, (4, 3, 20, 20), generator=torch.Generator().manual_seed(0)) * 255
    assert gradient_magnitude(images, (20, 20)).max() <= 1
    padded = gradient_magnitude(images, (32, 24))
    assert padded[..., 21:, :].diff(dim=-2).abs().max() < 1e-5
    assert padded[..., 21:, 21:].max() < 1e-5
    torch.testing.assert_close(padded[..., :19, :19], gradient_magnitude(images, (20, 20))[..., :19, :19])


# ---- gates and streams


def test_a_gate_is_one_plus_the_attention_and_then_a_convolution() -> None:
    gate = GatedConv(4).eval()
    s, r = torch.randn(2, 4, 5, 6), torch.randn(2, 1, 5, 6)
    attention = gate.attention(torch.cat((s, r), 1))
    assert attention.shape == (2, 1, 5, 6)
    expected = torch.einsum("oc,nchw->nohw", gate.conv.weight[..., 0, 0], attention * s + s)
    torch.testing.assert_close(gate(s, r), expected)


@pytest.mark.parametrize(
    ("encoder", "output_stride", "strides"),
    [("resnet10t", 8, [4, 8, 8]), ("resnet10t", 32, [4, 8, 32]), ("convnext_atto", 16, [4, 8, 16])],
)
def test_the_gates_look_at_strides_4_and_8_and_the_deepest(encoder: str, output_stride: int, strides: list) -> None:
    model = small(encoder, output_stride)
    levels = model.decoder.gate_levels
    assert [model.encoder.strides[level] for level in levels] == strides
    assert levels[-1] == len(model.encoder.strides) - 1
    assert [conv.in_channels for conv in model.decoder.shape.seen] == [model.encoder.channels[i] for i in levels]


def test_the_shape_stream_counted_by_hand() -> None:
    """With the channels of the paper's WideResNet-38: 64 at the start, 256, 512 and 4096 at the gates."""
    with torch.device("meta"):
        stream = ShapeStream(64, [256, 512, 4096], [64, 32, 16, 8])
    residuals = sum(2 * 9 * c * c + 4 * c for c in (64, 32, 16))
    narrow = sum(a * b + b for a, b in ((64, 32), (32, 16), (16, 8)))
    seen = (256 + 1) + (512 + 1) + (4096 + 1)
    gates = sum(2 * (c + 1) + (c + 1) ** 2 + (c + 1) + (c + 1) + 2 + c * c for c in (32, 16, 8))
    assert parameters(stream) == (64 * 64 + 64) + residuals + narrow + seen + gates + (8 + 1)


def test_the_aspp_is_torchvisions_with_a_branch_for_edges() -> None:
    with torch.device("meta"):
        ours, theirs = ASPP(512, 256, (6, 12, 18)), TorchvisionASPP(512, [6, 12, 18])
    branch = 256 + 2 * 256 + 256 * 256  # of the edges, and its share of what merges the branches
    pooled_bias_for_norm = 256 - 2 * 256
    assert parameters(ours) == parameters(theirs) + branch + pooled_bias_for_norm


def test_edges_come_in_training_alone_and_have_the_size_of_the_image() -> None:
    model, images = small(), torch.randint(0, 256, (2, 3, 50, 67), dtype=torch.uint8)
    outputs = model.train()(images)
    assert isinstance(outputs, Outputs)
    assert outputs.logits.shape == (2, 3, 50, 67)
    assert outputs.edges is not None
    assert outputs.edges.shape == (2, 1, 50, 67)
    assert outputs.aux == ()
    assert model.eval()(images).shape == (2, 3, 50, 67)


def test_classes_depend_on_the_edges() -> None:
    """The gradient of the logits alone reaches all of the shape stream, and the image's gradients."""
    model = small().train()
    model(disks()[0]).logits.square().mean().backward()
    for part in (model.decoder.shape, model.decoder.join, model.decoder.aspp.of_edges):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())


def test_the_padding_is_cut_off_again() -> None:
    model = small(output_stride=32).eval()
    images = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.arange(64).clamp(max=49), torch.arange(96).clamp(max=69)
    with torch.no_grad():
        assert torch.equal(model(images), model(images[..., rows, :][..., columns])[..., :50, :70])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_it_compiles_into_one_graph_in_training_and_evaluation() -> None:
    model = small()
    images = disks()[0]
    for mode in (True, False):
        torch._dynamo.reset()
        compiled = torch.compile(model.train(mode), backend="eager", fullgraph=True)
        found = compiled(images)
        assert (found.logits if mode else found).shape == (2, 3, 64, 64)


# ---- learning


def test_edges_and_classes_are_learned_together() -> None:
    """With the sum of the paper; afterwards true edges are more probable than the rest."""
    images, masks = disks()
    model = small().train()
    loss = Sum(
        {"ce": CrossEntropy(), "edge": EdgeLoss(), "dual_task": DualTask()}, {"ce": 1, "edge": 20, "dual_task": 1}
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for _ in range(60):
        outputs = model(images)
        total, terms = loss(outputs.logits, masks, outputs.edges)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append({name: float(term) for name, term in terms.items()})
    assert values[-1]["ce"] < 0.1 * values[0]["ce"]
    assert values[-1]["edge"] < 0.5 * values[0]["edge"]
    truth, found = true_edges(masks, 2)[0], outputs.edges.detach()
    assert found[truth].mean() > found[~truth].mean() + 2


# ---- bad settings


@pytest.mark.parametrize("channels", [[64, 32, 16], [64, 32, 16, 0]])
def test_other_than_four_shape_channels_are_refused(channels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"shape_channels=\[64, 32, 16.*\]: it must be four numbers of 1 or more\."):
        GSCNN(encoder=Encoder("resnet10t"), num_classes=3, shape_channels=channels)


def test_an_encoder_without_stride_4_is_named() -> None:
    with pytest.raises(UserError, match="the model needs one of stride 4"):
        GSCNN(encoder=Encoder("vit_tiny_patch16_224"), num_classes=3)
