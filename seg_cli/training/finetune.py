"""``finetune=none|freeze|gradual|discriminative``: which parts of a model learn in which epoch, and how fast.

The parts of a model are ``encoder.0`` (closest to the image) to ``encoder.4`` or however many levels it has, and then
``decoder`` and ``head``. A frozen part keeps its weights and its batch statistics.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Protocol

from torch import nn

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError


class Finetune(Protocol):
    """Says of each part whether it learns, and how fast.

    Attributes:
        warmup: share of an epoch's steps in which the learning rate of a part climbs after it was frozen.
    """

    warmup: float

    def frozen(self, epoch: int, *, epochs: int, parts: Sequence[str]) -> set[str]:
        """The parts that do not learn in ``epoch``, which counts from 0, of ``epochs``."""
        ...

    def lr_factor(self, part: str, parts: Sequence[str]) -> float:
        """Factor on the learning rate of a part, besides ``encoder.lr_factor``."""
        ...


class Phases:
    """Phases in the order given, each with the parts that are frozen in it; after the last, everything learns.

    ``finetune=freeze`` trains the decoder on a frozen encoder first; ``finetune=discriminative`` freezes nothing and
    has the encoder learn slower the closer a level is to the image (Howard 2018, arXiv:1801.06146, section 3.2).

    Args:
        phases: each with ``epochs`` (how many, or a share of ``trainer.max_epochs``: 1 is one epoch, 1.0 all of them)
            and ``frozen``, a list of parts; ``encoder`` means all its levels.
        layer_decay: factor on the learning rate from each level of the encoder to the one before it.
        warmup: share of an epoch in which a part's learning rate climbs after it was frozen.

    Raises:
        UserError: for a setting that is not there or makes no sense.
    """

    def __init__(
        self, *, phases: Sequence[Mapping[str, Any]] = (), layer_decay: float = 1.0, warmup: float = 0.5
    ) -> None:
        _check_factors(layer_decay, warmup)
        for number, phase in enumerate(phases):
            _check_phase(f"finetune.phases[{number}]", phase)
        self.phases, self.layer_decay, self.warmup = [dict(phase) for phase in phases], layer_decay, warmup

    def frozen(self, epoch: int, *, epochs: int, parts: Sequence[str]) -> set[str]:
        first = 0
        for number, phase in enumerate(self.phases):
            count = phase["epochs"]
            first += count if isinstance(count, int) else max(1, round(count * epochs))
            if epoch < first:
                return {part for name in phase["frozen"] for part in _named(name, parts, f"finetune.phases[{number}]")}
        return set()

    def lr_factor(self, part: str, parts: Sequence[str]) -> float:
        return _decayed(part, parts, self.layer_decay)


class Gradual:
    """``finetune=gradual``: the encoder is frozen first, and thaws from its deepest level to its first.

    Howard, Ruder (2018), arXiv:1801.06146, section 3.3.

    Args:
        start: share of the run after which the deepest level learns.
        end: share of the run after which every level learns.
        layer_decay, warmup: as ``Phases`` takes them.

    Raises:
        UserError: if they are no shares, or in the wrong order.
    """

    def __init__(self, *, start: float = 0.1, end: float = 0.5, layer_decay: float = 1.0, warmup: float = 0.5) -> None:
        _check_factors(layer_decay, warmup)
        if not 0 <= start <= end <= 1:
            raise UserError(f"finetune: start={start} and end={end} are shares of the run, 0 <= start <= end <= 1.")
        self.start, self.end, self.layer_decay, self.warmup = start, end, layer_decay, warmup

    def frozen(self, epoch: int, *, epochs: int, parts: Sequence[str]) -> set[str]:
        levels = [part for part in parts if part.startswith("encoder.")]
        done = epoch / epochs
        if done < self.start:
            return set(levels)
        share = 1.0 if done >= self.end else (done - self.start) / (self.end - self.start)
        learning = min(len(levels), 1 + math.floor(share * (len(levels) - 1) + 1e-9))
        return set(levels[: len(levels) - learning])

    def lr_factor(self, part: str, parts: Sequence[str]) -> float:
        return _decayed(part, parts, self.layer_decay)


def parts_of(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The parameters of a model by part, each with its full name; parts in the order of the forward pass."""
    level_of = encoder_levels(model)
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        parts.setdefault(f"encoder.{level_of[name]}" if part == "encoder" else part, []).append((name, parameter))
    return dict(sorted(parts.items(), key=lambda item: (not item[0].startswith("encoder."), _level(item[0]))))


