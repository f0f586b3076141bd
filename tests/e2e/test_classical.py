"""``model=threshold`` and its like from the command to the run directory, and every verb on such a run."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]
FITTED = (*SHAPES, "logger=none", "loader.workers=0")


def test_a_run_leaves_what_the_contract_says(segrun: Segrun) -> None:
    done = segrun("model=threshold", *FITTED, "loss=dice", "run_dir=r")
    assert done.status == 0, done.err
    assert "fitted in one go: loss, optimizer, augmentation and epochs play no part" in done.out
    run = Run.open("r")
    files = {"config.yaml", "environment.json", "status.json", "metrics.csv", "results.json", "per_image.csv"}
    assert {path.name for path in run.folder.iterdir()} == files | {"fitted.json", "checkpoints", "figures"}
    pictures = {"steps.png", "histogram.png", "confusion.png", "predictions.png", "examples"}
    assert {path.name for path in run.figures.iterdir()} == pictures
    for picture in run.figures.glob("*.png"):
        assert min(Image.open(picture).size) > 100
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["best.ckpt"]
    assert run.status["state"] == "finished"

    results = run.results
    assert results["choices"]["model"] == "threshold"
    assert results["choices"]["loss"] == results["choices"]["encoder"] == "none"  # which played no part
    assert results["cost"]["fit_seconds"] == results["cost"]["train_seconds"] >= 0
    assert results["cost"]["parameters"] == 3  # the class of each of three levels
    assert results["cost"]["images_per_second"] > 0
    assert (results["epochs"], results["best_epoch"], results["pretrained"]) == (0, None, "none")
    rows = run.per_image
    assert [row["split"] for row in rows] == ["val"] * 2 + ["test"] * 3
    ground = results["splits"]["test"]["classes"]["Ground"]
    pixels = [[int(row[f"{what}/Ground"]) for row in rows[2:]] for what in ("intersection", "union")]
    assert ground["iou"] == pytest.approx(sum(pixels[0]) / sum(pixels[1]))
    fitted = json.loads((run.folder / "fitted.json").read_text())
    assert list(fitted["mapping"]) == ["darkest", "second", "brightest"]


@pytest.fixture
def run(segrun: Segrun) -> str:
    assert segrun("model=kmeans", "model.clusters=4", *FITTED, "run_dir=r").status == 0
    return "r"


@pytest.mark.slow
def test_every_verb_on_such_a_run(segrun: Segrun, run: str) -> None:
    results = Run.open(run).results
    done = segrun("eval", "run=r")
    assert done.status == 0, done.err
    (scores,) = Path("r/eval").glob("*/results.json")
    again = json.loads(scores.read_text())
    assert again["splits"]["test"]["confusion"] == results["splits"]["test"]["confusion"]
    assert again["choices"] == results["choices"], "which name no optimiser, for there was none"

    Path("pictures").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    Image.fromarray(picture).save("pictures/a.png")
    done = segrun("predict", "run=r", "input=pictures", "out=masks")
    assert done.status == 0, done.err
    (mask,) = Path("masks").rglob("*a*.png") if not Path("masks/a.png").exists() else (Path("masks/a.png"),)
    assert Image.open(mask).size == (56, 40)

    for command, said in (
        (("resume", "r"), "r: model=kmeans is fitted in one go and has no epochs to go on with. Make the run again"),
        (("plan", "model=kmeans", *SHAPES), "plan: model=kmeans is fitted in one go, without stages and steps"),
        (("export", "run=r", "format=onnx", "out=a.onnx"), "model: kmeans is no network, and cannot be"),
        (("model=kmeans", *FITTED, "start=r"), "start=r: model=kmeans is fitted anew each time"),
    ):
        done = segrun(*command)
        assert (done.status, said in done.err) == (2, True), done.err
    assert not Path("a.onnx").exists()
    assert not Path("outputs").exists()

    done = segrun("rerun", "r", "--verify")
    assert done.status == 0, done.err
    assert "comes out the same" in done.out
    done = segrun("report", "r")
    assert done.status == 0, done.err


def test_bad_input_is_told_before_there_is_a_directory(segrun: Segrun, tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    for folder in ("images", "masks"):
        (grey / folder).mkdir(parents=True)
    for number in range(6):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9] = 1
        Image.fromarray(mask * 100 + number).save(grey / "images" / f"{number}.png")
        Image.fromarray(mask).save(grey / "masks" / f"{number}.png")
    of_grey = ("data=folder", f"data.root={grey}", "logger=none", "loader.workers=0")
    for options, said in (
        (("model=edges", *FITTED), "edges tells two classes apart, and the dataset has 7. For more than two there are"),
        (("model=threshold", "model.method=otsu", *FITTED), "threshold with otsu tells two classes apart"),
        (("model=kmeans", "model.space=lab", *of_grey), "model.space=lab: it needs colour, and the images are gray"),
        (("model=threshold", "model.channel=hue", *of_grey), "model.channel=hue: it needs colour"),
        (("model=threshold", "fit.images=5", *FITTED), "fit.images=5: the training split has 4 images"),
        ((*TINY, *SHAPES, "fit.images=5"), "fit.images=5: the training split has 4 images"),
        (("model=threshold", "fit.images=0", *FITTED), "fit.images=0"),
    ):
        done = segrun(*options)
        assert (done.status, said in done.err) == (2, True), done.err
        assert not Path("outputs").exists()
    # How many colours there are is known when the images were read.
    done = segrun("model=kmeans", "model.clusters=9", *of_grey, "run_dir=r")
    assert done.status == 2
    assert "model.clusters=9: the training images have only 8 different colours (in gray)" in done.err
    assert Run.open("r").status["state"] == "failed"


@pytest.mark.slow
def test_fewer_images_for_methods_and_networks_and_the_matrix(segrun: Segrun) -> None:
    matrix = ("-m", "model=threshold", "fit.images=1,3", *FITTED, "name=few")
    done = segrun(*matrix)
    assert done.status == 0, done.err
    runs = [Run.open(path.parent) for path in sorted(Path("outputs/few").glob("*/results.json"))]
    assert sorted(run.results["data"]["train_images"] for run in runs) == [1, 3]
    assert len({run.results["fingerprint"] for run in runs}) == 2
    assert len({run.results["data"]["content"] for run in runs}) == 1

    done = segrun(*matrix)
    assert done.status == 0, done.err
    assert len(list(Path("outputs/few").glob("*/results.json"))) == 2  # they were finished

    done = segrun(*TINY, *SHAPES, "fit.images=2", "run_dir=network")
    assert done.status == 0, done.err
    assert Run.open("network").results["data"]["train_images"] == 2

    done = segrun("table", "outputs/few", "network", "--rows", "fit.images,model", "--out", "table.csv")
    assert done.status == 0, done.err
    with Path("table.csv").open() as file:
        assert len([row for row in csv.reader(file) if "threshold" in row or "unet" in row]) == 3


@pytest.mark.slow
def test_the_steps_of_every_method_are_drawn(segrun: Segrun) -> None:
    small = ("data=shapes", "data.train=2", "data.val=1", "data.test=1", "data.size=[32,40]", "logger=none")
    for name, options, more in (
        ("watershed", (), ()),
        ("region_growing", (), ()),
        ("graphcut", (), ()),
        ("kmeans", ("model.clusters=4",), ("clusters.png",)),
        ("pixel_forest", ("model.trees=3", "model.pixels=500", "model.sigmas=[1]"), ("importances.png",)),
        ("patch_cnn", ("model.patches=100", "model.epochs=1"), ()),
    ):
        done = segrun(f"model={name}", *options, *small, "loader.workers=0", f"run_dir={name}")
        assert done.status == 0, done.err
        drawn = {path.name for path in Path(name, "figures").glob("*.png")}
        assert drawn == {"steps.png", "confusion.png", "predictions.png", *more}
        shutil.rmtree(name)
