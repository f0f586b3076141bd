"""Hydra's and OmegaConf's exceptions, said again for people: what is wrong, where, what is allowed, what to type."""

import inspect
import re
from collections.abc import Callable, Iterable

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from seg_cli.config.choices import choices, groups, nouns
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import SegrunError, UserError

_PACKAGES = {
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
}
"""Choices that come with packages of their own."""


def explain(error: BaseException) -> SegrunError | None:
    """The same in one short paragraph, or None if the error is not the user's but a bug."""
    if isinstance(error, SegrunError):
        return error
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, MissingConfigException):
        return UserError(_missing_choice(error))
    if isinstance(error, OverrideParseException):
        return UserError(_syntax(error))
    if isinstance(error, OmegaConfBaseException):
        return UserError(_value(error))
    if isinstance(error, HydraException):
        return UserError(_composition(error))
    if isinstance(error, ValueError) and _raised_by_hydra(error):
        return UserError(_tidy(str(error)))
    return None


def _missing_choice(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    group, _, name = path.rpartition("/")
    if not group:
        return f"There is no config named '{path}'. segrun brings train and eval."
    one, several = nouns(group)
    options = list(error.options or (choice.name for choice in choices(group)))
    listed = f" See: segrun list {several}" if group in groups() else ""
    if not name:
        return f"{group}=: a {one} is missing behind the '='. {_options(several, options)}{listed}"
    if path in _PACKAGES:
        return f"{group}={name}: this needs a package that is not installed. Type: pip install {_PACKAGES[path]}"
    where = re.match(r"In '([^']+/[^']+)':", str(error))
    inside = f" (in {where[1]})" if where and not where[1].startswith((f"{group}/", "hydra/")) else ""
    return (
        f"{group}={name}: there is no {one} '{name}'{inside}.{did_you_mean(name, options)} "
        f"{_options(several, options)}{listed}"
    )


def _options(several: str, options: Iterable[str]) -> str:
    return f"{several.capitalize()}: {', '.join(options) or 'none yet'}."


def _syntax(error: OverrideParseException) -> str:
    override = error.override
    if "=" not in override and not override.startswith("~"):
        owners = [group for group in groups() if any(choice.name == override for choice in choices(group))]
        example = f"{owners[0]}={override}" if owners else "model=unet"
        return f"{override}: an option is written as key=value, as in {example}. See: segrun --help"
    key, _, value = override.partition("=")
    quoted = value.strip("'\"").replace('"', '\\"')
    return (
        f"{override}: the value cannot be read. Close every bracket and quote; a text with blanks, brackets, commas "
        f"or equals signs is quoted twice, once for the shell: '{key}=\"{quoted}\"'"
    )


def _composition(error: HydraException) -> str:
    """Each of Hydra's own sentences that a user can meet, and what we say instead."""
    message = str(error)
    for pattern, say in _SENTENCES:
        if match := re.search(pattern, message):
            return say(match, error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        override = re.match(r"Error merging override (.+)", message)
        return _value(error.__cause__, override[1] if override else None)
    return _tidy(message)


def _unknown_key(match: re.Match[str], error: HydraException) -> str:
    key, override = match["key"], match["override"]
    cause = error.__cause__
    parent = cause.parent_node if isinstance(cause, OmegaConfBaseException) else None
    if not isinstance(parent, DictConfig):
        return f"{override}: there is no key '{key}'."
    wrong = cause.full_key or key  # the first part of the key that is not there
    section, _, name = wrong.rpartition(".")
    there = [str(name) for name in parent if name != "hydra"]
    if section:
        hint = did_you_mean(name, there)
        return f"{override}: there is no key '{wrong}'.{hint} '{section}' has: {', '.join(there) or 'no keys'}."
    keys = [*groups(), *_dotted(parent)]
    return f"{override}: there is no key '{key}'.{did_you_mean(key, keys)} Keys at the top: {', '.join(there)}."


def _dotted(node: DictConfig, prefix: str = "") -> list[str]:
    """All keys below a node, sections too, as they are written on the command line."""
    keys: list[str] = []
    for name, value in node.items_ex(resolve=False):
        if f"{prefix}{name}" != "hydra":
            keys.append(f"{prefix}{name}")
            if isinstance(value, DictConfig) and not OmegaConf.is_missing(node, name) and not value._is_none():
                keys += _dotted(value, f"{prefix}{name}.")
    return keys


def _several_values(match: re.Match[str], _: HydraException) -> str:
    override = match["override"]
    key, _sign, value = override.partition("=")
    as_list = f" For a list, type {key}=[{value}]." if "(" not in value else ""
    return f"{override}: several values mean several runs, which need -m. Type: segrun -m {override}.{as_list}"


_SENTENCES: list[tuple[str, Callable[[re.Match[str], HydraException], str]]] = [
    (r"Ambiguous value for argument '(?P<override>.*)'\n", _several_values),
    (r"Sweep parameters '(?P<override>.*)' requires --multirun", _several_values),
    (
        r"Could not override '(?P<key>.*)'\.\nTo append to your config use \+(?P<override>.*)",
        _unknown_key,
    ),
    (
        r"Could not override '(?P<group>.*)'\. No match in the defaults list\.\n.*use \+(?P<override>.*)",
        lambda match, _: f"{match['override']}: nothing is chosen there yet. Type: +{match['override']}",
    ),
    (
        r"Could not override '(?P<group>.*)'\.\nDid you mean to override (one of )?(?P<near>.*)\?",
        lambda match, _: f"{match['group']}: nothing is chosen there. Did you mean '{match['near']}'?",
    ),
    (
        r"Could not append to config\. An item is already at '(?P<key>.*)'",
        lambda match, _: f"+{match['key']}: the key is there already. Type {match['key']}=VALUE, without the '+'.",
    ),
    (
        r"^(?P<group>.*) appears more than once in the final defaults list",
        lambda match, _: (
            f"+{match['group']}: there is a choice already. Type {match['group']}=CHOICE, without the '+'."
        ),
    ),
    (
        r"force-add of config groups is not supported: '\+\+(?P<override>.*)'",
        lambda match, _: f"++{match['override']}: a choice is made without the '+' signs. Type: {match['override']}",
    ),
]


def _value(error: OmegaConfBaseException, override: str | None = None) -> str:
    key = error.full_key or ""
    where = override or key
    reason = str(error).partition("\n")[0]
    if isinstance(error, MissingMandatoryValue):
        key = key or reason.rpartition(": ")[2]
        return f"{key}: it has no value yet. Type {key}=VALUE."
    if variable := re.search(r"Environment variable '(.*)' not found", reason):
        return (
            f"{where}: it refers to the environment variable {variable[1]}, which is not set. "
            f"Type export {variable[1]}=VALUE first, or {key}=VALUE."
        )
    if isinstance(error, InterpolationResolutionError):
        return f"{where}: it refers to something that is not there ({reason}). Type {key}=VALUE."
    return f"{where}: {reason}" if where else reason


def _instantiation(error: InstantiationException) -> SegrunError | None:
    """A component that could not be made: its own error says why, ours says where."""
    cause, message = error.__cause__, str(error)
    key = _after("full_key: ", message)
    target = (re.search(r"target '([^']+)'", message) or ["", ""])[1]
    if isinstance(cause, InstantiationException):
        return _instantiation(cause)
    if isinstance(cause, SegrunError):
        return cause
    if message.startswith("Error locating target"):
        reason = str(cause).replace("\n", " ")
        return UserError(f"{key}._target_={target}: there is no such class or function ({reason}).")
    if isinstance(cause, TypeError) and (argument := re.search(r"unexpected keyword argument '(.*)'", str(cause))):
        allowed = _parameters(target)
        return UserError(
            f"{key}.{argument[1]}: {target.rpartition('.')[2]} has no such setting."
            f"{did_you_mean(argument[1], allowed)} Settings: {', '.join(allowed) or 'none'}."
        )
    if isinstance(cause, TypeError) and (argument := re.search(r"missing \d+ required .*?: (.*)", str(cause))):
        return UserError(f"{key}: {target.rpartition('.')[2]} also needs {argument[1]}. Type {key}.NAME=VALUE.")
    if isinstance(cause, ValueError):
        return UserError(f"{key}: {_tidy(str(cause))}")
    return None


def _parameters(target: str) -> list[str]:
    """The settings of a component: the parameters of its constructor."""
    try:
        return [name for name in inspect.signature(get_object(target)).parameters if name != "self"]
    except (ImportError, TypeError, ValueError):
        return []


def _raised_by_hydra(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith("hydra.")


def _after(label: str, message: str) -> str:
    return message.rpartition(label)[2].strip() if label in message else ""


def _tidy(message: str) -> str:
    """One paragraph without Hydra's search path and its links."""
    text = message.partition("Config search path:")[0]
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "https://" not in line)
