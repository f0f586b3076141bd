"""``segrun eval run=RUN``: score a run again, on any split of its dataset; its own results stay as they are."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from seg_cli.commands.build import build, build_model
from seg_cli.commands.score import per_image_table, score_splits, split_results
from seg_cli.config.suggest import did_you_mean
from seg_cli.data.sample import Dataset
from seg_cli.errors import UserError
from seg_cli.reports import terminal
from seg_cli.runs.run import SCHEMA, Run
from seg_cli.training import precision
from seg_cli.training.checkpoints import load_model
from seg_cli.training.devices import device_of
from seg_cli.training.quiet import quiet


def run(cfg: DictConfig) -> float | None:
    """Score as asked. Returns the mIoU on the last split."""
    quiet()
    request = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    trained = Run.open(request["run"])
    config = cast(dict[str, Any], OmegaConf.to_container(trained.config))

    if request["data"]["root"] is not None:
        if "root" not in config["data"]:
            raise UserError(
                f"data.root: the dataset of this run, {config['choices']['data']}, is not read from a folder."
            )
        config["data"]["root"] = request["data"]["root"]
    dataset: Dataset = build(config, "data")
    splits = _splits(request["split"], dataset)
    for place in (config["model"], config["model"].get("encoder")):
        if isinstance(place, dict) and "weights" in place:
            place["weights"] = "none"  # the checkpoint has them all
    config["precision"]["channels_last"] = request["precision"]["channels_last"]
    model = build_model(config, dataset.labels.num_classes)
    checkpoint = trained.best_checkpoint if request["checkpoint"] == "best" else trained.last_checkpoint
    load_model(model, checkpoint)

    device = device_of(request)
    mode = precision.resolve(request["precision"]["mode"] or config["precision"]["mode"], device)
    loader = {
        "eval_batch_size": request["loader"]["eval_batch_size"] or config["loader"]["eval_batch_size"],
        "workers": request["loader"]["workers"],
    }
    scored = score_splits(
        model,
        dataset,
        splits,
        loader=loader,
        device=device,
        dtype=precision.autocast_dtype(mode),
        limit_batches=request["limit_batches"],
    )
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "name": config["name"],
        "choices": config["choices"],
        "seed": config["seed"],
        "checkpoint": request["checkpoint"],
        "precision": mode,
        "splits": {name: split_results(found, dataset.labels.names) for name, found in scored.items()},
    }
    evaluation = trained.new_evaluation()
    evaluation.write_results(results)
    evaluation.write_per_image(*per_image_table(scored, dataset.labels.names))
    console = Console()
    console.print(terminal.score_table(results))
    console.print(f"scores: {evaluation.folder / 'results.json'}", markup=False, highlight=False, soft_wrap=True)
    return results["splits"][splits[-1]]["miou"]


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
