"""``segrun [train]``: compose, train, score the best checkpoint on val and test, and leave a run directory."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch import nn

from seg_cli.commands.build import build, build_model, build_partial, describe_pretraining
from seg_cli.commands.class_weights import describe_class_weights, fit_class_weights
from seg_cli.commands.score import per_image_table, score_splits, split_results
from seg_cli.data.datamodule import DataModule
from seg_cli.data.sample import Dataset
from seg_cli.errors import SegrunError, UserError
from seg_cli.inference.cost import count_flops, count_parameters, peak_memory
from seg_cli.inference.evaluate import Evaluation, best_median_worst, predict_examples
from seg_cli.reports import figures, terminal
from seg_cli.runs.environment import describe_environment
from seg_cli.runs.fingerprint import fingerprint
from seg_cli.runs.run import SCHEMA, Run
from seg_cli.training import precision
from seg_cli.training.checkpoints import load_model
from seg_cli.training.fit import device_of, fit
from seg_cli.training.loggers import ExperimentLogger
from seg_cli.training.quiet import quiet
from seg_cli.training.task import SegmentationTask

_RUN_DIR = "SEGRUN_RUN_DIR"  # tells the other processes of a distributed run where the run is


def run(cfg: DictConfig) -> float | None:
    """Train as configured. Returns the mIoU on test, for sweepers."""
    quiet()
    config = resolve(cfg)
    # Of the processes of a distributed run, the first speaks.
    console = Console(soft_wrap=True, quiet=getattr(rank_zero_only, "rank", 0) != 0)
    pl.seed_everything(config["seed"], verbose=False)

    # What is wrong with the request is found here, before there is a directory for it.
    device = device_of(config["trainer"])
    mode = precision.resolve(config["precision"]["mode"], device)
    dataset: Dataset = build(config, "data")
    model = build_model(config, dataset.labels.num_classes)
    task = build_task(config, model, dataset)
    data = build_data(config, dataset)
    image_size = _check_crop(console, config, dataset)
    cost = {"parameters": count_parameters(model), "flops": _try_out(model, dataset, image_size)}
    class_weights = fit_class_weights(task.loss, dataset, workers=data.workers)

    run_directory = open_run(config)
    with recorded(run_directory):
        run_directory.write_config(config)
        run_directory.write_environment(describe_environment())
        _print_opening(console, config, dataset, model, cost, image_size, f"{mode} on {device.type}", run_directory)
        if class_weights:
            run_directory.write_class_weights(class_weights)
            console.print(describe_class_weights(class_weights), markup=False, highlight=False)
        with open_loggers(config, run_directory) as loggers:
            fitted = fit(task, data, run_directory, settings=config["trainer"], mode=mode, loggers=loggers)
            if not fitted.is_global_zero:
                return None

            load_model(model, run_directory.best_checkpoint)
            scored = score_splits(
                model,
                dataset,
                ["val", "test"],
                loader=config["loader"],
                device=device,
                dtype=precision.autocast_dtype(mode),
                limit_batches=config["trainer"]["limit_batches"],
            )
            pretrained = describe_pretraining(model)
            results = {
                "schema": SCHEMA,
                "name": config["name"],
                "fingerprint": fingerprint(config, data=dataset.fingerprint(), pretrained=pretrained),
                "choices": config["choices"],
                "seed": config["seed"],
                "splits": {name: split_results(found, dataset.labels.names) for name, found in scored.items()},
                "cost": {
                    **cost,
                    "train_seconds": round(fitted.seconds, 2),
                    "images_per_second": round(len(scored["test"].names) / scored["test"].seconds, 2),
                    "peak_memory_bytes": peak_memory(device),
                },
                "pretrained": pretrained,
                "best_epoch": fitted.best_epoch,
                "epochs": fitted.epochs,
            }
            run_directory.write_results(results)
            run_directory.write_per_image(*per_image_table(scored, dataset.labels.names))
            _draw(run_directory, model, dataset, scored, device, precision.autocast_dtype(mode), fitted.epochs, loggers)
            for logger in loggers:
                if isinstance(logger, ExperimentLogger):
                    logger.log_results(results)

    console.print(terminal.score_table(results))
    console.print(terminal.closing(run_directory.folder, results, _next_step(config, run_directory)))
    return results["splits"]["test"]["miou"]


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
    )


def build_data(config: Mapping[str, Any], dataset: Dataset) -> DataModule:
    """The dataset with its augmentation and loader settings."""
    loader = config["loader"]
    return DataModule(
        dataset,
        augment=build(config, "augment"),
        crop=tuple(loader["crop"]) if loader["crop"] else None,
        batch_size=loader["batch_size"],
        eval_batch_size=loader["eval_batch_size"],
        workers=loader["workers"],
        seed=config["seed"],
    )


def open_run(config: Mapping[str, Any]) -> Run:
    """A new run directory; the one that is there already in the other processes of a distributed run."""
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and _RUN_DIR in os.environ:
        return Run(Path(os.environ[_RUN_DIR]))
    hydra = HydraConfig.get()
    job = f"_{hydra.job.num}" if hydra.mode == RunMode.MULTIRUN else ""
    if config["run_dir"]:
        directory = Run.create(Path(config["run_dir"] + job).expanduser(), numbered=False)
    else:
        # All jobs of a sweep carry the time at which the sweep began.
        swept = Path(hydra.sweep.dir).name
        stamp = swept if job else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        directory = Run.create(Path("outputs") / config["name"] / f"{stamp}{job}", numbered=True)
    os.environ[_RUN_DIR] = str(directory.folder.absolute())
    return directory


@contextmanager
def recorded(directory: Run) -> Iterator[None]:
    """Keep status.json true: running inside, and finished, failed or interrupted afterwards."""
    directory.write_status("running")
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = str(error) if isinstance(error, SegrunError) else f"{type(error).__name__}: {error}".rstrip(": ")
        with suppress(OSError, SegrunError):  # a full disk must not hide why the run ended
            directory.write_status("interrupted" if interrupted else "failed", reason=reason)
        raise
    directory.write_status("finished")


@contextmanager
def open_loggers(config: Mapping[str, Any], directory: Run) -> Iterator[list[Logger]]:
    """The loggers of ``logger=``, closed in the end, however it comes."""
    about = {"run_dir": directory.folder, "name": config["name"], "config": dict(config), "tags": config["tags"]}
    loggers: list[Logger] = []
    failed = True
    try:
        for name in config["logger"] or {}:
            loggers.append(build_partial(config, f"logger.{name}")(**about))
        yield loggers
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, ExperimentLogger):
                logger.close(failed=failed)


def _check_crop(console: Console, config: Mapping[str, Any], dataset: Dataset) -> tuple[int, int]:
    """The size of the dataset's first image; says so if crops are larger."""
    height, width = dataset.splits["train"][0].size
    crop = config["loader"]["crop"]
    if crop and (crop[0] > height or crop[1] > width):
        console.print(
            f"note: crops of {crop[0]}x{crop[1]} are larger than images of {height}x{width} (height x width); what is "
            "missing is filled with void, which no loss counts."
        )
    return height, width


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


