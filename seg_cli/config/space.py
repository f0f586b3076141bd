"""The space of a search: which settings of a run a trial draws, from what, and under which conditions.

.. code-block:: yaml

    space:
      optimizer.lr: {low: 1e-4, high: 1e-2, log: true}      # or nested, as sections of a config are
      loader.batch_size: {low: 4, high: 16, step: 4}        # whole numbers, since low and high are
      loss: [ce, dice+focal, ce+2*dice]                     # choices of a group, sums, or values of a setting
      model.decoder_channels:
        choices: [[64, 32, 16, 16, 8], [256, 128, 64, 32, 16]]
        when: {model: unet}                                 # drawn where an earlier parameter has this value
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError

_WORDS = ("low", "high", "log", "step", "type", "choices", "when", "key")
_TYPES = ("int", "float")
_COUNTABLE = 10_000


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``whole`` ones, in steps, or evenly on a logarithmic scale."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    @property
    def values(self) -> tuple[float, ...] | None:
        """All of them; None where there are too many to count."""
        step = self.step or (1 if self.whole else None)
        if step is None or (self.high - self.low) / step > _COUNTABLE:
            return None
        count = round((self.high - self.low) / step) + 1
        return tuple(type(self.low)(self.low + i * step) for i in range(count))


@dataclass(frozen=True)
class Choices:
    """One of some values, which may be of any kind."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Parameter:
    """One dimension of the space.

    Attributes:
        name: in the space; several parameters may be of one setting under different conditions.
        key: the setting or group that it sets.
        source: what it is drawn from.
        when: name of an earlier parameter -> values under which this one is drawn; empty: always.
    """

    name: str
    key: str
    source: Range | Choices
    when: Mapping[str, tuple[Any, ...]]

    def active(self, drawn: Mapping[str, Any]) -> bool:
        """Whether it is drawn, after what was drawn before it."""
        return all(name in drawn and drawn[name] in values for name, values in self.when.items())

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that stand for all: the choices, or the ends of the range."""
        source = self.source
        return (
            source.values
            if isinstance(source, Choices)
            else (_number(source.low, source), _number(source.high, source))
        )


class Space:
    """The parameters of a search, in the order in which they are drawn."""

    def __init__(self, parameters: list[Parameter]) -> None:
        self.parameters = parameters

    @classmethod
    def parse(cls, settings: object, *, where: str = "sweep.space") -> "Space":
        """Read a space from what stands in a YAML file.

        Args:
            settings: the mapping of names, dotted or nested, to lists of choices or mappings (see above).
            where: the key of the mapping, for errors.

        Raises:
            UserError: for what is not known, empty, or cannot be drawn from; names the full key.
        """
        parameters: list[Parameter] = []
        for name, value in _leaves(settings, "", where):
            known = {parameter.name: parameter for parameter in parameters}
            if name in known:
                raise UserError(f"{where}.{name}: the parameter stands there twice.")
            parameters.append(_parameter(name, value, known, f"{where}.{name}"))
        if not parameters:
            raise UserError(
                f"{where}: it is empty. A search needs a parameter, as in optimizer.lr: {{low: 1e-4, high: 0.1}}."
            )
        for parameter in parameters:
            same = [other for other in parameters if other.key == parameter.key]
            if len(same) > 1 and not all(other.when for other in same):
                names = " and ".join(other.name for other in same)
                raise UserError(
                    f"{where}: {names} set the same, {parameter.key}. Give each a condition: when: {{NAME: VALUE}}."
                )
        return cls(parameters)

    def draw(self, suggest: Callable[[Parameter], Any]) -> dict[str, Any]:
        """A point: name -> value, of the parameters whose conditions hold.

        Args:
            suggest: gives a value of a parameter.
        """
        drawn: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.active(drawn):
                drawn[parameter.name] = suggest(parameter)
        return drawn

    def overrides(self, drawn: Mapping[str, Any]) -> list[str]:
        """A point as one writes it on the command line."""
        return [
            override(parameter.key, drawn[parameter.name]) for parameter in self.parameters if parameter.name in drawn
        ]

    def examples(self) -> Iterator[dict[str, Any]]:
        """Few points in which every choice and both ends of every range occur once at least."""
        missing = {parameter.name: list(parameter.examples) for parameter in self.parameters}
        while wanted := next((parameter for parameter in reversed(self.parameters) if missing[parameter.name]), None):
            point = self._around(wanted, missing)
            for name, value in point.items():
                if value in missing[name]:
                    missing[name].remove(value)
            yield point

    def _around(self, wanted: Parameter, missing: Mapping[str, list[Any]]) -> dict[str, Any]:
        """A point in which a parameter has a missing value, and as many others as can be have one too."""
        fixed = {wanted.name: missing[wanted.name][0]}
        for parameter in reversed(self.parameters):
            if parameter.name in fixed:
                for name, values in parameter.when.items():
                    fixed.setdefault(name, next((value for value in values if value in missing[name]), values[0]))
        return self.draw(lambda of: fixed.get(of.name, (missing[of.name] or of.examples)[0]))

    def combinations(self) -> list[dict[str, Any]] | None:
        """All points, where they can be counted; None where a range is continuous."""
        if any(parameter.source.values is None for parameter in self.parameters):
            return None
        points: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            values = parameter.source.values or ()
            points = [
                point | more
                for point in points
                for more in ([{parameter.name: value} for value in values] if parameter.active(point) else [{}])
            ]
        return points

    def count(self) -> float:
        """How many points there are at most, conditions aside; infinite where a range is continuous."""
        sizes = [parameter.source.values for parameter in self.parameters]
        return math.inf if None in sizes else math.prod(len(values or ()) for values in sizes)

    def describe(self) -> dict[str, Any]:
        """The space as plain values, in one form however it was written: what tells two spaces apart."""
        described: dict[str, Any] = {}
        for parameter in self.parameters:
            source = parameter.source
            of: dict[str, Any] = {"key": parameter.key} if parameter.key != parameter.name else {}
            if isinstance(source, Choices):
                of["choices"] = list(source.values)
            else:
                of |= {"low": source.low, "high": source.high, "type": "int" if source.whole else "float"}
                of |= {"log": True} if source.log else {}
                of |= {"step": source.step} if source.step is not None else {}
            if parameter.when:
                of["when"] = {name: list(values) for name, values in parameter.when.items()}
            described[parameter.name] = of
        return described


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it; text is quoted only where it must be."""
    text = written(value)
    if isinstance(value, str):
        try:
            plain = OverridesParser.create().parse_override(f"{key}={text}")
            if not plain.is_sweep_override() and plain.value() == value:
                return f"{key}={text}"
        except HydraException:
            pass
        text = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{key}={text}"


