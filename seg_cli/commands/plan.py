"""``segrun plan``: what a training would do and need; nothing is trained, and nothing kept of what is tried out."""

import csv
import io
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric import Fabric
from omegaconf import DictConfig
from rich.console import Console

from seg_cli.commands.build import describe_pretraining
from seg_cli.commands.experiment import Experiment, fit_batch_size, largest_batch, prepare, resolve
from seg_cli.commands.folders import open_folder
from seg_cli.data.loading import Batch
from seg_cli.errors import RunFailed, UserError
from seg_cli.inference.evaluate import autocast
from seg_cli.inference.memory import keep_freed_memory
from seg_cli.models.classical import is_classical
from seg_cli.reports.lr_curve import draw_lr_curve
from seg_cli.reports.plan import plan_tables
from seg_cli.runs.atomic import write_json, write_text
from seg_cli.training import precision
from seg_cli.training.devices import make_fabric
from seg_cli.training.finetune import freeze, parts_of
from seg_cli.training.lr_finder import LrCurve, find_lr
from seg_cli.training.progress import track
from seg_cli.training.quiet import quiet
from seg_cli.training.stages import Plan
from seg_cli.training.step import Stepper
from seg_cli.training.trial import measure_memory, random_samples, seconds_a_step, unchanged

SCHEMA = 1
"""Of plan.json; raised when a reader of the old form would misunderstand the new one."""


