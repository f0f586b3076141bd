"""Reports without a browser: what is read, what is said of missing and damaged files, and that nothing is executed."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from seg_cli import cli
from seg_cli.config.parent import compare_with_parent
from seg_cli.data.labels import LabelSpace
from seg_cli.errors import UserError
from seg_cli.inference.evaluate import Example
from seg_cli.reports import charts, page_run
from seg_cli.reports.gallery import save_examples
from seg_cli.reports.page import to_script
from seg_cli.reports.page_run import make_run_page
from seg_cli.reports.page_runs import make_runs_page
from seg_cli.reports.page_varying import axes_of, varying_keys
from seg_cli.runs.collection import collect
from seg_cli.runs.runner import describe_runner
from tests.run_folders import counts_of, write_run

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=hacked()>"


class Page(HTMLParser):
    """The texts of a page, its tags, and the data of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.data: dict[str, Any] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        if self.inside == "data" and data.strip():
            self.data = json.loads(data)
        elif self.inside not in ("plotly", "script", "style"):
            self.text += f" {' '.join(data.split())}" if data.strip() else ""


@pytest.fixture(autouse=True)
def _quick_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(page_run, "compare_with_parent", lambda config: None)  # half a second a page; tested by itself


def gallery(run: Path, names: tuple[str, ...] = ("a00", "a01")) -> None:
    labels = LabelSpace(names=("Road", "Car", "Sky"), colors=((100, 0, 100), (0, 0, 200), (90, 90, 90)))
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8) % 3
    image = np.full((6, 8, 3), 90, np.uint8)
    examples = [Example(name, image, mask, np.zeros_like(mask), 0.3) for name in names]
    save_examples(examples, labels, run / "figures" / "examples", [("best", "fixed")] * len(names))


def metrics(run: Path, epochs: int = 3) -> None:
    lines = ["epoch,lr,train/loss,val/loss,val/miou,val/iou/Road"]
    lines += [f"{n},0.1,{1 / n},{1.2 / n},{0.1 * n},{'' if n == 1 else 0.2}" for n in range(1, epochs + 1)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")


def test_a_run_is_shown_with_intervals_and_pictures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", loss="dice+focal", counts=counts_of(0.6, noise=0.1, images=12))
    metrics(run)
    gallery(run)
    page = Page(make_run_page(run))
    results = json.loads((run / "results.json").read_text())["splits"]["test"]
    assert f"{results['miou']:.3f}" in page.text
    assert "unet · resnet18 · dice+focal · shapes" in page.text
    assert "bootstrap over 12 images" in page.text
    bars = page.data["charts"]["classes"]["data"][0]
    assert bars["x"] == pytest.approx([of["iou"] for of in results["classes"].values()], abs=1e-4)
    assert all(0 < low < 0.3 for low in bars["error_x"]["arrayminus"])
    assert page.data["charts"]["miou"]["data"][0]["y"] == [0.1, 0.2, 0.3]
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [picture["data-what"] for picture in pictures] == ["image", "truth", "prediction", "errors"] * 2
    assert all((picture["src"] or "").startswith("data:image/") and picture["alt"] for picture in pictures)


def test_confusions_are_shares_of_the_true_class(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    results = json.loads((run / "results.json").read_text())
    results["splits"]["test"]["confusion"] = [[6, 2, 0], [0, 0, 0], [1, 0, 3]]
    (run / "results.json").write_text(json.dumps(results))
    page = Page(make_run_page(run))
    trace = page.data["charts"]["confusion"]["data"][0]
    assert trace["z"] == [[0.75, 0.25, 0], [None, None, None], [0.25, 0, 0.75]]
    assert trace["pixels"] == [[6, 2, 0], [0, 0, 0], [1, 0, 3]]
    assert trace["numbers"] == [["75", "25", ""], ["", "", ""], ["25", "", "75"]]
    assert "Road Car 25.0% 2 Sky Road 25.0% 1" in page.text


def test_classes_have_the_colours_of_the_pictures() -> None:
    rows = [{"epoch": 1, "val/iou/road": 0.5, "val/iou/sky": 0.25}]
    series = [("val/iou/road", "road"), ("val/iou/sky", "sky")]
    chart = charts.lines(rows, series, alt="", colors={"road": "#804080"})
    assert chart is not None
    ground, road, sky = chart["data"]
    assert (road["line"]["color"], road["line"]["dash"], road["name"]) == ("#804080", "solid", "road")
    assert (ground["y"], ground["legendgroup"]) == ([0.5], road["legendgroup"])
    assert not ground["showlegend"]
    assert sky["line"]["color"].startswith("@")


def test_overlapping_labels_have_bars_of_right_and_wrong() -> None:
    chart = charts.right_and_wrong(np.array([[[5, 2], [1, 3]]]), ["a"], alt="")
    assert [trace["x"] for trace in chart["data"]] == [[0.5], [0.1667], [0.3333]]  # right, missed, wrongly found


def test_a_run_whose_process_is_gone_is_lost(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "r", state="running")
    assert 'class="state lost"' in make_run_page(run)
    write_run(tmp_path / "runs" / "done")
    assert "1 lost" in make_runs_page(tmp_path / "runs")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "process": describe_runner()}))
    assert 'class="state running"' in make_run_page(run)


