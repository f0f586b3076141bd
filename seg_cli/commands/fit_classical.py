"""``segrun model=threshold`` and its like: methods that are fitted in one go, and then scored as any network is.

The run directory is the same; there are no epochs, and what was learned stands in fitted.json, too.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from seg_cli.commands.build import build, build_model
from seg_cli.commands.experiment import check_sample
from seg_cli.commands.next_step import compare_with
from seg_cli.commands.score import Scoring, draw_metrics, per_image_table, score_splits, split_results
from seg_cli.commands.train import open_loggers, open_run, recorded
from seg_cli.commands.trained import describe_classes
from seg_cli.config.secrets import without_secrets
from seg_cli.data.fewer import fewer
from seg_cli.data.sample import Dataset
from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops, peak_memory
from seg_cli.inference.evaluate import Evaluation, best_median_worst, predict_examples
from seg_cli.metrics.counting import Counting
from seg_cli.models.classical.method import Method
from seg_cli.models.classical.patch_cnn import PatchCNN
from seg_cli.reports import figures, terminal
from seg_cli.reports.confusion import draw_confusion
from seg_cli.reports.figures_classical import draw_method
from seg_cli.reports.gallery import choose_examples, save_examples
from seg_cli.runs.atomic import write_json
from seg_cli.runs.environment import describe_environment
from seg_cli.runs.fingerprint import fingerprint
from seg_cli.runs.run import SCHEMA, Run
from seg_cli.training.checkpoints import write_checkpoint
from seg_cli.training.devices import device_of
from seg_cli.training.loggers import ExperimentLogger
from seg_cli.training.progress import track
from seg_cli.training.quiet import quiet
from seg_cli.training.signals import obey_at_once

_UNUSED = (
    *("encoder", "loss", "augment", "crop", "optimizer", "scheduler", "resize", "finetune", "average"),
    *("trainer", "precision"),
)
"""Groups that fitting in one go has no use for."""


@dataclass(frozen=True)
class Fit:
    """What a run is made of.

    Attributes:
        config: composed and resolved.
        device: where a network in the method computes; the others compute on the CPU.
        dataset: its samples.
        method: not fitted yet.
        scoring: how splits are scored.
        fingerprint: of the run.
    """

    config: Mapping[str, Any]
    device: torch.device
    dataset: Dataset
    method: Method
    scoring: Scoring
    fingerprint: str


def used_choices(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of a configuration, and ``none`` where fitting in one go has no use for one."""
    choices = config["choices"]
    return {group: "none" if group in _UNUSED else choice for group, choice in choices.items()}


def run(config: Mapping[str, Any]) -> float | None:
    """Fit, score val and test, and leave a run directory. Returns the mIoU on test.

    Args:
        config: composed and resolved.

    Raises:
        UserError: if the method does not suit the dataset, or a setting makes no sense; before there is a directory.
    """
    quiet()
    if getattr(rank_zero_only, "rank", 0) != 0:
        return None  # one process does it
    fit = _prepare(config)
    directory = open_run(config)
    console = Console(soft_wrap=True)
    with recorded(directory, speaks=True, asked=fit.fingerprint, go_on="rerun"), obey_at_once():
        directory.write_config(config)
        directory.write_environment(describe_environment())
        console.print("\n".join(_opening(fit, directory)), markup=False, highlight=False)
        with open_loggers(config, directory) as loggers:
            seconds = _learn(fit, directory)
            results = _score(fit, directory, seconds, loggers)
    console.print(terminal.score_table(results))
    console.print(_closing(fit.config, directory, results), markup=False, highlight=False)
    return results["splits"]["test"]["miou"]


def _prepare(config: Mapping[str, Any]) -> Fit:
    """Everything that a run needs, tried out on a sample."""
    if config.get("start") is not None:
        raise UserError(
            f"start={config['start']}: model={_name(config)} is fitted anew each time, and starts from none."
        )
    pl.seed_everything(config["seed"], verbose=False)
    whole: Dataset = build(config, "data")
    identity = fingerprint(config, data=whole.fingerprint(), pretrained="none")
    dataset = fewer(whole, config.get("fit"), config["seed"])
    method = build_model(config, dataset.labels.num_classes)
    assert isinstance(method, Method)
    first = dataset.splits["train"][0]
    check_sample(first, dataset)
    method.check(first, dataset.labels)
    device = device_of(config["trainer"]) if isinstance(method, PatchCNN) else torch.device("cpu")
    return Fit(config, device, dataset, method, Scoring.of(config, dataset), identity)


