"""A table written down: for the terminal, Markdown, LaTeX, CSV, HTML and JSON.

Names are the user's: whatever stands in them is shown, and never obeyed by a terminal, a browser, TeX or a spreadsheet.
"""

import csv
import html
import io
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from rich.cells import cell_len
from rich.text import Text

from seg_cli.config.visible import no_formula, visible
from seg_cli.reports.table import Cell, Request, Table

MARK = "segrun table "
"""What stands before the request in the comment of a written table."""

_GAP = "   "


def request_comment(request: Request) -> str:
    """The request as JSON that can stand in any comment: ASCII, on one line, without ``--``, ``<`` and ``>``."""
    text = json.dumps(asdict(request))
    for character in "-<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return MARK + text


# ---- terminal


def to_terminal(table: Table, width: int) -> Text:
    """For Rich, with ``soft_wrap``. What is wider than the terminal goes on below, with the names of the rows again."""
    keys = len(table.request.rows)
    starred = {number for row in table.cells for number, cell in enumerate(row) if cell.bold}
    rows = [[_starred(cell) if number in starred else cell for number, cell in enumerate(row)] for row in table.cells]
    rows = [[replace(cell, text=visible(cell.text)) for cell in row] for row in rows]
    headings = [visible(heading) for heading in table.headings]
    widths = [max(cell_len(text) for text in (heading, *texts)) for heading, texts in _columns(headings, rows)]
    names = list(range(keys))
    parts: list[list[int]] = [[]]
    for number in range(keys, len(headings)):
        if parts[-1] and sum(widths[i] + len(_GAP) for i in (*names, *parts[-1], number)) - len(_GAP) > width:
            parts.append([])
        parts[-1].append(number)
    pieces: list[tuple[str, str]] = []
    for part in parts:
        shown = [*names, *part]
        for line_number, line in enumerate([[Cell(heading, bold=True) for heading in headings], *rows]):
            for number in shown:
                cell, space = line[number], " " * (widths[number] - cell_len(line[number].text))
                pieces.append((_GAP if number else "", ""))
                pieces += [(cell.text, _style(cell)), (space, "")][:: 1 if number < keys else -1]
            pieces.append(("\n", ""))
            if line_number == 0:
                pieces.append(("─" * (sum(widths[i] + len(_GAP) for i in shown) - len(_GAP)) + "\n", ""))
        pieces.append(("\n", ""))
    for note in table.notes:
        said = visible(note.replace("Bold:", "Bold (*):", 1) if note.startswith("Bold:") else note)
        wrapped = textwrap.wrap(said, width, break_long_words=False, break_on_hyphens=False)
        pieces += [(f"{text}\n", "dim") for text in wrapped]
    return Text.assemble(*pieces, end="")


def to_text(table: Table, width: int = 100) -> str:
    """As on a terminal of so many columns, without colours."""
    return "".join(f"{line.rstrip()}\n" for line in to_terminal(table, width).plain.splitlines())


