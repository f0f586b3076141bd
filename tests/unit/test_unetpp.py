"""UNet++: the nested nodes, supervision of every level, pruning."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops, count_parameters
from seg_cli.models.blocks import Normalize
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.unetpp import UNetPlusPlus

SMALL = (32, 24, 16, 8, 8)


def small(**settings: object) -> UNetPlusPlus:
    torch.manual_seed(0)
    settings = {"decoder_channels": SMALL, **settings}
    return UNetPlusPlus(encoder=Encoder("resnet10t"), num_classes=3, **settings).eval()  # type: ignore[arg-type]


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_parameters_and_operations_are_those_of_smp() -> None:
    """Exactly, where the heads of the other levels, which SMP lacks, are left out; each has 64 weights a class."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.UnetPlusPlus("resnet18", encoder_weights=None, classes=5).eval()
    ours = UNetPlusPlus(encoder=Encoder("resnet18"), num_classes=5, upsample="nearest", aux_weight=0).eval()
    assert count_parameters(ours) == count_parameters(theirs)
    wrapped = nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), theirs)
    assert count_flops(ours, (64, 64)) == count_flops(wrapped, (64, 64))
    supervised = UNetPlusPlus(encoder=Encoder("resnet18"), num_classes=5)
    assert count_parameters(supervised) - count_parameters(ours) == 3 * (64 * 5 + 5)


def test_a_node_sees_its_row_and_the_node_below() -> None:
    model = small()
    channels = model.encoder.channels
    names = {f"x{i}_{j}" for i in range(4) for j in range(1, 5 - i)}
    assert set(model.decoder.nodes) == names
    assert len(names) == 10
    inputs = {name: node.convs[0][0].in_channels for name, node in model.decoder.nodes.items()}
    assert inputs["x0_1"] == channels[1] + channels[0]
    assert inputs["x0_3"] == channels[1] + 3 * channels[0]
    assert inputs["x3_1"] == channels[4] + channels[3]
    assert inputs["x1_3"] == SMALL[1] + 3 * channels[1]  # beside it on the way up is X(2, 2), of the deepest U-Net
    with torch.no_grad():
        features = model.encoder(pictures(1, 64, 64))
        ends = model.decoder(features, {}, 2)
        node = model.decoder.nodes

        def merge(name: str, below: Tensor, *before: Tensor) -> Tensor:
            return node[name].convs(torch.cat((node[name].up(below), *before), 1))

        x01, x11 = merge("x0_1", features[1], features[0]), merge("x1_1", features[2], features[1])
        torch.testing.assert_close(ends, [x01, merge("x0_2", x11, features[0], x01)])


def test_in_training_every_level_is_supervised() -> None:
    model = small().train()
    out = model(pictures(2, 50, 70))
    assert isinstance(out, Outputs)
    assert [x.shape for x in (out.logits, *out.aux)] == 4 * [(2, 3, 50, 70)]
    assert model.aux_weight == 1
    alone = small(aux_weight=0).train()
    assert isinstance(alone(pictures(2, 50, 70)), Tensor)
    assert len(alone.head.early) == 0


def test_each_level_alone_and_the_mean_of_all() -> None:
    model, images = small(), pictures(2, 50, 70)
    with torch.no_grad():
        deepest, levels = model(images), []
        for model.prune in (1, 2, 3):
            levels.append(model(images))
        assert levels[0].shape == (2, 3, 50, 70)
        assert not torch.allclose(levels[1], levels[2])
        model.average = True
        torch.testing.assert_close(model(images), torch.stack(levels).mean(0))
        model.prune = None
        torch.testing.assert_close(model(images), torch.stack([*levels, deepest]).mean(0))


def test_pruning_computes_less_and_needs_no_deeper_node() -> None:
    model = small()
    flops = []
    for model.prune in (1, 2, 3, None):
        flops.append(count_flops(model, (64, 64)))
    assert flops == sorted(set(flops))
    assert flops[0] < flops[-1] / 3
    model.prune = 2
    expected = model(pictures(1, 64, 64))
    for name, node in model.decoder.nodes.items():
        if name not in ("x0_1", "x1_1", "x0_2"):
            for parameter in node.parameters():
                nn.init.constant_(parameter, torch.nan)
    assert torch.equal(model(pictures(1, 64, 64)), expected)
    model.train()
    assert model(pictures(2, 64, 64)).logits.isnan().all()  # in training the whole network is there


def test_a_pruned_network_takes_the_weights_of_the_whole() -> None:
    model = small(prune=1)
    model.load_state_dict(small().state_dict())
    assert count_parameters(model) == count_parameters(small())


def test_an_encoder_that_starts_at_the_images_resolution() -> None:
    encoder = Encoder("vgg11_bn")
    model = UNetPlusPlus(encoder=encoder, num_classes=2, decoder_channels=(8,) * 5, upsample="max_unpool", prune=4)
    assert model.decoder.last is None
    assert model.levels == 5
    assert model.eval()(pictures(1, 33, 32)).shape == (1, 2, 33, 32)
    assert len(model.train()(pictures(2, 32, 32)).aux) == 4


def test_wrong_settings_are_named() -> None:
    for level in (0, 4):
        with pytest.raises(ValueError, match=rf"prune={level}: with this encoder, allowed are 1, 2, 3, .* and null"):
            small(prune=level)
    with pytest.raises(ValueError, match=r"aux_weight=-1: it must be at least 0"):
        small(aux_weight=-1)
    with pytest.raises(ValueError, match=r"prune=2: it needs the heads .* model\.aux_weight=0"):
        small(aux_weight=0, prune=2)
    with pytest.raises(ValueError, match=r"average=true: it needs the heads"):
        small(aux_weight=0, average=True)
    with pytest.raises(UserError, match=r"model\.decoder_channels: this encoder needs 5 numbers, .* not 4"):
        small(decoder_channels=(8, 8, 8, 8))


def test_it_learns_two_pictures_at_every_level() -> None:
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    masks = torch.stack([(y - 10) ** 2 + (x - 12) ** 2 < 64, (y - 20) ** 2 + (x - 15) ** 2 < 64]).long()
    images = (pictures(2, 32, 32) // 4 + 90 * masks.unsqueeze(1)).to(torch.uint8)
    model = small().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        out = model(images)
        losses = [F.cross_entropy(logits, masks) for logits in (out.logits, *out.aux)]
        history.append([loss.item() for loss in losses])
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    assert all(last < 0.2 * first for first, last in zip(history[0], history[-1], strict=True))
