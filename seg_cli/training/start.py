"""``start=RUN``: a run begins with the weights of another one, tensor by tensor by name, and class by class by name.

What the two have in common is kept, and what they have not is made new: the logits of a class that only this run has,
or the decoder of another model. The encoder must be the same.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.training.checkpoints import read_checkpoint

_ENOUGH = 0.9  # of the encoder's tensors; its first layer may be for other bands
_NAMED = 8  # classes in a sentence


@dataclass(frozen=True)
class Start:
    """A checkpoint to begin with.

    Attributes:
        asked: ``start`` as the user wrote it.
        path: of the file.
        digest: its SHA-256.
        weights: of the model.
        classes: of its logits, in their order; None where the file does not say.
        choices: of model and encoder, as far as the file says.
    """

    asked: str
    path: Path
    digest: str
    weights: Mapping[str, Tensor]
    classes: Sequence[str] | None
    choices: Mapping[str, str]

    @property
    def pretrained(self) -> str:
        """For results.json: the file's name and hash."""
        return f"{self.path.name} sha256:{self.digest[:16]}"


def read_start(asked: str) -> Start:
    """Read what ``start`` names: a run directory, of which the best checkpoint is taken, or a checkpoint.

    Raises:
        UserError: if there is no such thing, it has no checkpoint, or the file cannot be read; no pickle is executed.
    """
    path = _checkpoint(asked)
    try:
        content = read_checkpoint(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except UserError as error:
        raise UserError(f"start={asked}: {error}") from None
    state = content.get("state_dict")
    tensors = {key: value for key, value in state.items() if _is_weight(key, value)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"start={asked}: {path} is no checkpoint of segrun (it has no weights of a model).")
    return Start(
        asked=asked,
        path=path,
        digest=digest,
        weights={key.removeprefix("model."): value for key, value in tensors.items()},
        classes=content.get("classes"),
        choices=_choices(content),
    )


def begin_with(
    model: nn.Module, start: Start, *, classes: Sequence[str], one_class_more: Mapping[str, Sequence[int]]
) -> str:
    """Fill a model with the weights of another run, as far as they fit; the rest stays as it was made.

    Args:
        model: of this run, new.
        start: what it begins with.
        classes: of this run.
        one_class_more: sizes of the tensors that this model would have with one class more, by name; those that
            differ are the ones that belong to classes.

    Returns:
        One line that says what was taken and what is new.

    Raises:
        UserError: if the encoder is another one.
    """
    ours = model.state_dict()
    pairs = _pair(classes, start.classes or [])
    body: dict[str, Tensor] = {}
    head: dict[str, Tensor | None] = {}  # what belongs to classes; None where it does not fit
    for key, tensor in ours.items():
        given = start.weights.get(key)
        per_class = _per_class(tensor.shape, one_class_more[key], len(classes))
        if any(per_class):
            head[key] = None
            if given is not None and start.classes and pairs:
                head[key] = _by_class(tensor, given, per_class, pairs, len(start.classes))
        elif given is not None and given.shape == tensor.shape:
            body[key] = given
    _check_encoder(start, [key for key in ours if key not in head], body)
    # A bias without its weights would be of no use.
    kept = {key: value for key, value in head.items() if value is not None} if None not in head.values() else {}
    model.load_state_dict(body | kept, strict=False)
    whole = len(body) + (len(kept) if len(pairs) == len(classes) else 0)
    run = start.path.parent.parent if start.path.parent.name == "checkpoints" else start.path
    parts = [f"start: {whole} of {len(ours)} tensors from {run}"]
    parts += _new_parts([key for key in ours if key not in body and key not in head])
    return "; ".join([*parts, _of_classes(start, classes, pairs, fits=bool(kept))])


def _checkpoint(asked: str) -> Path:
    path = Path(asked).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"start={asked}: there is no such run or checkpoint ({path.absolute()}). Allowed are null, a run directory "
            "(outputs/<name>/<date>_<time>) and the path of a checkpoint."
        )
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    if not (path / "config.yaml").is_file():
        raise UserError(f"start={asked}: {path.absolute()} is not a run directory (it has no config.yaml).")
    raise UserError(f"start={asked}: this run has no checkpoint; it ended before its first epoch did.")


