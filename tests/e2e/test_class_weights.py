"""``segrun loss.terms.ce.weights=...`` from the command to what the run directory records."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segrun" / "class_counts"


def test_balanced_weights_are_printed_recorded_and_remembered(segrun: Segrun, cache: Path) -> None:
    done = segrun(*TINY, *SHAPES, "loss=ce", "loss.terms.ce.weights=balanced", "run_dir=r")
    assert done.status == 0, done.err
    assert "counting classes" in done.out
    assert "class weights of ce (balanced): Ground " in done.out
    recorded = Run.open("r").class_weights
    assert recorded["images"] == 4
    pixels, weights = recorded["pixels"], recorded["weights"]["ce"]["values"]
    assert list(pixels) == ["Ground", "Disk", "Ring", "Box", "Triangle", "Line", "Star"]
    # Every class weighs the same in the mean over the pixels of training.
    assert [pixels[name] * weights[name] for name in pixels] == pytest.approx([sum(pixels.values()) / 7] * 7)

    assert len(list(cache.iterdir())) == 1
    again = segrun(*TINY, *SHAPES, "loss=ce", "loss.terms.ce.weights=balanced", "run_dir=again")
    assert again.status == 0, again.err
    assert "counting classes" not in again.out
    assert Run.open("again").class_weights == recorded
    assert Run.open("again").metrics == Run.open("r").metrics


def test_weights_change_the_training_and_equal_ones_do_not(segrun: Segrun) -> None:
    for name, weights in (("none", "none"), ("ones", "[1,1,1,1,1,1,1]"), ("enet", "enet")):
        done = segrun(*TINY, *SHAPES, "loss=ce", f"loss.terms.ce.weights={weights}", f"run_dir={name}")
        assert done.status == 0, done.err
    none, ones, enet = (Run.open(name) for name in ("none", "ones", "enet"))
    assert not (none.folder / "class_weights.json").exists()
    assert json.loads((ones.folder / "class_weights.json").read_text())["weights"]["ce"]["scheme"] == "given"
    loss = [run.metrics[-1]["train/loss"] for run in (none, ones, enet)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)
    assert loss[0] != pytest.approx(loss[2], rel=1e-2)
    assert len({run.results["fingerprint"] for run in (none, ones, enet)}) == 3


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("[1,2,3]", "loss.terms.ce.weights has 3 numbers, and there are 7 classes: Ground, Disk, Ring, Box"),
        ("[1,1,1,-1,1,1,1]", "loss.terms.ce.weights: -1 is no weight of a class"),
        ("median_freq", "=median_freq: there is no such scheme. Did you mean 'median_frequency'?"),
    ],
)
def test_wrong_weights_make_no_directory(segrun: Segrun, weights: str, said: str) -> None:
    done = segrun(*TINY, *SHAPES, "loss=ce", f"loss.terms.ce.weights={weights}", "run_dir=r")
    assert (done.status, said in done.err) == (2, True), done.err
    assert done.err.count("\n") <= 3
    assert not Path("r").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_that_never_occurs_is_named(segrun: Segrun, camvid_root: Path, workers: int) -> None:
    for path in (camvid_root / "trainannot").glob("*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 10, 0, mask).astype(np.uint8)).save(path)
    options = ("data=camvid", f"data.root={camvid_root}", "loss=ce", "loss.terms.ce.weights=balanced")
    done = segrun(*TINY, *options, f"loader.workers={workers}", "run_dir=r")
    assert done.status == 2
    assert "loss.terms.ce.weights=balanced: the training masks hold no pixel of Bicyclist" in done.err
    assert "loss.terms.ce.weights=enet" in done.err
    assert not Path("r").exists()
