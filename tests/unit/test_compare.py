"""Two runs compared: what counts as the same, what is near enough where bits may differ, and what is named first."""

import csv
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from seg_cli.errors import UserError
from seg_cli.runs import compare
from seg_cli.runs.compare import Part, Terms
from seg_cli.runs.run import Run
from seg_cli.runs.steps import append_steps, cut_steps, read_steps

CONFIG: dict[str, Any] = {
    "model": {},
    "trainer": {"accelerator": "auto", "devices": "auto", "deterministic": False},
    "loader": {"eval_batch_size": 16},
}
ENVIRONMENT: dict[str, Any] = {
    "packages": {"segrun": "0.1.0", "torch": "2.12.0"},
    "python": "3.11.2",
    "host": "here",
    "cpu": {"model": "a CPU", "cores": 2, "torch_threads": 1},
    "gpus": [],
    "git": {"commit": "abc", "diff_sha256": "0"},
}
RESULTS: dict[str, Any] = {
    "schema": 1,
    "fingerprint": "f" * 64,
    "seed": 0,
    "pretrained": "none",
    "best_epoch": 2,
    "epochs": 2,
    "cost": {"parameters": 5, "flops": 7, "train_seconds": 1.0},
    "splits": {"test": {"miou": 0.5, "pixel_accuracy": 0.75, "images": 2, "confusion": [[3, 1], [0, 4]]}},
}
ROWS: list[dict[str, Any]] = [
    {"epoch": 1, "step": 3, "train/loss": 1.5, "val/miou": 0.25},
    {"epoch": 2, "step": 6, "train/loss": 1.25, "val/miou": None},
]
STEPS = [(step, 2.0 - step / 8) for step in range(1, 7)]
COLUMNS = ["split", "name", "group", "intersection/Sky", "union/Sky"]
IMAGES = [["test", "a", "", 3, 4], ["test", "b\x1b[2J", "", 4, 5]]

EXACT = Terms({}, None, 0.02)
NEAR = Terms({"host": ("here", "there")}, "they were not computed in the same environment", 0.02)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    """A finished run, changed at one place: ``make(results={"splits/test/miou": 0.6})``."""

    def changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        tree = deepcopy(tree)
        for path, value in changes.items():
            *parents, last = path.split("/")
            place = tree
            for key in parents:
                place = place[key]
            place[last] = value
        return tree

    def write(
        *,
        config: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
        results: dict[str, Any] | None = None,
        rows: list[dict[str, Any]] = ROWS,
        steps: list[tuple[int, float]] = STEPS,
        images: list[list[Any]] = IMAGES,
    ) -> Run:
        run = Run.create(tmp_path / "run", numbered=True)
        run.write_config(changed(CONFIG, config or {}))
        run.write_environment(changed(ENVIRONMENT, environment or {}))
        run.write_results(changed(RESULTS, results or {}))
        run.write_metrics(rows)
        append_steps(run.folder, steps)
        run.write_per_image(COLUMNS, images)
        return run

    return write


COMPARISONS = (compare.compare_steps, compare.compare_metrics, compare.compare_results, compare.compare_images)


def test_two_that_are_the_same(make: Callable[..., Run]) -> None:
    one, two = make(), make(results={"cost/train_seconds": 99.0})
    assert compare.terms(one, two) == EXACT
    assert [each(one, two, EXACT).verdict for each in COMPARISONS] == ["same"] * 4
    assert compare.compare_requests(one, two, {}).verdict == "same"


def with_step(step: int, loss: float) -> list[tuple[int, float]]:
    return [(number, loss if number == step else was) for number, was in STEPS]


