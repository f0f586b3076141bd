"""Losses from the command line: sums with schedules, wrong requests, and that each loss learns."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]

LEARNING = ("ce", "focal", "dice", "jaccard", "tversky", "lovasz", "dice+focal", "dice+boundary")
BOUND = 0.3
"""Of val mIoU; of 7 classes that are guessed, or all taken for ground, it is below 0.13."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_weight_follows_its_schedule_and_is_logged(segrun: Segrun) -> None:
    ramp = "{_target_:seg_cli.losses.Ramp,start:0.01,end:0.41,epochs:4}"
    options = ("loss=2*dice+boundary", f"loss.weights.boundary={ramp}", "trainer.max_epochs=3", "run_dir=r")
    done = segrun(*TINY, *SHAPES, *options)
    assert done.status == 0, done.err
    rows = Run.open("r").metrics
    assert [row["train/loss_weight/boundary"] for row in rows] == pytest.approx([0.01, 0.11, 0.21])
    assert [row["train/loss_weight/dice"] for row in rows] == [2, 2, 2]
    for row in rows:
        total = 2 * row["train/loss/dice"] + row["train/loss_weight/boundary"] * row["train/loss/boundary"]
        assert row["train/loss"] == pytest.approx(total, rel=1e-4)


def test_terms_of_edges_learn_and_are_left_out_of_validation(segrun: Segrun) -> None:
    options = ("model=gscnn", "encoder.name=test_resnet.r160_in1k", "loss=ce+20*edge+dual_task", "run_dir=r")
    small = [option for option in TINY if not option.startswith(("model", "encoder"))]
    done = segrun(*small, *SHAPES, *options, "trainer.max_epochs=2")
    assert done.status == 0, done.err
    for row in Run.open("r").metrics:
        assert all(row[f"train/loss/{term}"] for term in ("edge", "dual_task")), (
            "in every epoch, also after a validation"
        )
        assert row["val/loss"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["loss=dice+focl"], "loss=dice+focl: there is no loss 'focl'. Did you mean 'focal'?"),
        (["loss=dice", "loss.weights.dice=-1"], "loss.weights.dice=-1: a weight must be 0 or more, or a schedule"),
        (["loss=dice", "loss.weights.dise=1"], "Did you mean 'loss.weights.dice'"),
        (["loss=focal", "loss.terms.focal.gamma=-1"], "loss.terms.focal.gamma=-1: it must be a number 0 or more"),
        (["loss=focal", "loss.terms.focal.alpha=0.25"], "loss.terms.focal.alpha=0.25: "),
        (["loss=ce", "loss.terms.ce.label_smoothing=2"], "loss.terms.ce.label_smoothing=2: "),
        (
            ["loss=dice+jaccard", "loss.terms.dice.over=images"],
            "loss.terms.dice.over=images: allowed are batch, image.",
        ),
        (["loss=ohem", "loss.terms.ohem.keep=0"], "loss.terms.ohem.keep=0: it must be a number above 0"),
        (["loss=dice+ohem", "loss.terms.ohem.weights=[1,2]"], "loss.terms.ohem.weights has 2 numbers, and there are 7"),
        (["loss=ce", "loss.terms.ce.weights=[1,1,-2,1,1,1,1]"], "loss.terms.ce.weights: -2 is no weight of a class"),
        (
            ["loss=focal", "loss.terms.focal.weights=balancd"],
            "loss.terms.focal.weights=balancd: there is no such scheme",
        ),
        (["loss=focal", "loss.terms.focal.weights=balancd"], "Did you mean 'balanced'?"),
        (
            ["loss=dice", "loss.weights.dice={_target_:seg_cli.losses.Ramp,start:-1,end:1,epochs:2}"],
            "loss.weights.dice.start=-1: it must be a number of 0 or more",
        ),
        (
            ["loss=dice", "loss.weights.dice={_target_:seg_cli.losses.Ramp,start:1,end:1}"],
            "loss.weights.dice: Ramp also needs 'epochs'",
        ),
    ],
)
def test_a_wrong_loss_is_named_in_one_sentence(segrun: Segrun, options: list[str], said: str) -> None:
    done = segrun(*TINY, *SHAPES, *options, "run_dir=r")
    assert (done.status, said in done.err) == (2, True), done.err
    assert done.err.count("\n") <= 3
    assert "Traceback" not in done.err
    assert not Path("r").exists()


def test_a_class_that_never_occurs_has_no_balanced_weight(segrun: Segrun) -> None:
    """One scene does not draw everything."""
    options = ("loss=dice+focal", "loss.terms.focal.weights=balanced", "data.train=1", "run_dir=r")
    done = segrun(*TINY, *SHAPES, *options)
    assert done.status == 2, done.err
    assert (
        "loss.terms.focal.weights=balanced: the training masks hold no pixel of Disk, Triangle, Star, and" in done.err
    )
    assert "loss.terms.focal.weights=enet" in done.err
    assert not Path("r").exists()


def test_the_example_of_the_docs_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["total"].item() == pytest.approx(float(found["terms"]["ce"] + 0.3 * found["terms"]["dice"]), rel=1e-5)
    assert not found["logits"].grad[:, :, :8].any()


@pytest.mark.slow
def test_every_loss_learns(segrun: Segrun) -> None:
    """In 2 epochs of 300 scenes."""
    short = ("data=shapes", "data.train=300", "data.val=50", "data.test=1", "trainer.max_epochs=2")
    done = segrun("-m", f"loss={','.join(LEARNING)}", *short, "logger=none")
    assert done.status == 0, done.err
    runs = [Run.open(path.parent) for path in Path("outputs/shapes").glob("*/status.json")]
    reached = {run.results["choices"]["loss"]: max(row["val/miou"] for row in run.metrics) for run in runs}
    assert set(reached) == set(LEARNING)
    assert {name: miou for name, miou in reached.items() if miou < BOUND} == {}
