"""The run directory: files that are whole or not there, readers that name what is damaged."""

import errno
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from seg_cli.errors import RunFailed, UserError
from seg_cli.runs.atomic import write_bytes, write_file, write_json, write_text
from seg_cli.runs.run import SCHEMA, Run

# ---- atomic files


def fail_with(error: BaseException) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(b"half of it")
        raise error

    return write


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), OSError(errno.EIO, "broken disk")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(type(error)):
        write_file(path, fail_with(error))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RunFailed, match=r"file\.txt: no space is left on the disk.* run_dir=DIR"):
        write_file(path, fail_with(OSError(number, "full")))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_and_readable_like_any_other(tmp_path: Path) -> None:
    path, plain = tmp_path / "file.txt", tmp_path / "plain.txt"
    plain.touch()
    write_text(path, "a much longer text")
    write_bytes(path, "größer".encode())
    assert path.read_text(encoding="utf-8") == "größer"
    assert path.stat().st_mode == plain.stat().st_mode


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(tmp_path / "file.json", {"miou": math.nan})
    assert not list(tmp_path.iterdir())


# ---- making and finding runs


def test_a_run_is_never_written_over_another(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "run"
    run = Run.create(folder, numbered=False)
    assert run.folder == folder
    assert run.figures.is_dir()
    assert run.best_checkpoint.parent.is_dir()
    with pytest.raises(UserError, match=r"this folder exists already, and a run is never written over another"):
        Run.create(folder, numbered=False)


def test_a_numbered_run_takes_the_next_name(tmp_path: Path) -> None:
    names = [Run.create(tmp_path / "run", numbered=True).folder.name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run_dir=.*: the folder cannot be made \(Not a directory\)"):
        Run.create(tmp_path / "file" / "run", numbered=False)
    with pytest.raises(UserError, match=r"^[^=]*/file/run: the folder cannot be made \(Not a directory\)"):
        Run.create(tmp_path / "file" / "run", numbered=True)


def test_what_is_no_run_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        Run.open(tmp_path)
    with pytest.raises(UserError, match=r"does not exist\. Runs are kept in outputs/"):
        Run.open(tmp_path / "gone")


# ---- round trips


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", numbered=False)


CONFIG = {"model": {"_target_": "a.B", "rates": None}, "seed": 0, "tags": ["ü"], "loader": {"crop": [2, 3]}}


def test_config_environment_class_weights_and_results_come_back(run: Run) -> None:
    run.write_config(CONFIG)
    assert Run.open(run.folder).config == CONFIG
    run.write_environment({"python": "3.12", "gpus": []})
    assert run.environment == {"python": "3.12", "gpus": []}
    weights = {"split": "train", "pixels": None, "weights": {"ce": {"scheme": "given", "values": {"Bäume": 0.1}}}}
    run.write_class_weights(weights)
    assert run.class_weights == weights
    results = {"schema": SCHEMA, "splits": {"test": {"miou": None, "classes": {"Bäume": {"iou": 0.5}}}}}
    run.write_results(results)
    assert run.results == results


def test_metrics_come_back_with_none_where_an_epoch_has_no_value(run: Run) -> None:
    rows: list[dict[str, float | None]] = [
        {"epoch": 1, "train/loss": 0.5},
        {"epoch": 2, "train/loss": 1e-30, "val/miou": 0.25},
    ]
    run.write_metrics(rows)
    assert (run.folder / "metrics.csv").read_text().splitlines()[:2] == ["epoch,train/loss,val/miou", "1,0.5,"]
    assert run.metrics == [rows[0] | {"val/miou": None}, rows[1]]


def test_per_image_rows_come_back_whatever_names_hold(run: Run) -> None:
    columns = ["split", "name", "intersection/A, B"]
    run.write_per_image(columns, [["test", 'a "quoted", name\nof two lines', 3], ["test", "ü", 4]])
    assert run.per_image == [
        {"split": "test", "name": 'a "quoted", name\nof two lines', "intersection/A, B": "3"},
        {"split": "test", "name": "ü", "intersection/A, B": "4"},
    ]


def test_the_status_keeps_what_it_is_not_told(run: Run) -> None:
    run.write_status("running")
    started = run.status["started"]
    assert run.status == {"state": "running", "reason": None, "epoch": 0, "step": 0, "started": started, "ended": None}
    run.write_status("running", epoch=3, step=70)
    run.write_status("failed", reason="a full disk")
    status = run.status
    assert status.pop("ended") >= started
    assert status == {"state": "failed", "reason": "a full disk", "epoch": 3, "step": 70, "started": started}


def test_another_scoring_gets_a_folder_of_its_own(run: Run) -> None:
    first, second = run.new_evaluation(), run.new_evaluation()
    assert first.folder != second.folder
    assert first.folder.parent == second.folder.parent == run.folder / "eval"


# ---- damage

READERS: dict[str, Callable[[Run], Any]] = {
    "config.yaml": lambda run: run.config,
    "environment.json": lambda run: run.environment,
    "status.json": lambda run: run.status,
    "class_weights.json": lambda run: run.class_weights,
    "results.json": lambda run: run.results,
    "metrics.csv": lambda run: run.metrics,
    "per_image.csv": lambda run: run.per_image,
}


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_named(run: Run, name: str) -> None:
    with pytest.raises(UserError, match=re.escape(str(run.folder / name))):
        READERS[name](run)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80", b"{", b"[1]", b""])
@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "status.json", "class_weights.json", "results.json"]
)
def test_a_damaged_file_is_named(run: Run, name: str, content: bytes) -> None:
    (run.folder / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(run.folder / name))):
        READERS[name](run)


@pytest.mark.parametrize("name", ["metrics.csv", "per_image.csv"])
def test_a_table_that_is_no_text_is_named(run: Run, name: str) -> None:
    (run.folder / name).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match=re.escape(str(run.folder / name))):
        READERS[name](run)


def test_metrics_that_are_no_numbers_are_refused(run: Run) -> None:
    for content in ("epoch,train/loss\n1,half\n", "epoch\n1,2,3\n"):
        (run.folder / "metrics.csv").write_text(content)
        with pytest.raises(UserError, match=r"metrics\.csv: the file is damaged"):
            run.metrics  # noqa: B018


def test_missing_results_say_how_the_run_ended(run: Run) -> None:
    run.write_status("interrupted")
    with pytest.raises(UserError, match=r"this run has no results\.json\. The run's state is 'interrupted'\."):
        run.results  # noqa: B018


def test_results_of_another_schema_are_refused(run: Run) -> None:
    run.write_results({"schema": SCHEMA + 1})
    with pytest.raises(UserError, match=f"written with schema {SCHEMA + 1}, and this version of segrun reads {SCHEMA}"):
        run.results  # noqa: B018
