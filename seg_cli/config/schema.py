"""The run-level schema: which keys a run has, and which values they take.

It is checked before anything heavy is imported, so that a wrong option answers at once. The components
(model, loss, data, ...) are not described here: their constructors check what they are given.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from omegaconf import DictConfig, OmegaConf

from seg_cli.config.choices import choices
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError

COMPONENTS = (
    *("model", "loss", "data", "augment", "crop", "optimizer", "scheduler"),
    *("resize", "finetune", "average", "logger", "metrics"),
    *("tta", "inference", "postprocess"),
)
"""The groups whose constructors check their own keys."""


@dataclass(frozen=True)
class Rule:
    """What a value must be: in words that follow "must be", and as a test."""

    allowed: str
    holds: Callable[[object], bool]


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_folder_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[^/\\\s.][^/\\\n]*", value) is not None


def _is_crop(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_whole(v) and v >= 1 for v in value)


def _is_range(value: object) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
    return numbers and 0 < value[0] < value[1]  # type: ignore[index]


def _is_forms(value: object) -> bool:
    forms = ("mask", "overlay", "probabilities", "classes")
    return isinstance(value, list) and bool(value) and all(form in forms for form in value)


def _is_split(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def _whole(least: int) -> Rule:
    return Rule(f"a whole number >= {least}", lambda value: _is_whole(value) and value >= least)


def _one_of(*words: str) -> Rule:
    return Rule(f"{', '.join(words[:-1])} or {words[-1]}", lambda value: value in words)


def _or(word: str | None, rule: Rule) -> Rule:
    return Rule(f"{word or 'null'} or {rule.allowed}", lambda value: value == word or rule.holds(value))


_POSITIVE = Rule("a number > 0", lambda value: _is_number(value) and value > 0)
_SEED = Rule("a whole number from 0 to 4294967295", lambda value: _is_whole(value) and 0 <= value < 2**32)
_TEXT = Rule("text", _is_text)
_VOID = Rule("ignored or false_positive", lambda value: value in ("ignored", "false_positive"))
_THRESHOLD = Rule("a probability between 0 and 1, or best", lambda v: v == "best" or (_is_number(v) and 0 < v < 1))
_TRUTH = Rule("true or false", lambda value: isinstance(value, bool))

RULES: Mapping[str, Rule] = {
    "name": Rule("the name of a folder, without slashes", _is_folder_name),
    "run_dir": _or(None, Rule("the path of a folder that does not exist yet", _is_text)),
    "seed": _SEED,
    "retry": Rule("null or failed", lambda value: value in (None, "failed")),
    "start": _or(None, Rule("the path of a run directory or of a checkpoint", _is_text)),
    "tags": Rule(
        "a list of words, as in tags=[paper,draft]",
        lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value),
    ),
    "notes": _or(None, _TEXT),
    "void": _VOID,
    "threshold": _THRESHOLD,
    "fit.images": _or(None, _whole(1)),
    "loader.crop": _or(None, Rule("height and width in pixels, as in loader.crop=[256,256]", _is_crop)),
    "loader.batch_size": _whole(1),
    "loader.eval_batch_size": _whole(1),
    "loader.workers": _or("auto", _whole(0)),
    "encoder.name": Rule("the name of a timm model (see: segrun list encoders)", _is_text),
    "encoder.weights": Rule("imagenet, none, or the path of a file", _is_text),
    "encoder.lr_factor": _or("auto", _POSITIVE),
    "trainer.max_epochs": _whole(1),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu"),
    "trainer.devices": _or("auto", _whole(1)),
    "trainer.nodes": _whole(1),
    "trainer.strategy": _one_of("auto", "ddp", "fsdp"),
    "trainer.sync_batchnorm": _TRUTH,
    "trainer.auto_batch_size": _TRUTH,
    "trainer.accumulate": _whole(1),
    "trainer.lr_batch": _or(None, _whole(1)),
    "trainer.gradient_clip": _or(None, _POSITIVE),
    "trainer.compile": _TRUTH,
    "trainer.deterministic": _TRUTH,
    "trainer.checkpoint_minutes": _or(None, Rule("a number of minutes, 0 or more", lambda v: _is_number(v) and v >= 0)),
    "trainer.validate_every": _whole(1),
    "trainer.early_stop": _or(None, _whole(1)),
    "trainer.limit_batches": _or(None, _whole(1)),
    "precision.mode": _one_of("auto", "bf16", "fp16", "fp32"),
    "precision.channels_last": _TRUTH,
}
"""Keys of a training run."""

EVAL_RULES: Mapping[str, Rule] = {
    "run": Rule("the path of a run directory", _is_text),
    "name": _or(None, Rule("the name of a folder, without slashes", _is_folder_name)),
    "split": Rule("the name of a split, or several, as in split=[val,test]", _is_split),
    "checkpoint": _one_of("best", "last"),
    "data.root": _or(None, _TEXT),
    "void": _or(None, _VOID),
    "threshold": _or(None, _THRESHOLD),
    "loader.eval_batch_size": _or(None, _whole(1)),
    "loader.workers": RULES["loader.workers"],
    "accelerator": RULES["trainer.accelerator"],
    "precision.mode": _or(None, RULES["precision.mode"]),
    "precision.channels_last": RULES["precision.channels_last"],
    "limit_batches": RULES["trainer.limit_batches"],
}
"""Keys of ``segrun eval``."""

PLAN_RULES: Mapping[str, Rule] = {
    "out": _or(None, Rule("the path of a folder", _is_text)),
    "plan.time": _TRUTH,
    "plan.largest_batch": _TRUTH,
    "plan.find_lr": _TRUTH,
    "plan.lr_range": Rule("the first and the last learning rate, as in plan.lr_range=[1e-7,1]", _is_range),
    "plan.lr_steps": _whole(10),
}
"""Keys of ``segrun plan``, besides those of a training run."""

PREDICT_RULES: Mapping[str, Rule] = {
    "run": _or(None, EVAL_RULES["run"]),
    "model.file": _or(None, Rule("the path of an ONNX file of segrun export", _is_text)),
    "input": Rule("the path of an image or a folder, or a pattern as in 'input=photos/*.jpg'", _is_text),
    "out": Rule("the path of a folder", _is_text),
    "save": Rule("some of [mask,overlay,probabilities,classes]", _is_forms),
    "overwrite": _TRUTH,
    "checkpoint": EVAL_RULES["checkpoint"],
    "threshold": _or(None, Rule("a probability between 0 and 1", lambda v: _is_number(v) and 0 < v < 1)),
    "batch_size": _whole(1),
    "workers": RULES["loader.workers"],
    "data.root": _or(None, _TEXT),
    "accelerator": RULES["trainer.accelerator"],
    "precision.mode": EVAL_RULES["precision.mode"],
    "precision.channels_last": RULES["precision.channels_last"],
}
"""Keys of ``segrun predict``, besides the groups of inference."""

TUNE_RULES: Mapping[str, Rule] = {
    "workers": _whole(1),
    "storage": _or(None, _TEXT),
    "keep_last": _TRUTH,
}
"""Keys of ``segrun tune``, besides those of a training run and the section ``sweep``."""

EXPORT_RULES: Mapping[str, Rule] = {
    "run": EVAL_RULES["run"],
    "out": _or(None, Rule("the path of a file to write", _is_text)),
    "format": _one_of("onnx", "torch_export"),
    "size": _or(None, Rule("height and width in pixels, as in size=[512,1024]", _is_crop)),
    "checkpoint": EVAL_RULES["checkpoint"],
    "overwrite": _TRUTH,
    "images": _whole(1),
    "tolerance": _POSITIVE,
    "agreement": Rule("a share between 0 and 1", lambda value: _is_number(value) and 0 < value <= 1),
    "data.root": _or(None, _TEXT),
}
"""Keys of ``segrun export``."""

CHECK_COMPONENTS = ("data", "augment", "crop")
"""Those of COMPONENTS that ``segrun check`` has."""

CHECK_RULES: Mapping[str, Rule] = {
    "name": RULES["name"],
    "out": _or(None, Rule("the path of a folder", _is_text)),
    "samples": _whole(1),
    "sheet": Rule("true or false", lambda value: isinstance(value, bool)),
    "draws": _whole(1),
    "seed": _SEED,
    "loader.crop": RULES["loader.crop"],
    "loader.workers": RULES["loader.workers"],
}
"""Keys of ``segrun check``."""


def validate(cfg: DictConfig) -> None:
    """Check a composed training config.

    Raises:
        UserError: for a key that is not known or not there, and a value that is not allowed; names the key,
            the value and what is allowed.
        OmegaConfBaseException: if a value is missing (``???``) or refers to something that is not there.
    """
    _check_run(_resolve(cfg), RULES)


def validate_plan(cfg: DictConfig) -> None:
    """Check a composed config of ``segrun plan``. Raises as ``validate`` does."""
    _check_run(_resolve(cfg), {**RULES, **PLAN_RULES})


def validate_tune(cfg: DictConfig) -> None:
    """Check a composed config of ``segrun tune``, but for ``sweep`` itself. Raises as ``validate`` does."""
    if not isinstance(cfg.get("sweep"), DictConfig):
        names = [choice.name for choice in choices("sweep")]
        raise UserError(f"sweep: what is to be searched for? Type sweep=NAME, where NAME is one of {', '.join(names)}.")
    settings = _resolve(cfg)
    _check_run({key: value for key, value in settings.items() if key != "sweep"}, {**RULES, **TUNE_RULES})


def validate_eval(cfg: DictConfig) -> None:
    """Check a composed config of ``segrun eval``. Raises as ``validate`` does."""
    settings = _resolve(cfg)
    apart = ["metrics", "tta", "inference", "postprocess"]
    if isinstance(data := settings["data"], dict) and "_target_" in data:
        apart.append("data")
    rules = {key: rule for key, rule in EVAL_RULES.items() if "data" not in apart or key != "data.root"}
    # Classes may be called anything, so that what they are mapped to is no key of ours.
    classes = settings.get("classes")
    if not isinstance(classes, dict) or list(classes) != ["map"] or not isinstance(classes["map"], dict | None):
        raise UserError("classes: it must be {map: {CLASS: CLASS}}, as in 'classes.map={tram: bus, sign: null}'.")
    _check({key: value for key, value in settings.items() if key not in (*apart, "classes")}, rules)


def validate_predict(cfg: DictConfig) -> None:
    """Check a composed config of ``segrun predict``. Raises as ``validate`` does."""
    settings = _resolve(cfg)
    groups = ("tta", "inference", "postprocess")
    _check({key: value for key, value in settings.items() if key not in groups}, PREDICT_RULES)


def validate_export(cfg: DictConfig) -> None:
    """Check a composed config of ``segrun export``. Raises as ``validate`` does."""
    _check(_resolve(cfg), EXPORT_RULES)


def validate_check(cfg: DictConfig) -> None:
    """Check a composed config of ``segrun check``. Raises as ``validate`` does."""
    settings = _resolve(cfg)
    for component in CHECK_COMPONENTS:
        if component not in settings:
            raise UserError(f"{component}: a check needs one, and the config has none. {_choose(component)}")
    _check({key: value for key, value in settings.items() if key not in CHECK_COMPONENTS}, CHECK_RULES)


def _check_run(settings: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
    for component in COMPONENTS:
        if component not in settings:
            raise UserError(f"{component}: a run needs one, and the config has none. {_choose(component)}")
    _check({key: value for key, value in settings.items() if key not in COMPONENTS}, rules)


def _resolve(cfg: DictConfig) -> dict[str, object]:
    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def _check(settings: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
    values = _flatten(settings)
    for key in values:
        if key not in rules:
            raise UserError(_no_such_key(key, rules))
    for key, rule in rules.items():
        if key not in values:
            raise UserError(f"{key}: the config does not have it. It must be {rule.allowed}.")
        if not rule.holds(values[key]):
            raise UserError(f"{key}={_written(values[key])}: it must be {rule.allowed}.")


def _flatten(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by dotted key. What stands where a section should be keeps the section's key."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _no_such_key(key: str, rules: Mapping[str, Rule]) -> str:
    sections = {name.partition(".")[0] for name in rules if "." in name}
    if key in sections:
        keys = ", ".join(name for name in rules if name.startswith(f"{key}."))
        return f"{key}: this is a section with keys of its own, not a value: {keys}."
    hint = did_you_mean(key, rules) or f" There are: {', '.join(rules)}."
    return f"{key}: there is no such key.{hint}"


def _choose(component: str) -> str:
    names = [choice.name for choice in choices(component)]
    return f"Type {component}=CHOICE, where CHOICE is one of {', '.join(names)}."


def _written(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return "[" + ",".join(_written(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value)
