"""A table written down: golden tables in every format, and names that would be obeyed if they were not escaped.

``python tests/unit/test_table_formats.py`` writes the golden tables anew; look at the difference.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # where this file is run as a program

from seg_cli.config.visible import visible
from seg_cli.reports.table import Request, Table, make_table
from seg_cli.reports.table_formats import FORMATS, SUFFIXES, to_latex, to_terminal
from tests.run_folders import CLASSES, counts_of, write_run

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
HOSTILE = {
    "latex": r"\input{x} $a_b^c$ 50% #1 & ~ {",
    "html": "</table><script>alert(1)</script>",
    "formula": '=HYPERLINK("http://x","y")',
    "terminal": "\x1b[31mred\x1b[0m\x07\r\n[bold]x[/bold]",
    "markdown": "a|b *c* _d_ `e` [f](g) <br> \\",
    "direction": "abc\u202edef",
}


def plain() -> Table:
    """Two models, two losses, three seeds; one run failed and one is damaged."""
    for model, base in (("unet", 0.6), ("fpn", 0.62)):
        for loss, more in (("ce", 0.0), ("dice+focal", 0.004)):
            for seed in range(3):
                counts = counts_of(base + more, images=12, noise=0.05, seed=10 * seed + len(model + loss))
                write_run(Path(f"outputs/{model}_{loss}_{seed}"), model=model, loss=loss, seed=seed, counts=counts)
    write_run(Path("outputs/failed"), state="failed", reason="no memory")
    (write_run(Path("outputs/damaged")) / "results.json").write_text("{")
    columns = ("miou", "pixel_accuracy", "parameters", "images_per_second")
    return make_table(["outputs"], Request(columns=columns, underline_second=True))


def hostile() -> Table:
    """Names that a reader of some format would obey."""
    for number, name in enumerate(HOSTILE.values()):
        write_run(Path(f"outputs/{number}"), model=name, miou=0.4 + number / 20, classes=[*CLASSES[:2], name])
    return make_table(["outputs"], Request(rows=("model",), allow=("data",)))


TABLES = {"plain": plain, "hostile": hostile}


@pytest.fixture(params=TABLES)
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Table]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return request.param, TABLES[request.param]()


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return hostile()


def test_golden_tables(made: tuple[str, Table]) -> None:
    name, table = made
    for suffix, form in SUFFIXES.items():
        assert FORMATS[form](table) == (GOLDEN / f"{name}{suffix}").read_text(encoding="utf-8"), suffix


def test_no_format_lets_a_control_character_through(bad: Table) -> None:
    for form, write in FORMATS.items():
        text = write(bad)
        if form == "json":  # escaped by JSON itself
            assert json.loads(text)["rows"]
        found = set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text))
        assert found <= ({"\u202e"} if form == "json" else set()), form
    assert visible("a\x1b[0m\u202e\n") == "a\\x1b[0m\\u202e\\n"
    assert visible("größer ± 中") == "größer ± 中"


def test_a_formula_is_text_and_a_negative_number_is_one(bad: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](bad))))
    assert "'" + HOSTILE["formula"] in [row["model"] for row in rows]
    for row in rows:
        assert row["model"][0] not in "=+-@"
        assert float(row["miou"]) > 0
    assert not [name for name in rows[0] if name[0] in "=+-@"]


class _Reader(HTMLParser):
    """Which tags there are, whether they are closed in order, and the text of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"th", "td"} & {*self.open}:
            self.cells[-1] += data


def test_html_has_only_our_tags_and_whole_names(bad: Table) -> None:
    reader = _Reader()
    reader.feed(FORMATS["html"](bad))
    ours = {"figure", "style", "table", "thead", "tbody", "tr", "th", "td", "figcaption", "p", "strong", "u"}
    assert reader.tags <= ours
    assert reader.open == []
    assert {visible(name) for name in HOSTILE.values()} <= set(reader.cells)


def balanced(text: str) -> bool:
    """Whether braces are closed and dollars come in pairs, those behind a backslash not counted."""
    depth, dollars = 0, 0
    for sign in re.findall(r"(?<!\\)(?:\\\\)*([{}$])", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        dollars += sign == "$"
        assert depth >= 0
    return depth == 0 and dollars % 2 == 0


def test_latex_is_balanced_and_every_row_has_all_cells(made: tuple[str, Table]) -> None:
    _, table = made
    text = to_latex(table)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert balanced("\n".join(lines))
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 1 + len(table.rows)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(table.headings) - 1}
    for line in lines:
        assert line in (r"{\footnotesize\raggedright", "}") or balanced(line), line
        assert not re.search(r"(?<!\\)[#%_^~]", line), line
    allowed = r"\\(?:begin|end|toprule|midrule|bottomrule|textbf|underline|footnotesize|raggedright|par|"
    allowed += r"pm|Delta|geq|cdot|times|\\|"
    allowed += r"text[a-z]+\{\}|char34\{\}|[{}$&#%_])"
    for line in lines:
        assert "\\" not in re.sub(allowed, "", line), line


def test_latex_says_which_letters_pdflatex_has_not(bad: Table) -> None:
    assert "XeLaTeX" not in to_latex(bad)
    assert "% for XeLaTeX or LuaLaTeX, and a font that has 路 道\n" in to_latex(replace(bad, notes=["größer 道路 – ≥"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_latex_compiles(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = next((found for found in ("pdflatex", "tectonic") if shutil.which(found)), None)
    if program is None:
        pytest.skip("there is no pdflatex and no tectonic")
    if program == "pdflatex" and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("this TeX has no booktabs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = to_latex(TABLES[name]())
    start = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    Path("paper.tex").write_text(f"{start}{text}\\end{{document}}\n")
    flags = ["-interaction=nonstopmode", "-halt-on-error"] if program == "pdflatex" else []
    done = subprocess.run([program, *flags, "paper.tex"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert Path("paper.pdf").stat().st_size > 1000


def test_a_narrow_terminal_gets_parts_with_all_names(made: tuple[str, Table]) -> None:
    name, table = made
    if name == "hostile":
        return
    wide, narrow = (to_terminal(table, width).plain for width in (200, 60))
    width = max(map(len, wide.splitlines()))
    assert 100 < width < 200
    assert max(map(len, narrow.splitlines())) <= 60
    assert wide.count("dice+focal") == 2
    assert narrow.count("dice+focal") == 2 * len(re.findall("^model ", narrow, re.MULTILINE)) > 2
    for heading in table.headings:
        assert heading in narrow


def test_bold_is_seen_without_bold(made: tuple[str, Table]) -> None:
    _, table = made
    lines = to_terminal(table, 300).plain.partition("\n\n")[0].splitlines()[2:]  # wide enough for all columns
    assert [line.count("*") for line in lines] == [
        sum(cell.bold + cell.text.count("*") for cell in row) for row in table.cells
    ]


def test_the_request_in_the_comment_ends_no_comment(bad: Table) -> None:
    table = Table(**{**vars(bad), "request": Request(filters=("model=--><b>x</b>",), rows=("model",))})
    for form in ("markdown", "html", "latex"):
        first = FORMATS[form](table).splitlines()[0]
        assert "<b>" not in first
        assert first.count("--") == (0 if form == "latex" else 2)


if __name__ == "__main__":
    for table_name, make in TABLES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["XDG_CACHE_HOME"] = folder
            fresh = make()
            for ending, form_name in SUFFIXES.items():
                GOLDEN.mkdir(exist_ok=True)
                (GOLDEN / f"{table_name}{ending}").write_text(FORMATS[form_name](fresh), encoding="utf-8")
            os.chdir(GOLDEN)
