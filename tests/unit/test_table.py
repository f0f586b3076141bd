"""Tables of runs: what makes a row, what is refused, and what numbers stand in it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg_cli.errors import UserError
from seg_cli.reports import table_findings
from seg_cli.reports.statistics import Counts, analyse
from seg_cli.reports.table import Request, Table, make_table
from tests.run_folders import counts_of, write_per_image, write_run


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(name: str, **how: Any) -> Path:
    return write_run(Path("outputs") / name, **how)


def table(**asked: Any) -> Table:
    return make_table(["outputs"], Request(**asked))


def rows_of(made: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in made.cells]


def values_of(made: Table) -> list[dict[str, str]]:
    return [row.values for row in made.rows]


def said(made: Table) -> str:
    return "\n".join(made.notes)


# ---- numbers


def test_means_and_spread_by_hand_best_first() -> None:
    counts = {hits: (np.array([[hits, hits]]), np.array([[200 - hits, 200 - hits]])) for hits in (50, 80, 100)}
    write("0", model="unet", seed=0, counts=counts[50], classes=("x", "y"))  # IoU 50 / 150
    write("1", model="unet", seed=1, counts=counts[80], classes=("x", "y"))  # IoU 80 / 120
    write("2", model="fpn", seed=0, counts=counts[100], classes=("x", "y"))
    made = table(columns=("miou", "iou:x", "pixel_accuracy", "parameters", "images_per_second"), show=("std",))
    assert made.headings == ["model", "seeds", "mIoU", "IoU x", "pixel acc.", "params (M)", "images/s"]
    assert rows_of(made) == [
        ["fpn", "1", "1.000", "1.000", "1.000", "4.00", "10.0"],
        ["unet", "2", "0.500 ± 0.236", "0.500 ± 0.236", "0.650 ± 0.212", "5.00", "10.5 ± 0.7"],
    ]


def test_statistics_are_those_of_the_counts() -> None:
    counts = {
        (m, s): counts_of(b, images=30, noise=0.1, seed=s) for m, b in (("unet", 0.6), ("fpn", 0.5)) for s in (0, 1)
    }
    for (model, seed), of in counts.items():
        write(f"{model}{seed}", model=model, seed=seed, counts=of)
    made = table()
    methods = [Counts(*(np.stack([counts[m, s][i] for s in (0, 1)]) for i in (0, 1))) for m in ("unet", "fpn")]
    expected = analyse(methods, "miou", groups=None)
    for row, finding in zip(made.data["rows"], expected, strict=True):
        scores = row["scores"]["miou"]
        assert scores["mean"] == pytest.approx(finding.mean, abs=1e-12)
        assert scores["std"] == pytest.approx(finding.std, abs=1e-12)
        for key in ("low", "high", "difference", "p", "p_corrected", "best", "tied"):
            assert scores[key] == getattr(finding, key)
    assert "95% intervals: bootstrap over 30 images" in said(made)
    assert "intervals" not in said(table(show=("std", "p"))), "where none is shown, none is explained"
    assert [row[2].bold for row in made.cells] == [True, False]
    assert rows_of(made)[0][4:6] == ["best", "–"]
    assert rows_of(made)[1][4].startswith("−0.1")
    assert "bootstrap over 30 images" in said(made)


def test_what_cannot_be_told_apart_is_bold_too_and_the_second_is_underlined() -> None:
    hits, union = counts_of(0.6, images=20, noise=0.1)
    one = np.zeros_like(hits)
    one[0, 0] = 1
    for model, more in (("a", 2 * one), ("b", one), ("c", -hits // 2)):  # a is right in one pixel more
        write(model, model=model, counts=(hits + more, union - more))
    made = table(underline_second=True)
    assert [row[2].bold for row in made.cells] == [True, True, False]
    assert [row[2].underlined for row in made.cells] == [False, True, False]
    assert not any(row[2].underlined for row in table().cells)


def test_a_single_row_has_no_bold_and_no_difference() -> None:
    write("0")
    made = table()
    assert made.headings == ["model", "seeds", "mIoU", "95% interval", "pixel acc."]
    assert not any(cell.bold for cell in made.cells[0])
    assert "One seed: nothing is known about the spread" in said(made)


def test_groups_are_the_unit_where_there_are_any() -> None:
    for model, miou in (("unet", 0.6), ("fpn", 0.5)):
        counts = counts_of(miou, images=24, noise=0.1)
        write(model, model=model, counts=counts, groups=[f"video{i % 8}" for i in range(24)])
    made = table()
    assert (made.findings.images, made.findings.groups) == (24, 8)
    assert "24 images of test in 8 groups" in said(made)
    assert "bootstrap over 8 groups" in said(made)


def test_images_in_another_order_are_paired_by_name() -> None:
    write("a", model="a", counts=counts_of(0.6, images=20, noise=0.2))
    folder = write("b", model="b", counts=counts_of(0.58, images=20, noise=0.2))
    before = table().data["rows"]
    lines = (folder / "per_image.csv").read_text().splitlines()
    (folder / "per_image.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    assert [row["scores"] for row in table().data["rows"]] == [row["scores"] for row in before]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: path.write_text("split,name\ntest,x\n"), "is damaged"),
        (lambda path: path.write_text(path.read_text().replace("a00,", "other,")), "'other' is in one of them alone"),
        (lambda path: path.write_text(path.read_text().replace("a00,", "a01,")), "has an image twice"),
        (lambda path: path.write_text(path.read_text().replace("test,", "val,")), "has no images of 'test'"),
        (lambda path: write_per_image(path, {"test": counts_of(0.9)}), "does not give the mIoU of results.json"),
    ],
)
def test_a_row_without_good_counts_is_shown_and_not_tested(damage: Any, why: str) -> None:
    for model, miou in (("a", 0.7), ("b", 0.6), ("c", 0.5)):
        folder = write(model, model=model, counts=counts_of(miou, noise=0.05))
    damage(folder / "per_image.csv")
    made = table()
    assert ["tied" in row["scores"]["miou"] for row in made.data["rows"]] == [True, True, False]
    assert rows_of(made)[2][3:6] == ["–", "–", "–"]
    assert "Not tested: model=c (" in said(made)
    assert why in said(made)


def test_a_column_without_counts_has_no_test_and_is_never_bold() -> None:
    for model, miou in (("a", 0.7), ("b", 0.6)):
        write(model, model=model, miou=miou)
    made = table(columns=("miou", "fw_iou"))
    assert "tied" not in made.data["rows"][0]["scores"]["fw_iou"]
    assert "Without test, and never bold: fw IoU." in said(made)
    for model in "ab":
        results = json.loads(Path(f"outputs/{model}/results.json").read_text())
        results["splits"]["test"]["void"] = "false_positive"
        Path(f"outputs/{model}/results.json").write_text(json.dumps(results))
    # then the void pixels that were predicted are in the unions, and accuracy does not count them
    assert "never bold: pixel acc." in said(table())


def test_a_class_that_is_nowhere() -> None:
    hits, union = counts_of(0.6)
    hits[:, 2] = union[:, 2] = 0
    for model in "ab":
        write(model, model=model, counts=(hits, union))
    made = table(per_class=True)
    assert made.headings[-2:] == ["IoU Road", "IoU Car"]
    with pytest.raises(UserError, match="--columns iou:Sky: no run has such a number"):
        table(columns=("iou:Sky",))


def test_findings_are_remembered_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, miou in (("a", 0.7), ("b", 0.6)):
        write(model, model=model, miou=miou)
    before = table()
    computed: list[str] = []
    real = table_findings._find
    monkeypatch.setattr(table_findings, "_find", lambda *given: computed.append(given[2]) or real(*given))
    assert table().data == before.data
    assert computed == []
    table(level=0.9)
    shutil.rmtree("outputs/b")
    write("b", model="b", miou=0.65)
    assert table().data["rows"][1]["scores"]["miou"]["mean"] == pytest.approx(0.65, abs=0.01)
    assert len(computed) == 2


def test_only_the_first_rows_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_findings, "MOST", 2)
    for number in range(4):
        write(f"{number}", model=f"m{number}", miou=0.4 + number / 10)
    made = table()
    assert ["tied" in row["scores"]["miou"] for row in made.data["rows"]] == [True, True, False, False]
    assert "Not tested: the 2 rows behind the first 2." in said(made)


# ---- rows


def test_rows_are_the_choices_that_differ_and_then_settings() -> None:
    for seed in (0, 1):
        write(f"a{seed}", model="unet", seed=seed)
        write(f"b{seed}", model="fpn", seed=seed)
    assert values_of(table()) == [{"model": "fpn"}, {"model": "unet"}]
    write("c", model="fpn", config={"optimizer": {"lr": 0.1}, "loader": {"workers": 7}, "data": {"root": "/other"}})
    made = table()
    assert made.request.rows == ("model", "optimizer.lr")
    assert {"model": "fpn", "optimizer.lr": "0.1"} in values_of(made)
    assert len(made.rows) == 3


def test_an_encoder_that_comes_with_its_model_is_no_row_and_one_that_varies_is() -> None:
    write("a", model="unet")
    write("b", model="fcn", choices={"encoder": "own"}, config={"encoder": {"name": "vgg16_bn"}})
    assert table().request.rows == ("model",)
    write("c", model="unet", choices={"encoder": "resnet50"}, config={"encoder": {"name": "resnet50"}})
    assert table().request.rows == ("model", "encoder")


def test_pretraining_that_differs_is_a_row() -> None:
    write("a", model="unet")
    write("b", model="unet", results={"pretrained": "imagenet", "fingerprint": "b"})
    assert sorted(values["pretrained"] for values in values_of(table())) == ["imagenet", "none"]


def test_too_many_differences_ask_for_rows() -> None:
    for number in range(12):
        write(f"{number}", config={f"{'abcdefghijkl'[i]}": 0 for i in range(3)} | {"fit": {f"s{number}": 1}})
    with pytest.raises(UserError, match="these runs differ in more than 6 things"):
        table()


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"config": {"optimizer": {"lr": 0.1}}},
            r"model=unet: its runs differ in more than the seed: optimizer\.lr is 0\.001 in outputs/a and 0\.1 in "
            r"outputs/b\. Make it a row \(--rows model,optimizer\.lr\), or take some of the runs \(--filter "
            r"'optimizer\.lr=0\.001'\)\.",
        ),
        ({"loss": "dice"}, r"loss is ce in outputs/a and dice in outputs/b\."),
        ({"results": {"pretrained": "imagenet"}}, "pretrained is none in outputs/a and imagenet in outputs/b"),
        ({"results": {"data": {"content": "d1"}}}, r"dataset differs \(outputs/a and outputs/b\).* --allow data"),
    ],
)
def test_a_row_of_different_runs_is_refused(other: dict[str, Any], sentence: str) -> None:
    write("a", seed=0)
    write("b", seed=1, **other)
    with pytest.raises(UserError, match=sentence):
        table(rows=("model",))


def test_where_and_how_it_was_computed_makes_no_other_row() -> None:
    write("a", seed=0)
    other = {"trainer": {"devices": 4}, "loader": {"workers": 3}, "run_dir": "/x", "tags": ["b"], "logger": {"csv": {}}}
    write("b", seed=1, config=other)
    assert [len(row.runs) for row in table().rows] == [2]


def test_the_same_run_twice_counts_once_and_the_newest() -> None:
    write("a", miou=0.5, ended="2026-01-03T00:00:00+00:00")
    write("b", miou=0.6, ended="2026-01-04T00:00:00+00:00")
    made = table()
    assert [str(run.folder) for run in made.rows[0].runs] == ["outputs/b"]
    assert "Left out: 1 of which a newer run has the same seed and fingerprint." in said(made)
    write("c", results={"fingerprint": "other"}, environment={"packages": {"segrun": "0.2.0"}})
    with pytest.raises(
        UserError, match=r"have the same seed 0 and are not the same experiment \(segrun 0\.[12]\.0 and"
    ):
        table()


def test_seeds_as_rows() -> None:
    for seed in (0, 1):
        write(f"{seed}", seed=seed, miou=0.5 + seed / 10)
    made = table(rows=("seed",))
    assert made.headings[:2] == ["seed", "mIoU"]
    assert [row[0] for row in rows_of(made)] == ["1", "0"]


def test_filters() -> None:
    for model in ("unet", "fpn", "segnet"):
        for lr in (0.1, 0.01):
            write(f"{model}{lr}", model=model, config={"optimizer": {"lr": lr}})
    made = table(rows=("model",), filters=("optimizer.lr=1e-1", "model=unet,fpn"))
    assert values_of(made) == [{"model": "fpn"}, {"model": "unet"}]
    assert "Rows also differ" not in said(made)
    for wrong, sentence in (
        ("model=unett", r"no run has that\. Did you mean 'unet'\? There are: fpn, segnet, unet\."),
        ("modl=unet", r"no run has 'modl'\. Did you mean 'model'\?"),
        ("model", "it is written as key=value"),
    ):
        with pytest.raises(UserError, match=sentence):
            table(filters=(wrong,))


def test_what_differs_between_rows_and_is_no_row_is_said() -> None:
    write("a", model="unet", config={"trainer": {"max_epochs": 40}})
    write("b", model="fpn", config={"trainer": {"max_epochs": 80}})
    assert "Rows also differ in trainer.max_epochs (40, 80)." in said(table(rows=("model",)))


# ---- what cannot be compared


@pytest.mark.parametrize(
    ("what", "other", "sentence"),
    [
        ("void", {"void": "false_positive"}, r"void pixels are counted differently \(ignored in outputs/a, false_pos"),
        ("data", {"images": 9}, r"the number of images differs \(8 in outputs/a, 9 in outputs/b\)"),
        ("data", {"content": "d1"}, r"the content of the dataset differs \(outputs/a and outputs/b\)"),
        ("data", {"classes": ("Road", "Car", "Sea")}, r"the classes differ \(Sky in outputs/a, Sea in outputs/b\)"),
        ("data", {"counts": counts_of(0.5, images=8, seed=1)}, None),
        (
            "resolution",
            {"size": [30, 40]},
            r"images are scored at different sizes \(15 x 20 in outputs/a, 30 x 40 in outputs/b\)",
        ),
        ("pretrained", {"pretrained": "imagenet"}, r"what the models started from differs \(none in outputs/a, pretr"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_allowed(what: str, other: dict[str, Any], sentence: str | None) -> None:
    write("a", model="unet", miou=0.6)
    plain = {key: value for key, value in other.items() if key in ("classes", "counts")}
    folder = write("b", model="fpn", miou=0.5, **plain)
    results = json.loads((folder / "results.json").read_text())
    results["splits"]["test"].update({key: value for key, value in other.items() if key in ("void", "images")})
    results["data"].update({"content": other.get("content", "d0"), "image_size": other.get("size", [15, 20])})
    results["pretrained"] = other.get("pretrained", "none")
    (folder / "results.json").write_text(json.dumps(results))
    if sentence is None:
        assert "Allowed" not in said(table(rows=("model",)))
        return
    with pytest.raises(UserError, match=f"^{what}: {sentence}.* type --allow {what}\\."):
        table(rows=("model",))
    assert f"Allowed: {what} differs." in said(table(rows=("model",), allow=(what,)))


def test_weights_of_one_encoder_must_be_the_same_and_of_different_encoders_cannot() -> None:
    write("a", model="unet", results={"pretrained": "r18.safetensors abc"})
    write("b", model="fpn", choices={"encoder": "lite0"}, results={"pretrained": "lite0.safetensors def"})
    table(rows=("model", "encoder"))
    write("c", model="segnet", results={"pretrained": "imagenet"})
    with pytest.raises(UserError, match=r"^pretrained: .*r18\.safetensors abc in outputs/a, imagenet in outputs/c"):
        table(rows=("model", "encoder"))
    assert len(table(rows=("model", "encoder", "pretrained")).rows) == 3


def test_runs_of_an_older_program_are_compared_by_their_labels() -> None:
    for model in "ab":
        folder = write(model, model=model)
        results = json.loads((folder / "results.json").read_text())
        del results["data"]
        (folder / "results.json").write_text(json.dumps(results))
    assert "Of 2 runs it is not known what their data holds" in said(table())


# ---- requests


def test_what_is_left_out_is_counted_and_named() -> None:
    write("good")
    write("f", state="failed", reason="no memory")
    write("r", state="running")
    (write("d") / "results.json").write_text("{")
    write("v", counts={"val": counts_of(0.5)}, seed=1)
    notes = said(table())
    assert "Left out: 1 damaged: outputs/d/results.json: the file is damaged" in notes
    assert "Left out: 1 failed, 1 running (outputs/f, outputs/r)." in notes
    assert "Left out: 1 without scores on test (outputs/v)." in notes


def test_val_where_no_run_has_test() -> None:
    write("v", counts={"val": counts_of(0.5)})
    assert table().request.split == "val"
    with pytest.raises(UserError, match=r"--split tset: no run has scores on it.* There are: val\."):
        table(split="tset")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"columns": ("miuo",)},
            r"--columns miuo: no run has such a number\. Did you mean 'miou'\? There are: miou, pix",
        ),
        ({"columns": ("iou:Kar",)}, r"Did you mean 'iou:Car'\?.*of a class as in iou:Road"),
        ({"rows": ("modle",)}, r"--rows modle: no run has 'modle'\. Did you mean 'model'\?"),
        (
            {"sort": "miuo"},
            r"--sort miuo: no run has that\. Did you mean 'miou'\? There are: miou, pixel_accuracy, model",
        ),
        ({"allow": ("dota",)}, r"--allow dota: there is no such difference\. Did you mean 'data'\?"),
        (
            {"evaluation": "flip"},
            r"--eval flip: no run has such scores\. They are made with: segrun eval run=RUN name=flip",
        ),
    ],
)
def test_a_wrong_request_says_what_there_is(asked: dict[str, Any], sentence: str) -> None:
    write("a")
    with pytest.raises(UserError, match=sentence):
        table(**asked)


def test_no_finished_run() -> None:
    Path("outputs").mkdir()
    with pytest.raises(UserError, match=r"outputs: there is no finished run to show; there is no run at all\."):
        table()
    write("f", state="failed")
    write("i", state="interrupted")
    with pytest.raises(UserError, match="there is 1 failed, 1 interrupted"):
        table()


def test_other_numbers_by_their_place_and_which_end_is_best() -> None:
    for model, ece in (("a", 0.2), ("b", 0.1)):
        folder = write(model, model=model)
        results = json.loads((folder / "results.json").read_text())
        results["splits"]["test"]["calibration"] = {"ece": ece, "curve": [{"pixels": 1}]}
        (folder / "results.json").write_text(json.dumps(results))
    made = table(columns=("calibration.ece", "parameters"))
    assert [row[0] for row in rows_of(made)] == ["b", "a"]  # less is better
    assert made.headings[2:] == ["calibration.ece", "params (M)"]
    assert [row[0] for row in rows_of(table(sort="model"))] == ["a", "b"]


def test_speed_on_different_hardware_is_said() -> None:
    write("a", model="a")
    write("b", model="b", environment={"gpus": ["H200"]})
    made = table(columns=("miou", "images_per_second"))
    assert "images/s: measured on different hardware, and not comparable." in said(made)
    assert "on A processor, H200; segrun 0.1.0 (commit 0123456789)." in said(made)


def test_scores_of_an_evaluation() -> None:
    for model, miou in (("a", 0.5), ("b", 0.6)):
        write(model, model=model, miou=miou)
        again = write_run(Path("again"), model=model, miou=1.1 - miou, choices={"tta": "flip"})
        Path(f"outputs/{model}/eval").mkdir()
        again.rename(f"outputs/{model}/eval/flip")
    made = table(evaluation="flip")
    assert [row[0] for row in rows_of(made)] == ["a", "b"]
    assert "tied" in made.data["rows"][0]["scores"]["miou"]
    assert "Scores of eval/flip" in said(made)
    assert replace(made.request, evaluation=None) == table().request
