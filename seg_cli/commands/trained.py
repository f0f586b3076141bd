"""The model of a run that was trained, with what is needed to use it on other images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from seg_cli.commands.build import build, build_model, without_weights
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Dataset
from seg_cli.errors import UserError
from seg_cli.metrics.counting import Counting
from seg_cli.runs.run import Run
from seg_cli.training.checkpoints import load_model, read_checkpoint


@dataclass(frozen=True)
class Trained:
    """A run's model with the weights of a checkpoint.

    Attributes:
        run: its run directory.
        config: of the run.
        model: on the CPU.
        labels: the classes.
        reader: reads images as the run's dataset did.
        thresholds: where labels overlap: of the sigmoid, one a class.
    """

    run: Run
    config: dict[str, Any]
    model: nn.Module
    labels: LabelSpace
    reader: ImageReader
    thresholds: tuple[float, ...] | None

    def label(self, image: str | Path | np.ndarray) -> np.ndarray:
        """The labels of an image by the bare model in float32, without views, windows and post-processing.

        Args:
            image: a file, or what ``reader`` makes of one: (height, width, bands) of 0 to 255, uint8 or float32.

        Returns:
            (height, width) uint8, an index into ``labels.names`` a pixel; where labels overlap, (classes, height,
            width) of 0 and 1.

        Raises:
            UserError: if the file cannot be read.
        """
        pixels = image if isinstance(image, np.ndarray) else self.reader(Path(image))
        device = next(self.model.parameters()).device
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).movedim(-1, 0)[None].float()  # (1, B, H, W)
        counting = Counting.of(self.labels, 0.5 if self.thresholds is None else torch.tensor(self.thresholds))
        with torch.inference_mode():
            return counting.predict(self.model.eval()(batch))[0].to(torch.uint8).cpu().numpy()


def load_trained(run: str | Path, *, checkpoint: str = "best") -> Trained:
    """The model of a run, for a program of your own.

    Args:
        run: the run directory.
        checkpoint: ``best`` or ``last``.

    Raises:
        UserError: if there is no such run or checkpoint, or it is damaged.
    """
    return open_trained({"run": str(run), "checkpoint": checkpoint, "data": {"root": None}})


def open_trained(request: Mapping[str, Any]) -> Trained:
    """The model that ``run`` and ``checkpoint`` of a request mean, its dataset being looked for in ``data.root``.

    Raises:
        UserError: if there is no such run or checkpoint, or it is damaged.
    """
    run = Run.open(request["run"])
    config = cast(dict[str, Any], OmegaConf.to_container(run.config))
    checkpoint = run.best_checkpoint if request["checkpoint"] == "best" else run.last_checkpoint
    if not checkpoint.is_file():
        raise UserError(
            f"run={request['run']}: {checkpoint} is not there, so that there is no model to use. The run ended before "
            "its first epoch did, or its checkpoints were deleted."
        )
    labels = _labels(config, request, read_checkpoint(checkpoint))
    model = build_model(without_weights(config), labels.num_classes)  # the checkpoint has them all
    load_model(model, checkpoint)
    data = config["data"]
    reader = ImageReader(data.get("channels", 3), data.get("value_range"))
    return Trained(run, config, model.eval(), labels, reader, _thresholds(run, config, labels))


def describe_classes(labels: LabelSpace) -> dict[str, Any]:
    """What a checkpoint says of the classes, so that its model can be used where the dataset is not."""
    return {
        "classes": list(labels.names),
        "colors": [[int(part) for part in color] for color in labels.colors],
        "overlapping": labels.overlapping,
    }


def open_dataset(config: Mapping[str, Any], root: str | None) -> Dataset:
    """The dataset of a run, or what was asked for instead of its folder. Raises UserError if it is not there."""
    data = dict(config["data"])
    if root is not None:
        if "root" not in data:
            raise UserError(
                f"data.root: the dataset of this run, {config['choices']['data']}, is not read from a folder."
            )
        data["root"] = root
    return build({**config, "data": data}, "data")


def _labels(config: Mapping[str, Any], request: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> LabelSpace:
    """The classes, from the checkpoint where it has their colours too; else from the dataset, which has to be there."""
    names, colors = checkpoint.get("classes"), checkpoint.get("colors")
    if names and colors:
        triples = [(int(red), int(green), int(blue)) for red, green, blue in colors]
        return LabelSpace(tuple(names), triples, overlapping=bool(checkpoint.get("overlapping", False)))
    return open_dataset(config, request["data"]["root"]).labels


def _thresholds(run: Run, config: Mapping[str, Any], labels: LabelSpace) -> tuple[float, ...] | None:
    """Those of the run; where they were chosen on val, from its results."""
    if not labels.overlapping:
        return None
    threshold = config.get("threshold", 0.5)
    if threshold != "best":
        return (float(threshold),) * labels.num_classes
    of_splits = [split["thresholds"] for split in run.results["splits"].values() if "thresholds" in split]
    if not of_splits:
        raise UserError(f"run={run.folder}: its results say no thresholds. Type threshold=0.5.")
    return tuple(float(of_splits[0][name]) for name in labels.names)
