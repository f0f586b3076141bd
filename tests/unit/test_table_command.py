"""``segrun table`` as it is typed: flags, files, pictures, and what is said of wrong ones."""

import json
from pathlib import Path

import pytest

from seg_cli import cli
from seg_cli.commands.table import _filters_together
from tests.run_folders import counts_of, write_run


@pytest.fixture(autouse=True)
def _runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for model, miou in (("unet", 0.6), ("fpn", 0.5), ("segnet", 0.4)):
        counts = counts_of(miou, images=12, noise=0.05)
        write_run(Path("outputs") / model, model=model, counts=counts, config={"optimizer": {"lr": 0.1}})


def table(*arguments: str) -> int:
    return cli.run(["table", *arguments])


def test_flags_may_stand_before_and_behind_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert table("--columns", "miou", "outputs/unet", "--show", "none", "outputs/fpn") == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[:4] if "─" not in line] == [
        ["model", "seeds", "mIoU"],
        ["unet", "1", "0.593*"],
        ["fpn", "1", "0.493"],
    ]
    assert "segnet" not in out


def test_several_filters_behind_one_flag() -> None:
    words = ["--filter", "model=unet", "seed=0", "outputs", "--level", ".9", "--filter", "a=b", "c"]
    assert _filters_together(words) == [
        *["--filter", "model=unet", "--filter", "seed=0", "outputs", "--level", ".9", "--filter", "a=b", "c"]
    ]


def test_filters_and_settings_as_rows(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--rows", "model,optimizer.lr", "--filter", "model=unet,fpn", "optimizer.lr=1e-1", "--format", "json")
    assert table("outputs", *flags) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["row"] for row in rows] == [{"model": name, "optimizer.lr": "0.1"} for name in ("unet", "fpn")]


def test_the_level_is_that_of_intervals_and_bold(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for level in (".8", ".99"):
        assert table("outputs", "--level", level, "--format", "json") == 0
        data = json.loads(capsys.readouterr().out)
        found[level] = data["rows"][0]["scores"]["miou"]
        assert f"p ≥ {1 - float(level):.2g}" in " ".join(data["notes"])
    assert found[".99"]["low"] < found[".8"]["low"] < found[".8"]["high"] < found[".99"]["high"]


@pytest.mark.parametrize("suffix", ["txt", "md", "tex", "csv", "html", "json"])
def test_the_name_of_a_file_says_its_format(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    forms = {"txt": "terminal", "md": "markdown", "tex": "latex"}
    assert table("outputs", "--out", f"sub/paper.{suffix}") == 0
    assert capsys.readouterr().out == f"written: sub/paper.{suffix}\n"
    assert table("outputs", "--format", forms.get(suffix, suffix)) == 0
    assert capsys.readouterr().out == Path(f"sub/paper.{suffix}").read_text(encoding="utf-8")


def test_figures_are_drawn_as_png_and_pdf(capsys: pytest.CaptureFixture[str]) -> None:
    assert table("outputs", "--figures", "plots", "--out", "paper.md") == 0
    assert sorted(path.name for path in Path("plots").iterdir()) == [
        *["critical_difference.pdf", "critical_difference.png", "speed_quality.pdf", "speed_quality.png"]
    ]
    assert "written: plots/speed_quality .png .pdf" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads(Path("outputs/unet/results.json").read_text())
    del results["cost"]["images_per_second"]
    Path("outputs/unet/results.json").write_text(json.dumps(results))
    assert table("outputs/unet", "--figures", "plots") == 0
    assert table("outputs", "--figures", "plots", "--columns", "fw_iou") == 0
    out = capsys.readouterr().out
    assert "plots: no critical_difference; it takes two rows" in out
    assert "plots: no speed_quality; no run has images_per_second." in out
    assert "plots: no picture; none of the columns follows from the counts" in out
    assert list(Path("plots").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "table: of which runs? Type segrun table outputs"),
        (("gone",), "gone: there is no such folder."),
        (("outputs", "--format", "latx"), "--format latx: there is no such format. Did you mean 'latex'?"),
        (("outputs", "--out", "x.foo"), "--out x.foo: the name does not say the format."),
        (("outputs", "--out", "outputs/unet/results.json/x.md"), "the file cannot be written"),
        (("outputs", "--figures", "outputs/unet/results.json"), "the folder cannot be made"),
        (("outputs", "--show", "stdd"), "--show stdd: there is no such thing. Did you mean 'std'?"),
        (("outputs", "--level", "95"), "--level 95: the level of intervals is from 0.5 up to 1"),
        (("outputs", "--level", "high"), "--level"),
        (("outputs", "--colums", "miou"), "Did you mean '--columns'?"),
        (("outputs", "--filter"), "--filter"),
    ],
)
def test_a_wrong_request_is_one_paragraph(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in " ".join(error.split())
    assert "Traceback" not in error


def test_runs_of_several_datasets_come_as_a_table_each(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("unet", "fpn"):
        folder = Path("outputs") / f"own_{model}"
        write_run(folder, model=model, miou=0.7, classes=("sky", "sea", "land"), choices={"data": "folder"})
    assert table("outputs", "--show", "none") == 0
    shown = capfd.readouterr().out.splitlines()
    own, shapes = shown.index("data=folder"), shown.index("data=shapes")
    assert own == 0 < shapes
    assert sum("unet" in line.split()[:1] for line in shown[own:shapes]) == 1
    assert sum(line.split()[:1] == ["segnet"] for line in shown) == 1
    assert table("outputs", "--out", "table.md") == 2
    assert "of 2 datasets" in (said := capfd.readouterr().err)
    assert "--filter data=folder" in said
    assert not Path("table.md").exists()
    assert table("outputs", "--filter", "data=folder", "--out", "table.md") == 0
