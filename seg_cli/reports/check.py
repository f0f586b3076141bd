"""What ``segrun check`` says: a table of the splits and one of the classes, and a line on each finding."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seg_cli.config.visible import visible

_LISTED = 10  # findings of a kind
_CLASSES = 40  # of more, the table shows the ends
_STYLES = {"error": "bold red", "warning": "yellow"}


def tables(report: Mapping[str, Any]) -> RenderableType:
    """The splits, and the share of each class in each of them with the weights that follow.

    Args:
        report: what check.json holds.
    """
    return Group(_split_table(report["splits"]), "", _class_table(report), "")


def finding_lines(findings: Sequence[Mapping[str, Any]], where: str) -> Text:
    """A line a finding, at most ten of a kind.

    Print it with ``soft_wrap=True``, so that paths stay whole and can be copied.

    Args:
        findings: of check.json, in its order.
        where: the file that holds all of them.
    """
    by_kind: dict[tuple[str, str], list[str]] = defaultdict(list)
    for finding in findings:
        by_kind[finding["level"], finding["kind"]].append(finding["message"])
    text = Text()
    for (level, _), messages in by_kind.items():
        for message in messages[:_LISTED]:
            text.append(f"{level:<7}  ", style=_STYLES[level]).append(f"{visible(message)}\n")
        if len(messages) > _LISTED:
            text.append(f"{'':<7}  and {len(messages) - _LISTED:,} more in {where}\n", style="dim")
    return text


def numbers_of(findings: Sequence[Mapping[str, Any]]) -> str:
    """``2 errors and 1 warning``."""
    parts = []
    for level in _STYLES:
        number = sum(finding["level"] == level for finding in findings)
        if number:
            parts.append(f"{number:,} {level}" + ("" if number == 1 else "s"))
    return " and ".join(parts) or "no finding"


def _split_table(splits: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("split", overflow="fold")
    for heading in ("images", "usable", "groups", "void"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("height x width", no_wrap=True)
    for name, split in splits.items():
        sizes = list(split["sizes"])
        more = f" and {len(sizes) - 2} more" if len(sizes) > 2 else ""
        groups = f"{len(split['groups']):,}" if split["groups"] else "–"
        usable = f"{split['usable']:,}"
        table.add_row(
            Text(visible(name)),
            f"{split['images']:,}",
            Text(usable, style="" if split["usable"] == split["images"] else "red"),
            groups,
            f"{split['void']['share']:.1%}",
            ", ".join(sizes[:2]) + more,
        )
    return table


def _class_table(report: Mapping[str, Any]) -> Table:
    splits, weights = report["splits"], report["weights"]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in splits:
        table.add_column(Text(f"share of\n{visible(name)}"), justify="right", no_wrap=True)
    schemes = [scheme for scheme, values in weights["schemes"].items() if values]
    for scheme in schemes:
        table.add_column(f"weight\n{scheme.replace('_', ' ')}", justify="right", no_wrap=True)
    for name in _shown(report):
        if name is None:
            table.add_row("...")
            continue
        shares = [_share(split["classes"][name]) for split in splits.values()]
        table.add_row(Text(visible(name)), *shares, *(f"{weights['schemes'][scheme][name]:.3g}" for scheme in schemes))
    return table


def _shown(report: Mapping[str, Any]) -> list[str | None]:
    """The classes of the table; of many the commonest and the rarest of training, with None between them."""
    names = list(report["labels"]["classes"])
    if len(names) <= _CLASSES:
        return list(names)
    first = next(iter(report["splits"].values()))["classes"]
    ranked = sorted(names, key=lambda name: -first[name]["pixels"])
    return [*ranked[:10], None, *ranked[-20:]]


def _share(of: Mapping[str, Any]) -> Text:
    if not of["pixels"]:
        return Text("none", style="yellow")
    return Text(f"{of['share']:.1%}" if of["share"] >= 0.0005 else "<0.1%")
