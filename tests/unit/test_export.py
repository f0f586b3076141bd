"""Exported programs: what they say is what the model says, at any size; and what a comparison notices."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from seg_cli.commands.build import build_model
from seg_cli.config.choices import choices
from seg_cli.data.shapes import Shapes
from seg_cli.errors import UserError
from seg_cli.inference.export import _part_means, load_torch_export, to_onnx, to_torch_export, trace
from seg_cli.inference.model_file import KEY, open_session
from seg_cli.inference.parity import Parity, Program, compare, views
from seg_cli.models.blocks import crop_to, pad_to_multiple

Compose = Callable[..., DictConfig]

ENCODERS = {"segnet": "vgg11_bn", "deconvnet": "vgg11_bn", "smp/dpt": "vit_tiny_patch16_224", "smp/pan": "resnet18"}
ONE_SIZE = ("smp/dpt", "transformers/beit", "transformers/dpt", "transformers/mobilevit")
"""Whose code turns sizes into plain numbers, see docs/inference.md."""
UNPOOLS = ("deconvnet", "segnet", "segnet_basic")
"""Where rounding decides between two maxima, everything around changes."""
NOT_ONNX = ("transformers/beit",)
ARCHITECTURES = [
    choice.name
    for choice in choices("model")
    if choice.name not in ("own/module", "transformers/pretrained")
    and "models.classical" not in choice.path.read_text()
]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    split = Shapes(train=1, val=2, test=1, size=[96, 120]).splits["val"]
    return [split[index].image for index in range(2)]


def build_small(compose_config: Compose, name: str, pictures: list[np.ndarray]) -> nn.Module:
    """A model that has seen a few pictures, so that its batch norms know what to expect."""
    if name.startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    if name.startswith("transformers/"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    encoder = f"encoder.name={ENCODERS.get(name, 'resnet10t')}"
    config: Any = OmegaConf.to_container(compose_config(f"model={name}", encoder, "encoder.weights=none"), resolve=True)
    model = build_model(config, 7).train()
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all that it saw
    with torch.no_grad():
        for _ in range(2):
            model(batch)
    return model.eval()


def onnx_program(data: bytes) -> Program:
    session = open_session(data, "cpu")
    return lambda images: session.run(["logits"], {"images": images})[0]


def torch_program(data: bytes) -> Program:
    module = load_torch_export(data)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


def check(
    model: nn.Module,
    pictures: list[np.ndarray],
    size: tuple[int, int] | None = None,
    *,
    onnx: bool = True,
    unpools: bool = False,
) -> None:
    traced = trace(model, channels=3, size=size)
    programs = [torch_program(to_torch_export(traced, {}))]
    if onnx:
        programs.append(onnx_program(to_onnx(traced, {})))
    for program in programs:
        found = compare(model, program, views(pictures, size), overlapping=False)
        if unpools:
            assert found.holds(0.3, 0.98), found
        elif not found.holds(1e-4, 0.9999):  # in a network of a hundred untrained layers, roundings grow
            exact = compare(model, in_double(model), views(pictures, size), overlapping=False)
            assert found.holds(3 * exact.difference, 1 - 3 * (1 - exact.agreement)), (found, exact)


def in_double(model: nn.Module) -> Program:
    """The model without rounding, or nearly."""
    exact = deepcopy(model).double()
    return lambda images: exact(torch.from_numpy(images).double()).float().numpy()


@pytest.mark.parametrize("name", ["deeplabv3plus", "fcn32s"])  # and a U-Net in tests/e2e/test_export.py
def test_two_architectures_say_the_same(compose_config: Compose, pictures: list[np.ndarray], name: str) -> None:
    check(build_small(compose_config, name, pictures), pictures, onnx=name == "fcn32s")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_says_the_same(compose_config: Compose, pictures: list[np.ndarray], name: str) -> None:
    size = (96, 128) if name in ONE_SIZE else None
    check(
        build_small(compose_config, name, pictures), pictures, size, onnx=name not in NOT_ONNX, unpools=name in UNPOOLS
    )


class Tiny(nn.Module):
    """What is hard to export of a model of segrun: it pads, strides, averages over parts, and cuts to the image."""

    def __init__(self, parts: int = 3) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(parts)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(pad_to_multiple(images, 8) / 255)
        x = x + F.interpolate(self.pool(x), x.shape[-2:], mode="bilinear")
        return crop_to(F.interpolate(x, scale_factor=2.0), images)


class Drops(nn.Module):
    """A model that depends on the values of its image, which no exporter can follow."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1] if images.sum() > 0 else images[:, 1:2]


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Module, bytes]:
    torch.manual_seed(0)
    model = Tiny().eval()
    return model, to_onnx(trace(model, channels=3), {"a": "ä"})