@pytest.mark.parametrize(
    ("compared", "changes", "said"),
    [
        (
            compare.compare_steps,
            {"steps": with_step(5, 1.3750000000000002)},
            "first in step 5 of 6 (epoch 2): loss 1.3750000000000002 instead of 1.375",
        ),
        (compare.compare_steps, {"steps": STEPS[:4]}, "6 steps were recorded, and now 4"),
        (
            compare.compare_metrics,
            {"rows": [ROWS[0], ROWS[1] | {"train/loss": 1.5, "val/miou": 0.5}]},
            "first in epoch 2: train/loss 1.5 instead of 1.25 and 1 more columns",
        ),
        (compare.compare_metrics, {"rows": ROWS[:1]}, "2 epochs were recorded, and now 1"),
        (
            compare.compare_results,
            {"results": {"splits/test/confusion": [[2, 2], [0, 4]]}},
            "splits/test/confusion[0][0] 2 instead of 3 and 1 more values",
        ),
        (compare.compare_results, {"results": {"best_epoch": 1}}, "best_epoch 1 instead of 2"),
        (
            compare.compare_images,
            {"images": [IMAGES[0], [*IMAGES[1][:4], 6]]},
            "1 of 2 rows, first test b\x1b[2J: union/Sky 6 instead of 5",
        ),
        (compare.compare_images, {"images": IMAGES[:1]}, "2 rows were recorded, and now 1"),
    ],
)
def test_the_first_difference_is_named(
    make: Callable[..., Run],
    compared: Callable[[Run, Run, Terms], Part],
    changes: dict[str, Any],
    said: str,
) -> None:
    part = compared(make(), make(**changes), EXACT)
    assert (part.verdict, part.said) == ("differs", said)


def test_where_bits_may_differ_the_first_loss_and_the_scores_are_judged(make: Callable[..., Run]) -> None:
    one = make()

    def verdicts(**changes: Any) -> list[str]:
        other = make(**changes)
        return [each(one, other, NEAR).verdict for each in COMPARISONS]

    assert verdicts() == ["same"] * 4
    assert verdicts(steps=with_step(1, 1.875 * 1.009)) == ["near", "same", "same", "same"]
    assert verdicts(steps=with_step(1, 1.875 * 0.98)) == ["differs", "same", "same", "same"]
    assert verdicts(steps=with_step(4, 9.0)) == ["near", "same", "same", "same"], "later steps follow from the first"
    assert verdicts(rows=ROWS[:1]) == ["same", "other", "same", "same"]
    near = {"splits/test/confusion": [[2, 2], [0, 4]], "splits/test/miou": 0.515}
    assert verdicts(results=near, images=IMAGES[:1]) == ["same", "same", "near", "other"]
    assert verdicts(results={"splits/test/pixel_accuracy": 0.775}) == ["same", "same", "differs", "same"]
    assert verdicts(results={"splits/test/miou": None}) == ["same", "same", "differs", "same"]
    assert compare.compare_results(one, make(results=near), Terms(NEAR.environment, "x", 0.01)).verdict == "differs"
    processes = Terms({"trainer.devices": (1, 2)}, "x", 0.02)
    assert compare.compare_steps(one, make(steps=with_step(1, 9.0)), processes).verdict == "other"


def test_what_is_not_there_is_not_compared(make: Callable[..., Run]) -> None:
    one, two = make(), make()
    (two.folder / "steps.csv").unlink()
    (two.folder / "per_image.csv").unlink()
    assert compare.compare_steps(one, two, EXACT).verdict == "absent"
    assert compare.compare_images(one, two, EXACT).verdict == "absent"


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"packages/torch": "2.13.0"}, {"torch": ("2.12.0", "2.13.0")}),
        ({"packages/torch": None}, {"torch": ("2.12.0", None)}),
        ({"host": "there", "gpus": ["a GPU"]}, {"host": ("here", "there"), "gpus": ([], ["a GPU"])}),
        ({"cpu/torch_threads": 2}, {"cpu.torch_threads": (1, 2)}),
        ({"git": None}, {"git.commit": ("abc", None), "git.diff_sha256": ("0", None)}),
    ],
)
def test_another_environment_is_named_and_need_not_give_the_same_bits(
    make: Callable[..., Run], changes: dict[str, Any], differs: dict[str, Any]
) -> None:
    rules = compare.terms(make(), make(environment=changes))
    assert {name: rules.environment[name] for name in differs} == differs
    assert not rules.exact