def _learn(fit: Fit, directory: Run) -> float:
    """Fit, and keep what was learned. Returns the seconds."""
    labels, train = fit.dataset.labels, fit.dataset.splits["train"]
    began = time.perf_counter()
    fit.method.fit(
        train,
        seed=fit.config["seed"],
        device=fit.device,
        progress=lambda work: track(work, "fitting"),
    )
    seconds = time.perf_counter() - began
    state = {f"model.{key}": value for key, value in fit.method.state_dict().items()}
    config = json.dumps(without_secrets(fit.config, os.environ), sort_keys=True)
    about = {"config": config, **describe_classes(labels)}
    write_checkpoint(directory.best_checkpoint, {"state_dict": state, "epoch": 0, **about})
    write_json(directory.folder / "fitted.json", {"model": _name(fit.config), **fit.method.report(labels.names)})
    directory.write_metrics([])
    return seconds


def _score(fit: Fit, directory: Run, seconds: float, loggers: list[Logger]) -> dict[str, Any]:
    """Score val and test; write results.json, per_image.csv and the pictures."""
    config, dataset, names = fit.config, fit.dataset, fit.dataset.labels.names
    scored = score_splits(
        fit.method,
        dataset,
        ["val", "test"],
        scoring=fit.scoring,
        loader=config["loader"],
        device=fit.device,
        dtype=None,
        limit_batches=config["trainer"]["limit_batches"],
    )
    size = dataset.splits["test"][0].size
    results = {
        "schema": SCHEMA,
        "name": config["name"],
        "fingerprint": fit.fingerprint,
        "choices": used_choices(config),
        "seed": config["seed"],
        "data": {
            "content": dataset.fingerprint(),
            "train_images": len(dataset.splits["train"]),
            "image_size": list(size),
        },
        "splits": {name: split_results(found, names, void=config["void"]) for name, found in scored.items()},
        "cost": {
            "parameters": fit.method.learned_values,
            "flops": count_flops(fit.method, size, dataset.channels) if isinstance(fit.method, PatchCNN) else None,
            "train_seconds": round(seconds, 2),
            "fit_seconds": round(seconds, 2),
            "images_per_second": round(len(scored["test"].names) / scored["test"].seconds, 2),
            "data_wait": None,
            "peak_memory_bytes": peak_memory(fit.device),
        },
        "pretrained": "none",
        "best_epoch": None,
        "epochs": 0,
    }
    directory.write_results(results)
    directory.write_per_image(*per_image_table(scored, names))
    _draw(fit, directory, scored["test"], loggers)
    for logger in loggers:
        if isinstance(logger, ExperimentLogger):
            logger.log_results(results)
    return results


def _draw(fit: Fit, directory: Run, test: Evaluation, loggers: list[Logger]) -> None:
    """The pictures of a run, among them the steps of the method on a test image of middling score."""
    labels, split = fit.dataset.labels, fit.dataset.splits["test"]
    draw_confusion(test.matrix[: labels.num_classes], labels.names, directory.figures / "confusion.png")
    draw_metrics(test, _name(fit.config), directory.figures)
    ranked = best_median_worst(test.image_miou)
    kinds = choose_examples(ranked, len(split))
    counting = Counting.of(labels, 0.5, fit.scoring.void)
    predictor = fit.scoring.predictor(fit.method, counting)
    gallery = predict_examples(predictor, split, list(kinds), counting=counting, device=fit.device, dtype=None)
    save_examples(gallery, labels, directory.figures / "examples", list(kinds.values()))
    figures.predictions(gallery[: len(ranked)], labels, directory.figures / "predictions.png")
    middle = ranked[len(ranked) // 2] if ranked else 0
    (example,) = predict_examples(predictor, split, [middle], counting=counting, device=fit.device, dtype=None)
    draw_method(fit.method, split[middle].image, example, labels, directory.figures)
    for logger in loggers:
        if isinstance(logger, ExperimentLogger):
            logger.log_predictions(gallery[: len(ranked)], labels, 0)


def _opening(fit: Fit, directory: Run) -> list[str]:
    dataset = fit.dataset
    images = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    return [
        f"{fit.method.title} · data {fit.config['choices']['data']}",
        f"{images} images, {dataset.labels.num_classes} classes",
        *getattr(dataset, "notes", ()),
        "fitted in one go: loss, optimizer, augmentation and epochs play no part",
        f"run directory: {directory.folder}",
    ]


def _closing(config: Mapping[str, Any], directory: Run, results: Mapping[str, Any]) -> str:
    cost = results["cost"]
    return (
        f"fitted in {cost['fit_seconds']:.1f} s · {cost['parameters']} numbers learned · scored at "
        f"{cost['images_per_second']:.0f} images/s\n"
        f"run   {directory.folder}\n"
        f"next  look at {directory.figures / 'steps.png'}{compare_with(config, 'unet')}"
    )


def _name(config: Mapping[str, Any]) -> str:
    return str(config["choices"]["model"])