@pytest.mark.parametrize("size", [(7, 9), (8, 16), (33, 21)])
def test_means_over_parts_are_those_of_adaptive_pooling(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for parts in (1, 2, 6, (3, 2)):
        torch.testing.assert_close(_part_means(x, parts), F.adaptive_avg_pool2d(x, parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [1, 31, 32, 33, 64])
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_padding_reaches_the_next_multiple(side: int, multiple: int) -> None:
    padded = pad_to_multiple(torch.arange(float(side * 3)).view(1, 1, side, 3), multiple)
    assert padded.shape == (1, 1, side + -side % multiple, 3 + -3 % multiple)
    assert torch.equal(padded[..., :side, :3], torch.arange(float(side * 3)).view(1, 1, side, 3))
    assert bool((padded[..., side:, :3] == padded[..., side - 1 : side, :3]).all())


def test_batch_height_and_width_are_open(tiny: tuple[nn.Module, bytes]) -> None:
    session = open_session(tiny[1], "cpu")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["batch", 3, "height", "width"], "tensor(float)")
    assert (logits.name, logits.shape) == ("logits", ["batch", 4, "height", "width"])
    assert session.get_modelmeta().custom_metadata_map[KEY] == '{"a": "ä"}'


def test_a_chosen_size_is_fixed() -> None:
    traced = trace(Tiny().eval(), channels=3, size=(20, 36))
    session = open_session(to_onnx(traced, {}), "cpu")
    assert session.get_inputs()[0].shape == ["batch", 3, 20, 36]
    assert session.run(None, {"images": np.zeros((3, 3, 20, 36), np.float32)})[0].shape == (3, 4, 20, 36)


def test_the_trace_says_the_same_for_multiples_and_others(tiny: tuple[nn.Module, bytes]) -> None:
    module = load_torch_export(to_torch_export(trace(tiny[0], channels=3), {}))
    for shape in ((1, 3, 16, 24), (2, 3, 17, 9), (5, 3, 64, 64)):
        images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()
        with torch.no_grad():
            torch.testing.assert_close(module(images), tiny[0](images), rtol=1e-5, atol=1e-5)


def test_a_model_that_branches_on_values_is_refused() -> None:
    with pytest.raises(UserError, match=r"torch\.export cannot follow this model"):
        trace(Drops(), channels=3)


# ---- the comparison


def test_views_are_the_image_two_parts_and_a_pair(pictures: list[np.ndarray]) -> None:
    found = views(pictures, None)
    assert [batch.shape for _, batch in found] == [
        *((1, 3, 96, 120), (1, 3, 64, 80), (1, 3, 95, 115), (2, 3, 96, 120)),
        *((1, 3, 96, 120), (1, 3, 64, 80), (1, 3, 95, 115)),
    ]
    assert np.array_equal(found[3][1][1], found[0][1][0, :, :, ::-1])
    assert found[0][1].max() > 1, "0..255"
    assert [batch.shape for _, batch in views(pictures, (32, 48))] == [(1, 3, 32, 48), (2, 3, 32, 48), (1, 3, 32, 48)]


def compared(change: Callable[[np.ndarray], np.ndarray], *, overlapping: bool = False) -> Parity:
    """A model with logits of x and -x, range 200, beside a program that changes them."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat((images, -images), 1)

    image = np.linspace(-100, 100, 10_000, dtype=np.float32).reshape(1, 1, 100, 100)

    def program(images: np.ndarray) -> np.ndarray:
        return change(np.concatenate((images, -images), 1))

    return compare(Model(), program, [(0, image)], overlapping=overlapping)


def test_a_difference_is_a_share_of_the_range() -> None:
    found = compared(lambda logits: logits + np.float32(0.02))
    assert found.difference == pytest.approx(1e-4, rel=1e-2)
    assert found.agreement == 1
    assert found.holds(1.1e-4, 0.9999)
    assert not found.holds(0.9e-4, 0.9999)
    assert (found.images, found.views, found.timed) == (1, 1, "100x100")
    assert found.program_ms > 0


def test_labels_that_differ_are_counted() -> None:
    def lift_second(logits: np.ndarray) -> np.ndarray:
        logits[:, 1, :1] += 1000  # 100 of 10,000 pixels, all of which the second class has anyway
        logits[:, 1, -1:] += 1000  # and 100 that the first had
        return logits

    assert compared(lift_second).agreement == pytest.approx(0.99)
    assert compared(lift_second, overlapping=True).agreement == pytest.approx(0.995), "one of two answers a pixel"


def test_what_is_no_number_does_not_hold() -> None:
    found = compared(lambda logits: logits * np.float32("nan"))
    assert not found.holds(1e9, 0)


def test_a_program_that_fails_or_gives_another_shape_is_told() -> None:
    def fail(logits: np.ndarray) -> np.ndarray:
        raise RuntimeError("no such\nkernel")

    assert compared(fail).problem == "it fails (no such kernel)"
    assert compared(lambda logits: logits[..., :50]).problem == (
        "it gives logits of (1, 2, 100, 50) for those of (1, 2, 100, 100)"
    )
    assert not compared(fail).holds(1e9, 0)