def _columns(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterable[tuple[str, list[str]]]:
    return ((heading, [row[number].text for row in rows]) for number, heading in enumerate(headings))


def _starred(cell: Cell) -> Cell:
    """What is bold has a star too: not every terminal shows bold, and a file of text has none."""
    return replace(cell, text=cell.text + ("*" if cell.bold else " "))


def _style(cell: Cell) -> str:
    return " ".join(name for name, on in (("bold", cell.bold), ("underline", cell.underlined)) if on)


# ---- Markdown


def to_markdown(table: Table) -> str:
    keys = len(table.request.rows)
    lines = [
        f"<!-- {request_comment(table.request)} -->",
        _pipes(_markdown(heading) for heading in table.headings),
        _pipes("---" if number < keys else "--:" for number in range(len(table.headings))),
        *(_pipes(_markdown_cell(cell) for cell in row) for row in table.cells),
        "",
        *(f"{_markdown(note)}  " for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", visible(text))


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    text = f"<u>{text}</u>" if cell.underlined else text
    return f"**{text}**" if cell.bold else text


# ---- LaTeX

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",  # \textquotedbl is not in every font encoding
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # behind \\ it would be an optional argument
    "]": "{]}",
    "±": r"$\pm$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "×": r"$\times$",
}
_IN_PDFLATEX = {*_TEX, *"–—‘’“”…"}
_DASH = "\0"  # which no visible text has


def to_latex(table: Table) -> str:
    """A tabular of booktabs with its notes below; ``\\usepackage{booktabs}`` is all that it needs.

    Letters that pdfLaTeX has not, as those of Chinese names, are named in a comment.
    """
    keys = len(table.request.rows)
    texts = [*table.headings, *(cell.text for row in table.cells for cell in row), *table.notes]
    foreign = sorted({character for character in visible("".join(texts)) if ord(character) > 0x17F} - _IN_PDFLATEX)
    lines = [
        f"% {request_comment(table.request)}",
        r"% \usepackage{booktabs}",
        *([f"% for XeLaTeX or LuaLaTeX, and a font that has {' '.join(foreign)}"] if foreign else []),
        rf"\begin{{tabular}}{{{'l' * keys}{'r' * (len(table.headings) - keys)}}}",
        r"\toprule",
        _ampersands(_tex(heading) for heading in table.headings),
        r"\midrule",
        *(_ampersands(_tex_cell(cell) for cell in row) for row in table.cells),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"{\footnotesize\raggedright",
        *(rf"{_tex(note)}\par" for note in table.notes),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _ampersands(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    text = "".join(_TEX.get(character, character) for character in visible(text).replace("–", _DASH))
    return re.sub("-(?=-)", "-{}", text).replace(_DASH, "--")  # two hyphens would be a dash too


def _tex_cell(cell: Cell) -> str:
    text = _tex(cell.text)
    if cell.bold:
        mean, sign, spread = text.partition(r" $\pm$ ")  # mathematics would not become bold
        text = rf"\textbf{{{mean}}}{sign}{spread}"
    return rf"\underline{{{text}}}" if cell.underlined else text


# ---- HTML

_STYLE = """\
.segrun-table { font: 15px/1.5 system-ui, sans-serif; margin: 1rem 0; overflow-x: auto }
.segrun-table table { border-collapse: collapse; border-block: 2px solid; font-variant-numeric: tabular-nums }
.segrun-table th, .segrun-table td { padding: .25rem .75rem; text-align: right; white-space: nowrap }
.segrun-table thead th { border-bottom: 1px solid }
.segrun-table .name { text-align: left; font-weight: normal }
.segrun-table thead .name { font-weight: bold }
.segrun-table figcaption { font-size: .85em; max-width: 60rem; margin-top: .5rem }
.segrun-table figcaption p { margin: 0 }"""


def to_html(table: Table) -> str:
    """A fragment with its style, which can be read alone and takes the colours of the page that it stands in."""
    keys = len(table.request.rows)

    def row(cells: Sequence[str], tag: str, scope: str) -> str:
        parts = []
        for number, text in enumerate(cells):
            name = ' class="name"' if number < keys else ""
            parts.append(
                f'<th{name} scope="{scope}">{text}</th>' if tag == "th" or number < keys else f"<td>{text}</td>"
            )
        return f"<tr>{''.join(parts)}</tr>"

    lines = [
        f"<!-- {request_comment(table.request)} -->",
        '<figure class="segrun-table">',
        f"<style>\n{_STYLE}\n</style>",
        "<table>",
        f"<thead>{row([_html(heading) for heading in table.headings], 'th', 'col')}</thead>",
        "<tbody>",
        *(row([_html_cell(cell) for cell in cells], "td", "row") for cells in table.cells),
        "</tbody>",
        "</table>",
        "<figcaption>",
        *(f"<p>{_html(note)}</p>" for note in table.notes),
        "</figcaption>",
        "</figure>",
    ]
    return "\n".join(lines) + "\n"


def _html(text: str) -> str:
    return html.escape(visible(text))


def _html_cell(cell: Cell) -> str:
    text = _html(cell.text)
    text = f"<u>{text}</u>" if cell.underlined else text
    return f"<strong>{text}</strong>" if cell.bold else text


# ---- CSV and JSON


def to_csv(table: Table) -> str:
    """One line a row with plain numbers: mean, and where there are any _std, _low, _high, _difference, _p and _tied."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fields = {column.id: _fields(table, column.id) for column in table.columns}
    names = [f"{column}{field and '_'}{field}" for column, of in fields.items() for field in of]
    seeds = [] if "seed" in table.request.rows else ["seeds"]
    writer.writerow([no_formula(name) for name in (*table.request.rows, "split", *seeds, *names)])
    for row, numbers in zip(table.rows, table.data["rows"], strict=True):
        values = [_plain(numbers["scores"][column], field) for column, of in fields.items() for field in of]
        count = [len(row.runs)] if seeds else []
        writer.writerow([*map(no_formula, row.values.values()), no_formula(str(table.request.split)), *count, *values])
    return buffer.getvalue()


_FIELDS = {
    "": "mean",
    "std": "std",
    "low": "low",
    "high": "high",
    "difference": "difference",
    "p": "p_corrected",
    "tied": "tied",
}


def _fields(table: Table, column: str) -> list[str]:
    """Those that any row has."""
    rows = [row["scores"][column] for row in table.data["rows"]]
    return [field for field, key in _FIELDS.items() if not field or any(of.get(key) is not None for of in rows)]


def _plain(of: Mapping[str, object], field: str) -> str:
    value = of.get(_FIELDS[field])
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return f"{value:.6g}" if field else f"{value:.9g}"


def to_json(table: Table) -> str:
    """All numbers, also those that are not shown."""
    return json.dumps(table.data, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "terminal": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "html": to_html,
    "json": to_json,
}
SUFFIXES = {".txt": "terminal", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html", ".json": "json"}
"""What a file's name says of its format."""
