"""``segrun [train]``: compose, train, score the best checkpoint on val and test, and leave a run directory."""

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric import Fabric
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from seg_cli.commands.build import build_partial, describe_pretraining
from seg_cli.commands.class_weights import describe_class_weights
from seg_cli.commands.composing import resolve
from seg_cli.commands.experiment import Experiment, fit_batch_size, prepare
from seg_cli.commands.next_step import compare_with
from seg_cli.commands.resume import resume_run
from seg_cli.commands.score import draw_metrics, per_image_table, score_splits, split_results
from seg_cli.commands.trained import describe_classes
from seg_cli.config.secrets import without_secrets
from seg_cli.config.visible import visible_lines
from seg_cli.errors import SegrunError
from seg_cli.inference.cost import peak_memory
from seg_cli.inference.evaluate import Evaluation, best_median_worst, predict_examples
from seg_cli.metrics.counting import Counting
from seg_cli.models.classical import is_classical
from seg_cli.reports import figures, terminal
from seg_cli.reports.confusion import draw_confusion
from seg_cli.reports.gallery import choose_examples, save_examples
from seg_cli.runs import claims
from seg_cli.runs.environment import describe_environment
from seg_cli.runs.fingerprint import fingerprint
from seg_cli.runs.heartbeat import NAME, beating
from seg_cli.runs.jobs import GOING_ON
from seg_cli.runs.requeue import earlier_run, remember, requeue
from seg_cli.runs.run import SCHEMA, Run
from seg_cli.runs.runner import describe_runner
from seg_cli.training import precision
from seg_cli.training.checkpoints import load_model
from seg_cli.training.devices import make_fabric
from seg_cli.training.fit import Fitted, fit
from seg_cli.training.loggers import ExperimentLogger
from seg_cli.training.quiet import quiet
from seg_cli.training.signals import Interrupted, obey_at_once

_FEW_STEPS = 100
"""Below that, a training that failed to converge is no statement about the model, and its user should know."""


def run(cfg: DictConfig) -> float | None:
    """Train as configured. Returns the mIoU on test, for sweepers."""
    return begin(resolve(cfg))


def begin(config: dict[str, Any]) -> float | None:
    """Train as a resolved configuration says. Returns the mIoU on test."""
    quiet()
    if is_classical(config):
        from seg_cli.commands import fit_classical  # which imports from here

        return fit_classical.run(config)
    begun = earlier_run(config)
    if begun is not None:
        return _go_on_in_queue(Run.open(begun))
    if GOING_ON in os.environ:  # this is one of the processes that a job of a matrix has started
        return resume_run(Run.open(os.environ[GOING_ON]))
    experiment = prepare(config)
    first = getattr(rank_zero_only, "rank", 0) == 0  # known from the environment before there is a group of processes
    folder = open_run(experiment.config).folder if first else Path()
    fabric = make_fabric(experiment.config["trainer"], experiment.device, thaws=experiment.thaws)
    directory = Run(fabric.broadcast(folder))
    if fabric.is_global_zero:
        remember(config, directory.folder)
    return carry_out(experiment, directory, fabric, checkpoint=None)


def _go_on_in_queue(directory: Run) -> float | None:
    """Go on with what this job of SLURM had begun before it was put back into the queue, unless it was finished."""
    if directory.status["state"] != "finished":
        return resume_run(directory)
    print(f"This job finished {directory.folder} before it was put back into the queue.")
    return directory.results["splits"]["test"]["miou"]


def carry_out(
    experiment: Experiment,
    directory: Run,
    fabric: Fabric,
    *,
    checkpoint: Mapping[str, Any] | None,
    asked: str | None = None,
) -> float | None:
    """Train from the beginning or from a checkpoint, score, and write it all down. Returns the mIoU on test.

    Args:
        experiment, directory, fabric: what is trained, where it is written, and by which processes.
        checkpoint: to go on from.
        asked: the fingerprint of what was asked for; None takes that of the experiment.
    """
    # Of the processes of a distributed run, the first speaks.
    console = Console(soft_wrap=True, quiet=not fabric.is_global_zero)
    asked = asked or (fingerprint_of(experiment) if fabric.is_global_zero else None)
    with recorded(directory, speaks=fabric.is_global_zero, asked=asked), obey_at_once():
        if fabric.is_global_zero:
            directory.write_config(experiment.config)  # with which the run can begin anew from here on
        experiment = fit_batch_size(experiment, fabric)
        config = experiment.config
        if fabric.is_global_zero:
            directory.write_config(config)
            _write_environment(directory, experiment, checkpoint)
            if experiment.class_weights and checkpoint is None:
                directory.write_class_weights(experiment.class_weights)
        _print_opening(console, experiment, directory, fabric)
        ids = checkpoint["loggers"] if checkpoint else {}
        with open_loggers(config, directory, ids=ids, speaks=fabric.is_global_zero) as loggers:
            fitted = fit(
                experiment.task,
                experiment.data,
                directory,
                fabric=fabric,
                plan=experiment.plan(fabric.world_size),
                settings=config["trainer"],
                mode=experiment.mode,
                average=experiment.average,
                loggers=loggers,
                identity=identity(experiment, loggers),
                image_size=experiment.image_size,
                checkpoint=checkpoint,
            )
            if not fabric.is_global_zero:
                return None
            results = _score(experiment, directory, fitted, loggers)
    console.print(terminal.score_table(results))
    console.print(terminal.closing(directory.folder, results, _next_step(config, directory)))
    return results["splits"]["test"]["miou"]


