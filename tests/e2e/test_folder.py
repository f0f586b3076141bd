"""Images of one's own through the command line: a folder of a few files, a table of them, and real membranes."""

import csv
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.commands.trained import load_trained
from seg_cli.runs.run import Run
from tests.e2e.conftest import TINY, Outcome

Segrun = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Ten photographs of 32 x 40 with a bright box, and masks of colours."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for index in range(10):
        inside = np.zeros((32, 40), bool)
        inside[8:20, index : index + 16] = True
        photograph = np.where(inside[..., None], 220, 60) + rng.integers(0, 30, (32, 40, 3))
        Image.fromarray(photograph.astype(np.uint8)).save(tmp_path / "mine" / "images" / f"day{index // 2}_{index}.jpg")
        painted = np.where(inside[..., None], (255, 0, 0), 0).astype(np.uint8)
        Image.fromarray(painted).save(tmp_path / "mine" / "masks" / f"day{index // 2}_{index}_mask.png")
    return tmp_path / "mine"


def test_colours_want_a_table_and_then_it_trains(segrun: Segrun, mine: Path) -> None:
    refused = segrun(*TINY, "data=folder", f"data.root={mine}")
    assert refused.status == 2
    assert "Save these lines" in refused.err
    lines = [line for line in refused.err.splitlines() if line.startswith(("0 0 0 ", "255 0 0 "))]
    assert lines == ["0 0 0 background", "255 0 0 class_1"]

    (mine / "classes.txt").write_text("0 0 0 background\n255 0 0 box\n")
    group = 'data.group="^(day[0-9]+)_"'
    done = segrun(*TINY, "data=folder", f"data.root={mine}", "data.fractions=[0.6,0.2,0.2]", group, "run_dir=r")
    assert done.status == 0, done.err
    run = Run.open("r")
    assert list(run.results["splits"]["test"]["classes"]) == ["background", "box"]
    groups = {split: {row["group"] for row in run.per_image if row["split"] == split} for split in ("val", "test")}
    assert all(groups.values())
    assert not groups["val"] & groups["test"]
    again = segrun("eval", "run=r", "split=test", "accelerator=cpu", "loader.workers=0")
    assert again.status == 0, again.err
    (proposed,) = [line for line in done.out.splitlines() if line.startswith("next  ")]
    for word in ("data=folder", f"data.root={mine}", shlex.quote("data.fractions=[0.6,0.2,0.2]")):
        assert word in proposed
    assert "run_dir" not in proposed
    (train,) = re.findall(r"^(\d+) train, ", done.out, re.MULTILINE)
    steps = int(train) // 2
    assert f"note: {steps} steps in all are few" in done.out
    assert f"trainer.max_epochs={math.ceil(200 / steps)} " in done.out

    image = mine / "images" / "day0_0.jpg"
    image.rename("new.jpg")
    shutil.rmtree(mine)  # a trained model needs its images no more
    labelled = segrun("predict", "run=r", "input=new.jpg", "out=p", "accelerator=cpu")
    assert labelled.status == 0, labelled.err
    colors = [of["color"] for of in json.loads(Path("p/labels.json").read_text())["classes"]]
    assert colors == [[0, 0, 0], [255, 0, 0]]
    assert load_trained("r").label("new.jpg").shape == (32, 40)


def test_a_table_trains_with_gray_images(segrun: Segrun, mine: Path) -> None:
    with (mine / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "mask", "split"])
        for index, path in enumerate(sorted((mine / "images").iterdir())):
            mask = mine / "masks" / f"{path.stem}_mask.png"
            Image.fromarray(np.asarray(Image.open(mask))[..., 0]).save(mask)
            table.writerow([f"images/{path.name}", f"masks/{mask.name}", ("train", "val")[index % 2]])
    settings = ("data=manifest", f"data.root={mine}", "data.channels=1", "data.names=[ground,box]")
    done = segrun(*TINY, *settings, "run_dir=r")
    assert done.status == 0, done.err
    results = Run.open("r").results
    assert list(results["splits"]["val"]["classes"]) == ["ground", "box"]
    assert results["splits"]["val"]["confusion"] == results["splits"]["test"]["confusion"]  # test is val


def test_real_membranes_train(segrun: Segrun, shared: Path) -> None:
    root = shared / "data" / "isbi"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    done = segrun(
        *(*TINY, "data=folder", f"data.root={root}", "data.names=[membrane,cell]", "loader.crop=[64,64]"),
        *("trainer.limit_batches=2", "run_dir=r"),
    )
    assert done.status == 0, done.err
    assert "21 train, 4 val, 5 test images, 2 classes" in done.out
    assert list(Run.open("r").results["splits"]["test"]["classes"]) == ["membrane", "cell"]
