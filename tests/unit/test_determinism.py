"""``trainer.deterministic=true``: the same steps give the same bits, for every loss and every model that is shipped."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from seg_cli.commands.build import build, build_model
from seg_cli.config.choices import choices
from seg_cli.losses import Sum
from seg_cli.training.finetune import Phases
from seg_cli.training.fit import set_backends
from seg_cli.training.schedules import Constant
from seg_cli.training.task import SegmentationTask

Compose = Callable[..., DictConfig]

CLASSES = 5
ENCODERS = {"segnet": "vgg11_bn", "deconvnet": "vgg11_bn", "smp/dpt": "vit_tiny_patch16_224", "smp/pan": "resnet18"}
QUICK = ("unet", "gscnn")
LOSSES = [choice.name for choice in choices("loss")]
MODELS = [
    choice.name
    for choice in choices("model")
    if choice.name not in ("own/module", "transformers/pretrained")
    and "models.classical" not in choice.path.read_text()
]


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    set_backends(deterministic=True)
    yield
    set_backends(deterministic=False)
    torch.set_float32_matmul_precision("highest")


def weights_after_two_steps(config: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = build_model(config, CLASSES).train()
    loss: Sum = build(config, "loss")
    task = SegmentationTask(
        model,
        loss,
        class_names=[f"class {index}" for index in range(CLASSES)],
        make_optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        schedule=Constant(),
        encoder_lr_factor=1.0,
        finetune=Phases(),
    )
    optimizer = task.configure_optimizers()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    masks = torch.randint(0, CLASSES, (2, 64, 96), dtype=torch.uint8)
    masks[:, :4] = 255
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value, _ = task.training_step(images, masks)
        value.backward()
        optimizer.step()
    return task.state_dict()


def check(compose_config: Compose, *options: str) -> None:
    config = OmegaConf.to_container(compose_config("encoder.weights=none", *options), resolve=True)
    first, second = weights_after_two_steps(config), weights_after_two_steps(config)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_the_same_bits(compose_config: Compose, name: str) -> None:
    model = "gscnn" if "edge" in name or "dual" in name else "fcn32s"
    check(compose_config, f"loss={name}", f"model={model}", "encoder.name=test_resnet.r160_in1k")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]
)
def test_every_model_gives_the_same_bits(compose_config: Compose, name: str) -> None:
    if name.startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    if name.startswith("transformers/"):
        pytest.importorskip("transformers")
    check(compose_config, f"model={name}", f"encoder.name={ENCODERS.get(name, 'resnet10t')}")