def written(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "[" + ",".join(override("k", item)[2:] for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{override('k', item)[2:]}" for name, item in value.items()) + "}"
    return "null" if value is None else json.dumps(value)


# ---- reading


def _leaves(settings: object, prefix: str, where: str) -> Iterator[tuple[str, object]]:
    """Dotted names of parameters, and what stands there."""
    if not isinstance(settings, Mapping):
        raise UserError(
            f"{where}={written(settings)}: it must name parameters, as in optimizer.lr: {{low: 1e-4, high: 0.1}}."
        )
    for name, value in settings.items():
        full = f"{prefix}{name}"
        if isinstance(value, list) or (isinstance(value, Mapping) and _describes(value)):
            yield full, value
        elif isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{full}.", where)
        else:
            raise UserError(
                f"{where}.{full}={written(value)}: a parameter is a list of choices, as in [ce, dice], or a range, as "
                f"in {{low: 1e-4, high: 0.1, log: true}}.{did_you_mean(str(name), _WORDS)}"
            )


def _describes(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is a parameter and not a section; a section may have a setting named ``low``."""
    return any(word in value and (word == "when" or not isinstance(value[word], Mapping)) for word in _WORDS)


def _parameter(name: str, value: object, known: Mapping[str, Parameter], where: str) -> Parameter:
    settings: Mapping[str, Any] = value if isinstance(value, Mapping) else {"choices": value}
    for word in settings:
        if word not in _WORDS:
            raise UserError(
                f"{where}.{word}: there is no such key.{did_you_mean(str(word), _WORDS)} Keys: {', '.join(_WORDS)}."
            )
    key = settings.get("key", name)
    if not isinstance(key, str) or not key:
        raise UserError(f"{where}.key={written(key)}: it must be the key of a setting, as in optimizer.lr.")
    source = _choices(settings, where) if "choices" in settings else _range(settings, where)
    return Parameter(name, key, source, _conditions(settings.get("when"), known, where))


def _choices(settings: Mapping[str, Any], where: str) -> Choices:
    others = [word for word in settings if word not in ("choices", "when", "key")]
    if others:
        raise UserError(
            f"{where}: it has choices, so that {' and '.join(others)} say nothing. Remove one or the other."
        )
    values = settings["choices"]
    if not isinstance(values, list):
        raise UserError(f"{where}.choices={written(values)}: it must be a list, as in [ce, dice].")
    if not values:
        raise UserError(f"{where}: there are no choices. Write some, as in [ce, dice].")
    for i, value in enumerate(values):
        if written(value) in map(written, values[:i]):
            raise UserError(f"{where}: {written(value)} stands there twice.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {value} is no finite number.")
    return Choices(tuple(values))


def _range(settings: Mapping[str, Any], where: str) -> Range:
    for word in ("low", "high"):
        if word not in settings:
            raise UserError(f"{where}.{word}: a range needs it, as in {{low: 1e-4, high: 0.1}}.")
    for word in ("low", "high", "step"):
        value = settings.get(word)
        if not _is_number(value) and not (word == "step" and value is None):
            raise UserError(f"{where}.{word}={written(value)}: it must be a number.")
    low, high, step, log = settings["low"], settings["high"], settings.get("step"), settings.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{where}.log={written(log)}: it must be true or false.")
    kind = settings.get("type", "int" if all(isinstance(v, int) for v in (low, high, step or 0)) else "float")
    if kind not in _TYPES:
        raise UserError(f"{where}.type={written(kind)}: it must be int or float.{did_you_mean(str(kind), _TYPES)}")
    whole = kind == "int"
    if whole and not all(float(v).is_integer() for v in (low, high, step or 0)):
        raise UserError(f"{where}: low, high and step of type int must be whole numbers.")
    number = int if whole else float
    low, high, step = number(low), number(high), None if step is None else number(step)
    if low >= high:
        raise UserError(
            f"{where}: the interval from {written(low)} to {written(high)} is empty; low must be below high. To fix a "
            f"setting, write it on the command line, as in {where.partition('.space.')[2]}={written(low)}."
        )
    if log and low <= 0:
        raise UserError(f"{where}.low={written(low)}: on a logarithmic scale it must be above 0.")
    if log and step is not None:
        raise UserError(f"{where}: log and step do not go together. Remove one.")
    if step is not None and not 0 < step <= high - low:
        raise UserError(
            f"{where}.step={written(step)}: it must be above 0 and at most {written(high - low)}, high - low."
        )
    if step is not None:  # the last step that is in the interval
        high = number(low + math.floor((high - low) / step + 1e-9) * step)
    return Range(low, high, whole, log, step)


def _conditions(when: object, known: Mapping[str, Parameter], where: str) -> dict[str, tuple[Any, ...]]:
    if when is None:
        return {}
    if not isinstance(when, Mapping):
        raise UserError(
            f"{where}.when={written(when)}: it must name a parameter and its values, as in {{model: unet}}."
        )
    conditions: dict[str, tuple[Any, ...]] = {}
    for name, value in when.items():
        if name not in known:
            there = f" There are: {', '.join(known)}." if known else ""
            raise UserError(
                f"{where}.when.{name}: no parameter above has this name.{did_you_mean(str(name), known)}{there}"
            )
        values = tuple(value) if isinstance(value, list) else (value,)
        allowed = known[name].source.values
        for one in values:
            if allowed is None or one not in allowed:
                said = did_you_mean(str(one), map(str, allowed or ()))
                listed = f" Its values: {', '.join(map(written, allowed))}." if allowed else " It has no single values."
                raise UserError(f"{where}.when.{name}={written(one)}: {name} never has this value.{said}{listed}")
        conditions[str(name)] = values
    return conditions


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float, of: Range) -> float:
    return int(value) if of.whole else float(value)
