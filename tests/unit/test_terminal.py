"""The tables and the closing words of a run, as text."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seg_cli.reports.terminal import closing, score_table


def split(names: tuple[str, ...], iou: float) -> dict[str, Any]:
    classes: dict[str, Any] = {
        name: {"iou": iou, "dice": 0.81, "precision": 0.82, "recall": 0.83, "pixels": 300} for name in names
    }
    classes[names[-1]] = dict.fromkeys(("iou", "dice", "precision", "recall")) | {"pixels": 0}
    means = {"miou": iou, "pixel_accuracy": 0.9, "mean_accuracy": 0.7, "mean_dice": 0.75, "fw_iou": 0.85}
    return means | {"classes": classes, "images": 101, "void": "ignored", "absent_classes": [names[-1]]}


def results(*splits: str, names: tuple[str, ...] = ("Sky", "Building", "Car", "Train")) -> dict[str, Any]:
    return {
        "choices": {"model": "deeplabv3plus", "encoder": "resnet18", "loss": "dice+focal", "data": "camvid"},
        "seed": 7,
        "splits": {name: split(names, 0.5 + 0.1 * i) for i, name in enumerate(splits)},
        "cost": {"train_seconds": 161.4, "images_per_second": 41.6},
        "best_epoch": 27,
        "epochs": 30,
    }


def in_a_pipe(renderable: Any, width: int = 80, soft_wrap: bool = False) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(renderable, soft_wrap=soft_wrap)
    return file.getvalue()


def cells(text: str, first: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first])


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_both_splits_stand_side_by_side(soft_wrap: bool) -> None:
    text = in_a_pipe(score_table(results("val", "test")), soft_wrap=soft_wrap)
    assert text.startswith("model=deeplabv3plus encoder=resnet18 loss=dice+focal data=camvid seed=7\n")
    assert cells(text, "Sky") == ["Sky", "0.500", "0.600", "0.810", "0.820", "0.830", "33.3%"]
    assert cells(text, "Train") == ["Train", *"–––––", "0.0%"]
    assert cells(text, "test") == ["test", "0.600", "0.900", "0.700", "0.750", "0.850", "101"]
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_names_are_shown_and_not_obeyed() -> None:
    hostile = "Car\x1b[2J[red]\u202e"
    text = in_a_pipe(score_table(results("val", "te[bold]st\x1b[0m", names=(hostile, "Sky"))), width=160)
    assert "\x1b" not in text
    assert "Car\\x1b[2J[red]\\u202e" in text
    assert "te[bold]st\\x1b[0m" in text


def test_no_number_is_cut_in_a_narrow_terminal() -> None:
    text = in_a_pipe(score_table(results("val", "test")), width=60)
    assert cells(text, "test") == ["test", "0.600", "0.900", "0.700", "0.750", "0.850", "101"]
    assert "…" not in text


def test_pixels_of_overlapping_classes_are_a_share_of_those_that_count_for_the_class() -> None:
    found = results("test", names=("Car", "Roof", "Unused"))
    counts = [[[600, 0], [100, 300]], [[0, 100], [100, 300]], [[1000, 0], [0, 0]]]
    found["splits"]["test"] |= {"labels": "overlapping", "confusion": counts}
    found["splits"]["test"]["classes"]["Roof"]["pixels"] = 400
    text = in_a_pipe(score_table(found))
    assert [cells(text, name)[-1] for name in ("Car", "Roof", "Unused")] == ["30.0%", "80.0%", "0.0%"]


def test_many_choices_take_several_lines() -> None:
    found = results("test")
    found["choices"] = {f"group{i}": "choice" for i in range(12)}
    text = in_a_pipe(score_table(found), soft_wrap=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "group11=choice seed=7\n" in text


def test_one_split() -> None:
    text = in_a_pipe(score_table(results("val")))
    assert cells(text, "Sky") == ["Sky", "0.500", "0.810", "0.820", "0.830", "33.3%"]
    assert "test" not in text


def test_class_names_are_taken_as_they_are() -> None:
    names = ("[red]Ampel[/red]", "[/]", "Straße" * 20, "unused")
    text = in_a_pipe(score_table(results("test", names=names)))
    assert "[red]Ampel[/red]" in text
    assert "[/]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_split_without_a_score() -> None:
    found = results("test")
    found["splits"]["test"]["miou"] = None
    assert cells(in_a_pipe(score_table(found)), "test")[1] == "–"


def test_closing_keeps_paths_whole() -> None:
    folder = Path("outputs") / ("a-long-name" * 10) / "2026-01-01_00-00-00"
    lines = in_a_pipe(closing(folder, results("test"), f"segrun eval run={folder} [split=val]"), soft_wrap=True)
    assert lines.splitlines() == [
        "best epoch 27 of 30 · trained in 2 min 41 s · scored at 42 images/s",
        f"run   {folder}",
        f"next  segrun eval run={folder} [split=val]",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (59.2, "59.2 s"), (60, "1 min 0 s"), (7320, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    found = results("test")
    found["cost"]["train_seconds"] = seconds
    assert f"trained in {text} " in in_a_pipe(closing(Path("x"), found, "y"))
