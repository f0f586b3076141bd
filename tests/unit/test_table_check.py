"""Does a published table still follow from the runs?"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from seg_cli import cli
from seg_cli.reports.table_check import _agree
from tests.run_folders import counts_of, write_run

SUFFIXES = (".csv", ".md", ".tex", ".json")


@pytest.fixture(autouse=True)
def _runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for model, miou in (("unet", 0.6), ("fpn", 0.55)):
        for seed in (0, 1):
            counts = counts_of(miou, images=12, noise=0.05, seed=seed)
            write_run(Path(f"outputs/{model}{seed}"), model=model, seed=seed, counts=counts)


@pytest.fixture
def segrun(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        status = cli.run(["table", "outputs", *arguments])
        found = capsys.readouterr()
        return status, found.out + found.err

    return run


Segrun = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_follows_from_its_runs_until_they_change(segrun: Segrun, suffix: str) -> None:
    file = f"paper{suffix}"
    flags = ("--columns", "miou,iou:Car,parameters", "--rows", "model,seed", "--filter", "model=unet,fpn")
    assert segrun(*flags, "--out", file) == (0, f"written: {file}\n")
    more = flags[-2:] if suffix == ".csv" else ()  # the others say themselves how they were made
    assert segrun("--check", file, *more) == (0, f"{file} follows from the runs.\n")
    results = json.loads(Path("outputs/fpn1/results.json").read_text())
    results["cost"]["parameters"] = 9_870_000
    Path("outputs/fpn1/results.json").write_text(json.dumps(results))
    status, out = segrun("--check", file, *more)
    assert status == 1
    assert "row fpn 1, column param" in out
    assert "does not follow from the runs: 1 difference." in out


@pytest.mark.parametrize(
    ("suffix", "old", "new", "said"),
    [
        (".md", r"(0\.\d\d\d) ± ", "0.999 ± ", "row unet, column mIoU: the file says **0.999 ± 0.00"),
        (".md", r"\*\*(0\.\d\d\d ± 0\.\d\d\d)\*\*", r"\1", "row unet, column mIoU: the file says 0.5"),
        (".md", "unet", "une", "row une: only the file, and not the runs, has it"),
        (".md", "mIoU", "mIOU", "column 'mIOU': the runs give no such column"),
        (".tex", r"\\textbf\{0\.", r"\\textbf{1.", r"row unet, column mIoU: the file says \textbf{1."),
        (".tex", r"\\midrule\n.*?\\\\", r"\\midrule", "row unet: only the runs, and not the file, has it"),
        (".csv", r"unet,test,2,0\.", "unet,test,2,1.", "row unet, column miou: the file says 1."),
        (".csv", "unet,test,2", "unet,test,3", "row unet, column seeds: the file says 3, the runs give 2"),
        (".json", '"mean": 0.', '"mean": 1.', "row unet, column miou.mean: the file says 1."),
    ],
)
def test_each_cell_that_does_not_follow_is_named(segrun: Segrun, suffix: str, old: str, new: str, said: str) -> None:
    file = Path(f"paper{suffix}")
    segrun("--out", str(file))
    text = file.read_text()
    file.write_text(re.sub(old, new, text, count=1, flags=re.DOTALL))
    assert file.read_text() != text
    status, out = segrun("--check", str(file))
    assert status == 1
    assert said in out


def test_what_an_author_may_do(segrun: Segrun) -> None:
    """Round further, take out a column, put rows in another order, add rules and spaces."""
    segrun("--columns", "miou,fw_iou", "--show", "std", "--out", "paper.tex")
    text = Path("paper.tex").read_text()
    text, count = re.subn(r"(0\.\d{3})(?= \$\\pm\$ 0\.\d{3} \\\\)", lambda found: f"{float(found[1]):.2f}", text)
    assert count == 2
    *head, first, second, tail = re.split(r"(?<=\\midrule\n)|(?<=\\\\\n)(?=unet|fpn|\\bottomrule)", text)
    text = "".join(
        [*head, second.replace(" & ", "   &\t"), "\\hline % a rule\n", first.replace(r"\\", r"\\[2pt]"), tail]
    )
    Path("paper.tex").write_text(text)
    assert segrun("--check", "paper.tex") == (0, "paper.tex follows from the runs.\n")

    segrun("--out", "paper.csv")
    lines = [line.split(",") for line in Path("paper.csv").read_text().splitlines()]
    drop = lines[0].index("miou_std")
    rounded = lines[0].index("miou")
    for line in lines[1:]:
        line[rounded] = f"{float(line[rounded]):.3f}"
    Path("paper.csv").write_text("\n".join(",".join(line[:drop] + line[drop + 1 :]) for line in lines) + "\n")
    assert segrun("--check", "paper.csv") == (0, "paper.csv follows from the runs.\n")
    line = Path("paper.csv").read_text().splitlines()[1]
    Path("paper.csv").write_text(Path("paper.csv").read_text().replace(line, line.replace("0.6", "0.61", 1), 1))
    assert segrun("--check", "paper.csv")[0] == 1


def test_a_new_run_is_a_new_row_or_changes_one(segrun: Segrun) -> None:
    segrun("--out", "paper.csv")
    write_run(Path("outputs/segnet"), model="segnet", counts=counts_of(0.4, images=12))
    status, out = segrun("--check", "paper.csv")
    assert status == 1
    assert "row segnet: only the runs, and not the file, has it" in out
    assert segrun("--check", "paper.csv", "--filter", "model=unet,fpn")[0] == 0


def test_the_table_is_found_among_others(segrun: Segrun) -> None:
    """In a paper; what stands before the comment of ours, and the next table, is not looked at."""
    for suffix, before, after in (
        (".md", "| a |\n|---|\n| 1 |\n\n", "\n| b |\n|---|\n| 2 |\n"),
        (".tex", "\\begin{tabular}{l}\na \\\\\n\\end{tabular}\n", "\\begin{tabular}{l}\nb \\\\\n\\end{tabular}\n"),
    ):
        segrun("--out", f"paper{suffix}")
        path = Path(f"paper{suffix}")
        path.write_text(before + path.read_text() + after)
        assert segrun("--check", str(path)) == (0, f"{path} follows from the runs.\n")


def test_a_row_that_is_there_twice_hides_nothing(segrun: Segrun) -> None:
    segrun("--out", "paper.csv")
    lines = Path("paper.csv").read_text().splitlines()
    Path("paper.csv").write_text("\n".join([lines[0], lines[1].replace("0.", "0.9", 1), *lines[1:]]) + "\n")
    status, out = segrun("--check", "paper.csv")
    assert status == 1
    assert "the file has several rows of the same model" in out


@pytest.mark.parametrize(
    ("published", "now", "same"),
    [
        ("0.62", "0.618", True),
        ("0.61", "0.618", False),
        ("0.618", "0.6180339", True),
        ("0.6180347", "0.6180339", True),  # another processor
        ("0.6180439", "0.6180339", False),
        ("0.000001", "0.000002", False),
        ("**0.618**", "0.618", False),
        ("0.607–0.631", "0.607–0.632", False),
        ("4000000", "4000001", False),
        ("<0.001", "0.001", False),
    ],
)
def test_when_two_cells_say_the_same(published: str, now: str, same: bool) -> None:
    assert _agree(published, now) == same


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.csv", None, "the file cannot be read"),
        ("paper.pdf", "x", "a table in .csv, .md, .tex, .json can be checked."),
        ("paper.csv", "a,b\n1,2\n", "it has no column 'split'"),
        ("paper.csv", "", "there is no table in this file"),
        ("paper.md", "| a |\n|---|\n| b |\n", "it does not say how it was made"),
        ("paper.md", "<!-- segrun table {} -->\n", "there is no table in this file"),
        ("paper.md", '<!-- segrun table {"level": "x"} -->\n', "it does not say how it was made"),
        ("paper.md", '<!-- segrun table {"rows": [1]} -->\n', "it does not say how it was made"),
        ("paper.md", '<!-- segrun table {"rows": ["model"], "x": 1} -->\n', "it does not say how it was made"),
        ("paper.json", "{", "the file is damaged"),
        ("paper.json", "[]", "this is no table of segrun"),
        ("paper.json", '{"rows": [{}], "request": {}}', "this is no table of segrun"),
        ("paper.tex", "% segrun table {}\n\\begin{tabular}{l}\n\\end{tabular}", "there is no table in this file"),
    ],
)
def test_a_file_that_is_no_table(segrun: Segrun, name: str, content: str | None, said: str) -> None:
    if content is not None:
        Path(name).write_text(content)
    status, out = segrun("--check", name)
    assert status == 2
    assert said in " ".join(out.split())
