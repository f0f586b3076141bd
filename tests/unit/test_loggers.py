"""Loggers: what they keep, and that W&B cannot harm a run."""

import csv
import os
import runpy
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from seg_cli.inference.evaluate import Example
from seg_cli.training.loggers import Csv, ExperimentLogger, TensorBoard, Wandb, decide_mode

CONF = Path(__file__).parents[2] / "conf" / "logger"
LABELS = LabelSpace(names=("Sky", "Car"), colors=((10, 20, 30), (200, 100, 0)))
RESULTS: dict[str, Any] = {
    "splits": {
        "test": {
            **{"miou": 0.5, "pixel_accuracy": 0.9, "mean_accuracy": 0.7, "mean_dice": 0.6, "fw_iou": 0.8},
            "classes": {
                "Sky": {"iou": 0.5, "dice": 0.6, "precision": 0.7, "recall": 0.8, "pixels": 9},
                "Car": {"iou": None, "dice": None, "precision": None, "recall": None, "pixels": 0},
            },
        }
    },
    "cost": {"train_seconds": 12.5},
    "best_epoch": 2,
    "epochs": 3,
}


EXAMPLE = Example(
    name="frame 1",
    image=np.zeros((4, 6, 3), np.uint8),
    truth=np.array([[0, 1, VOID] * 2] * 4, np.uint8),
    prediction=np.ones((4, 6), np.uint8),
    miou=0.5,
)


OVERLAPPING = LabelSpace(names=LABELS.names, colors=LABELS.colors, overlapping=True)
PLANES = Example(
    name="frame 2",
    image=np.zeros((4, 6, 3), np.uint8),
    truth=np.array([[[0, 1, VOID] * 2] * 4, [[1, 1, 0] * 2] * 4], np.uint8),
    prediction=np.ones((2, 4, 6), np.uint8),
    miou=0.5,
)


def train(logger: Any, *, epochs: range = range(1, 3), steps: int = 3, fails_at: int | None = None) -> None:
    """Tell a logger what the loop tells it: of steps, and of epochs, which count from 1."""
    for epoch in epochs:
        for step in range((epoch - 1) * steps + 1, epoch * steps + 1):
            if step == fails_at:
                raise RuntimeError("out of memory")
            logger.log_metrics({"step/loss": 1 / step, "epoch": epoch}, step)
        logger.log_metrics({"train/loss": 0.5 / epoch, "val/miou": 0.1 * epoch, "epoch": epoch}, epoch * steps)
        logger.save()


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "run_dir": folder,
        "name": "camvid",
        "config": {"model": {"_target_": "x"}, "seed": 3},
        "tags": ["a"],
    }


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    yield
    wandb.teardown()  # so that the next test's W&B reads its own environment


def read_wandb(folder: Path) -> list[dict[str, Any]]:
    """Config, history rows and summary of every offline run under a folder, oldest first."""
    reader = Path(os.environ.get("SEGRUN_SHARED", Path(__file__).parents[3] / "shared"), "tools", "read_wandb.py")
    if not reader.is_file():
        pytest.skip(f"no reader of .wandb files: {reader} is not there (SEGRUN_SHARED names another folder)")
    wandb.teardown()  # its service may still be writing after a run has finished
    tools = runpy.run_path(str(reader))
    runs = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit": None}
        for record in tools["records"](str(file)):
            match record.WhichOneof("record_type"):
                case "run":
                    run["config"] |= tools["kv"](record.run.config.update)
                    run |= {"project": record.run.project, "name": record.run.display_name, "id": record.run.run_id}
                case "history":
                    run["history"].append(tools["kv"](record.history.item))
                case "summary":
                    run["summary"] |= tools["kv"](record.summary.update)
                case "exit":
                    run["exit"] = record.exit.exit_code
        runs.append(run)
    return runs


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_yaml_has_its_line_and_instantiates(file: Path, tmp_path: Path) -> None:
    assert file.read_text().startswith("# ")
    for node in OmegaConf.load(file).values():
        logger = hydra.utils.instantiate(node, _partial_=True)(**arguments(tmp_path))
        assert isinstance(logger, Logger)
        if isinstance(logger, ExperimentLogger):
            logger.close(failed=True)