def encoder_levels(model: nn.Module) -> dict[str, int]:
    """Of each parameter of ``model.encoder``, the level whose feature map it is the first to take part in.

    A timm network says which of its modules gives which feature map; the parameters up to there, in the order in which
    they were made, are that level's. In other encoders every child is a level, or every child of the only one.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return {}
    owners = {name: name.rpartition(".")[0] for name, _ in encoder.named_parameters()}
    body: Any = getattr(encoder, "body", None)
    if not hasattr(body, "feature_info"):
        paths = {name: owner.split(".") for name, owner in owners.items()}
        shared = takewhile(lambda names: len(set(names)) == 1, zip(*paths.values(), strict=False))
        depth = len(list(shared))
        children = list(dict.fromkeys(tuple(path[: depth + 1]) for path in paths.values()))
        return {f"encoder.{name}": children.index(tuple(path[: depth + 1])) for name, path in paths.items()}
    order = [f"body.{name}".rstrip(".") for name, _ in body.named_modules()]
    # timm's lists of features spell layer2.0 as layer2_0, and its getters have the whole network in .model
    spelled = [name.removeprefix("body.").removeprefix("model.").replace(".", "_") + "_" for name in order]
    ends = [
        max((at for at, name in enumerate(spelled) if name.startswith(module.replace(".", "_") + "_")), default=0)
        for module in body.feature_info.module_name()
    ]
    return {
        f"encoder.{name}": next((level for level, end in enumerate(ends) if order.index(owner) <= end), len(ends) - 1)
        for name, owner in owners.items()
    }


def freeze(model: nn.Module, frozen: set[str]) -> None:
    """Have exactly the parameters of these parts not learn, and their batch norms keep their statistics.

    Modules are put into train or eval mode accordingly.
    """
    parts = parts_of(model)
    keep = {name for part in frozen for name, _ in parts[part]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in keep)
    model.train()
    for name, module in model.named_modules():
        own = [f"{name}.{key}" if name else key for key, _ in module.named_parameters(recurse=True)]
        if own and all(key in keep for key in own):
            module.eval()


def _level(part: str) -> int:
    return int(part.partition(".")[2] or 0)


def _named(name: str, parts: Sequence[str], where: str) -> list[str]:
    found = [part for part in parts if part == name or part.startswith(f"{name}.")]
    if not found:
        known = list(dict.fromkeys([*(part.partition(".")[0] for part in parts), *parts]))
        raise UserError(
            f"{where}.frozen: the model has no part '{name}'.{did_you_mean(name, known)} Parts: {', '.join(known)}."
        )
    return found


def _decayed(part: str, parts: Sequence[str], decay: float) -> float:
    if not part.startswith("encoder."):
        return 1.0
    levels = [other for other in parts if other.startswith("encoder.")]
    return decay ** (len(levels) - 1 - levels.index(part))


def _check_factors(layer_decay: float, warmup: float) -> None:
    if not 0 < layer_decay <= 1:
        raise UserError(f"finetune.layer_decay={layer_decay}: it must be a factor above 0 and up to 1.")
    if not 0 <= warmup <= 1:
        raise UserError(f"finetune.warmup={warmup}: it is a share of an epoch, 0 to 1.")


def _check_phase(where: str, phase: Mapping[str, Any]) -> None:
    if not isinstance(phase, Mapping):
        raise UserError(f"{where}={phase}: it must be a phase, as in {{epochs: 0.3, frozen: [encoder]}}.")
    for key in phase:
        if key not in ("epochs", "frozen"):
            hint = did_you_mean(key, ("epochs", "frozen"))
            raise UserError(f"{where}.{key}: there is no such setting.{hint} Settings: epochs, frozen.")
    epochs, frozen = phase.get("epochs"), phase.get("frozen")
    whole = isinstance(epochs, int) and not isinstance(epochs, bool) and epochs >= 1
    if not (whole or (isinstance(epochs, float) and 0 < epochs <= 1)):
        raise UserError(f"{where}.epochs={epochs}: it must be a number of epochs, or a share of them, 0 to 1.")
    if not (isinstance(frozen, Sequence) and not isinstance(frozen, str) and all(isinstance(n, str) for n in frozen)):
        raise UserError(
            f"{where}.frozen={frozen}: it must be a list of parts, as in [encoder] or [encoder.0,encoder.1]."
        )
