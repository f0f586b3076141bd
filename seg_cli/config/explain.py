"""Hydra's and OmegaConf's exceptions, said for people: what is wrong, what is allowed, what to type."""

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from seg_cli.config.choices import SUM_GROUPS, WEIGHTED_GROUPS, choices, groups, nouns
from seg_cli.config.paths import conf_dir
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import SegrunError, UserError

_PACKAGES = {
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
}
"""Choices that come with packages of their own."""

_VALUES = {
    "run": "run=RUN, where RUN is a run directory in outputs/",
    "input": "input=PATH, an image, a folder of images, or a pattern in quotes",
    "out": "out=DIR, a folder that is made for what comes out",
}
"""What to type for settings that a verb cannot do without."""


def explain(error: BaseException, overrides: Sequence[str] = ()) -> SegrunError | None:
    """The same in one short paragraph, or None if the error is not the user's but a bug.

    Args:
        error: what was raised while a config was composed or a job ran.
        overrides: the command line, for errors of Hydra that do not say which option they are about.
    """
    if isinstance(error, SegrunError):
        return error
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, MissingConfigException):
        return UserError(_missing_choice(error))
    if isinstance(error, OverrideParseException):
        return UserError(_syntax(error))
    if isinstance(error, OmegaConfBaseException):
        # Where our own code asked for a key that is not there, it is a bug.
        is_bug = isinstance(error, ConfigAttributeError | ConfigKeyError)
        return None if is_bug else UserError(_value(error))
    if isinstance(error, HydraException):
        return UserError(_composition(error))
    if isinstance(error, ValueError) and _raised_by(error, "hydra."):
        return UserError(_not_a_name(overrides) or _tidy(str(error)))
    if _looks_into_a_list(error):
        key = str(error).split("'")[1]
        option = next((text for text in overrides if f".{key}" in text.partition("=")[0]), f".{key}=")
        return UserError(f"{option}: '{key}' is looked for in what is a list. Give the whole list anew: KEY=[...].")
    return None


