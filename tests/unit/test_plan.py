"""The tables of a plan, and what they say of epochs, parts and bytes."""

from typing import Any

import pytest
from rich.console import Console

from seg_cli.commands.plan import _stretches
from seg_cli.config.schema import PLAN_RULES
from seg_cli.reports.plan import bytes_in_words, plan_tables


def make_report(**changes: Any) -> dict[str, Any]:
    span = {
        **{"stage": 1, "first": 1, "last": 3, "size": [32, 48], "batch_size": 16, "lr_factor": 0.5, "steps": 1234},
        **{"images": 20_000, "pixels": 30_720_000, "flops": 5 * 10**12, "seconds_a_step": 0.25, "seconds": 308.5},
        "frozen": ["encoder.0", "encoder.1"],
    }
    last = span | {"stage": 2, "first": 4, "last": 4, "size": [64, 96], "frozen": []}
    parts = [
        {"part": part, "parameters": 1000, "lr_factor": 0.1, "lr": 1e-4, "learns": learns}
        for part, learns in (("encoder.0", [[4, 4]]), ("encoder.1", [[1, 2], [4, 4]]), ("head", [[1, 4]]), ("aux", []))
    ]
    memory = {
        **{"device": "cpu", "size": [64, 96], "batch_size": 16, "parameters": 4000, "gradients": 4000},
        **{"optimizer": 0, "average": 0, "activations": 3 * 2**30, "total": 3 * 2**30 + 8000},
    }
    total = {
        **{"steps": 2468, "images": 40_000, "pixels": 61_440_000, "flops": 10**13, "seconds": 650.0},
        "training_seconds": 617.0,
    }
    return {
        **{"processes": 1, "accumulate": 1, "stages": [span, last], "parts": parts, "memory": memory, "total": total},
        **{"scoring": {"validations": 4, "images": 50, "seconds": 33.0}, "notes": ["[bold]a note[/bold]"], **changes},
    }


def shown(report: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, record=True, soft_wrap=True)
    with console.capture() as capture:
        console.print(plan_tables(report))
    return capture.get()


def test_a_plan_fits_eighty_columns() -> None:
    text = shown(make_report())
    tables = text.partition("in all    ")[0]
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["1–3", "32x48", "16", "0.5", "1,234", "5,000", "0.25", "5:08", "encoder"] in rows
    assert ["4", "64x96", "16", "0.5", "1,234", "5,000", "0.25", "5:08", "–"] in rows
    assert ["encoder.1", "1,000", "0.1", "0.0001", "1–2,", "4"] in rows
    assert ["aux", "1,000", "0.1", "0.0001", "none"] in rows
    assert ["activations", "3.0", "GiB"] in rows
    assert "2,468 steps, 40,000 images, 61.4 M pixels, 10.00 TFLOPs" in text
    assert "about 10:50 on this machine" in text
    assert "[bold]a note[/bold]" in text, "read as it is"
    assert "optimiser" not in text, "there is no state"


def test_a_plan_without_times() -> None:
    report = make_report(scoring=None)
    for span in report["stages"]:
        span["seconds"] = span["seconds_a_step"] = None
    report["total"]["seconds"] = None
    text = shown(report)
    assert "s/step" not in text
    assert "on this machine" not in text


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        (["encoder.0", "encoder.1", "encoder.2"], "encoder"),
        (["encoder.0", "encoder.1", "encoder.2", "head"], "encoder, head"),
        (["encoder.0", "encoder.2"], "encoder.0, encoder.2"),
        (["encoder.1", "encoder.2"], "encoder.1–2"),
        (["head"], "head"),
        ([], "–"),
    ],
)
def test_what_is_frozen_is_said_in_few_words(frozen: list[str], said: str) -> None:
    report = make_report()
    for part, name in zip(report["parts"], ("encoder.0", "encoder.1", "encoder.2", "head"), strict=True):
        part["part"] = name
    report["stages"] = [report["stages"][0] | {"frozen": frozen}]
    (row,) = (line for line in shown(report, width=100).splitlines() if "32x48" in line)
    assert row.rstrip().endswith(f"5:08   {said}")


def test_many_processes_are_said() -> None:
    assert "x 4 x 2" in shown(make_report(processes=4, accumulate=2))


@pytest.mark.parametrize(
    ("epochs", "stretches"),
    [([], []), ([0], [[1, 1]]), ([0, 1, 2], [[1, 3]]), ([0, 1, 5, 7, 8], [[1, 2], [6, 6], [8, 9]])],
)
def test_stretches_of_epochs(epochs: list[int], stretches: list[list[int]]) -> None:
    assert _stretches(epochs) == stretches


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1023, "1023 B"), (2048, "2 KiB"), (1.5 * 2**20, "1.5 MiB"), (2**40, "1,024.0 GiB")],
)
def test_bytes(count: float, words: str) -> None:
    assert bytes_in_words(count) == words


@pytest.mark.parametrize("value", [[1e-7], [1, 0.1], [0, 1], [-1, 1], "1e-7", [1e-7, float("inf")], [True, 2]])
def test_wrong_ranges_of_learning_rates(value: object) -> None:
    assert not PLAN_RULES["plan.lr_range"].holds(value)


def test_a_right_range_of_learning_rates() -> None:
    assert PLAN_RULES["plan.lr_range"].holds([1e-7, 10])