def _print_opening(
    console: Console,
    config: Mapping[str, Any],
    dataset: Dataset,
    model: nn.Module,
    cost: Mapping[str, int],
    image_size: tuple[int, int],
    where: str,
    directory: Run,
) -> None:
    choices, pretrained = config["choices"], describe_pretraining(model)
    weights = "random weights" if pretrained == "none" else f"weights: {pretrained.split(' ')[0]}"
    images = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    lines = [
        f"{choices['model']} · {choices['encoder']} ({weights}) · loss {choices['loss']} · data {choices['data']}",
        f"{cost['parameters'] / 1e6:.1f} M parameters, {cost['flops'] / 1e9:.1f} GFLOPs an image of "
        f"{image_size[0]}x{image_size[1]}, {where}",
        f"{images} images, {dataset.labels.num_classes} classes",
        f"run directory: {directory.folder}",
    ]
    console.print("\n".join(lines), markup=False, highlight=False)


def _draw(
    directory: Run,
    model: nn.Module,
    dataset: Dataset,
    scored: Mapping[str, Evaluation],
    device: torch.device,
    dtype: torch.dtype | None,
    epochs: int,
    loggers: list[Logger],
) -> None:
    """The pictures of a run, in figures/ and wherever a logger shows them."""
    labels, test = dataset.labels, scored["test"]
    figures.curves(directory.metrics, directory.figures / "curves.png")
    figures.confusion(test.matrix, labels.names, directory.figures / "confusion.png")
    examples = predict_examples(
        model,
        dataset.splits["test"],
        best_median_worst(test.image_miou),
        num_classes=labels.num_classes,
        device=device,
        dtype=dtype,
    )
    figures.predictions(examples, labels, directory.figures / "predictions.png")
    for logger in loggers:
        if isinstance(logger, ExperimentLogger):
            logger.log_predictions(examples, labels, epochs)


def _next_step(config: Mapping[str, Any], directory: Run) -> str:
    choices = config["choices"]
    other = "unet" if choices["model"] != "unet" else "deeplabv3plus"
    compare = f"segrun -m model={choices['model']},{other} data={choices['data']}"
    return f"look at {directory.figures / 'predictions.png'}, then compare: {compare}"
