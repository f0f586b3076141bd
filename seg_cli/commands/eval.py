"""``segrun eval run=RUN``: score a run again, on any split of its dataset; its own results stay as they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from seg_cli.commands.build import build, build_model, without_weights
from seg_cli.commands.fit_classical import used_choices
from seg_cli.commands.score import (
    INFERENCE_GROUPS,
    Scoring,
    draw_metrics,
    per_image_table,
    score_splits,
    split_results,
)
from seg_cli.commands.trained import open_dataset
from seg_cli.config.suggest import did_you_mean
from seg_cli.data.mapped import MappedDataset
from seg_cli.data.sample import Dataset
from seg_cli.errors import UserError
from seg_cli.inference.memory import keep_freed_memory
from seg_cli.models.classical import is_classical
from seg_cli.reports import terminal
from seg_cli.runs.run import SCHEMA, Run
from seg_cli.training import precision
from seg_cli.training.checkpoints import load_model, read_checkpoint
from seg_cli.training.devices import device_of
from seg_cli.training.quiet import quiet


def run(cfg: DictConfig) -> float | None:
    """Score as asked. Returns the mIoU on the last split."""
    quiet()
    keep_freed_memory()
    request = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    trained = Run.open(request["run"])
    trained.check_evaluation(request["name"])
    config = cast(dict[str, Any], OmegaConf.to_container(trained.config))
    checkpoint = trained.best_checkpoint if request["checkpoint"] == "best" else trained.last_checkpoint
    asked = [group for group in ("metrics", *INFERENCE_GROUPS, "void", "threshold") if request.get(group) is not None]
    config |= {group: request[group] for group in asked}
    chosen = HydraConfig.get().runtime.choices
    used = used_choices(config) if is_classical(config) else config["choices"]
    choices = used | {group: chosen[group] for group in ("data", *INFERENCE_GROUPS) if chosen.get(group)}

    dataset = _dataset(request, config, checkpoint)
    splits = _splits(request["split"], dataset)
    config["precision"]["channels_last"] = request["precision"]["channels_last"]
    model = build_model(without_weights(config), dataset.labels.num_classes)  # the checkpoint has them all
    load_model(model, checkpoint)

    device = device_of(request)
    mode = precision.resolve(request["precision"]["mode"] or config["precision"]["mode"], device)
    loader = {
        "eval_batch_size": request["loader"]["eval_batch_size"] or config["loader"]["eval_batch_size"],
        "workers": request["loader"]["workers"],
    }
    scoring = Scoring.of(config, dataset)
    scored = score_splits(
        model,
        dataset,
        splits,
        scoring=scoring,
        loader=loader,
        device=device,
        dtype=precision.autocast_dtype(mode),
        limit_batches=request["limit_batches"],
    )
    names = dataset.labels.names
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "name": config["name"],
        "choices": choices,
        "seed": config["seed"],
        "checkpoint": request["checkpoint"],
        "precision": mode,
        "data": {"content": dataset.fingerprint(), "image_size": list(dataset.splits[splits[0]][0].size)},
        "splits": {name: split_results(found, names, void=scoring.void) for name, found in scored.items()},
    }
    evaluation = trained.new_evaluation(request["name"])
    evaluation.write_results(results)
    evaluation.write_per_image(*per_image_table(scored, names))
    draw_metrics(scored[splits[-1]], choices["model"], evaluation.folder, split=splits[-1])
    console = Console()
    console.print(terminal.score_table(results))
    for line in _against_the_run(trained, results, same_data="_target_" not in request["data"]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"scores: {evaluation.folder / 'results.json'}", markup=False, highlight=False, soft_wrap=True)
    return results["splits"][splits[-1]]["miou"]


def _against_the_run(run: Run, results: Mapping[str, Any], *, same_data: bool) -> list[str]:
    """What the run itself scored on the same splits, a line each; none where it has no scores, or of other data."""
    try:
        own = run.results["splits"] if same_data else {}
    except UserError:
        return []
    lines = []
    for split, found in results["splits"].items():
        before, now = own.get(split, {}).get("miou"), found["miou"]
        if before is not None and now is not None:
            lines.append(f"the run itself: mIoU {before:.3f} on {split}; this is {now - before:+.3f}")
    return lines


def _dataset(request: Mapping[str, Any], config: Mapping[str, Any], checkpoint: Path) -> Dataset:
    """The dataset of the run, perhaps from where it is now; or another one, with the classes of the model."""
    if "_target_" in request["data"]:
        known = read_checkpoint(checkpoint).get("classes")
        if known is None:
            raise UserError(f"{checkpoint}: the checkpoint is of an older version and does not say its classes.")
        return MappedDataset(build({"data": request["data"]}, "data"), known, request["classes"]["map"])
    if request["classes"]["map"]:
        raise UserError("classes.map: it is for another dataset than that of the run. Type data=CHOICE too.")
    return open_dataset(config, request["data"]["root"])


def _splits(asked: str | list[str], dataset: Dataset) -> list[str]:
    splits = [asked] if isinstance(asked, str) else list(asked)
    for split in splits:
        if split not in dataset.splits:
            raise UserError(
                f"split={split}: the dataset has no such split.{did_you_mean(split, dataset.splits)} "
                f"Splits: {', '.join(dataset.splits)}."
            )
    if not splits:
        raise UserError(f"split=[]: name at least one of {', '.join(dataset.splits)}.")
    return splits
