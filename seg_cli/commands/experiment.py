"""An experiment, made of its configuration and tried out: what ``train``, ``resume`` and ``plan`` have in common.

What is wrong with a request is found here, before there is a directory for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn

from seg_cli.commands.build import build, build_model, build_partial, describe_pretraining
from seg_cli.commands.class_weights import fit_class_weights
from seg_cli.data.albumentation import checked
from seg_cli.data.datamodule import DataModule, fit_augment
from seg_cli.data.sample import Dataset, Sample
from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops, count_parameters
from seg_cli.training import precision
from seg_cli.training.averaging import Average
from seg_cli.training.devices import device_of
from seg_cli.training.progress import track
from seg_cli.training.stages import Plan, Stage
from seg_cli.training.task import SegmentationTask


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
        config: composed and resolved.
        device, mode: where it is computed, and in which precision.
        dataset, data: the samples, and how they are drawn.
        model, task: the network, and with its loss, optimiser and schedule.
        average: how weights are averaged; None leaves them as they are.
        stages: of the training.
        image_size: (height, width) of the first image.
        parameters, flops: of the model, the latter for an image of that size.
        class_weights: of the loss, for class_weights.json; None where it has none.
    """

    config: Mapping[str, Any]
    device: torch.device
    mode: str
    dataset: Dataset
    data: DataModule
    model: nn.Module
    task: SegmentationTask
    average: Average | None
    stages: list[Stage]
    image_size: tuple[int, int]
    parameters: int
    flops: int
    class_weights: dict[str, Any] | None

    @property
    def thaws(self) -> bool:
        """Whether parts of the model are frozen in some epochs and learn in others."""
        epochs = self.config["trainer"]["max_epochs"]
        parts = self.task.parts
        return len({frozenset(self.task.finetune.frozen(e, epochs=epochs, parts=parts)) for e in range(epochs)}) > 1

    def plan(self, world_size: int) -> Plan:
        """The training, counted in batches and steps on so many processes."""
        trainer = self.config["trainer"]
        return Plan(
            self.stages,
            len(self.dataset.splits["train"]),
            world_size=world_size,
            accumulate=trainer["accumulate"],
            limit_batches=trainer["limit_batches"],
        )


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts, with the choices of the groups that it was composed of."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    # Hydra lists the groups from the last to the first.
    chosen = reversed(HydraConfig.get().runtime.choices.items())
    choices = {"model": ""} | {group: choice for group, choice in chosen if "hydra/" not in group and choice}
    # What was built counts: encoder.name=NAME takes any timm model, whichever file it started from, and some models
    # have an encoder of their own.
    encoder = config["model"].get("encoder")
    built = encoder.get("name", "own") if isinstance(encoder, Mapping) else "own"
    config["choices"] = choices | {"encoder": built, "tta": "none"}
    return config  # type: ignore[return-value]


def prepare(config: Mapping[str, Any]) -> Experiment:
    """Make everything that a run needs, and try it out on one image of each size that it will see.

    Raises:
        UserError: if something cannot be made as asked for, or does not fit together.
    """
    pl.seed_everything(config["seed"], verbose=False)
    device = device_of(config["trainer"])
    mode = precision.resolve(config["precision"]["mode"], device)
    dataset: Dataset = build(config, "data")
    model = build_model(config, dataset.labels.num_classes)
    task = build_task(config, model, dataset)
    image_size = _image_size(dataset)
    loader, trainer = config["loader"], config["trainer"]
    crop = tuple(loader["crop"]) if loader["crop"] else None
    stages = build(config, "resize").stages(
        epochs=trainer["max_epochs"], crop=crop, image=image_size, batch_size=loader["batch_size"]
    )
    data = build_data(config, dataset)
    _prepare_data(dataset, workers=data.workers)
    flops = _try_out(model, dataset, image_size)
    for size in dict.fromkeys(stage.size(image_size) for stage in stages):
        if size != image_size:
            _try_out(model, dataset, size)
    _check_parts(task, trainer["max_epochs"])
    return Experiment(
        config=config,
        device=device,
        mode=mode,
        dataset=dataset,
        data=data,
        model=model,
        task=task,
        average=build(config, "average"),
        stages=stages,
        image_size=image_size,
        parameters=count_parameters(model),
        flops=flops,
        class_weights=fit_class_weights(task.loss, dataset, workers=data.workers),
    )


