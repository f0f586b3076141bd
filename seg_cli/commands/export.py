"""``segrun export run=RUN out=FILE``: the model as a program of its own, kept if it says what the model says."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from seg_cli.commands.trained import Trained, open_dataset, open_trained
from seg_cli.data.sample import Dataset
from seg_cli.errors import RunFailed, UserError
from seg_cli.inference.export import load_torch_export, to_onnx, to_torch_export, trace
from seg_cli.inference.model_file import INPUT, OUTPUT, About, open_session
from seg_cli.inference.parity import Parity, Program, compare, views
from seg_cli.runs.atomic import write_bytes
from seg_cli.training.quiet import quiet

_FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
_RUNTIMES = {"onnx": "onnxruntime", "torch_export": "torch.export"}


def run(cfg: DictConfig) -> None:
    """Export as asked. Raises RunFailed if the file would not say what the model says; there is no file then."""
    quiet()
    request = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    out = Path(request["out"] or Path(request["run"]) / _FILES[request["format"]]).expanduser()
    request["out"] = str(out)
    _check_place(out, overwrite=request["overwrite"])
    trained = open_trained(request)
    dataset = open_dataset(trained.config, request["data"]["root"])
    images = _images(dataset, request["images"])
    size = tuple(request["size"]) if request["size"] else None

    console = Console(stderr=True, soft_wrap=True, highlight=False)  # for it is a minute of silence with large models
    console.print("following the model through an image", markup=False)
    program = trace(trained.model, channels=trained.reader.channels, size=size)
    about = _about(trained, size)
    console.print(f"writing {request['format']}, and comparing it with the model", markup=False)
    if request["format"] == "onnx":
        data = to_onnx(program, about.to_dict())
        run_program = _onnx(data)
    else:
        data = to_torch_export(program, about.to_dict())
        run_program = _torch_export(data)
    found = compare(trained.model, run_program, views(images, size), overlapping=trained.labels.overlapping)

    runtime = _RUNTIMES[request["format"]]
    if not found.holds(request["tolerance"], request["agreement"]):
        raise RunFailed(_refusal(found, runtime, request, size))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    _tell(out, len(data), found, runtime, about)


def _check_place(out: Path, *, overwrite: bool) -> None:
    if out.is_dir():
        raise UserError(f"out={out}: this is a folder, and a file is needed, as out={out / 'model.onnx'}.")
    if out.exists() and not overwrite:
        raise UserError(f"out={out}: this file exists already. Choose another name, or type overwrite=true.")


def _images(dataset: Dataset, count: int) -> list[np.ndarray]:
    """Pictures of val, spread over it: (H, W, B) uint8 or float32."""
    split = dataset.splits["val"]
    chosen = np.unique(np.linspace(0, len(split) - 1, count).round().astype(int))
    return [split[int(index)].image for index in chosen]


def _about(trained: Trained, size: tuple[int, int] | None) -> About:
    reader = trained.reader
    value_range = None if reader.value_range is None else (reader.value_range[0], reader.value_range[1])
    return About(
        trained.labels,
        reader.channels,
        value_range,
        size,
        trained.thresholds,
        trained.config["choices"]["model"],
        trained.run.folder.name,
    )


def _onnx(data: bytes) -> Program:
    session = open_session(data, "cpu", spin=True)

    def run_program(images: np.ndarray) -> np.ndarray:
        (logits,) = session.run([OUTPUT], {INPUT: images})
        return logits

    return run_program


def _torch_export(data: bytes) -> Program:
    module = load_torch_export(data)

    def run_program(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run_program


def _refusal(found: Parity, runtime: str, request: dict[str, Any], size: tuple[int, int] | None) -> str:
    lead = f"out={request['out']}: nothing is written, because {runtime} does not give what the model gives: "
    if found.problem is not None:
        advice = "" if size else " A model may depend on the size of its images; type size=[HEIGHT,WIDTH] to fix it."
        return f"{lead}on images of {found.shape} {found.problem}.{advice}"
    return (
        f"{lead}logits differ by up to {found.difference:.1e} of their range (tolerance={request['tolerance']} is "
        f"allowed), the most on images of {found.shape}, and {found.agreement:.4%} of the labels agree "
        f"(agreement={request['agreement']} is needed)."
    )


def _tell(out: Path, length: int, found: Parity, runtime: str, about: About) -> None:
    sides = "any size" if about.size is None else "x".join(map(str, about.size))
    console = Console(soft_wrap=True, highlight=False)
    for line in (
        f"same as the model on {found.views} views of {found.images} images of val: logits differ by at most "
        f"{found.difference:.1e} of their range, {found.agreement:.4%} of the labels agree",
        f"an image of {found.timed} takes {found.program_ms:.1f} ms with {runtime}, {found.model_ms:.1f} ms with "
        f"torch (float32, {torch.get_num_threads()} threads of the CPU)",
        f"model  {out} ({length / 2**20:.1f} MiB, images of {sides}, {about.labels.num_classes} classes)",
    ):
        console.print(line, markup=False)
