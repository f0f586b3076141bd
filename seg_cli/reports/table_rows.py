"""The rows of a table: which runs belong together, and whether runs can be compared at all.

A row is the seeds of one experiment. What differs inside a row besides the seed, and what makes scores incomparable, is
refused with the difference named: a mean over two learning rates, or a test on other images, says nothing.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from seg_cli.config.flat import flat
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.runs.collection import Collection, Record
from seg_cli.runs.fingerprint import _DECIDES, _DECIDES_IN, _NEVER

ALLOWED = ("data", "void", "resolution", "pretrained")
"""Differences between runs that --allow takes."""

NOTHING = "–"
"""What a cell says where there is nothing to say."""

_SCORED_BY = ("tta", "inference", "postprocess")
_MOST_KEYS = 6
_Ask = Callable[[Record], Hashable]
_NAMES = {*_DECIDES, *_DECIDES_IN} - {"seed"}
"""Sections of a configuration that decide a result."""


@dataclass(frozen=True)
class Row:
    """The seeds of one experiment.

    Attributes:
        values: key -> what it is in all of these runs, as text.
        runs: one a seed, sorted by seed.
    """

    values: dict[str, str]
    runs: list[Record]

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.values.items())


def written(value: object) -> str:
    """A setting as one would type it; what is no text as JSON has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- which runs


def filtered(collection: Collection, filters: Iterable[str]) -> Collection:
    """The runs of which every ``key=value`` (or one of ``key=value,value``) is true.

    Raises:
        UserError: for a key that no run has, or if no run is left.
    """
    records = collection.records
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(
                f"--filter {text}: it is written as key=value, as in --filter model=unet optimizer.lr=0.001."
            )
        collection.check_key(key, f"--filter {text}")
        known = list(dict.fromkeys(_text(record, key) for record in records))
        records = [record for record in records if _matches(_text(record, key), value)]
        if not records:
            some = ", ".join(sorted(known)[:8])
            raise UserError(f"--filter {text}: no run has that.{did_you_mean(value, known)} There are: {some}.")
    return Collection(records, collection.unreadable)


def _matches(found: str, asked: str) -> bool:
    return any(found == one or _same_number(found, one) for one in (asked, *asked.split(",")))


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _text(record: Record, key: str) -> str:
    try:
        return written(record.value(key))
    except KeyError:
        return NOTHING


# ---- which rows


def default_keys(records: Sequence[Record], allow: Sequence[str] = ()) -> list[str]:
    """The choices that differ between runs, then those settings that tell apart what has the same choices."""
    records = _representatives(records)
    keys = [key for key in differences(records) if any(key in record.choices for record in records)]
    if "encoder" in keys and "model" in keys and not _splits(records, ["model"], "encoder"):
        keys.remove("encoder")  # each model comes with its own
    if "pretrained" not in allow and any(len(_first_by(own, ask)) > 1 for own, ask in _pretraining(records)):
        keys.append("pretrained")
    keys = keys or ["model"]
    while len(keys) <= _MOST_KEYS:
        more = next((key for own in by_values(records, keys).values() for key in differences(own)), None)
        if more is None:
            return keys
        keys.append(more)
    raise UserError(
        f"--rows: these runs differ in more than {_MOST_KEYS} things ({', '.join(keys)}, ...). Say which make a row, "
        "as in --rows model,loss, and take some of the runs with --filter key=value."
    )


def _splits(records: Sequence[Record], keys: Sequence[str], key: str) -> bool:
    """Whether runs that agree in ``keys`` differ in ``key``."""
    return any(len({_text(record, key) for record in own}) > 1 for own in by_values(records, keys).values())


