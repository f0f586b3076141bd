"""What stands below a table: what was measured, on what, how bold was decided, and what was left out and why."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from seg_cli.reports.table_columns import Column
from seg_cli.reports.table_findings import Findings
from seg_cli.reports.table_rows import NOTHING, Row, confounded, data_of
from seg_cli.runs.collection import Collection, Record

if TYPE_CHECKING:
    from seg_cli.reports.table import Request

_SPEEDS = ("images_per_second", "train_seconds", "data_wait", "peak_memory_bytes")
_SOME = 3

_ABOUT_INTERVALS = re.compile(r"[\d.]+% intervals: |Intervals ")
"""Notes of ``statistics.notes`` that are out of place under a table without intervals."""


def notes_of(
    found: Collection,
    rows: Sequence[Row],
    columns: Sequence[Column],
    findings: Findings,
    request: "Request",
    *,
    allowed: Sequence[str],
    older: int,
) -> list[str]:
    """The sentences, most important first.

    Args:
        found: all runs that there were.
        allowed: what was allowed although it should not be, as sentences.
        older: runs that were left out because a newer one is the same.
    """
    records = [record for row in rows for record in row.runs]
    return [
        *allowed,
        *_measured(records, findings, request),
        *_confounds(rows, request),
        _seeds(rows, findings),
        *(note for note in findings.notes if "ci" in request.show or not _ABOUT_INTERVALS.match(note)),
        *_plain(columns, findings),
        *findings.untested,
        *_made(records, columns),
        *_left_out(found, request, older),
    ]


def _measured(records: Sequence[Record], findings: Findings, request: "Request") -> list[str]:
    split = str(request.split)
    scores = [(record.results or {})["splits"][split] for record in records]
    parts = [f"{_some(of.get('images') for of in scores)} images of {split}"]
    if findings.groups:
        parts[0] += f" in {findings.groups} groups"
    sizes = {" × ".join(map(str, size)) for r in records if isinstance(size := data_of(r).get("image_size"), list)}
    if sizes:
        parts.append(f"the first of {_some(sizes)} pixels")
    voids = {of.get("void", "ignored") for of in scores}
    parts.append(
        "void pixels "
        + " or ".join(
            {"ignored": "ignored", "false_positive": "counted as wrong"}.get(v, str(v)) for v in sorted(voids)
        )
    )
    if any(of.get("labels") == "overlapping" for of in scores):
        parts.append("labels overlap")
    train = {data_of(record)["train_images"] for record in records if "train_images" in data_of(record)}
    if train:
        parts.append(f"trained on {_some(train)} images")
    data = {record.choices.get("data", "") for record in records}
    pretrained = {str((record.results or {}).get("pretrained", NOTHING)) for record in records}
    notes = [f"Data {_some(data)}: {', '.join(parts)}. Pretraining: {_some(pretrained)}."]
    if request.evaluation:
        notes.append(f"Scores of eval/{request.evaluation}, not those of the runs themselves.")
    missing = [record for record in records if record.results and "content" not in data_of(record)]
    if missing:
        notes.append(
            f"Of {len(missing)} runs it is not known what their data holds; images and pixels of the classes agree."
        )
    return notes


def _confounds(rows: Sequence[Row], request: "Request") -> list[str]:
    found = confounded(rows, request.rows)
    if not found:
        return []
    named = [f"{key} ({_some(values)})" for key, values in found.items()]
    more = f" and {len(named) - 2 * _SOME} more" if len(named) > 2 * _SOME else ""
    return [f"Rows also differ in {', '.join(named[: 2 * _SOME])}{more}."]


def _seeds(rows: Sequence[Row], findings: Findings) -> str:
    counts = sorted({len(row.runs) for row in rows})
    few = f"{counts[0]} to {counts[-1]} seeds a row. " if counts[0] != counts[-1] else ""
    return few + findings.seeds_note


def _plain(columns: Sequence[Column], findings: Findings) -> list[str]:
    names = [column.heading for column in columns if column.id not in findings.of and column.spread]
    return [f"Without test, and never bold: {', '.join(names)}."] if names and findings.of else []


def _made(records: Sequence[Record], columns: Sequence[Column]) -> list[str]:
    dates = sorted(date[:10] for record in records for date in record.dates if date)
    when = f" {dates[0]}" if dates else ""
    when += f" to {dates[-1]}" if dates and dates[-1] != dates[0] else ""
    hardware = Counter(record.environment.get("hardware") or "unknown hardware" for record in records)
    programs = Counter(_program(record) for record in records)
    count = f"{len(records)} run{'s' * (len(records) > 1)}"
    notes = [f"{count},{when or ' without date'}, on {_some(hardware)}; {_some(programs)}."]
    speeds = [column.heading for column in columns if column.id in _SPEEDS]
    if speeds and len(hardware) > 1:
        notes.append(f"{', '.join(speeds)}: measured on different hardware, and not comparable.")
    return notes


def _program(record: Record) -> str:
    """``segrun 0.1.0 (commit 1a2b3c, changed)``."""
    about = record.environment
    known = [f"commit {str(about['commit'])[:10]}"] if about.get("commit") else []
    where = f" ({', '.join([*known, *(['changed'] if about.get('changed') else [])])})" if known else ""
    return f"segrun {about.get('version') or 'of an unknown version'}{where}"


def _left_out(found: Collection, request: "Request", older: int) -> list[str]:
    notes = []
    damaged = [record for record in found.records if record.problem]
    if damaged:
        notes.append(
            f"Left out: {len(damaged)} damaged: {'; '.join(str(r.problem) for r in damaged[:_SOME])}{_more(damaged)}."
        )
    unfinished = [record for record in found.records if not record.problem and not record.finished]
    states = Counter(
        record.state if record.results or record.state != "finished" else "without these scores"
        for record in unfinished
    )
    if states:
        said = ", ".join(f"{count} {state}" for state, count in states.items())
        where = ", ".join(str(record.folder) for record in unfinished[:_SOME])
        notes.append(f"Left out: {said} ({where}{_more(unfinished)}).")
    other = [r for r in found.records if r.finished and request.split not in (r.results or {})["splits"]]
    if other:
        notes.append(f"Left out: {len(other)} without scores on {request.split} ({other[0].folder}{_more(other[2:])}).")
    if older:
        notes.append(f"Left out: {older} of which a newer run has the same seed and fingerprint.")
    if found.unreadable:
        notes.append(f"Not looked into: {'; '.join(found.unreadable[:_SOME])}{_more(found.unreadable)}.")
    return notes


def _more(items: Sequence[Any]) -> str:
    return f" and {len(items) - _SOME} more" if len(items) > _SOME else ""


def _some(values: Iterable[Any]) -> str:
    """The different ones, up to a few."""
    different = sorted({str(value) for value in values})
    return ", ".join(different[:_SOME]) + _more(different)