def _write_environment(directory: Run, experiment: Experiment, checkpoint: Mapping[str, Any] | None) -> None:
    """Where the run is computed; where it went on, if it did, comes under ``resumed``."""
    here = {**describe_environment(), **experiment.found}
    if checkpoint is None:
        directory.write_environment(here)
        return
    first = directory.environment
    position = {"epoch": checkpoint["position"]["epoch"], "step": checkpoint["position"]["step"]}
    known = {key: value for key, value in here.items() if value != first.get(key)}
    first.setdefault("resumed", []).append({**position, **known})
    directory.write_environment(first)


def identity(experiment: Experiment, loggers: list[Logger]) -> dict[str, Any]:
    """What a checkpoint is of: the settings, the classes, and the W&B run that it goes on in."""
    return {
        "config": json.dumps(without_secrets(experiment.config, os.environ), sort_keys=True),
        **describe_classes(experiment.dataset.labels),
        "loggers": {type(logger).__name__.lower(): str(logger.version or "") for logger in loggers},
    }


def _score(experiment: Experiment, directory: Run, fitted: Fitted, loggers: list[Logger]) -> dict[str, Any]:
    """Score the best checkpoint on val and test; write results.json, per_image.csv and the pictures."""
    config, dataset, model, device = experiment.config, experiment.dataset, experiment.model, experiment.device
    dtype = precision.autocast_dtype(experiment.mode)
    load_model(model, directory.best_checkpoint)
    scored = score_splits(
        model,
        dataset,
        ["val", "test"],
        scoring=experiment.scoring,
        loader=config["loader"],
        device=device,
        dtype=dtype,
        limit_batches=config["trainer"]["limit_batches"],
    )
    pretrained = describe_pretraining(model)
    results = {
        "schema": SCHEMA,
        "name": config["name"],
        "fingerprint": fingerprint_of(experiment),
        "choices": config["choices"],
        "seed": config["seed"],
        "data": {
            "content": dataset.fingerprint(),
            "train_images": len(dataset.splits["train"]),
            "image_size": list(dataset.splits["test"][0].size),
        },
        "splits": {
            name: split_results(found, dataset.labels.names, void=config["void"]) for name, found in scored.items()
        },
        "cost": {
            "parameters": experiment.parameters,
            "flops": experiment.flops,
            "train_seconds": round(fitted.seconds, 2),
            "images_per_second": round(len(scored["test"].names) / scored["test"].seconds, 2),
            "data_wait": None if fitted.data_wait is None else round(fitted.data_wait, 4),
            "peak_memory_bytes": peak_memory(device),
        },
        "pretrained": pretrained,
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
    }
    directory.write_results(results)
    directory.write_per_image(*per_image_table(scored, dataset.labels.names))
    _draw(experiment, directory, scored, fitted.epochs, loggers)
    for logger in loggers:
        if isinstance(logger, ExperimentLogger):
            logger.log_results(results)
    return results


