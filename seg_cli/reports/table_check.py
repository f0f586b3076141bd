"""Does a published table still follow from the runs? It is made again, and compared cell by cell."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.reports.table import Request, Table
from seg_cli.reports.table_formats import FORMATS, MARK, SUFFIXES

CHECKED = (".csv", ".md", ".tex", ".json")
_CSV_FIELD = re.compile(r"_(?:std|low|high|difference|p|tied)$")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Published:
    """A table as a file has it: a heading for each column, cells as they are written there."""

    headings: list[str]
    rows: list[list[str]]


def read_request(path: Path) -> Request:
    """What a published table was asked to be: from its comment, or from the headings of a CSV file.

    Raises:
        UserError: if the file cannot be read, or says nothing.
    """
    text, suffix = _read(path), path.suffix.lower()
    if suffix == ".csv":
        headings = _parse(text, suffix, path).headings
        if "split" not in headings:
            raise UserError(
                f"--check {path}: its first line is not that of a table of segrun (it has no column 'split')."
            )
        place = headings.index("split")
        columns = [name for name in headings[place + 1 :] if name != "seeds" and not _CSV_FIELD.search(name)]
        splits = {row[place] for row in _parse(text, suffix, path).rows}
        return Request(rows=tuple(headings[:place]), columns=tuple(columns), split=min(splits, default=None))
    if suffix == ".json":
        asked: Any = _parse_json(text, path).get("request")
    else:
        line = next((line for line in text.splitlines() if MARK + "{" in line), "")
        start = line.find(MARK) + len(MARK)
        try:
            asked = json.loads(line[start : line.rfind("}") + 1]) if line else None
        except ValueError:
            asked = None
    request = _request_of(asked)
    if request is None:
        raise UserError(
            f"--check {path}: it does not say how it was made; its line with '{MARK.strip()}' is gone or damaged. "
            "Type the flags that made it: --rows, --columns, --split and so on."
        )
    return request


def _request_of(asked: Any) -> Request | None:
    """A request as it stands in a file; None where it is none."""
    if not isinstance(asked, dict) or not asked.keys() <= {field.name for field in fields(Request)}:
        return None
    usual = asdict(Request())
    values: dict[str, Any] = {}
    for key, value in asked.items():
        values[key] = tuple(value) if isinstance(value, list) else value
        names = isinstance(values[key], tuple) and all(isinstance(name, str) for name in value)
        text = usual[key] is None and (value is None or isinstance(value, str))
        if not (names if isinstance(usual[key], tuple) else text or type(value) is type(usual[key])):
            return None
    return Request(**values)


def differences(path: Path, table: Table) -> list[str]:
    """Each cell, row and column of a published table that is not what the runs give, as a sentence.

    Columns that were taken out of the file are not missed; rows are. Numbers may have been rounded further.
    """
    text, suffix = _read(path), path.suffix.lower()
    published = _parse(text, suffix, path)
    now = _parse(FORMATS[SUFFIXES[suffix]](table), suffix, path)
    found = [
        f"column '{name}': the runs give no such column" for name in published.headings if name not in now.headings
    ]
    shared = [name for name in published.headings if name in now.headings]
    keys = [name for name in now.headings[: len(table.request.rows)] if name in shared]
    if not keys:
        return [
            *found,
            f"none of the columns that name a row is there: {', '.join(now.headings[: len(table.request.rows)])}",
        ]
    old, new = (_by_keys(of, keys) for of in (published, now))
    for rows, by_keys, where in ((published.rows, old, "the file"), (now.rows, new, "the table of the runs")):
        if len(by_keys) < len(rows):
            found.append(f"{where} has several rows of the same {' and '.join(keys)}")
    for row in dict.fromkeys([*old, *new]):
        if row not in new or row not in old:
            where = "the file, and not the runs" if row in old else "the runs, and not the file"
            found.append(f"row {' '.join(row)}: only {where}, has it")
    for row in [row for row in old if row in new]:
        for name in shared:
            was, gives = old[row][name], new[row][name]
            if not _agree(was, gives):
                says = f"the file says {was or 'nothing'}, the runs give {gives or 'nothing'}"
                found.append(f"row {' '.join(row)}, column {name}: {says}")
    return found


def _by_keys(table: Published, keys: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    rows = [dict(zip(table.headings, row, strict=False)) for row in table.rows]
    return {
        tuple(row.get(key, "") for key in keys): {name: row.get(name, "") for name in table.headings} for row in rows
    }


def _agree(published: str, now: str) -> bool:
    """Whether two cells say the same, the published one perhaps rounded further."""
    if published == now:
        return True
    if _NUMBER.sub("#", published) != _NUMBER.sub("#", now):
        return False
    pairs = zip(_NUMBER.findall(published), _NUMBER.findall(now), strict=True)
    return all(one == other or abs(float(one) - float(other)) <= _rounding(one, other) for one, other in pairs)


def _rounding(published: str, now: str) -> float:
    """By how much a number may differ: half of its last digit, if it has fewer than ours.

    Also what another processor makes of a sum, which is 1e-6 and never more than a thousandth part.
    """
    digits = [_decimals(text) for text in (published, now)]
    summed = min(2e-6, 1e-3 * abs(float(now))) if "." in now or "e" in now else 0.0
    return summed if digits[0] >= digits[1] else 0.5 * (10.0 ** -digits[0] + 10.0 ** -digits[1]) * (1 + 1e-9) + summed


def _decimals(number: str) -> int:
    mantissa, _, exponent = number.lower().partition("e")
    return len(mantissa.partition(".")[2]) - int(exponent or 0)


# ---- reading


def _read(path: Path) -> str:
    if path.suffix.lower() not in CHECKED:
        raise UserError(
            f"--check {path}: a table in {', '.join(CHECKED)} can be checked.{did_you_mean(path.suffix, CHECKED)}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--check {path}: the file cannot be read ({error}).") from None


def _parse(text: str, suffix: str, path: Path) -> Published:
    read = {".csv": _parse_csv, ".md": _parse_markdown, ".tex": _parse_latex}.get(suffix)
    if read is None:
        return _grid_of(_parse_json(text, path), path)
    lines = read(text)
    if len(lines) < 2:
        raise UserError(f"--check {path}: there is no table in this file.")
    return Published(lines[0], lines[1:])


def _parse_csv(text: str) -> list[list[str]]:
    return [row for row in csv.reader(text.splitlines()) if row]


def _parse_markdown(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text[max(text.find(MARK), 0) :].splitlines()]
    start = next((number for number, line in enumerate(lines) if line.startswith("|")), len(lines))
    lines = list(takewhile(lambda line: line.startswith("|"), lines[start:]))
    rows = [[" ".join(cell.split()) for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]
    return [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]


def _parse_latex(text: str) -> list[list[str]]:
    body = text[max(text.find(MARK), 0) :].partition(r"\begin{tabular}")[2].partition(r"\end{tabular}")[0]
    body = re.sub(r"(?<!\\)%.*", "", body)
    body = re.sub(r"\\(?:top|mid|bottom)rule|\\cmidrule(?:\([lr]+\))?\{[^}]*\}|\\hline", "", body)
    body = re.sub(r"^\{[^\n]*\}\s*$", "", body, count=1, flags=re.MULTILINE)
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", body) if row.strip()]
    return [[" ".join(cell.split()) for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def _parse_json(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--check {path}: the file is damaged ({error}).") from None
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        raise UserError(f"--check {path}: this is no table of segrun.")
    return value


def _grid_of(value: dict[str, Any], path: Path) -> Published:
    """The rows of the JSON form: what a row is, then a column for each number."""
    try:
        rows = [
            {str(key): str(text) for key, text in row["row"].items()}
            | {f"{name}.{key}": _short(number) for name, of in row["scores"].items() for key, number in of.items()}
            for row in value["rows"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"--check {path}: this is no table of segrun.") from None
    headings = list(dict.fromkeys(key for row in rows for key in row))
    return Published(headings, [[row.get(key, "") for key in headings] for row in rows])


def _short(number: object) -> str:
    return f"{number:.9g}" if isinstance(number, float) else json.dumps(number)