def test_a_package_that_one_of_them_did_not_record_says_nothing(make: Callable[..., Run]) -> None:
    assert compare.terms(make(), make(environment={"packages/scipy": "1.15"})).exact


def test_other_processes_are_another_environment_and_auto_is_one_on_a_cpu(make: Callable[..., Run]) -> None:
    assert compare.terms(make(), make(config={"trainer/devices": 1, "trainer/accelerator": "cpu"})).exact
    assert compare.terms(make(), make(config={"trainer/devices": 2})).environment == {"trainer.devices": (1, 2)}


def test_gpus_give_the_same_bits_only_where_that_was_asked_for(make: Callable[..., Run]) -> None:
    gpu = {"gpus": ["a GPU"]}
    careful = {"trainer/deterministic": True}
    assert "deterministic=true" in (compare.terms(make(environment=gpu), make(environment=gpu)).why_not or "")
    assert compare.terms(*(make(environment=gpu, config=careful) for _ in range(2))).exact
    assert compare.terms(*(make(environment=gpu, config={"trainer/accelerator": "cpu"}) for _ in range(2))).exact


def test_a_run_that_went_on_elsewhere_need_not_give_the_same_bits(make: Callable[..., Run]) -> None:
    at_home = make(environment={"resumed": [{"step": 4, "command_line": ["segrun", "resume"]}]})
    assert compare.terms(make(), at_home).exact
    away = make(environment={"resumed": [{"step": 4, "host": "there", "cpu": {}}]})
    assert "host from step 4 on, cpu from step 4 on" in (compare.terms(make(), away).why_not or "")


def test_what_was_asked_for(make: Callable[..., Run]) -> None:
    one = make()

    def asked(settings: dict[str, Any] | None = None, **changes: Any) -> tuple[str, str]:
        part = compare.compare_requests(one, make(**changes), settings or {})
        return part.verdict, part.said

    assert asked({"seed": (0, 1)}) == ("differs", "seed: 1 instead of 0")
    other = {"fingerprint": "e" * 64}
    assert asked(results=other | {"pretrained": "imagenet"})[0] == "differs"
    assert asked(results=other) == ("differs", "the data is another one: no setting differs, but the fingerprint does")
    assert asked(results=other, environment={"git/commit": "def"})[0] == "absent"
    with_data = make(results=other | {"data": {"content": "1"}}, environment={"git/commit": "def"})
    assert compare.compare_requests(make(results={"data": {"content": "2"}}), with_data, {}).verdict == "differs"


# ---- steps.csv


def test_steps_are_added_cut_and_read(tmp_path: Path) -> None:
    cut_steps(tmp_path, 3)
    assert not (tmp_path / "steps.csv").exists()
    append_steps(tmp_path, STEPS[:2])
    append_steps(tmp_path, [*STEPS[2:4], (5, float("nan"))])
    with (tmp_path / "steps.csv").open(newline="") as file:
        assert [*csv.DictReader(file)][1] == {"step": "2", "loss": "1.75"}
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("6,1.2")  # as a kill leaves it
    assert list(read_steps(tmp_path)) == [1, 2, 3, 4, 5]
    cut_steps(tmp_path, 3)
    append_steps(tmp_path, STEPS[3:])
    assert read_steps(tmp_path) == dict(STEPS)
    cut_steps(tmp_path, 0)
    assert (tmp_path / "steps.csv").read_text() == "step,loss\n"


def test_steps_that_cannot_be_read_are_named_and_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no steps\.csv"):
        read_steps(tmp_path)
    (tmp_path / "steps.csv").write_text("step,loss\n1,2,3\n")
    with pytest.raises(UserError, match=r"steps\.csv: the file cannot be read \('1,2,3' is no row"):
        read_steps(tmp_path)
    cut_steps(tmp_path, 5)
    assert read_steps(tmp_path) == {}


def test_every_number_survives(tmp_path: Path) -> None:
    losses = [(1, 0.1 + 0.2), (2, 1e-320), (3, json.loads("2.2854433059692383"))]
    append_steps(tmp_path, losses)
    assert read_steps(tmp_path) == dict(losses)
