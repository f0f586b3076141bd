"""What varies between runs: the keys that tell them apart, and axes on which each run is a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seg_cli.reports.table_rows import by_values, differences, written
from seg_cli.runs.collection import Record

_MOST_KEYS = 10
_MANY_VALUES = 8  # of a number: its axis is one of sizes, no list of what there is
_MOST_TICKS = 14
_SPREAD = 20  # from the smallest to the largest value: an axis of so many times is logarithmic


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates.

    Attributes:
        name: what it is of.
        places: where each run stands, 0 to 1; None where it has no value.
        ticks: (place, label).
    """

    name: str
    places: list[float | None]
    ticks: list[tuple[float, str]] = field(default_factory=list)


def text_of(record: Record, key: str) -> str:
    """What a run has for a key, as text; empty where it has none."""
    try:
        return written(record.value(key))
    except KeyError:
        return ""


def varying_keys(records: Sequence[Record]) -> list[str]:
    """The choices that differ between runs, then settings that tell apart what has the same choices; not the seed."""
    if len(records) < 2:
        return []
    keys = [key for key in differences(records) if any(key in record.choices for record in records)]
    groups = list(dict.fromkeys(group for record in records for group in record.choices))
    keys = [group for group in groups if group in keys]
    while len(keys) < _MOST_KEYS:
        more = next((key for own in by_values(records, keys).values() for key in differences(own)), None)
        if more is None or more in keys:
            break
        keys.append(more)
    return keys


def label_of(record: Record, keys: Sequence[str]) -> str:
    """What people call a run: what it has for the keys that vary, and its seed."""
    values = [f"{text if key in record.choices else f'{key}={text}'}" for key in keys if (text := text_of(record, key))]
    return " · ".join([*values, *([f"seed {record.seed}"] if record.seed is not None else [])])


def axes_of(
    records: Sequence[Record], keys: Sequence[str], scores: Sequence[float | None], score_name: str
) -> list[Axis]:
    """The keys of which runs differ, and their score at the right."""
    axes = []
    for key in keys:
        texts = [text_of(record, key) for record in records]
        if len(set(texts)) > 1:
            axes.append(_axis(key, texts))
    return [*axes, _numeric(score_name, list(scores))]


def _axis(name: str, texts: Sequence[str]) -> Axis:
    numbers = [_number(text) for text in texts]
    distinct = sorted(set(texts), key=lambda text: (_number(text) is None, _number(text) or 0.0, text))
    if all(number is not None for number in numbers) and len(distinct) > _MANY_VALUES:
        return _numeric(name, numbers)
    place = {text: i / max(1, len(distinct) - 1) for i, text in enumerate(distinct)}
    step = -(-len(distinct) // _MOST_TICKS)
    ticks = [(place[text], text if len(text) <= 24 else f"{text[:23]}…") for text in distinct[::step]]
    return Axis(name, [place[text] for text in texts], ticks)


def _numeric(name: str, values: Sequence[float | None]) -> Axis:
    known = [value for value in values if value is not None]
    if not known:
        return Axis(name, [None] * len(values))
    low, high = min(known), max(known)
    logarithmic = low > 0 and high / low >= _SPREAD

    def place(value: float) -> float:
        if high == low:
            return 0.5
        return math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)

    between = [low * (high / low) ** (i / 4) if logarithmic else low + (high - low) * i / 4 for i in range(5)]
    ticks = [(place(value), f"{value:.3g}") for value in (between if high > low else [low])]
    return Axis(name, [None if value is None else place(value) for value in values], ticks)


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