def run(cfg: DictConfig) -> None:
    """Plan as asked."""
    quiet()
    keep_freed_memory()
    config = resolve(cfg)
    if is_classical(config):
        raise UserError(
            f"plan: model={config['choices']['model']} is fitted in one go, without stages and steps to plan. Type "
            f"segrun model={config['choices']['model']}"
        )
    asked, out = config.pop("plan"), config.pop("out")
    console = Console(soft_wrap=True)
    processes = _processes(config["trainer"])
    experiment = prepare(config, decode=False)
    alone = {**config["trainer"], "devices": 1, "nodes": 1, "strategy": "auto"}
    fabric = make_fabric(alone, experiment.device, thaws=False)
    experiment = fit_batch_size(experiment, fabric)
    plan = experiment.plan(processes)
    console.print(_title(experiment), markup=False, highlight=False)
    if (benchmark := config["choices"].get("benchmark")) and HydraConfig.get().mode is RunMode.RUN:
        note = f"note: benchmark={benchmark} is a matrix, and this is the plan of the settings that its jobs share."
        console.print(f"{note} Of each job: segrun plan -m benchmark={benchmark}\n", markup=False, highlight=False)
    folder = open_folder("plans", {"out": out, "name": config["name"]}) if out or asked["find_lr"] else None
    notes = []
    if asked["largest_batch"]:
        most = max(1, plan.samples // processes)
        found = largest_batch(experiment, fabric.device, most, processes=processes)
        notes.append(_batch_note(found, most))
    report = _describe(experiment, plan, fabric, timed=asked["time"]) | {"notes": notes}
    if asked["find_lr"] and folder is not None:
        curve = _find_lr(experiment, plan, fabric, asked)
        notes += _keep_curve(curve, experiment, folder)
    console.print(plan_tables(report))
    if folder is not None:
        write_json(folder / "plan.json", report)
        console.print(f"numbers  {folder / 'plan.json'}", markup=False, highlight=False)


# ---- what would happen


def _describe(experiment: Experiment, plan: Plan, fabric: Fabric, *, timed: bool) -> dict[str, Any]:
    """Everything that is printed, as plan.json has it."""
    spans = [_span(experiment, plan, epochs) for epochs in _spans(experiment, plan)]
    seconds = _time(experiment, plan, fabric, spans) if timed else None
    training = None
    if seconds is not None:
        for span, of_step in zip(spans, seconds["steps"], strict=True):
            span["seconds_a_step"], span["seconds"] = of_step, of_step * span["steps"]
        training = sum(span["seconds"] for span in spans)
    totals = {key: sum(span[key] for span in spans) for key in ("steps", "images", "pixels", "flops")}
    return {
        "schema": SCHEMA,
        "choices": experiment.config["choices"],
        "device": experiment.device.type,
        "precision": experiment.mode,
        "processes": plan.world_size,
        "accumulate": plan.accumulate,
        "stages": spans,
        "parts": _parts(experiment, plan),
        "memory": _memory(experiment, fabric),
        "scoring": None if seconds is None else seconds["scoring"],
        "total": {
            **totals,
            "training_seconds": training,
            "seconds": None if seconds is None or training is None else training + seconds["scoring"]["seconds"],
        },
    }


def _frozen(experiment: Experiment, epoch: int) -> set[str]:
    epochs = experiment.config["trainer"]["max_epochs"]
    return experiment.task.finetune.frozen(epoch, epochs=epochs, parts=experiment.task.parts)


def _spans(experiment: Experiment, plan: Plan) -> list[list[int]]:
    """Stretches of epochs of one stage in which the same parts learn."""
    kinds = groupby(range(plan.epochs), key=lambda epoch: (plan.number(epoch), frozenset(_frozen(experiment, epoch))))
    return [list(epochs) for _, epochs in kinds]


def _span(experiment: Experiment, plan: Plan, epochs: Sequence[int]) -> dict[str, Any]:
    first, stage = epochs[0], plan.stage(epochs[0])
    size = stage.size(experiment.image_size)
    images = len(epochs) * min(plan.batches(first) * stage.batch_size * plan.world_size, plan.samples)
    frozen = _frozen(experiment, first)
    return {
        "stage": plan.number(first) + 1,
        "first": first + 1,
        "last": epochs[-1] + 1,
        "size": list(size),
        "batch_size": min(stage.batch_size, max(1, plan.samples // plan.world_size)),
        "lr_factor": stage.lr_factor,
        "frozen": [part for part in experiment.task.parts if part in frozen],
        "steps": len(epochs) * plan.steps(first),
        "images": images,
        "pixels": images * size[0] * size[1],
        "flops": 3 * images * experiment.flops_of[size],
        "seconds_a_step": None,
        "seconds": None,
    }


def _parts(experiment: Experiment, plan: Plan) -> list[dict[str, Any]]:
    """Parts of the model: how many parameters, how fast they learn, and in which epochs, counted from 1."""
    task = experiment.task
    lr_batch = experiment.config["trainer"]["lr_batch"]
    scale = plan.step_samples / lr_batch if lr_batch else 1.0
    factors = {group["part"]: group["lr_factor"] for group in task.configure_optimizers().param_groups}
    frozen = [_frozen(experiment, epoch) for epoch in range(plan.epochs)]
    highest = [_highest_factor(experiment, plan, epoch) for epoch in range(plan.epochs)]
    found = []
    for part, named in parts_of(task.model).items():
        learns = [epoch for epoch in range(plan.epochs) if part not in frozen[epoch]]
        rate = max((highest[epoch] for epoch in learns), default=0.0) * _configured_lr(experiment) * scale
        found.append(
            {
                "part": part,
                "parameters": sum(parameter.numel() for _, parameter in named),
                "lr_factor": factors[part],
                "lr": rate * factors[part],
                "learns": _stretches(learns),
            }
        )
    return found


def _highest_factor(experiment: Experiment, plan: Plan, epoch: int) -> float:
    """On the learning rate in an epoch; of many steps some are looked at."""
    steps = range(0, plan.steps(epoch), max(1, plan.steps(epoch) // 50))
    schedule = experiment.task.schedule
    return max(schedule(plan.progress(epoch, step)) * plan.lr_factor(epoch, step) for step in steps)


def _stretches(epochs: Sequence[int]) -> list[list[int]]:
    """First and last epoch, counted from 1, of each stretch of epochs that follow on each other."""
    runs = [[epoch for _, epoch in run] for _, run in groupby(enumerate(epochs), lambda item: item[1] - item[0])]
    return [[run[0] + 1, run[-1] + 1] for run in runs]


def _configured_lr(experiment: Experiment) -> float:
    return float(experiment.task.configure_optimizers().defaults["lr"])


def _memory(experiment: Experiment, fabric: Fabric) -> dict[str, Any]:
    """Bytes of a step in that stage which needs the most, a process."""
    task, dataset, device = experiment.task.to(fabric.device), experiment.dataset, fabric.device
    dtype = precision.autocast_dtype(experiment.mode)
    most: dict[str, Any] = {"total": -1}
    for stage in experiment.stages:
        size = stage.size(experiment.image_size)
        with unchanged(task):
            freeze(task.model, _frozen(experiment, stage.last))
            draw = partial(random_samples, dataset.labels, bands=dataset.channels, size=size, device=device)
            memory = measure_memory(task, draw, device=device, dtype=dtype)
        average = memory.parameters if experiment.average is not None else 0
        total = memory.total(stage.batch_size) + average
        if total > most["total"]:
            most = {
                "device": device.type,
                "size": list(size),
                "batch_size": stage.batch_size,
                "parameters": memory.parameters,
                "gradients": memory.gradients,
                "optimizer": memory.optimizer,
                "average": average,
                "activations": memory.activations(stage.batch_size),
                "total": total,
            }
    return most


def _processes(settings: Mapping[str, Any]) -> int:
    """How many would train."""
    devices = settings["devices"]
    if devices == "auto":
        on_gpus = settings["accelerator"] != "cpu" and torch.cuda.is_available()
        devices = max(1, torch.cuda.device_count()) if on_gpus else 1
    return int(devices) * int(settings["nodes"])


# ---- how long it would take


def _time(experiment: Experiment, plan: Plan, fabric: Fabric, spans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds of a step of each span, with reading and augmentation; and of all scorings."""
    task, data = experiment.task, experiment.data
    data.open(plan.shape)
    with unchanged(task):
        stepper = _stepper(experiment, plan, fabric)
        stepper.set_learning_rates(1e-9, {})
        steps = []
        for span in track(spans, "timing stages"):
            freeze(task.model, set(span["frozen"]))
            batches = _endless(experiment, plan, span["first"] - 1)

            def step(batches: Iterator[Batch] = batches) -> None:
                stepper.step([next(batches).to(fabric.device) for _ in range(plan.accumulate)], guarded=True)

            with closing(batches):
                steps.append(seconds_a_step(step, device=fabric.device))
        scoring = _time_scoring(experiment, fabric)
    return {"steps": steps, "scoring": scoring}


def _time_scoring(experiment: Experiment, fabric: Fabric) -> dict[str, Any]:
    """Seconds of scoring val after epochs, and val and test in the end, from one batch."""
    trainer, loader = experiment.config["trainer"], experiment.config["loader"]
    model, dtype = experiment.model, precision.autocast_dtype(experiment.mode)
    batch = next(experiment.data.validation_batches())[0].to(fabric.device)
    counting = experiment.task.counting

    @torch.inference_mode()
    def score() -> None:
        with autocast(fabric.device, dtype):
            counting.count(counting.predict(model(batch.images)), batch.masks)

    model.eval()
    of_image = seconds_a_step(score, device=fabric.device) / len(batch.names)
    limit = trainer["limit_batches"]
    lengths = {
        split: min(len(experiment.dataset.splits[split]), (limit or 10**9) * loader["eval_batch_size"])
        for split in ("val", "test")
    }
    validations = -(-trainer["max_epochs"] // trainer["validate_every"])
    images = validations * lengths["val"] + lengths["val"] + lengths["test"]
    return {"validations": validations, "images": images, "seconds": images * of_image}


def _endless(experiment: Experiment, plan: Plan, epoch: int) -> Generator[Batch, None, None]:
    """Batches as that epoch has them, over and over."""
    while True:
        yield from experiment.data.training_batches(epoch, range(plan.batches(epoch)))


def _stepper(experiment: Experiment, plan: Plan, fabric: Fabric) -> Stepper:
    settings = experiment.config["trainer"]
    return Stepper(
        experiment.task,
        fabric=fabric,
        clip=settings["gradient_clip"],
        dtype=precision.autocast_dtype(experiment.mode),
        say=print,
        lr_factor=plan.step_samples / settings["lr_batch"] if settings["lr_batch"] else 1.0,
    )


# ---- the learning rate


def _find_lr(experiment: Experiment, plan: Plan, fabric: Fabric, asked: Mapping[str, Any]) -> LrCurve:
    """Train from the beginning of the run with a rising learning rate. What many processes do in a step is one's here.

    Raises RunFailed if the loss is no number from the first step on.
    """
    task, (first, last) = experiment.task, asked["lr_range"]
    experiment.data.open(lambda epoch: plan.shape(0))
    with unchanged(task):
        task.loss.epoch = 0
        freeze(task.model, _frozen(experiment, 0))
        stepper = _stepper(experiment, plan, fabric)
        together = plan.accumulate * plan.world_size
        batches = _epochs(experiment, plan)
        total = asked["lr_steps"] * together
        with closing(batches):
            curve = find_lr(
                stepper,
                track(batches, "raising the learning rate", total=total),
                configured=_configured_lr(experiment),
                first=first,
                last=last,
                steps=asked["lr_steps"],
                accumulate=together,
            )
    if not len(curve.rates):
        raise RunFailed(f"The loss is no number at a learning rate of {first:g} already. Try precision=fp32.")
    return curve


def _epochs(experiment: Experiment, plan: Plan) -> Generator[Batch, None, None]:
    """The batches of one epoch after the other, all as in the first stage."""
    per_epoch, epoch = max(1, plan.samples // plan.stage(0).batch_size), 0
    while True:
        yield from experiment.data.training_batches(epoch, range(per_epoch))
        epoch += 1


def _keep_curve(curve: LrCurve, experiment: Experiment, folder: Path) -> list[str]:
    """Write lr_finder.csv and lr_finder.png; returns what to say."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["lr", "loss", "smoothed"])
    writer.writerows(zip(curve.rates.tolist(), curve.losses.tolist(), curve.smoothed.tolist(), strict=True))
    write_text(folder / "lr_finder.csv", table.getvalue())
    draw_lr_curve(curve, _configured_lr(experiment), folder / "lr_finder.png")
    end = f"the loss climbs from {curve.rates[-1]:.2g} on" if curve.diverged else "it never climbed to four times that"
    picture = f"picture  {folder / 'lr_finder.png'}"
    if curve.steepest is None:
        return [f"learning rate: the loss does not fall at any; no suggestion (lowest at {curve.lowest:.2g})", picture]
    return [
        f"learning rate: the loss falls fastest at {curve.steepest:.2g} and is lowest at {curve.lowest:.2g}; {end}",
        f"type     optimizer.lr={curve.steepest:.1e}",
        picture,
    ]


# ---- words


def _title(experiment: Experiment) -> str:
    choices = experiment.config["choices"]
    height, width = experiment.image_size
    splits = ", ".join(f"{len(split)} {name}" for name, split in experiment.dataset.splits.items())
    return (
        f"{choices['model']} · {choices['encoder']} ({describe_pretraining(experiment.model)}) · loss "
        f"{choices['loss']} · data {choices['data']}: {splits} images of {height}x{width} · {experiment.mode} on "
        f"{experiment.device.type}\n"
    )


def _batch_note(found: int, most: int) -> str:
    limit = "all of train" if found == most else "more does not fit into memory"
    return f"largest batch: loader.batch_size={found} a process ({limit})"