def _is_weight(key: object, value: object) -> bool:
    return isinstance(key, str) and key.startswith("model.") and isinstance(value, Tensor)


def _choices(content: Mapping[str, Any]) -> dict[str, str]:
    try:
        choices = json.loads(content["config"])["choices"]
        return {group: str(choices[group]) for group in ("model", "encoder")}
    except (KeyError, TypeError, ValueError):
        return {}


def _pair(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Of the classes that both have: which it is here, and there."""
    return [(here, theirs.index(name)) for here, name in enumerate(ours) if name in theirs]


def _per_class(size: Sequence[int], larger: Sequence[int], classes: int) -> list[int]:
    """Of each dimension how many entries a class has; 0 where they do not belong to classes.

    A dimension that grows in another way with the classes has -1: what is what in it cannot be known.
    """
    if len(size) != len(larger):
        return [-1] * len(size)
    found = []
    for length, more in zip(size, larger, strict=True):
        each = more - length
        found.append(0 if each == 0 else each if length == each * classes else -1)
    return found


def _by_class(
    tensor: Tensor, given: Tensor, per_class: Sequence[int], pairs: Sequence[tuple[int, int]], classes: int
) -> Tensor | None:
    """``tensor`` with what ``given`` holds of the classes that both have; None where their sizes do not allow it.

    Where a class has several entries they follow on each other, as ``pixel_shuffle`` has it.
    """
    if len(given.shape) != len(tensor.shape):
        return None
    here, there = [], []
    for length, theirs, each in zip(tensor.shape, given.shape, per_class, strict=True):
        if each < 0 or theirs != (classes * each or length):
            return None
        here.append(_entries([pair[0] for pair in pairs], each) if each else torch.arange(length))
        there.append(_entries([pair[1] for pair in pairs], each) if each else torch.arange(length))
    filled = tensor.detach().clone()
    chosen = given[torch.meshgrid(*there, indexing="ij")]
    filled[torch.meshgrid(*here, indexing="ij")] = chosen.to(filled)
    return filled


def _entries(classes: Sequence[int], each: int) -> Tensor:
    return torch.tensor([number * each + entry for number in classes for entry in range(each)])


def _check_encoder(start: Start, body: Sequence[str], taken: Mapping[str, Tensor]) -> None:
    """Whether the two models have the same encoder, or where there is no such part, mostly the same tensors."""
    encoder = [key for key in body if key.startswith("encoder.")]
    wanted = encoder or body
    fits = sum(key in taken for key in wanted)
    if fits < _ENOUGH * len(wanted):
        choices = " ".join(f"{group}={choice}" for group, choice in start.choices.items())
        trained = f" It was trained with {choices}." if choices else ""
        raise UserError(
            f"start={start.asked}: {fits} of {len(wanted)} tensors{' of the encoder' if encoder else ''} are in "
            f"{start.path}, so it is of another model than this one.{trained} Choose the same encoder (and the same "
            "model, to keep its decoder too)."
        )


def _new_parts(keys: Sequence[str]) -> list[str]:
    """``["made new: decoder (38 tensors)"]``."""
    parts = Counter(key.partition(".")[0] for key in keys)
    return ["made new: " + ", ".join(f"{part} ({count} tensors)" for part, count in parts.items())] if parts else []


def _of_classes(start: Start, classes: Sequence[str], pairs: Sequence[tuple[int, int]], *, fits: bool) -> str:
    """What happened to the head."""
    if start.classes is None:
        return "head made new, since the file does not name its classes"
    if pairs and not fits:
        return "head made new, since it has another form"
    kept = [classes[here] for here, _ in pairs]
    new = [name for name in classes if name not in kept]
    if not new:
        return "head kept for all classes"
    return "head made new for " + _list(new) + (f", kept for {_list(kept)}" if kept else "")


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