def build_task(config: Mapping[str, Any], model: nn.Module, dataset: Dataset) -> SegmentationTask:
    """The model with its loss, optimiser and schedule."""
    factor = config["encoder"]["lr_factor"]
    if factor == "auto":
        factor = 1.0 if describe_pretraining(model) == "none" else 0.1
    return SegmentationTask(
        model,
        build(config, "loss"),
        class_names=dataset.labels.names,
        make_optimizer=build_partial(config, "optimizer"),
        schedule=build(config, "scheduler"),
        encoder_lr_factor=float(factor),
        finetune=build(config, "finetune"),
        overlapping=dataset.labels.overlapping,
    )


def build_data(config: Mapping[str, Any], dataset: Dataset) -> DataModule:
    """The dataset with its augmentation, which is ready for the training split, and loader settings."""
    loader = config["loader"]
    crop = tuple(loader["crop"]) if loader["crop"] else None
    policy = build(config, "crop") if "crop" in config else None
    data = DataModule(
        dataset,
        augment=build({**config, "augment": checked(config["augment"])}, "augment", policy=policy),
        eval_batch_size=loader["eval_batch_size"],
        workers=loader["workers"],
        seed=config["seed"],
    )
    fit_augment(
        data.augment,
        dataset,
        crop=crop,
        workers=data.workers,
        progress=lambda masks: track(masks, "finding classes"),
    )
    return data


def _prepare_data(dataset: Dataset, *, workers: int) -> None:
    """Have a dataset that can decode its training and validation samples, once and for all (``data.cache``)."""
    if hasattr(dataset, "prepare"):
        dataset.prepare(workers=workers, progress=lambda samples: track(samples, "decoding"), say=print)


def _image_size(dataset: Dataset) -> tuple[int, int]:
    """The size of the dataset's first image, which is looked at."""
    first = dataset.splits["train"][0]
    _check_sample(first, dataset)
    return first.size


def _check_sample(sample: Sample, dataset: Dataset) -> None:
    """Whether a dataset, which may be the user's own, gives what it promises. Raises UserError if not."""
    image, mask, classes = sample.image, sample.mask, dataset.labels.num_classes
    kind = (classes,) if dataset.labels.overlapping else ()
    sound = image.ndim == 3 and image.shape[2] == dataset.channels and image.dtype in (np.uint8, np.float32)
    if not sound or mask.shape != (*kind, *image.shape[:2]) or mask.dtype != np.uint8:
        planes = f"{classes} classes that overlap: (C, H, W)" if kind else f"{classes} classes: (H, W)"
        raise UserError(
            f"data: the sample '{sample.name}' has an image {image.shape} of {image.dtype} and a mask {mask.shape} of "
            f"{mask.dtype}. The dataset says {dataset.channels} bands: (H, W, {dataset.channels}) of uint8 or float32, "
            f"and {planes} of uint8."
        )


def _check_parts(task: SegmentationTask, epochs: int) -> None:
    """Whether ``finetune`` names parts that the model has, and leaves some to learn."""
    for epoch in range(epochs):
        if set(task.parts) <= task.finetune.frozen(epoch, epochs=epochs, parts=task.parts):
            raise UserError(
                f"finetune: in epoch {epoch + 1} every part is frozen ({', '.join(task.parts)}), and nothing learns."
            )


def _try_out(model: nn.Module, dataset: Dataset, image_size: tuple[int, int]) -> int:
    """FLOPs of an image; it is the first time that the model sees one.

    Some encoders do not take every size, and modules of the user's may give something else than logits.
    """
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_hook(lambda _, __, output: shapes.append(tuple(getattr(output, "shape", ()))))
    try:
        flops = count_flops(model, image_size, dataset.channels)
    except (AssertionError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        own = not isinstance(getattr(model, "encoder", None), nn.Module)
        instead = "It is given uint8 pixel values." if own else "Choose another encoder: segrun list encoders."
        raise UserError(
            f"model: it does not take images of {image_size[0]}x{image_size[1]} (height x width): {reason}. {instead}"
        ) from error
    finally:
        hook.remove()
    expected = (1, dataset.labels.num_classes, *image_size)
    if shapes != [expected]:
        found = f"a tensor of {shapes[0]}" if shapes and shapes[0] else "no tensor"
        raise UserError(
            f"model: for an image of {image_size[0]}x{image_size[1]} it returned {found}. In evaluation a model "
            f"returns logits at the image's size, {expected} here."
        )
    return flops
