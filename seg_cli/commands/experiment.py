"""An experiment, made of its configuration and tried out: what ``train``, ``resume`` and ``plan`` have in common.

What is wrong with a request is found here, before there is a directory for it.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

from seg_cli.commands.build import build, build_model, build_partial, describe_pretraining, without_weights
from seg_cli.commands.class_weights import fit_class_weights
from seg_cli.commands.composing import resolve as resolve
from seg_cli.commands.score import Scoring
from seg_cli.data.albumentation import checked
from seg_cli.data.datamodule import DataModule, fit_augment
from seg_cli.data.fewer import fewer
from seg_cli.data.geometry import Size
from seg_cli.data.sample import Dataset, Sample
from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops, count_parameters
from seg_cli.runs.machine import free_memory
from seg_cli.training import batch_size, precision
from seg_cli.training.averaging import Average
from seg_cli.training.devices import device_of
from seg_cli.training.progress import track
from seg_cli.training.stages import Plan, Stage
from seg_cli.training.start import begin_with, read_start
from seg_cli.training.step import largest_of
from seg_cli.training.task import SegmentationTask
from seg_cli.training.trial import measure_memory, random_samples, train_step, unchanged


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
        config: composed and resolved.
        device, mode: where it is computed, and in which precision.
        dataset, data: the samples, and how they are drawn.
        model, task: the network, and with its loss, optimiser and schedule.
        average: how weights are averaged; None leaves them as they are.
        scoring: how splits are scored in the end.
        stages: of the training.
        image_size: (height, width) of the first image.
        parameters, flops: of the model, the latter for an image of that size.
        flops_of: the same for each size of the stages, (height, width) -> FLOPs.
        class_weights: of the loss, for class_weights.json; None where it has none.
        found: what was found out on the way, for environment.json: what the run began with, and its batch size.
    """

    config: Mapping[str, Any]
    device: torch.device
    mode: str
    dataset: Dataset
    data: DataModule
    model: nn.Module
    task: SegmentationTask
    average: Average | None
    scoring: Scoring
    stages: list[Stage]
    image_size: tuple[int, int]
    parameters: int
    flops: int
    flops_of: Mapping[Size, int]
    class_weights: dict[str, Any] | None
    found: Mapping[str, Any]

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


def prepare(config: Mapping[str, Any], *, found: Mapping[str, Any] | None = None, decode: bool = True) -> Experiment:
    """Make everything that a run needs, and try it out on one image of each size that it will see.

    Args:
        config: composed and resolved.
        found: of a run that goes on from a checkpoint: what is in its environment.json. The run that it began with may
            be gone meanwhile.
        decode: whether samples are decoded beforehand, where ``data.cache`` has it.

    Raises:
        UserError: if something cannot be made as asked for, or does not fit together.
    """
    pl.seed_everything(config["seed"], verbose=False)
    device = device_of(config["trainer"])
    mode = precision.resolve(config["precision"]["mode"], device)
    dataset = fewer(build(config, "data"), config.get("fit"), config["seed"])
    model, start = _make_model(config, dataset, found or {})
    task = build_task(config, model, dataset)
    image_size = _image_size(dataset)
    stages = _stages(config, image_size, config["loader"]["batch_size"])
    data = build_data(config, dataset)
    if decode:
        _prepare_data(dataset, workers=data.workers)
    sizes = dict.fromkeys([image_size, *(stage.size(image_size) for stage in stages)])
    flops_of = {size: _try_out(model, dataset, size) for size in sizes}
    _check_parts(task, config["trainer"]["max_epochs"])
    return Experiment(
        config=config,
        device=device,
        mode=mode,
        dataset=dataset,
        data=data,
        model=model,
        task=task,
        average=build(config, "average"),
        scoring=Scoring.of(config, dataset),
        stages=stages,
        image_size=image_size,
        parameters=count_parameters(model),
        flops=flops_of[image_size],
        flops_of=flops_of,
        class_weights=fit_class_weights(task.loss, dataset, workers=data.workers),
        found=start,
    )