def _missing_choice(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    # A choice may lie in a folder of its group: smp/unet of the group model, not unet of a group model/smp.
    group = next((known for known in groups() if path.startswith(f"{known}/")), path.rpartition("/")[0])
    name = path.removeprefix(f"{group}/")
    if not group:
        brought = ", ".join(sorted(file.stem for file in conf_dir().glob("*.yaml")))
        return f"There is no config named '{path}'. segrun brings {brought}."
    one, several = nouns(group)
    found = error.options or [] if path.rpartition("/")[0] == group else []  # Hydra looked into the last folder alone
    options = list(dict.fromkeys([*found, *(choice.name for choice in choices(group))]))
    listed = f" See: segrun list {several}" if group in groups() else ""
    if not name:
        return f"{group}=: a {one} is missing behind the '='. {_options(several, options)}{listed}"
    if path in _PACKAGES:
        package = _PACKAGES[path]
        return f"{group}={name}: this needs a package that is not installed. Type: pip install {package}"
    value, inside = name, ""
    if where := re.match(r"In '(.+)/(.+)':", str(error)):
        if where[1] == group:
            value = where[2]  # the sum that the name is a term of
        elif where[1] != "hydra":
            inside = f" (asked for in {where[1]}/{where[2]})"
    weighted = re.fullmatch(r"([0-9.]+)([a-z]\w*)", name)
    if weighted and group in WEIGHTED_GROUPS and weighted[2] in options:
        hint = f" A weight is written as in '{group}=ce+{weighted[1]}*{weighted[2]}', with a '*' and in quotes."
    else:
        hint = did_you_mean(name, options)
    return f"{group}={value}: there is no {one} '{name}'{inside}.{hint} {_options(several, options)}{listed}"


def _options(several: str, options: Iterable[str]) -> str:
    """The choices by name; of a folder's, which are many, the folder alone."""
    shown = dict.fromkeys(re.sub("/.*", "/...", option) for option in options)
    return f"{several.capitalize()}: {', '.join(shown) or 'none yet'}."


def _not_a_name(overrides: Sequence[str]) -> str | None:
    """Which option gives a group a number or null where the name of a choice belongs, if one does."""
    for override in OverridesParser.create().parse_overrides([text for text in overrides if "=" in text]):
        group = override.key_or_group
        is_sweep = override.is_sweep_override()
        if group in groups() and not is_sweep and not isinstance(override.value(), str | list):
            one, several = nouns(group)
            names = [choice.name for choice in choices(group)]
            return f"{override.input_line}: a {one} is chosen by its name. {_options(several, names)}"
    return None


def _syntax(error: OverrideParseException) -> str:
    override = error.override
    if re.fullmatch(r"[-+*=,]+", override):
        return f"{override}: it stands alone. An option has no blanks, as in loss=dice+focal, or is quoted as a whole."
    if "=" not in override and not override.startswith("~"):
        if Path(override).is_dir():
            return f"{override}: a run directory is named by its key. Type run={override}"
        owners = [group for group in groups() if any(choice.name == override for choice in choices(group))]
        example = f"{owners[0]}={override}" if owners else "model=unet"
        return f"{override}: an option is written as key=value, as in {example}. See: segrun --help"
    key, _, value = override.partition("=")
    if value.endswith(",") or (value.startswith("[") and "]" not in value and "," in value):
        return (
            f"{override}: the value ends at a comma. A blank ends an option: write {key}={value.rstrip(', ')},... "
            "without blanks behind the commas."
        )
    quoted = value.strip("'\"").replace('"', '\\"')
    return (
        f"{override}: the value cannot be read. Close every bracket and quote; a text with blanks, brackets, commas, "
        f"equals signs or letters such as ü is quoted twice, once for the shell: '{key}=\"{quoted}\"'"
    )


def _composition(error: HydraException) -> str:
    message, cause = str(error), error.__cause__
    if unknown := re.match(r"Could not override '(.*)'\.\nTo append to your config use \+(.*)", message):
        return _unknown_key(unknown[1], unknown[2], cause)
    for pattern in _SEVERAL_VALUES:
        if several := re.match(pattern, message):
            return _several_values(several[1])
    for pattern, ours in _SENTENCES.items():
        if match := re.match(pattern, message):
            group = match[1].partition("=")[0] if match.groups() else ""
            if pattern == _NOT_CHOSEN and group in groups():
                return f"{match[1]}: {group} is for training; this verb has no such group. --cfg job shows its own."
            return ours.format(*match.groups())
    if isinstance(cause, OmegaConfBaseException):
        override = re.match(r"Error merging override (.+)", message)
        return _value(cause, override[1] if override else None)
    return _tidy(message)


_SEVERAL_VALUES = (
    r"Ambiguous value for argument '(.*)'",
    r"Sweep parameters '(.*)' requires --multirun",
)

_NOT_CHOSEN = r"Could not override '.*'\. No match in the defaults list\.\n.* use \+(.*)"

_SENTENCES = {
    _NOT_CHOSEN: ("{0}: nothing is chosen there yet, so this needs a '+'. Type: +{0}"),
    r"Could not override '(.*)'\.\nDid you mean to override (?:one of )?(.*)\?": (
        "{0}: nothing is chosen there. Did you mean '{1}'?"
    ),
    r"Could not append to config\. An item is already at '(.*)'": (
        "+{0}: the key is there already. Type {0}=VALUE, without the '+'."
    ),
    r"(.*) appears more than once in the final defaults list": (
        "+{0}: there is a choice already. Type {0}=CHOICE, without the '+'."
    ),
    r"Multiple values for (.*)\. To override": (
        "{0}: it is chosen twice. Type {0}=CHOICE without a '+'; in a file's defaults list "
        "write 'override /{0}: CHOICE'."
    ),
    r"Additional config directory '(.*)' not found": "--config-dir {0}: there is no such folder.",
    r"force-add of config groups is not supported: '\+\+(.*)'": (
        "++{0}: a choice is made without the '+' signs. Type: {0}"
    ),
}
"""Hydra's sentences that a user may meet, and what we say instead."""


def _unknown_key(key: str, override: str, cause: BaseException | None) -> str:
    if not isinstance(cause, OmegaConfBaseException) or not isinstance(cause.parent_node, DictConfig):
        return f"{override}: there is no key '{key}'."
    wrong = str(cause.full_key or key)  # as far as the first part that is not there
    section = wrong.rpartition(".")[0]
    there = [str(known) for known in cause.parent_node if known not in ("hydra", "_target_")]
    if section:
        hint = did_you_mean(wrong, [f"{section}.{name}" for name in there])
        listed = ", ".join(there) or "no keys"
        return f"{override}: there is no key '{wrong}'.{hint} '{section}' has: {listed}."
    keys = _dotted(OmegaConf.to_container(cause.parent_node, resolve=False))
    hint = did_you_mean(key, keys) or f" At the top there is: {', '.join(there)}."
    return f"{override}: there is no key '{key}'.{hint} All keys: segrun --cfg job"


def _dotted(settings: object, prefix: str = "") -> list[str]:
    """All keys, sections too, as they are written on the command line."""
    keys: list[str] = []
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if name != "hydra":
            keys += [f"{prefix}{name}", *_dotted(value, f"{prefix}{name}.")]
    return keys


def _several_values(override: str) -> str:
    key, _, value = override.partition("=")
    if key in groups():
        other = f", or {key}={value.replace(',', '+')} for their sum" if key in SUM_GROUPS and "+" not in value else ""
        return f"{override}: several values mean several runs, which need -m. Type segrun -m {override}{other}."
    as_list = f", or {key}=[{value}] for a list" if "(" not in value else ""
    return f"{override}: several values mean several runs, which need -m. Type segrun -m {override}{as_list}."


def _value(error: OmegaConfBaseException, override: str | None = None) -> str:
    reason = str(error).partition("\n")[0]
    key = str(error.full_key or "")
    where = override or key or "The config"
    if isinstance(error, MissingMandatoryValue):
        key = key or reason.rpartition(": ")[2]
        return f"{key}: it has no value yet. Type {_VALUES.get(key, f'{key}=VALUE')}."
    if variable := re.search(r"Environment variable '(.*)' not found", reason):
        instead = f", or {key}=VALUE" if key else ""
        return (
            f"{where}: it refers to the environment variable {variable[1]}, which is not set. "
            f"Type export {variable[1]}=VALUE first{instead}."
        )
    if isinstance(error, InterpolationResolutionError):
        instead = f" Type {key}=VALUE." if key else ""
        return f"{where}: it refers to something that is not there ({reason}).{instead}"
    return f"{where}: {reason}"


def _instantiation(error: InstantiationException) -> SegrunError | None:
    """A component that could not be made: its own error says why, ours says where."""
    cause, message = error.__cause__, str(error)
    if isinstance(cause, SegrunError | InstantiationException):
        return explain(cause)
    key = message.rpartition("full_key: ")[2]
    target = (re.search(r"[Tt]arget '([^']+)'", message) or ["", ""])[1]
    name = target.rpartition(".")[2]
    reason = " ".join(str(cause).split()).partition(" Are you sure")[0]
    if message.startswith("Error locating target"):
        package, how = target.partition(".")[0], ""
        if f"No module named '{package}'" in reason:  # the package itself, and not one of its parts that is misspelt
            how = f" Where is {package}? Type export PYTHONPATH=DIR with the folder it lies in, or pip install -e DIR."
        return UserError(f"{key}._target_={target}: there is no such class or function ({reason}).{how}")
    if cause is None and message.startswith("Target '"):  # one of those that Hydra calls for no configuration
        return UserError(
            f"{key}._target_={target}: it is not called, since a configuration could do anything with it. Name a class "
            "or function of a package, as seg_cli.models.unet.UNet, or one of yours."
        )
    # A class without a constructor of its own has torch.nn.Module's, which refuses settings in its own code.
    if isinstance(cause, TypeError) and (_raised_by(cause, "hydra.") or reason.startswith(f"{name}.__init__() got")):
        return UserError(_wrong_settings(key, target, name, reason))
    if isinstance(cause, ValueError):
        # 'gamma=-1: it must be ...' is about a setting of the component.
        return UserError(f"{key}.{reason}" if re.match(r"\w+(=|: )", reason) else f"{key}: {reason}")
    return None


def _wrong_settings(key: str, target: str, name: str, reason: str) -> str:
    """The settings do not fit the parameters of the constructor."""
    allowed = _parameters(target)
    listed = f"Settings: {', '.join(allowed) or 'none'}."
    if unknown := re.search(r"unexpected keyword argument '([^']*)'", reason):
        hint = did_you_mean(unknown[1], allowed)
        return f"{key}.{unknown[1]}: {name} has no such setting.{hint} {listed}"
    if missing := re.search(r"missing \d+ required [^:]*: (.*)", reason):
        return f"{key}: {name} also needs {missing[1]}. Type {key}.SETTING=VALUE. {listed}"
    return f"{key}: {reason}. {listed}"


def _parameters(target: str) -> list[str]:
    """The settings of a component: the parameters of its constructor."""
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except (ImportError, TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _looks_into_a_list(error: BaseException) -> bool:
    says = re.search(r"Index '.*' .*is not an int|invalid literal for int\(\) .*'.*'", str(error))
    return isinstance(error, TypeError | ValueError) and says is not None and _raised_by(error, "omegaconf.")


def _raised_by(error: BaseException, package: str) -> bool:
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith(package)


def _tidy(message: str) -> str:
    """One paragraph without Hydra's search path and its links."""
    text = message.partition("Config search path:")[0]
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "https://" not in line)
