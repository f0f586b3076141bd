"""Scoring a run again: other inference settings, other metrics, another dataset; nothing is ever written over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def trained(segrun: Segrun, tmp_path: Path) -> Path:
    done = segrun(*TINY, *SHAPES, "run_dir=run", "tta=flip", "metrics=calibration", "void=false_positive")
    assert done.status == 0, done.err
    return tmp_path / "run"


def test_a_run_is_scored_again_with_other_settings_under_a_name(segrun: Segrun, trained: Path) -> None:
    own = scores(trained)
    assert own["choices"]["tta"] == "flip"
    assert own["splits"]["test"]["void"] == "false_positive"
    assert 0 <= own["splits"]["test"]["calibration"]["ece"] <= 1
    assert (trained / "figures" / "reliability.png").is_file()

    same = segrun("eval", "run=run", "loader.workers=0", "name=same")
    assert same.status == 0, same.err
    again = scores(trained / "eval" / "same")
    assert f"the run itself: mIoU {own['splits']['test']['miou']:.3f} on test; this is +0.000" in same.out
    assert again["splits"]["test"] == own["splits"]["test"]

    other = segrun(
        *("eval", "run=run", "loader.workers=0", "name=other", "split=[val,test]", "tta=flip+scale", "void=ignored"),
        *("inference=sliding", "inference.window=[32,32]", "metrics=boundary+distance", "postprocess=components+holes"),
    )
    assert other.status == 0, other.err
    found = scores(trained / "eval" / "other")
    assert (found["choices"]["tta"], found["choices"]["inference"]) == ("flip+scale", "sliding")
    assert found["splits"]["test"]["confusion"] != own["splits"]["test"]["confusion"]
    assert {"boundary", "distance"} <= set(found["splits"]["val"])
    assert (trained / "eval" / "other" / "miou_by_crop.png").is_file()
    assert scores(trained) == own

    before = (trained / "eval" / "other" / "results.json").read_bytes()
    refused = segrun("eval", "run=run", "name=other")
    assert refused.status == 2
    assert "has scores already. Choose another name." in refused.err
    assert (trained / "eval" / "other" / "results.json").read_bytes() == before


def test_another_dataset_is_scored_with_the_classes_of_the_model(
    segrun: Segrun, trained: Path, camvid_root: Path
) -> None:
    other = ("eval", "run=run", "loader.workers=0", "data=camvid", f"data.root={camvid_root}", "name=camvid")
    refused = segrun(*other)
    assert refused.status == 2
    assert "The model's classes: Ground, Disk, Ring, Box, Triangle, Line, Star." in refused.err
    assert "Sky, Building, Pole, Road" in refused.err
    mapping = "Sky: Ground, Building: Box, Pole: Line, Road: Ground, Pavement: null, Tree: null, SignSymbol: Star"
    done = segrun(*other, f"classes.map={{{mapping}, Fence: null, Car: Disk, Pedestrian: null, Bicyclist: Ring}}")
    assert done.status == 0, done.err
    found = scores(trained / "eval" / "camvid")
    assert found["choices"]["data"] == "camvid"
    assert list(found["splits"]["test"]["classes"]) == ["Ground", "Disk", "Ring", "Box", "Triangle", "Line", "Star"]
    assert found["splits"]["test"]["classes"]["Triangle"]["pixels"] == 0


WRONG = [
    (["threshold=best"], "threshold=best: the labels of this dataset exclude each other"),
    (["classes.map={Disk: Box}"], "classes.map: it is for another dataset than that of the run"),
    (["classes=3"], "classes: it must be {map: {CLASS: CLASS}}"),
    (["tta=flop"], "Did you mean 'flip'?"),
    (["inference=sliding", "inference.overlap=1"], "overlap"),
    (["metrics=cityscapes"], "Ground"),
    (["data.rot=there"], "data.rot"),
]


def test_wrong_requests_are_refused(segrun: Segrun, trained: Path) -> None:
    for arguments, said in WRONG:
        done = segrun("eval", "run=run", *arguments)
        assert done.status == 2, done.err
        assert said in done.err
    assert not (trained / "eval").exists()
