"""CU-Net: which U-Nets see what of which, the heads, the parameters."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_parameters
from seg_cli.models.cunet import Block, CUNet
from seg_cli.models.outputs import Outputs


def tiny(**settings: object) -> CUNet:
    torch.manual_seed(0)
    settings = {"channels": 8, "growth": 4, "neck": 2, "num_classes": 3, **settings}
    return CUNet(**settings)  # type: ignore[arg-type]


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def kernels(unets: int, order: int, m: int, n: int, classes: int) -> int:
    """Weights of the convolutions of the authors' code, by hand; its bottlenecks have four times n channels inside."""
    total = 7 * 7 * 3 * m
    for i in range(unets):
        k = min(i, order)
        bottleneck = 4 * n * n * 9
        narrow, wide = m + k * n, 2 * m + k * n  # into blocks on the way down, and on the way up
        total += 4 * (narrow * 4 * n + bottleneck + 2 * (narrow + n) * m)  # each leads on, and to the skip
        total += narrow * 4 * n + bottleneck + (narrow + n) * m
        total += 4 * (wide * 4 * n + bottleneck + (wide + n) * m)
        total += (1 + k) * m * m if i else 0  # between U-Nets
        total += m * classes
    return total


@pytest.mark.parametrize(
    ("unets", "order", "millions"), [(2, 1, None), (4, 0, None), (4, 2, None), (8, 1, 7.9), (16, 1, 15.9)]
)
def test_parameters_are_those_of_the_paper(unets: int, order: int, millions: float | None) -> None:
    """The paper counts the weights of convolutions, with 16 joints of the body as outputs."""
    with torch.device("meta"):
        model = CUNet(num_classes=16, unets=unets, order=order, supervised=unets)
    found = sum(conv.weight.numel() for conv in model.modules() if isinstance(conv, nn.Conv2d))
    assert found == kernels(unets, order, 128, 32, 16)
    if millions:
        assert found == pytest.approx(1e6 * millions, rel=0.005)
        assert count_parameters(model) == pytest.approx(found, rel=0.015)  # batch norms


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_blocks_see_their_forerunners_in_the_last_k_u_nets(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(unets=4, order=order).eval()
    seen: dict[int, list[Sequence[Tensor]]] = {}
    found: dict[int, Tensor] = {}
    plain = Block.forward

    def watch(block: Block, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        out = plain(block, maps)
        seen.setdefault(id(block), []).append(maps)
        found[id(block)] = out[2]
        return out

    monkeypatch.setattr(Block, "forward", watch)
    with torch.no_grad():
        model(pictures(1, 64, 64))
    places = [[*unet.downs, unet.bottom, *unet.merges] for unet in model.decoder.unets]
    for blocks in zip(*places, strict=True):
        for i, block in enumerate(blocks):
            own = 2 if block.skip is None and block is not places[i][4] else 1  # on the way up: from below and the skip
            (maps,) = seen[id(block)]
            coupled = maps[own:]
            assert [id(x) for x in coupled] == [id(found[id(b)]) for b in blocks[max(0, i - order) : i]]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_u_nets_see_the_inputs_of_those_before(order: int) -> None:
    model = tiny(unets=3, order=order)
    assert [merge[-1].in_channels for merge in model.decoder.inputs] == [8 * (1 + min(i, order)) for i in (1, 2)]
    maps = model.eval().decoder(torch.rand(1, 8, 16, 32))
    assert [x.shape for x in maps] == 3 * [(1, 8, 16, 32)]


@pytest.mark.parametrize(
    ("unets", "supervised", "ends"), [(4, 2, [1, 3]), (5, 2, [2, 4]), (3, 3, [0, 1, 2]), (4, 1, [3])]
)
def test_supervision_is_spread_evenly_and_ends_at_the_last(unets: int, supervised: int, ends: list[int]) -> None:
    model = tiny(unets=unets, supervised=supervised).train()
    assert model.head.ends == ends
    out = model(pictures(2, 70, 50))
    if supervised == 1:
        assert isinstance(out, Tensor)
    else:
        assert isinstance(out, Outputs)
        assert [x.shape for x in (out.logits, *out.aux)] == supervised * [(2, 3, 70, 50)]
    assert isinstance(model.eval()(pictures(2, 70, 50)), Tensor)


def test_heads_read_the_maps_of_their_u_nets() -> None:
    model = tiny(unets=4, supervised=2).eval()
    maps = [torch.full((1, 8, 16, 16), float(i)) for i in range(4)]
    aux, logits = model.head(maps, every=True)
    torch.testing.assert_close(aux, model.head.early[0](maps[1]))
    torch.testing.assert_close(logits, model.head.final(maps[3]))
    assert len(model.head(maps, every=False)) == 1


def test_heads_of_no_weight_are_left_out() -> None:
    model = tiny(aux_weight=0).train()
    assert len(model.head.early) == 0
    assert isinstance(model(pictures(2, 64, 64)), Tensor)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"order=2: with model\.unets=2, allowed are 0 to 1"):
        tiny(order=2)
    with pytest.raises(ValueError, match=r"supervised=0: with model\.unets=2, allowed are 1 to 2"):
        tiny(supervised=0)
    with pytest.raises(ValueError, match=r"growth=0: it must be a positive whole number"):
        tiny(growth=0)
    with pytest.raises(ValueError, match=r"aux_weight=-0\.5: it must be at least 0"):
        tiny(aux_weight=-0.5)
    with pytest.raises(ValueError, match=r"upsample=max_unpool: only some steps"):
        tiny(upsample="max_unpool")
    with pytest.raises(UserError, match=r"Did you mean 'nearest'"):
        tiny(upsample="neerest")


def test_it_learns_two_pictures() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    masks = torch.stack([(y - 20) ** 2 + (x - 24) ** 2 < 256, (y - 40) ** 2 + (x - 30) ** 2 < 256]).long()
    images = (pictures(2, 64, 64) // 4 + 90 * masks.unsqueeze(1)).to(torch.uint8)
    model = tiny(channels=16, growth=8, upsample="bilinear").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        out = model(images)
        losses = [F.cross_entropy(logits, masks) for logits in (out.logits, *out.aux)]
        history.append([loss.item() for loss in losses])
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    assert all(last < 0.3 * first for first, last in zip(history[0], history[-1], strict=True))
