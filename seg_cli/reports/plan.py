"""What ``segrun plan`` prints, from what plan.json holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seg_cli.training.progress import format_clock

_MEMORY = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "average": "averaged weights",
    "activations": "activations",
    "total": "in all",
}


def plan_tables(report: Mapping[str, Any]) -> RenderableType:
    """Stages, parts of the model, memory, and totals."""
    return Group(
        _stages(report), "", _parts(report["parts"]), "", _memory(report["memory"]), "", _total(report), _notes(report)
    )


def _table(*headings: str, left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right", no_wrap=True)
    return table


def _stages(report: Mapping[str, Any]) -> Table:
    spans = report["stages"]
    timed = spans[0]["seconds"] is not None
    processes, accumulate = report["processes"], report["accumulate"]
    several = "" if processes * accumulate == 1 else f"\nx {processes} x {accumulate}"
    headings = ["epochs", "size\nH x W", f"batch{several}", "lr\nfactor", "steps", "GFLOPs"]
    table = _table(*headings, *(["s/step", "time\nm:ss"] if timed else []), "frozen", left=1)
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    for span in spans:
        row = [
            _range(span["first"], span["last"]),
            "x".join(map(str, span["size"])),
            str(span["batch_size"]),
            f"{span['lr_factor']:g}",
            f"{span['steps']:,}",
            f"{span['flops'] / 1e9:,.0f}",
        ]
        if timed:
            row += [f"{span['seconds_a_step']:.3g}", format_clock(span["seconds"])]
        table.add_row(*row, Text(_frozen(span, report["parts"])))
    return table


def _parts(parts: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("part", "parameters", "lr factor", "highest lr", "learns in epochs")
    table.columns[-1].justify = "left"
    for part in parts:
        learns = ", ".join(_range(first, last) for first, last in part["learns"]) or "none"
        table.add_row(
            Text(part["part"]), f"{part['parameters']:,}", f"{part['lr_factor']:.3g}", f"{part['lr']:.3g}", learns
        )
    return table


def _memory(memory: Mapping[str, Any]) -> Table:
    where = {"cuda": "GPU memory", "cpu": "main memory, besides the program's own"}.get(memory["device"], "memory")
    size = "x".join(map(str, memory["size"]))
    table = _table(f"{where}\na process, about", f"{memory['batch_size']} samples\nof {size}")
    for key, words in _MEMORY.items():
        if memory[key]:
            table.add_row(words, bytes_in_words(memory[key]), style="bold" if key == "total" else "")
    return table


def _total(report: Mapping[str, Any]) -> Text:
    total = report["total"]
    lines = [
        f"in all    {total['steps']:,} steps, {total['images']:,} images, {total['pixels'] / 1e6:,.1f} M pixels, "
        f"{total['flops'] / 1e12:,.2f} TFLOPs (three forward passes an image)"
    ]
    if total["seconds"] is not None:
        scoring = report["scoring"]
        lines.append(
            f"time      about {format_clock(total['seconds'])} on this machine in one process: training "
            f"{format_clock(total['training_seconds'])}, scoring val {scoring['validations']} times and, in the end, "
            f"val and test {format_clock(scoring['seconds'])}"
        )
    return Text("\n".join(lines))


def _notes(report: Mapping[str, Any]) -> Text:
    return Text("".join(f"\n{note}" for note in report["notes"]))


def _frozen(span: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> str:
    """``encoder.0–3``, or ``encoder`` where all its levels are frozen, and other parts by their names."""
    levels = [part["part"] for part in parts if part["part"].startswith("encoder.")]
    frozen = [part for part in levels if part in span["frozen"]]
    others = [part for part in span["frozen"] if part not in levels]
    if levels and frozen == levels:
        return ", ".join(["encoder", *others])
    if len(frozen) > 1 and frozen == levels[levels.index(frozen[0]) :][: len(frozen)]:
        frozen = [f"{frozen[0]}–{frozen[-1].partition('.')[2]}"]
    return ", ".join([*frozen, *others]) or "–"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def bytes_in_words(count: float) -> str:
    """``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"
