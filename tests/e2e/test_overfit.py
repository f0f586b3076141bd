"""Every architecture in ``conf/model`` learns four CamVid pictures by heart, in the form that ``segrun`` builds it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig
from torch import Tensor

from seg_cli.commands.build import build, build_model, build_partial
from seg_cli.config.paths import conf_dir
from seg_cli.data.camvid import LABELS, CamVid
from seg_cli.metrics.confusion import Scores, count, predict_labels, score
from seg_cli.models.blocks import resize
from seg_cli.models.classical import is_classical
from seg_cli.training.finetune import Phases
from seg_cli.training.precision import autocast_dtype, resolve
from seg_cli.training.task import SegmentationTask

STEPS = 150
BOUND = 0.9
HEIGHT, WIDTH, ENLARGED = 96, 128, 2
WINDOWS = (  # split, frame, top, left: four videos, ten of the eleven classes
    ("train", "0001TP_008310", 216, 64),
    ("train", "0006R0_f03840", 120, 64),
    ("train", "0016E5_01980", 192, 320),
    ("test", "Seq05VD_f01140", 144, 320),
)
"""Chosen, and enlarged, so that each architecture can pass. Logits of which one stands for 32x32 pixels, when fitted to
these masks by themselves and interpolated bilinearly, reach 0.92, and 0.95 for 16x16. Poles are what is left out: in
central crops of 224x288 the same logits reach an IoU of 0.14 and 0.37 for them, and 0.74 and 0.85 over all classes."""

FROM_SCRATCH = ("optimizer.lr=5e-3", "loss.terms.ce.weights=[7,0.4,1,0.5,0.8,0.9,4,1.1,1.3,16,1.6]")
"""These classifiers from random weights take no notice of the 313 pixels of pedestrians, 0.6% of all, while classes
weigh by their pixels; the weights are about those of ``balanced`` for these windows."""

SETTINGS: dict[str, tuple[str, ...]] = {
    "deconvnet": ("encoder.name=vgg11_bn", "encoder.weights=none", "model.bottleneck=256", *FROM_SCRATCH),
    "deeplabv3_cascade": ("encoder.name=resnet18", "encoder.weights=none"),
    "segnet": ("encoder.name=vgg11_bn", "encoder.weights=none", *FROM_SCRATCH),
    "stacked_unet": ("model.channels=32", "model.outputs=[64,128,192,256]"),
    "unet_paper": ("model.channels=16", *FROM_SCRATCH),
}
"""What these need in place of tf_efficientnet_lite0 with ImageNet weights, or to be cheap enough for a CPU."""


@pytest.fixture(scope="module")
def pictures(shared: Path) -> tuple[Tensor, Tensor]:
    """(4, 3, 192, 256) uint8 images and (4, 192, 256) masks."""
    data = CamVid(root=str(shared / "data" / "camvid"))
    images, masks = [], []
    for split, name, top, left in WINDOWS:
        index = [pair.name for pair in data.splits[split].pairs].index(name)
        sample, window = data.splits[split][index], np.s_[top : top + HEIGHT, left : left + WIDTH]
        images.append(torch.tensor(sample.image[window]).permute(2, 0, 1))
        masks.append(torch.tensor(sample.mask[window]))
    size = (HEIGHT * ENLARGED, WIDTH * ENLARGED)
    enlarged = resize(torch.stack(images).float(), size).round().to(torch.uint8)
    enlarged_masks = torch.stack(masks).repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2)
    return enlarged.contiguous(memory_format=torch.channels_last), enlarged_masks


def overfit(config: DictConfig, images: Tensor, masks: Tensor) -> Scores:
    """Train on these images alone, all in each step, and score them in evaluation."""
    torch.manual_seed(0)
    names = LABELS.names
    task = SegmentationTask(
        build_model(config, len(names)),
        build(config, "loss"),
        class_names=names,
        make_optimizer=build_partial(config, "optimizer"),
        schedule=build(config, "scheduler"),
        encoder_lr_factor=1.0,
        finetune=Phases(),
    ).train()
    optimizer = task.configure_optimizers()
    dtype = autocast_dtype(resolve("auto", torch.device("cpu")))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * task.schedule(step / STEPS)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss, _ = task.training_step(images, masks)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), config.trainer.gradient_clip)
        optimizer.step()
    with torch.no_grad():
        predictions = predict_labels(task.model.eval()(images))
    return score(count(predictions, masks, len(names)).sum(0).numpy())


MODELS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / "model").glob("*.yaml"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, config in MODELS.items() if not is_classical({"model": config})])
def test_four_pictures_are_learned_by_heart(
    compose_config: Callable[..., DictConfig], shared: Path, pictures: tuple[Tensor, Tensor], name: str
) -> None:
    weights = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    options = (f"model={name}", "loss=ce+dice", "optimizer.lr=2e-3", "data=camvid")
    encoder = ("encoder.name=tf_efficientnet_lite0", f"encoder.weights={weights}")
    scores = overfit(compose_config(*options, *encoder, *SETTINGS.get(name, ())), *pictures)
    assert scores.miou > BOUND, scores.iou