def by_values(records: Iterable[Record], keys: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    """The runs by what they are in these keys."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(_text(record, key) for key in keys), []).append(record)
    return found


def make_rows(records: Sequence[Record], keys: Sequence[str], *, allow: Sequence[str] = ()) -> tuple[list[Row], int]:
    """Put runs together that agree in ``keys``.

    Returns:
        The rows, and how many runs were left out because a newer one has the same seed and fingerprint.

    Raises:
        UserError: if the runs of a row differ in more than the seed.
    """
    rows, older = [], 0
    for values, own in by_values(records, keys).items():
        row = Row(dict(zip(keys, values, strict=True)), own)
        if "seed" not in keys:
            _check_row(row, allow)
        seeds: list[Record] = []
        in_order = sorted(own, key=lambda record: (_number(record.seed), record.dates[1], str(record.folder)))
        for _, same in groupby(in_order, key=lambda record: record.seed):
            *earlier, newest = same
            for record in earlier:
                _check_same(row, record, newest)
            older += len(earlier)
            seeds.append(newest)
        rows.append(Row(row.values, seeds))
    return rows, older


def _number(seed: Any) -> float:
    return float(seed) if isinstance(seed, int | float) else -1.0


def _check_row(row: Row, allow: Sequence[str]) -> None:
    found = differences(row.runs)
    weights = _first_by(row.runs, lambda record: _text(record, "pretrained"))
    if "pretrained" not in allow and len(weights) > 1 and not found:
        found = {"pretrained": {str(value): record for value, record in weights.items()}}
    contents = list(_first_by(row.runs, _content).values())
    if "data" not in allow and len(contents) > 1 and not found:
        raise UserError(
            f"{row.name}: the content of the dataset differs ({contents[0].folder} and {contents[1].folder}). A mean "
            "over both says nothing; to show it all the same, type --allow data."
        )
    if not found:
        return
    key, values = next(iter(found.items()))
    (first, one), (second, other), *_ = values.items()
    more = f" (and in {', '.join(list(found)[1:4])})" if len(found) > 1 else ""
    rows = ",".join([*row.values, key])
    raise UserError(
        f"{row.name}: its runs differ in more than the seed: {key} is {first} in {one.folder} and {second} in "
        f"{other.folder}{more}. Make it a row (--rows {rows}), or take some of the runs (--filter '{key}={first}')."
    )


def _check_same(row: Row, record: Record, newest: Record) -> None:
    """Whether two runs of one seed are the same run done twice."""
    prints = [(one.results or {}).get("fingerprint") for one in (record, newest)]
    if prints[0] == prints[1]:
        return
    versions = [str(one.environment.get("version")) for one in (record, newest)]
    why = f"segrun {versions[0]} and {versions[1]}" if versions[0] != versions[1] else "by their fingerprints"
    raise UserError(
        f"{row.name}: {record.folder} and {newest.folder} have the same seed {record.seed} and are not the same "
        f"experiment ({why}). Take one of them away, or name folders without it."
    )


# ---- what differs


def differences(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """What decides a result, besides the seed, and is not the same in all of these runs: choices, and settings.

    Where another choice was made in a group, that is the difference, and not each of the settings that come with it.

    Returns:
        key -> value as text -> the first run that has it. Choices come first.
    """
    records = _representatives(records)
    if len(records) < 2:
        return {}
    by_section: dict[str, dict[int | None, Record]] = {name: {} for name in _NAMES}
    for record in records:
        here = {record.all_sections.key(number): number for number in record.sections}
        for name, first in by_section.items():
            first.setdefault(here.get(name), record)
    settings: dict[str, dict[str, Record]] = {}
    for name, first in by_section.items():
        if len(first) > 1:
            settings |= _unequal([(_settings(name, record.config.get(name)), record) for record in first.values()])
    chosen = _unequal([(record.choices, record) for record in records])
    scored = _SCORED_BY if any(record.evaluation for record in records) else ()
    by_choice = {
        group: values
        for group, values in chosen.items()
        if group in scored or any(key.startswith(f"{group}.") for key in settings)
    }
    keys = [key for key in settings if key.partition(".")[0] not in by_choice]
    return by_choice | {
        # model.encoder.name is encoder.name again
        key: settings[key]
        for key in sorted(keys, key=lambda key: (key.count("."), key))
        if not any(key.endswith(f".{other}") for other in settings)
    }


def _representatives(records: Iterable[Record]) -> list[Record]:
    """The first of those runs that were made and scored in the same way, but for the seed."""
    decides: dict[int, bool] = {}
    found: dict[Any, Record] = {}
    for record in records:
        for number in record.sections:
            if number not in decides:
                decides[number] = record.all_sections.key(number) in _NAMES
        own = tuple(number for number in record.sections if decides[number])
        found.setdefault((own, tuple(record.choices.items()), _text(record, "pretrained")), record)
    return list(found.values())


def _unequal(known: Sequence[tuple[Mapping[str, Any], Record]]) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    for key in dict.fromkeys(key for own, _ in known for key in own):
        values: dict[str, Record] = {}
        for own, record in known:
            values.setdefault(written(own.get(key)), record)
        if len(values) > 1:
            found[key] = values
    return found


def _settings(name: str, section: Any) -> dict[str, Any]:
    """The settings of a section of the config that decide a result, by dotted key; no path of weights."""
    if isinstance(section, Mapping):
        keys = _DECIDES_IN.get(name) or tuple(section)
        section = {key: section.get(key) for key in keys if key not in _NEVER.get(name, ())}
    settings = flat({name: section}) if section is not None else {}
    return {key: value for key, value in settings.items() if key.rpartition("encoder.")[2] != "weights"}


def confounded(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, list[str]]:
    """Settings that differ between rows and are none of what the rows are named by: key -> values.

    What comes with a choice that is a row (the settings of a model in a table of models) is not among them.
    """
    first = [row.runs[0] for row in rows]
    named = {key.partition(".")[0] for key in keys}
    return {
        key: list(values)
        for key, values in differences(first).items()
        if key not in keys and key.partition(".")[0] not in named
    }


# ---- what cannot be compared


def check_comparable(rows: Sequence[Row], split: str, keys: Sequence[str], allow: Sequence[str]) -> list[str]:
    """What is different although it should not be, and was allowed, as sentences.

    Raises:
        UserError: for what was not allowed.
    """
    for what in allow:
        if what not in ALLOWED:
            raise UserError(
                f"--allow {what}: there is no such difference.{did_you_mean(what, ALLOWED)} There are: "
                f"{', '.join(ALLOWED)}."
            )
    records = [record for row in rows for record in row.runs]
    said: dict[str, str] = {}
    for what, sentence in _incomparable(records, split, keys):
        if what not in allow:
            raise UserError(
                f"{what}: {sentence}. Such numbers cannot be compared; to show them all the same, type --allow {what}."
            )
        said.setdefault(what, f"Allowed: {what} differs. {sentence[0].upper()}{sentence[1:]}.")
    return list(said.values())


def _incomparable(records: Sequence[Record], split: str, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    def of(record: Record) -> dict[str, Any]:
        scores: dict[str, Any] = (record.results or {})["splits"][split]
        return scores

    def pixels(record: Record) -> tuple[tuple[str, Any], ...]:
        return tuple((name, values.get("pixels")) for name, values in of(record)["classes"].items())

    start = "what the models started from differs ({0} in {1}, {2} in {3})"
    checks: list[tuple[str, str, Sequence[Record], _Ask]] = [
        ("void", "void pixels are counted differently ({0} in {1}, {2} in {3})", records, lambda r: of(r).get("void")),
        ("data", "the classes differ ({0} in {1}, {2} in {3})", records, lambda r: tuple(of(r)["classes"])),
        ("data", "the number of images differs ({0} in {1}, {2} in {3})", records, lambda r: of(r).get("images")),
        ("resolution", "images are scored at different sizes ({0} in {1}, {2} in {3})", records, _size),
        ("data", "the labels differ (pixels of the classes: {0} in {1}, {2} in {3})", records, pixels),
        ("data", "the content of the dataset differs ({1} and {3})", records, _content),
    ]
    if not {"pretrained", "encoder.weights"} & {*keys}:
        checks += [("pretrained", start, own, ask) for own, ask in _pretraining(records)]
    for what, sentence, own, ask in checks:
        values = _first_by(own, ask)
        if len(values) > 1:
            (first, one), (second, other), *_ = values.items()
            yield what, sentence.format(*_shown(first, second), one.folder, *_shown(second, first), other.folder)


def _shown(value: Any, other: Any) -> list[str]:
    """A value in a message; of a long list, the first parts that the other has not."""
    if not isinstance(value, tuple):
        return [str(value)]
    only = [part for part in value if part not in other] or ["no others"]
    return [", ".join(" ".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in only[:3])]


def _first_by(records: Iterable[Record], ask: _Ask) -> dict[Any, Record]:
    """What the runs say, with the first that says it; those that do not know are left out."""
    found: dict[Any, Record] = {}
    for record in records:
        value = ask(record)
        if value is not None:
            found.setdefault(value, record)
    return found


def data_of(record: Record) -> Mapping[str, Any]:
    """What results.json says of the dataset; empty in runs that say nothing."""
    data = (record.results or {}).get("data")
    return data if isinstance(data, Mapping) else {}


def _content(record: Record) -> str | None:
    content = data_of(record).get("content")
    return None if content is None else str(content)


def _size(record: Record) -> str | None:
    size = data_of(record).get("image_size")
    return " x ".join(map(str, size)) if isinstance(size, list) else None


def _pretraining(records: Sequence[Record]) -> list[tuple[list[Record], _Ask]]:
    """Which runs should say the same of how they were pretrained: all whether, those of one encoder with what."""

    def whether(record: Record) -> str:
        pretrained = _text(record, "pretrained")
        return pretrained if pretrained in ("none", NOTHING) else "pretrained weights"

    same = by_values(records, ["encoder"])
    own = ("own",)  # each such model has another encoder
    parts = [of for name, of in same.items() if name != own] + list(by_values(same.get(own, []), ["model"]).values())
    return [(list(records), whether), *((of, lambda record: _text(record, "pretrained")) for of in parts)]
