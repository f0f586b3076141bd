"""``segrun predict``: masks and overlays for image files, by the model of a run or by an exported one.

An exported model is run without PyTorch, so that nothing here imports it before it is known to be needed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from seg_cli.data.images import ImageReader
from seg_cli.data.labels import LabelSpace
from seg_cli.errors import RunFailed, UserError
from seg_cli.inference.labelling import Label, Source, find_images, label_files, thread_count
from seg_cli.inference.model_file import OnnxModel
from seg_cli.inference.writing import PredictionFolder, check_folder
from seg_cli.training.progress import track

_GROUPS = ("inference", "tta", "postprocess")


def run(cfg: DictConfig) -> None:
    """Predict as asked. Raises RunFailed if some of the files could not be used, once the others are done."""
    request = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    file = request["model"]["file"]
    if (request["run"] is None) == (file is None):
        raise UserError("predict: a model is needed, and one alone: type run=RUN, or model=FILE.onnx.")
    out = Path(request["out"]).expanduser()
    sources = _find(request["input"], out)
    check_folder(out, overwrite=request["overwrite"])  # before the model is loaded
    labels, reader, label, about = _of_file(request) if file else _of_run(request)

    folder = PredictionFolder(out, labels, request["save"])
    folder.open(sources, about={**about, "input": request["input"]}, overwrite=request["overwrite"])
    _draw_legend(labels, out)
    done = label_files(
        sources,
        read=reader,
        label=label,
        write=folder.write,
        batch_size=request["batch_size"],
        threads=thread_count(request["workers"]),
    )
    console, complaints, broken = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True), 0
    for _, problem in track(done, "predicting", total=len(sources)):
        if problem is not None:
            broken += 1
            complaints.print(problem, markup=False, highlight=False)
    console.print(f"predictions: {out}", markup=False)
    if broken:
        raise RunFailed(
            f"{broken} of {len(sources)} images could not be predicted, and are named above. The others are in {out}."
        )


def _find(place: str, out: Path) -> list[Source]:
    """The images. Raises UserError if there are none, or predictions would go between them."""
    folder = Path(place).expanduser()
    if folder.is_dir() and out.is_dir() and folder.samefile(out):
        raise UserError(f"out={out}: this is the folder of the images. Choose another, so that they stay apart.")
    return find_images(place, without=out)


def _of_file(request: Mapping[str, Any]) -> tuple[LabelSpace, ImageReader, Label, dict[str, Any]]:
    """Classes, reader and labels of an exported model, and what labels.json says about it."""
    for key in (*_GROUPS, "threshold"):
        if request.get(key) is not None:
            raise UserError(f"{key}: an exported model is used as it is. Type run=RUN instead of model=FILE.")
    path = Path(request["model"]["file"]).expanduser()
    model = OnnxModel(path, accelerator=request["accelerator"])
    probabilities = "probabilities" in request["save"]

    def label(images: np.ndarray) -> Any:
        return model.label(images, probabilities=probabilities)

    about = model.about
    return about.labels, ImageReader(about.channels, about.value_range), label, {"model": str(path), "run": about.run}


def _of_run(request: Mapping[str, Any]) -> tuple[LabelSpace, ImageReader, Label, dict[str, Any]]:
    """The same of the model of a run, with the settings of inference around it."""
    import torch

    from seg_cli.commands.build import build
    from seg_cli.commands.trained import open_trained
    from seg_cli.inference.memory import keep_freed_memory
    from seg_cli.inference.predictor import Predictor
    from seg_cli.inference.torch_labelling import TorchLabel
    from seg_cli.metrics.counting import Counting
    from seg_cli.training import precision
    from seg_cli.training.devices import device_of
    from seg_cli.training.quiet import quiet

    quiet()
    keep_freed_memory()
    trained = open_trained(request)
    config = trained.config | {group: request[group] for group in _GROUPS if request.get(group) is not None}
    thresholds: float | torch.Tensor = 0.5
    if request["threshold"] is not None:
        if not trained.labels.overlapping:
            raise UserError(
                f"threshold={request['threshold']}: the classes of this model exclude each other, and the most "
                "probable one is predicted. A threshold is for labels that overlap."
            )
        thresholds = float(request["threshold"])
    elif trained.thresholds is not None:
        thresholds = torch.tensor(trained.thresholds)
    counting = Counting.of(trained.labels, thresholds)
    how = {group: build(config, group) for group in _GROUPS if config.get(group)}
    model = Predictor(trained.model, counting=counting, **how)
    if request["precision"]["channels_last"]:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = device_of(request)
    mode = precision.resolve(request["precision"]["mode"] or config["precision"]["mode"], device)
    label = TorchLabel(
        model,
        counting=counting,
        device=device,
        dtype=precision.autocast_dtype(mode),
        probabilities="probabilities" in request["save"],
    )
    about = {"run": str(trained.run.folder), "checkpoint": request["checkpoint"], "precision": mode}
    return trained.labels, trained.reader, label, about


def _draw_legend(labels: LabelSpace, out: Path) -> None:
    from seg_cli.reports.legend import draw_legend  # Matplotlib takes its time

    draw_legend(labels, out / "legend.png")