def test_an_unfinished_run_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", state="failed", reason="memory did not do")
    page = Page(make_run_page(run))
    assert "no scores yet" in page.text
    assert "memory did not do" in page.text
    assert f"segrun resume {run}" in page.text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.json", "{", "results.json: the file is damaged"),
        ("results.json", '{"schema": 99, "splits": {}, "choices": {}}', "schema 99"),
        ("status.json", "[]", "status.json: the file is damaged"),
        ("metrics.csv", "epoch,lr\n1,x\n", "metrics.csv: the file is damaged"),
        ("environment.json", "\x00", "environment.json: the file is damaged"),
        ("per_image.csv", "split,name\ntest,a\n", "per_image.csv is damaged"),
        ("figures/examples/index.json", "{}", "index.json: the file is damaged"),
        ("figures/examples/00_truth.png", None, "00_truth.png: this picture of the gallery is missing"),
        ("config.yaml", "model: {a: [", "config.yaml: the file is damaged"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "r")
    metrics(run)
    gallery(run)
    path = run / name
    path.unlink() if content is None else path.write_text(content)
    page = Page(make_run_page(run))
    assert "Not everything could be read" in page.text
    assert said in page.text
    assert ("Examples" in page.text) == (not name.startswith("figures"))
    assert Page(make_runs_page(tmp_path)).text


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", results={"cost": {"parameters": "many"}})
    assert "cost.parameters is 'many', and no number" in Page(make_run_page(run)).text


def test_a_run_without_a_gallery_shows_its_sheet(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    (run / "figures").mkdir()
    (run / "figures" / "predictions.png").write_bytes(b"\x89PNG")
    assert "keeps no single pictures" in Page(make_run_page(run)).text


def test_a_classical_method_shows_its_steps(tmp_path: Path) -> None:
    """It has no loss, encoder, epochs or curves, and few numbers."""
    cost = {"parameters": 3, "flops": None, "train_seconds": 0.1, "images_per_second": 70.0}
    run = write_run(
        tmp_path / "r",
        **{"model": "threshold", "loss": "none", "choices": {"encoder": "none"}},
        results={"cost": cost, "best_epoch": None, "epochs": 0},
    )
    (run / "metrics.csv").write_text("\n")
    (run / "figures").mkdir()
    (run / "figures" / "steps.png").write_bytes(b"\x89PNG")
    page = Page(make_run_page(run))
    assert "threshold · shapes" in page.text
    assert "Its steps on one image" in page.text
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == ["Its steps on one image"]
    assert "parameters 3 of training 0.1 s" in page.text
    assert "Curves" not in page.text
    assert "best epoch" not in page.text
    assert "Not everything could be read" not in page.text


def test_evaluations_stand_against_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", miou=0.5)
    again = json.loads((run / "results.json").read_text())
    before = again["splits"]["test"]["miou"]
    again["choices"]["tta"] = "flip"
    again["splits"]["test"]["miou"] = before + 0.02
    (run / "eval" / "flip").mkdir(parents=True)
    (run / "eval" / "flip" / "results.json").write_text(json.dumps(again))
    assert f"flip tta=flip test {before + 0.02:.3f} +0.020" in Page(make_run_page(run)).text


def test_stages_are_marked_where_they_begin(tmp_path: Path) -> None:
    stages = [{"size": 0.5, "epochs": 0.5}, {"size": [32, 48], "epochs": 0.5}]
    run = write_run(tmp_path / "r", config={"resize": {"stages": stages}, "trainer": {"max_epochs": 6}})
    metrics(run, epochs=6)
    layout = Page(make_run_page(run)).data["charts"]["loss"]["layout"]
    assert [shape["x0"] for shape in layout["shapes"]] == [3.5]
    assert [note["text"] for note in layout["annotations"]] == ["size 50%", "size 32×48"]


def test_what_a_run_changes(compose_config: Any) -> None:
    from omegaconf import OmegaConf

    config = compose_config("model=fpn", "loss=ce+2*dice", "optimizer.lr=3e-3", "encoder=resnet50", "name=x", "seed=3")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    plain["choices"] = {"model": "fpn", "loss": "ce+2*dice", "encoder": "resnet50", "data": "shapes"}
    found = compare_with_parent(yaml.safe_load(yaml.safe_dump(plain)))
    assert found is not None
    changes = {change.key: (change.parent, change.run) for change in found.choices}
    assert changes == {"model": ("unet", "fpn"), "loss": ("ce", "ce+2*dice"), "encoder": ("resnet18", "resnet50")}
    settings = {change.key: (change.parent, change.run) for change in found.settings}
    assert settings == {"optimizer.lr": (0.001, 0.003)}


def test_choices_that_nobody_knows_have_no_parent() -> None:
    assert compare_with_parent({"choices": {"model": "of_my_own"}, "model": {}}) is None


# ---- many runs


def matrix(folder: Path) -> None:
    for model, miou in (("unet", 0.5), ("fpn", 0.7)):
        for seed in (0, 1):
            run = write_run(
                folder / f"{model}{seed}", model=model, seed=seed, counts=counts_of(miou, noise=0.05, seed=seed)
            )
            metrics(run)
            gallery(run)


def test_many_runs(tmp_path: Path) -> None:
    matrix(tmp_path / "runs")
    write_run(tmp_path / "runs" / "bad", state="failed", reason="disk full")
    write_run(tmp_path / "runs" / "cut", seed=9).joinpath("results.json").write_text("{")
    page = Page(make_runs_page(tmp_path / "runs"))
    runs = page.data["runs"]
    assert [run["name"][:3] for run in runs] == ["fpn", "fpn", "une", "une"]
    assert runs[0]["label"] in ("fpn · seed 0", "fpn · seed 1")
    assert runs[0]["score"] >= runs[1]["score"] > runs[2]["score"] >= runs[3]["score"]
    assert runs[0]["curve"] == {
        **{"epoch": [1, 2, 3], "val/miou": [0.1, 0.2, 0.3]},
        **{"val/loss": [1.2, 0.6, 0.4], "train/loss": [1, 0.5, 0.3333], "lr": [0.1, 0.1, 0.1]},
    }
    assert page.data["sets"] == [[f"a{i:02d}" for i in range(8)]]
    assert set(page.data["pictures"][0]["a00"]) == {"image", "truth"}
    assert all(set(run["pictures"]) == {"a00", "a01"} for run in runs)
    assert [axis["name"] for axis in page.data["axes"]] == ["model", "seed", "mIoU on test"]
    assert "disk full" in page.text
    assert "cut damaged" in page.text
    assert "Bold: the best" in page.text
    assert "segrun table" in page.text


def test_image_miou_is_that_of_the_classes_that_occur(tmp_path: Path) -> None:
    hits = np.array([[50, 0, 0], [0, 0, 0]])
    unions = np.array([[100, 30, 0], [0, 0, 0]])
    write_run(tmp_path / "runs" / "a", counts=(hits, unions))
    assert Page(make_runs_page(tmp_path / "runs")).data["runs"][0]["images"] == [0.25, None]


def test_runs_that_are_no_table_are_still_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", model="unet")
    write_run(tmp_path / "runs" / "b", model="fpn", counts=counts_of(0.5, images=5))
    page = Page(make_runs_page(tmp_path / "runs"))
    assert "These runs make no table of methods." in page.text
    assert [run["set"] for run in page.data["runs"]] in ([0, 1], [1, 0])


def test_axes_put_numbers_by_size_and_words_by_the_alphabet(tmp_path: Path) -> None:
    for i, lr in enumerate([1e-4, 1e-3, 1e-2, 3e-3, 2e-4, 5e-4, 6e-3, 7e-4, 8e-4]):
        write_run(tmp_path / str(i), model="unet" if i % 2 else "fpn", seed=i, config={"optimizer": {"lr": lr}})
    records = collect([tmp_path]).records
    assert varying_keys(records) == ["model", "optimizer.lr"]
    model, lr_axis, score = axes_of(records, ["model", "optimizer.lr"], [0.5, None, *[0.25] * 7], "mIoU")
    assert model.ticks == [(0.0, "fpn"), (1.0, "unet")]
    assert lr_axis.places[:3] == pytest.approx([0, 0.5, 1])  # by the logarithm
    assert score.places[:3] == [1.0, None, 0.0]


def test_no_finished_run_and_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="there is no run directory in it"):
        make_runs_page(tmp_path / "runs")
    write_run(tmp_path / "runs" / "a", state="interrupted", reason="SIGINT")
    page = Page(make_runs_page(tmp_path / "runs"))
    assert "no finished run with scores" in page.text
    assert "SIGINT" in page.text


# ---- what must not happen


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    """A browser ends a script at ``</script``, whatever quotes are around it."""
    classes = ("Road", EVIL, "Sky")
    choices = {"data": EVIL, "tta": EVIL}
    for seed in (0, 1):
        run = write_run(
            tmp_path / "runs" / f"<img src=x onerror=hacked()>{seed}",
            **{"model": EVIL, "seed": seed, "classes": classes, "choices": choices, "config": {"name": EVIL}},
        )
        metrics(run)
        gallery(run, (EVIL, "a00"))
    write_run(tmp_path / "runs" / "failed", state="failed", reason=EVIL)
    for make, folder in ((make_run_page, run), (make_runs_page, tmp_path / "runs")):
        html = make(folder)
        page = Page(html)
        assert "window.hacked" in page.text
        assert not [attrs for tag, attrs in page.tags if "onerror" in attrs]
        assert len([tag for tag, _ in page.tags if tag == "script"]) == 6
        assert EVIL not in html


def test_data_in_a_script_cannot_end_it() -> None:
    value = {"a": "</script><!--\u2028&"}
    text = to_script(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        to_script({"a": float("nan")})


def test_a_page_asks_no_network_for_anything(tmp_path: Path) -> None:
    html = make_run_page(write_run(tmp_path / "r"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;; img-src data:; ")
    assert "unsafe-inline" not in policy[1].partition("script-src")[2]
    for tag, attrs in Page(html).tags:
        for key in ("src", "href"):
            assert (attrs.get(key) or "#").startswith(("#", "data:")), (tag, attrs)


def test_colours_can_be_read() -> None:
    """WCAG AA: 4.5 for text, 3 for what is drawn and for the edges of controls."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(one), luminance(other)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    style = (Path(charts.__file__).parent / "html" / "report.css").read_text()
    blocks = re.findall(r"\{([^{}]*--good:[^{}]*)\}", style)
    themes = [dict(re.findall(r"--([\w-]+):\s*(#\w{6})", block)) for block in blocks]
    assert len(themes) == 3
    assert themes[1] == themes[2], "dark by the system, and by the switch"
    for theme in themes[:2]:
        for name in ("ink", "soft", "accent", "good", "bad", "warn"):
            assert min(contrast(theme[name], theme[ground]) for ground in ("bg", "panel", "sunk")) >= 4.5, name
        for name in ("edge", *(f"c{i}" for i in range(6))):
            assert contrast(theme[name], theme["bg"]) >= 3, name


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r" / "a")
    assert cli.run(["report", "r/a"]) == 0
    assert "report: r/a/report.html (2." in capsys.readouterr().out
    assert cli.run(["report", "r", "--out", "all.html"]) == 0
    assert cli.run(["report", "r", "--out", "all.html"]) == 0, "a report may be made again"
    capsys.readouterr()
    Path("mine.html").write_text("my own")
    for arguments, said in (
        (["report"], "report: of what?"),
        (["report", "nowhere"], "report nowhere: there is no such folder"),
        (["report", "r", "r/a"], "report: of what?"),
        (["report", "r/a", "--split", "tset"], "Did you mean 'test'?"),
        (["report", "r", "--split", "tset"], "Did you mean 'test'?"),
        (["report", "r", "--out", "mine.html"], "is no report"),
        (["report", "r", "--out", "r"], "this is a folder"),
        (["report", "r", "--out", "no/x.html"], "the folder no does not exist"),
        (["report", "r", "--oot", "x"], "Did you mean '--out'?"),
    ):
        assert cli.run(arguments) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert Path("mine.html").read_text() == "my own"


def test_torch_is_not_imported(tmp_path: Path) -> None:
    write_run(tmp_path / "r" / "a")
    gallery(tmp_path / "r" / "a")
    code = (
        "import sys; from seg_cli import cli; cli.run(['report', 'r/a']); cli.run(['report', 'r']); "
        "print([name for name in ('torch', 'pytorch_lightning', 'matplotlib', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    shutil.rmtree(tmp_path / "r")