def test_csv_keeps_every_step_and_what_was_there_before(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for epochs in (range(1, 3), range(3, 4)):
            train(Csv(**arguments(tmp_path)), epochs=epochs)
    found = {}
    for version in ("version_0", "version_1"):
        with (tmp_path / "csv" / version / "metrics.csv").open(newline="") as file:
            found[version] = [(int(row["epoch"]), int(row["step"])) for row in csv.DictReader(file) if row["step/loss"]]
    assert found == {
        "version_0": [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)],
        "version_1": [(3, 7), (3, 8), (3, 9)],
    }


def test_tensorboard_shows_curves_predictions_and_results(tmp_path: Path) -> None:
    logger = TensorBoard(**arguments(tmp_path))
    assert isinstance(logger, ExperimentLogger)
    train(logger)
    logger.log_predictions([EXAMPLE], LABELS, epoch=2)
    logger.log_results(RESULTS)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "results/test/miou"} <= set(tags["scalars"])
    assert tags["images"] == ["predictions/frame 1"]
    assert [event.step for event in events.Scalars("step/loss")] == [1, 2, 3, 4, 5, 6]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5), (6, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("epoch")][-1] == (6, 2)
    assert "results/test/text_summary" in tags["tensors"]


def test_tensorboard_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'segrun\[tensorboard\]'"):
        TensorBoard(**arguments(tmp_path))


def test_wandb_offline_run_holds_config_curves_overlays_and_scores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_dir = tmp_path / "run"
    logger = Wandb(**arguments(run_dir), project="streets")
    assert isinstance(logger, ExperimentLogger)
    train(logger)
    logger.log_predictions([EXAMPLE], LABELS, epoch=2)
    logger.log_results(RESULTS)
    logger.close()
    logger.close()
    assert not list(elsewhere.iterdir())
    assert "wandb" not in "".join(capfd.readouterr())

    (run,) = read_wandb(run_dir)
    assert (run["project"], run["name"], run["exit"]) == ("streets", "camvid", 0)
    assert run["config"]["seed"] == 3
    curve = [(row["epoch"], row["step"]) for row in run["history"] if "step/loss" in row]
    assert curve == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    scores = [(row["epoch"], row["step"], row["val/miou"]) for row in run["history"] if "val/miou" in row]
    assert scores == [(1, 3, 0.1), (2, 6, 0.2)]
    (overlay,) = [row for row in run["history"] if "predictions.all_masks" in row]
    assert overlay["epoch"] == 2
    assert overlay["predictions.captions"] == ["frame 1"]
    assert set(overlay["predictions.all_masks"][0]) == {"truth", "prediction"}
    (table,) = [row for row in run["history"] if "test/classes.ncols" in row]
    assert (table["test/classes.ncols"], table["test/classes.nrows"]) == (6, 2)
    assert run["summary"]["test/miou"] == 0.5
    assert run["summary"]["train_seconds"] == 12.5


def test_wandb_two_runs_in_one_process_are_two_even_if_the_first_fails(tmp_path: Path) -> None:
    first = Wandb(**arguments(tmp_path / "a"))
    with pytest.raises(RuntimeError, match="out of memory"):
        train(first, fails_at=2)
    first.close(failed=True)
    second = Wandb(**arguments(tmp_path / "b"))
    train(second)
    second.close()
    runs = read_wandb(tmp_path)
    assert [run["exit"] for run in runs] == [1, 0]
    assert [len([row for row in run["history"] if "step/loss" in row]) for run in runs] == [1, 6]
    assert runs[0]["id"] != runs[1]["id"]


def test_wandb_goes_on_in_the_run_that_an_id_names(tmp_path: Path) -> None:
    first = Wandb(**arguments(tmp_path / "a"))
    name = first.version
    train(first, epochs=range(1, 2))
    first.close(failed=True)
    second = Wandb(**arguments(tmp_path / "b"), run_id=name)
    assert second.version == name
    train(second, epochs=range(2, 4))
    second.close()
    assert second.version == ""
    runs = read_wandb(tmp_path)
    assert [(run["id"], run["exit"]) for run in runs] == [(name, 1), (name, 0)]
    steps = [[(row["epoch"], row["step"]) for row in run["history"] if "train/loss" in row] for run in runs]
    assert steps == [[(1, 3)], [(2, 6), (3, 9)]]


