"""Exported programs: what they say is what the model says, at any size; and what a comparison notices."""

from collections.abc import Callable
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
ONE_SIZE = ("transformers/beit", "transformers/dpt", "transformers/mobilevit")
"""Whose code turns sizes into plain numbers, see docs/inference.md."""
UNPOOLS = ("deconvnet", "segnet", "segnet_basic")
"""Where rounding decides between two maxima, everything around changes."""
NOT_ONNX = ("transformers/beit",)
ARCHITECTURES = [
    choice.name for choice in choices("model") if choice.name not in ("own/module", "transformers/pretrained")
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
    with torch.no_grad():
        for _ in range(20):
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
        assert found.holds(0.05, 0.98) if unpools else found.holds(1e-4, 0.9999), found


@pytest.mark.parametrize("name", ["deeplabv3plus", "fcn32s", "segnet_basic"])
def test_three_architectures_say_the_same(compose_config: Compose, pictures: list[np.ndarray], name: str) -> None:
    check(build_small(compose_config, name, pictures), pictures, onnx=name != "deeplabv3plus", unpools=name in UNPOOLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_says_the_same(compose_config: Compose, pictures: list[np.ndarray], name: str) -> None:
    size = (96, 128) if name in ONE_SIZE else None
    check(build_small(compose_config, name, pictures), pictures, size, onnx=name not in NOT_ONNX, unpools=name in UNPOOLS)