def open_run(config: Mapping[str, Any]) -> Run:
    """A new run directory."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    job = f"_{hydra.job.num}" if hydra and hydra.mode == RunMode.MULTIRUN else ""
    if config["run_dir"]:
        return Run.create(Path(config["run_dir"] + job).expanduser(), numbered=False)
    # All jobs of a sweep carry the time at which the sweep began.
    stamp = Path(hydra.sweep.dir).name if hydra and job else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Run.create(Path("outputs") / config["name"] / f"{stamp}{job}", numbered=True)


def fingerprint_of(experiment: Experiment) -> str:
    """Of the run that it is; with the batch size, where that was still to be found."""
    pretrained = describe_pretraining(experiment.model)
    return fingerprint(experiment.config, data=experiment.dataset.fingerprint(), pretrained=pretrained)


@contextmanager
def recorded(directory: Run, *, speaks: bool, asked: str | None = None, go_on: str = "resume") -> Iterator[None]:
    """Keep status.json true: running inside, with signs of life, and finished, failed or interrupted afterwards.

    Args:
        speaks: whether this process is the one that writes.
        asked: the fingerprint of what was asked for, by which a matrix finds the run again.
        go_on: the verb that goes on with an interrupted run.
    """
    if not speaks:
        yield
        return
    claim = claims.held()
    asked = claim.fingerprint if claim else asked
    directory.write_status("running", process=describe_runner(), fingerprint=asked)
    if claim:
        claim.note_run(directory.folder)
    try:
        with beating(directory.folder / NAME):
            yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        told = isinstance(error, SegrunError | Interrupted)
        reason = str(error) if told else f"{type(error).__name__}: {error}".rstrip(": ")
        with suppress(OSError, SegrunError):  # a full disk must not hide why the run ended
            directory.write_status("interrupted" if interrupted else "failed", reason=reason)
        if interrupted or directory.last_checkpoint.exists():
            error.add_note(f"To go on: segrun {go_on} {shlex.quote(str(directory.folder))}")
        if reason == "SIGUSR1" and (sentence := requeue()):
            error.add_note(sentence)
        raise
    directory.write_status("finished")


@contextmanager
def open_loggers(
    config: Mapping[str, Any], directory: Run, *, ids: Mapping[str, str] | None = None, speaks: bool = True
) -> Iterator[list[Logger]]:
    """The loggers of ``logger=``, closed in the end, however it comes; none in a process that does not speak.

    Args:
        ids: of the run in each logger's own terms, from a checkpoint; W&B goes on with its run.
        speaks: whether this process is the one that writes.
    """
    about = {"run_dir": directory.folder, "name": config["name"], "config": dict(config), "tags": config["tags"]}
    loggers: list[Logger] = []
    wandb_id = (ids or {}).get("wandb")
    failed = True
    try:
        for name in (config["logger"] or {}) if speaks else {}:
            going_on = {"run_id": wandb_id} if name == "wandb" and wandb_id else {}
            loggers.append(build_partial(config, f"logger.{name}")(**about, **going_on))
        yield loggers
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, ExperimentLogger):
                logger.close(failed=failed)


def _print_opening(console: Console, experiment: Experiment, directory: Run, fabric: Fabric) -> None:
    config, dataset, model, image = experiment.config, experiment.dataset, experiment.model, experiment.image_size
    choices, pretrained = config["choices"], describe_pretraining(model)
    weights = "random weights" if pretrained == "none" else f"weights: {pretrained.split(' ')[0]}"
    images = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    where = f"{experiment.mode} on {experiment.device.type}"
    if fabric.world_size > 1:
        where += f", {fabric.world_size} processes"
    lines = [
        f"{choices['model']} · {choices['encoder']} ({weights}) · loss {choices['loss']} · data {choices['data']}",
        f"{experiment.parameters / 1e6:.1f} M parameters, {experiment.flops / 1e9:.1f} GFLOPs an image of "
        f"{image[0]}x{image[1]}, {where}",
        f"{images} images, {dataset.labels.num_classes} classes",
        *getattr(dataset, "notes", ()),
        f"run directory: {directory.folder}",
    ]
    crop = config["loader"]["crop"]
    if crop and (crop[0] > image[0] or crop[1] > image[1]):
        lines.append(
            f"note: crops of {crop[0]}x{crop[1]} are larger than images of {image[0]}x{image[1]} (height x width); "
            "what is missing is filled with void, which no loss counts."
        )
    steps, epochs = experiment.plan(fabric.world_size).total_steps, config["trainer"]["max_epochs"]
    if steps < _FEW_STEPS and config["trainer"]["limit_batches"] is None:
        lines.append(
            f"note: {steps} steps in all are few for a network, whose val mIoU often begins to climb after some 50; "
            f"trainer.max_epochs={math.ceil(2 * _FEW_STEPS * epochs / steps)} makes it {2 * _FEW_STEPS}."
        )
    if experiment.class_weights:
        lines.append(describe_class_weights(experiment.class_weights))
    console.print(visible_lines("\n".join(lines)), markup=False, highlight=False)


def _draw(
    experiment: Experiment, directory: Run, scored: Mapping[str, Evaluation], epochs: int, loggers: list[Logger]
) -> None:
    """The pictures of a run, in figures/ and wherever a logger shows them."""
    labels, test = experiment.dataset.labels, scored["test"]
    colors = dict(zip(labels.names, labels.colors, strict=True))
    figures.curves(directory.metrics, directory.figures / "curves.png", colors=colors)
    classes = labels.num_classes
    draw_confusion(test.matrix[:classes], labels.names, directory.figures / "confusion.png")  # without a row of void
    draw_metrics(test, experiment.config["choices"]["model"], directory.figures)
    chosen = experiment.scoring.threshold
    threshold = torch.tensor(test.thresholds) if isinstance(chosen, str) else chosen
    counting = Counting.of(labels, threshold, experiment.scoring.void)
    ranked, split = best_median_worst(test.image_miou), experiment.dataset.splits["test"]
    kinds = choose_examples(ranked, len(split))
    gallery = predict_examples(
        experiment.scoring.predictor(experiment.model, counting),
        split,
        list(kinds),
        counting=counting,
        device=experiment.device,
        dtype=precision.autocast_dtype(experiment.mode),
    )
    save_examples(gallery, labels, directory.figures / "examples", list(kinds.values()))
    examples = gallery[: len(ranked)]
    figures.predictions(examples, labels, directory.figures / "predictions.png")
    for logger in loggers:
        if isinstance(logger, ExperimentLogger):
            logger.log_predictions(examples, labels, epochs)


def _next_step(config: Mapping[str, Any], directory: Run) -> str:
    other = "unet" if config["choices"]["model"] != "unet" else "deeplabv3plus"
    compare = compare_with(config, other, directory.environment.get("command_line") or ())
    return f"look at {directory.figures / 'predictions.png'}{compare}"
