"""Two finished runs compared, as ``segrun rerun --verify`` shows it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from rich.console import Console

from seg_cli.commands.resume import differences, directory_state
from seg_cli.config.paths import conf_dir
from seg_cli.config.visible import visible
from seg_cli.errors import UserError
from seg_cli.runs import compare
from seg_cli.runs.atomic import write_json
from seg_cli.runs.run import Run


def check_finished(*runs: Run) -> None:
    """Raises UserError for a run that has not come to its end, and so has nothing to compare."""
    for run in runs:
        state = directory_state(run)
        if state != "finished":
            more = "" if state == "running" else f" To go on with it: segrun resume {shlex.quote(str(run.folder))}."
            raise UserError(f"{run.folder}: its state is '{state}', and only finished runs can be compared.{more}")


def settings_of(run: Run) -> dict[str, Any]:
    """A run's configuration, with the settings that a later version of segrun has added as they are by default."""
    primary = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    defaults = {key: value for key, value in primary.items() if key not in ("defaults", "hydra", "name")}
    return _filled(cast(dict[str, Any], OmegaConf.to_container(run.config, resolve=True)), defaults)


def _filled(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled = {key: value for key, value in defaults.items() if key not in settings} | dict(settings)
    for key, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(filled[key], Mapping):
            filled[key] = _filled(filled[key], value)
    return filled


def verify(original: Run, again: Run, *, tolerance: float, keep: bool = False) -> int:
    """Compare two finished runs, and say what came of it.

    Args:
        original, again: their directories.
        tolerance: of scores, where bits may differ.
        keep: whether to write verification.json into the second.

    Returns:
        The exit status: 0 where they are the same, 1 where they are not.
    """
    rules = compare.terms(original, again, tolerance=tolerance)
    parts = [
        compare.compare_requests(original, again, differences(settings_of(original), settings_of(again))),
        compare.compare_steps(original, again, rules),
        compare.compare_metrics(original, again, rules),
        *_compare_weights(original, again, rules),
        compare.compare_results(original, again, rules),
        compare.compare_images(original, again, rules),
    ]
    # What neither has, as steps of a method that is fitted in one go, is not missed.
    parts = [part for part in parts if part.verdict != "absent" or _has(original, part) or _has(again, part)]
    verified = not any(part.verdict == "differs" for part in parts)
    expected = (
        "the same bits"
        if rules.exact
        else f"the loss of the first step within {compare.FIRST_LOSS:.0%} and scores within {tolerance:g}, since "
        f"{rules.why_not}"
    )
    width = max(len(part.name) for part in parts)
    console = Console(soft_wrap=True)
    for line in (
        "",
        f"{again.folder} compared with {original.folder}",
        f"environment: {named(rules.environment) if rules.environment else 'the same'}",
        f"expected: {expected}",
        *(f"  {part.name:<{width}}  {_WORDS[part.verdict]:<12}  {part.said}" for part in parts),
        _verdict(original, parts),
    ):
        console.print(visible(line), markup=False, highlight=False)
    if keep:
        tolerances = {"scores": tolerance, "first_loss": compare.FIRST_LOSS}
        record = {
            "of": str(original.folder.absolute()),
            "verified": verified,
            "expected": "the same bits" if rules.exact else "within tolerances",
            "why_not_bits": rules.why_not,
            "tolerances": None if rules.exact else tolerances,
            "environment": {name: list(pair) for name, pair in rules.environment.items()},
            "parts": [asdict(part) for part in parts],
        }
        write_json(again.folder / "verification.json", record)
    return 0 if verified else 1


def _has(run: Run, part: compare.Part) -> bool:
    """Whether a run has the file that a part is of; what is of no file, every run has."""
    name = part.name.removeprefix("weights of ")
    return "." not in name or any((folder / name).exists() for folder in (run.folder, run.folder / "checkpoints"))


_WORDS = {
    "same": "same",
    "near": "near enough",
    "other": "other bits",
    "differs": "DIFFERS",
    "absent": "not compared",
}


def _verdict(original: Run, parts: Sequence[compare.Part]) -> str:
    failed = next((part for part in parts if part.verdict == "differs"), None)
    if failed is not None:
        return f"not verified: {failed.name}, {failed.said}"
    if any(part.verdict in ("near", "other") for part in parts):
        return f"verified: {original.folder} comes out the same within the tolerances"
    absent = [part.name for part in parts if part.verdict == "absent"]
    but = f", as far as it can be compared (not: {', '.join(absent)})" if absent else ""
    return f"verified: {original.folder} comes out the same, bit for bit{but}"


def _compare_weights(first: Run, second: Run, rules: compare.Terms) -> list[compare.Part]:
    """The tensors of the weights in best.ckpt and last.ckpt, whatever else these files hold."""
    from seg_cli.training.checkpoints import read_checkpoint

    parts = []
    for name in ("best.ckpt", "last.ckpt"):
        title = f"weights of {name}"
        try:
            one, two = (read_checkpoint(run.folder / "checkpoints" / name)["state_dict"] for run in (first, second))
        except UserError as error:
            parts.append(compare.Part(title, "absent", str(error)))
            continue
        if one.keys() != two.keys():
            parts.append(compare.Part(title, "differs", "they are of different models"))
            continue
        others = [key for key in one if not _same_bits(one[key], two[key])]
        if not others:
            parts.append(compare.Part(title, "same", f"{len(one)} tensors"))
            continue
        most = max(_distance(one[key], two[key]) for key in others)
        by = f", by {most:.2g} at most" if most < float("inf") else ""
        said = f"{len(others)} of {len(one)} tensors, first {others[0].removeprefix('model.')}{by}"
        parts.append(compare.Part(title, compare.rules_verdict(rules), said))
    return parts


def _same_bits(one: Any, two: Any) -> bool:
    """Of two tensors, or of what else a module keeps in its state."""
    import torch

    if not isinstance(one, torch.Tensor):
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            return one.keys() == two.keys() and all(_same_bits(one[key], two[key]) for key in one)
        if isinstance(one, list | tuple) and isinstance(two, list | tuple):
            return len(one) == len(two) and all(map(_same_bits, one, two))
        return type(one) is type(two) and repr(one) == repr(two)
    if not isinstance(two, torch.Tensor) or one.dtype != two.dtype or one.shape != two.shape:
        return False
    return torch.equal(*(side.contiguous().reshape(-1).view(torch.uint8) for side in (one, two)))


def _distance(one: Any, two: Any) -> float:
    """The largest difference of two tensors' values; infinite where they have none."""
    if not hasattr(one, "shape") or one.shape != getattr(two, "shape", None):
        return float("inf")
    return float((one.double() - two.double()).abs().max())


def named(pairs: Mapping[str, tuple[Any, Any]]) -> str:
    """What differs between two environments, in words."""
    return ", ".join(f"{name} {_short(now)} instead of {_short(before)}" for name, (before, now) in pairs.items())


def _short(value: Any) -> str:
    text = "none" if value in (None, []) else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