def fit_batch_size(experiment: Experiment, fabric: Fabric) -> Experiment:
    """The experiment with the largest batch that fits on every process, where ``trainer.auto_batch_size`` asks for it.

    Its configuration then holds the batch size that was found, and no longer asks for it. All processes must call this.

    Raises:
        RunFailed: if memory does not do for the smallest batch.
        UserError: if the model is sharded.
    """
    config, trainer = experiment.config, experiment.config["trainer"]
    if not trainer.get("auto_batch_size"):
        return experiment
    if trainer["strategy"] == "fsdp":
        raise UserError(
            "trainer.auto_batch_size=true: the batch is found with the whole model on one device, and "
            "trainer.strategy=fsdp is for models that do not fit there. Type trainer.auto_batch_size=false."
        )
    most = max(1, len(experiment.dataset.splits["train"]) // fabric.world_size)
    size = -largest_of(fabric, -largest_batch(experiment, fabric.device, most, processes=fabric.world_size))
    limit = "all of train" if size == most else f"as {fabric.device.type} memory allows"
    _say(f"batch size: {size} a process, {limit}")
    return replace(
        experiment,
        config={
            **config,
            "loader": {**config["loader"], "batch_size": size},
            "trainer": {**trainer, "auto_batch_size": False},
        },
        stages=_stages(config, experiment.image_size, size),
        found={**experiment.found, "batch_size": {"found": size, "asked": config["loader"]["batch_size"]}},
    )


def largest_batch(experiment: Experiment, device: torch.device, most: int, *, processes: int = 1) -> int:
    """The largest ``loader.batch_size`` whose steps fit into memory in every stage, up to ``most``.

    Raises RunFailed if memory does not do for the smallest one.
    """
    task, dtype = experiment.task.to(device), precision.autocast_dtype(experiment.mode)
    draw = partial(random_samples, experiment.dataset.labels, bands=experiment.dataset.channels, device=device)

    def hardest(samples: int) -> tuple[Size, int]:
        """Size and number of the samples of the stage with the most pixels a batch."""
        stages = _stages(experiment.config, experiment.image_size, samples)
        sizes = [(stage.size(experiment.image_size), stage.batch_size) for stage in stages]
        return max(sizes, key=lambda of: of[0][0] * of[0][1] * of[1])

    with unchanged(task):
        task.requires_grad_(True).train()
        if device.type == "cuda":

            def step(samples: int) -> None:
                optimizer = task.configure_optimizers()
                size, count = hardest(samples)
                for _ in range(2):  # the first has no state of the optimiser yet
                    train_step(task, optimizer, *draw(count, size=size), device=device, dtype=dtype)

            torch.cuda.set_per_process_memory_fraction(batch_size.GPU_SHARE, device)
            try:
                return batch_size.largest(batch_size.fits_gpu(step, device), most=most, least=min(2, most))
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0, device)
        budget = batch_size.CPU_SHARE * free_memory() / processes
        memory = {
            size: measure_memory(task, partial(draw, size=size), device=device, dtype=dtype)
            for size in {stage.size(experiment.image_size) for stage in experiment.stages}
        }

        def fits(samples: int) -> bool:
            size, count = hardest(samples)
            return memory[size].total(count) <= budget

        return batch_size.largest(fits, most=most)


def _stages(config: Mapping[str, Any], image_size: Size, samples: int) -> list[Stage]:
    """The stages of a run with so many full-size samples a batch."""
    loader = config["loader"]
    crop = tuple(loader["crop"]) if loader["crop"] else None
    epochs = config["trainer"]["max_epochs"]
    stages: list[Stage] = build(config, "resize").stages(epochs=epochs, crop=crop, image=image_size, batch_size=samples)
    return stages


def _make_model(
    config: Mapping[str, Any], dataset: Dataset, found: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """The model, with the weights of ``start`` where there is one; and what to remember of that."""
    classes = dataset.labels.names
    if config.get("start") is None:
        return build_model(config, len(classes)), {}
    plain = without_weights(config)  # start has them all
    if "start" in found:
        model = build_model(plain, len(classes))
        remembered = dict(found["start"])
    else:
        start = read_start(config["start"])
        model = build_model(plain, len(classes))
        with torch.random.fork_rng([]):
            line = begin_with(model, start, classes=classes, one_class_more=_sizes(plain, len(classes) + 1))
        _say(line)
        remembered = {"file": str(start.path), "pretrained": start.pretrained, "taken": line.removeprefix("start: ")}
    model.started_from = remembered["pretrained"]
    return model, {"start": remembered}


def _sizes(config: Mapping[str, Any], num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and sizes of the tensors that the model has with so many classes."""
    with suppress(Exception), torch.device("meta"):  # where nothing is computed; some models cannot be made there
        return {key: tuple(tensor.shape) for key, tensor in build_model(config, num_classes).state_dict().items()}
    return {key: tuple(tensor.shape) for key, tensor in build_model(config, num_classes).state_dict().items()}


def _say(line: str) -> None:
    """Print a line, in the first process alone."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(line)


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
    check_sample(first, dataset)
    return first.size


def check_sample(sample: Sample, dataset: Dataset) -> None:
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
