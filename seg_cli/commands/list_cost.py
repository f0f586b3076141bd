"""``segrun list models --cost``: parameters, operations and latency of every model at a size, on this machine."""

import json
import re
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from seg_cli.commands.build import build_model
from seg_cli.config import sums
from seg_cli.config.choices import choices
from seg_cli.config.explain import explain
from seg_cli.config.paths import conf_dir
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops, count_parameters
from seg_cli.runs.environment import describe_environment

DEFAULT_SIZE = "256x256"
_CLASSES = 11  # as CamVid has
_FORWARDS = 5


@dataclass(frozen=True)
class Cost:
    """What a model costs for one image, or why that cannot be said.

    Attributes:
        model: its name in ``segrun list models``.
        encoder: timm's name, or ``own`` where the model has an encoder of its own.
        parameters: learned values, those of heads that serve training alone included.
        flops: floating-point operations, a multiply-add being two.
        milliseconds: median time of a forward in float32 and eval mode.
        problem: why there are no figures; then they are None.
    """

    model: str
    encoder: str | None = None
    parameters: int | None = None
    flops: int | None = None
    milliseconds: float | None = None
    problem: str | None = None


def show(size: str, encoder: str | None, extra: Sequence[Path], as_json: bool) -> int:
    """Price all models, and print a table or JSON. Returns the exit status.

    Args:
        size: of the image, ``HEIGHTxWIDTH``.
        encoder: a choice of the group, or a timm model; None for the one that each model has by default.
        extra: config folders of the user's.
        as_json: whether to print JSON.

    Raises:
        UserError: if the size cannot be read, or there is no such encoder.
    """
    height, width = _parse(size)
    _check_encoder(encoder, extra)
    names = [choice.name for choice in choices("model", extra)]
    found = []
    with Console(stderr=True).status("") as status:
        for number, name in enumerate(names, start=1):
            status.update(f"{number} of {len(names)}: {name}")
            found.append(price(name, (height, width), encoder, extra))
    if as_json:
        print(json.dumps({cost.model: _without_name(cost) for cost in found}, indent=2))
        return 0
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # room for the longest names; a file has no width of its own
    console.print(_header((height, width)), _table(found), sep="\n", soft_wrap=True)
    for cost in found:
        if cost.problem:
            console.print(Text.assemble(f"  {cost.model}  ", (cost.problem, "yellow")), soft_wrap=True)
    return 0


def price(name: str, size: Sequence[int], encoder: str | None = None, extra: Sequence[Path] = ()) -> Cost:
    """Build a model with random weights and run it. What goes wrong is told in the result.

    Args:
        name: a choice of the group ``model``.
        size: height and width of the image.
        encoder, extra: see ``show``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about settings, and nothing is kept here
            config = _compose(name, encoder, extra)
            model = build_model(config, _CLASSES).to(device).eval()
            return Cost(
                name,
                _encoder_of(config["model"]),
                count_parameters(model),
                count_flops(model, size),
                _milliseconds(model, size, device),
            )
    except Exception as error:  # whatever a model raises, the others are still to be priced
        return Cost(name, problem=_reason(error))


def _reason(error: Exception) -> str:
    told = explain(error)
    if told:
        return str(told)
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def _compose(name: str, encoder: str | None, extra: Sequence[Path]) -> dict[str, Any]:
    """The groups ``model`` and ``precision`` of a training with this model, without pretrained weights."""
    overrides = [f"model={name}"]
    if encoder:
        is_choice = encoder in _encoders(extra)
        overrides.append(f"encoder={encoder}" if is_choice else f"encoder.name={encoder}")
    folders = ",".join(f"'file://{folder.absolute()}'" for folder in extra)
    sums.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [*overrides, "encoder.weights=none", f"hydra.searchpath=[{folders}]"])
        return {
            group: OmegaConf.to_container(composed[group], resolve=True, throw_on_missing=True)
            for group in ("model", "precision")
        }


def _encoder_of(settings: dict[str, Any]) -> str:
    encoder = settings.get("encoder")
    name = encoder.get("name") if isinstance(encoder, dict) else settings.get("encoder_name")
    return str(name or "own")


@torch.inference_mode()
def _milliseconds(model: nn.Module, size: Sequence[int], device: torch.device) -> float:
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, device=device)
    times = []
    for _ in range(_FORWARDS + 1):
        start = time.perf_counter()
        model(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times[1:]), 2)  # the first warms up


def _parse(size: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if not found:
        raise UserError(
            f"--size {size}: type height and width in pixels with an x between them, as in --size 512x1024."
        )
    return int(found[1]), int(found[2])


def _encoders(extra: Sequence[Path]) -> list[str]:
    return [choice.name for choice in choices("encoder", extra)]


def _check_encoder(name: str | None, extra: Sequence[Path]) -> None:
    if name is not None and name not in _encoders(extra) and not timm.is_model(name):
        hint = did_you_mean(name, [*_encoders(extra), *timm.list_models()])
        raise UserError(
            f"--encoder {name}: timm has no such model.{hint} Search: segrun list encoders --timm '*{name}*'"
        )


def _without_name(cost: Cost) -> dict[str, Any]:
    return {key: value for key, value in asdict(cost).items() if key != "model" and value is not None}


def _header(size: Sequence[int]) -> Text:
    machine = describe_environment()
    threads = torch.get_num_threads()
    cpu = f"{machine['cpu']['model']}, {threads} thread{'s' if threads > 1 else ''}"
    return Text(
        f"Models: one image of {size[0]}x{size[1]} (height x width), {_CLASSES} classes, evaluation in float32\n"
        f"Latency: median of {_FORWARDS} forwards on {', '.join(machine['gpus'][:1]) or cpu}\n"
    )


def _table(found: Sequence[Cost]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("model", "encoder"):
        table.add_column(heading, overflow="fold")
    for heading in ("parameters\nM", "operations\nGFLOPs", "latency\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in found:
        if cost.problem:
            table.add_row(Text(cost.model), Text("see below", "yellow"), *3 * ("–",))
        else:
            figures = (_figure(cost.parameters, 1e6, 2), _figure(cost.flops, 1e9, 1), _figure(cost.milliseconds, 1, 1))
            table.add_row(Text(cost.model), Text(cost.encoder or ""), *figures)
    return table


def _figure(value: float | None, unit: float, digits: int) -> str:
    return "–" if value is None else f"{value / unit:.{digits}f}"
