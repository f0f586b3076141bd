"""``segrun table DIR...``: the benchmark table of the runs under folders, and whether a published one still holds."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_cli.commands.arguments import Parser
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.runs.atomic import write_text

if TYPE_CHECKING:
    from seg_cli.reports.table import Table

_REQUEST = ("rows", "columns", "split", "sort", "show", "per_class", "underline_second", "allow", "level")


def main(argv: Sequence[str]) -> int:
    """Show a table, write it, or check one; returns the exit status, 1 where a checked table does not hold."""
    asked = _parser().parse_intermixed_args(_filters_together(argv))
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    if not asked.folders:
        raise UserError("table: of which runs? Type segrun table outputs, or the folders that hold them.")
    form = _form(asked.format, asked.out)
    if asked.wandb is not None:
        _check_wandb(asked)
    with _no_garbage_collection():
        return _make(asked, form)


def _make(asked: argparse.Namespace, form: str) -> int:
    from rich.console import Console

    from seg_cli.reports.table import Request, make_tables
    from seg_cli.reports.table_check import differences, read_request
    from seg_cli.reports.table_formats import FORMATS

    given = _given(asked)
    request = read_request(asked.check) if asked.check and not {"rows", "columns"} <= given.keys() else Request()
    with Console(stderr=True).status("reading runs and comparing them"):
        tables = make_tables(asked.folders, replace(request, **given))
    table = tables[0]
    if len(tables) > 1:
        _show_each(tables, asked, form)
        return 0
    if asked.check:
        return _tell(asked.check, differences(asked.check, table))
    if asked.figures:
        from seg_cli.reports.table_figures import draw_figures  # brings Matplotlib

        for line in draw_figures(table, asked.figures):
            print(line)
    if asked.out:
        _write(asked.out, FORMATS[form](table))
        print(f"written: {asked.out}")
    elif form == "terminal":
        _show(table)
    else:
        print(FORMATS[form](table), end="")
    if asked.wandb is not None:
        _log_to_wandb(asked, table)
    return 0


def _show(table: "Table") -> None:
    from rich.console import Console

    from seg_cli.reports.table_formats import to_terminal, to_text

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(to_terminal(table, console.width), soft_wrap=True)
    else:
        print(to_text(table), end="")


def _show_each(tables: Sequence["Table"], asked: argparse.Namespace, form: str) -> None:
    """Tables of several datasets, one below another. Raises UserError where there can only be one."""
    own = [table.request.filters[-1] for table in tables]
    if form != "terminal" or asked.check or asked.out or asked.figures or asked.wandb is not None:
        raise UserError(
            f"data: these runs are of {len(own)} datasets, and a table is of one. Type --filter {own[0]} (or "
            f"{', '.join(own[1:4])}); to show them all in one, type --allow data."
        )
    for number, (name, table) in enumerate(zip(own, tables, strict=True)):
        print(f"{chr(10) if number else ''}{name}")
        _show(table)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is read of ten thousand runs is all needed, and looking for cycles in it takes as long as reading it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _parser() -> Parser:
    parser = Parser("table")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--rows", type=_names)
    parser.add_argument("--columns", type=_names)
    parser.add_argument("--split")
    parser.add_argument("--sort")
    parser.add_argument("--show", type=_names)
    parser.add_argument("--per-class", action="store_true", default=None)
    parser.add_argument("--underline-second", action="store_true", default=None)
    parser.add_argument("--filter", action="append", default=[])
    parser.add_argument("--allow", type=_names)
    parser.add_argument("--eval", metavar="NAME")
    parser.add_argument("--level", type=float)
    parser.add_argument("--format")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--wandb", metavar="[ENTITY/]PROJECT")
    return parser


def _names(text: str) -> tuple[str, ...]:
    from seg_cli.reports.table_columns import split_names

    return tuple(split_names(text))


def _filters_together(argv: Sequence[str]) -> list[str]:
    """``--filter a=1 b=2`` as ``--filter a=1 --filter b=2``: folders may stand anywhere, and have no equals sign."""
    found: list[str] = []
    filtering = False
    for word in argv:
        if filtering and "=" in word and not word.startswith("-") and found[-1] != "--filter":
            found += ["--filter", word]
            continue
        found.append(word)
        filtering = word == "--filter" or (filtering and found[-2] == "--filter")
    return found


def _given(asked: argparse.Namespace) -> dict[str, Any]:
    """The parts of a request that stand on the command line."""
    from seg_cli.reports.table import SHOWN

    given = {name: value for name in _REQUEST if (value := getattr(asked, name)) is not None}
    if asked.filter:
        given["filters"] = tuple(asked.filter)
    if given.get("show") == ("none",):
        given["show"] = ()
    if asked.eval is not None:
        given["evaluation"] = asked.eval
    for name in given.get("show", ()):
        if name not in SHOWN:
            raise UserError(
                f"--show {name}: there is no such thing.{did_you_mean(name, SHOWN)} There are: {', '.join(SHOWN)}; "
                "or none."
            )
    if not 0.5 <= given.get("level", 0.95) < 1:
        raise UserError(f"--level {asked.level:g}: the level of intervals is from 0.5 up to 1, as in --level .95.")
    return given


def _form(asked: str | None, out: Path | None) -> str:
    from seg_cli.reports.table_formats import FORMATS, SUFFIXES

    form = asked or (SUFFIXES.get(out.suffix.lower(), "") if out else "terminal")
    if form in FORMATS:
        return form
    if asked is None:
        known = ", ".join(SUFFIXES)
        raise UserError(f"--out {out}: the name does not say the format. Use one of {known}, or --format NAME.")
    hint = did_you_mean(asked, FORMATS)
    raise UserError(f"--format {asked}: there is no such format.{hint} Formats: {', '.join(FORMATS)}.")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--out {path}: the file cannot be written ({error.strerror}).") from None


def _check_wandb(asked: argparse.Namespace) -> None:
    """Raises UserError before runs are read."""
    from seg_cli.reports.wandb_table import read_place

    if asked.check:
        raise UserError("--wandb: with --check no table is made. Log it with a command of its own.")
    read_place(asked.wandb)


def _log_to_wandb(asked: argparse.Namespace, table: "Table") -> None:
    """Log the table, and the figures where they were drawn. What is said does not mix with a table on stdout."""
    from seg_cli.reports.wandb_table import log_table

    drawn = ("critical_difference", "speed_quality") if asked.figures else ()
    files = [path for name in drawn for path in sorted(asked.figures.glob(f"{name}.*"))]
    print(log_table(table, asked.wandb, files=files), file=sys.stderr)


def _tell(path: Path, found: Sequence[str]) -> int:
    from seg_cli.config.visible import visible

    if not found:
        print(f"{path} follows from the runs.")
        return 0
    for line in found:
        print(visible(line))
    print(f"{path} does not follow from the runs: {len(found)} difference{'s' * (len(found) > 1)}.")
    return 1