def test_wandb_service_killed_in_the_middle_breaks_nothing(tmp_path: Path) -> None:
    """In a process of its own, for its end is part of the test."""
    script = f"""
    import os, signal, sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from pathlib import Path
    from test_loggers import *

    logger = Wandb(**arguments(Path({str(tmp_path)!r}) / "a"))
    train(logger, epochs=range(1, 2))
    pid = os.environ["WANDB_SERVICE"].split("-")[1]
    children = subprocess.check_output(["pgrep", "-P", pid, "-f", "wandb-core"], text=True)
    [os.kill(int(child), signal.SIGKILL) for child in children.split()]
    train(logger, epochs=range(2, 4))
    logger.log_predictions([EXAMPLE], LABELS, epoch=3)
    logger.log_results(RESULTS)
    logger.close()
    print("finished", flush=True)
    second = Wandb(**arguments(Path({str(tmp_path)!r}) / "b"))
    train(second)
    second.close()
    print("second finished", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-3:-1] == ["finished", "second finished"]
    assert done.stderr.count("W&B failed") == 1
    assert "Traceback" not in done.stderr
    assert len(read_wandb(tmp_path / "b")[0]["history"]) == 6 + 2


def test_wandb_server_away_is_waited_for_briefly_and_the_run_kept_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    logger = Wandb(**arguments(tmp_path), init_timeout=2)
    train(logger)
    logger.close()
    (message,) = [r.getMessage() for r in caplog.records if r.name == "seg_cli.training.loggers"]
    assert "cannot be reached" in message
    assert f"wandb sync {tmp_path}/wandb/offline-*" in message
    assert len(list((tmp_path / "wandb").glob("offline-*"))) == 1


def test_overlapping_labels_are_shown_as_pictures_side_by_side(tmp_path: Path) -> None:
    board, logger = TensorBoard(**arguments(tmp_path)), Wandb(**arguments(tmp_path))
    for each in (board, logger):
        each.log_predictions([PLANES], OVERLAPPING, epoch=1)
        each.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Images("predictions/frame 2")
    assert (event.width, event.height) == (18, 4)
    (run,) = read_wandb(tmp_path)
    (row,) = run["history"]
    assert row["predictions.captions"] == ["frame 2: image, truth, prediction"]
    assert (row["predictions.width"], row["predictions.height"]) == (18, 4)


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_wandb_without_a_key_is_offline_and_asks_nobody(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("W&B asked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    logger = Wandb(**arguments(tmp_path), mode=mode)
    logger.close()
    assert list((tmp_path / "wandb").glob("offline-*"))
    assert ("there is no key" in caplog.text) == (mode == "online")


@pytest.mark.parametrize(
    ("variables", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "0" * 40}, "", "online"),
        ({"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
        ({"WANDB_MODE": "online"}, "", "offline"),
        ({}, "machine api.wandb.ai login user password secret", "online"),
        ({}, "machine example.org login user password secret", "offline"),
        ({"WANDB_BASE_URL": "http://wb.test:8080"}, "machine wb.test:8080 login u password secret", "online"),
        (
            {"WANDB_BASE_URL": "http://wb.test:8080"},
            "machine api.wandb.ai login u password secret",
            "offline",
        ),
        ({}, "machine", "offline"),
    ],
)
def test_wandb_mode_auto(
    variables: dict[str, str], netrc: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    assert decide_mode("auto", wandb.setup().settings) == mode


def test_wandb_unknown_mode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=of: .* auto, online, offline, disabled"):
        Wandb(**arguments(tmp_path), mode="of")


def test_wandb_not_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        logger = Wandb(**arguments(tmp_path))
        train(logger)
        logger.log_results(RESULTS)
        logger.close()
    assert caplog.text.count("W&B cannot be used") == 1


def test_wandb_keeps_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "5ec2e7" * 7
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Wandb(**arguments(tmp_path))
    train(logger)
    logger.close()
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert kept
    assert not [file for file in kept if secret.encode() in file.read_bytes()]
