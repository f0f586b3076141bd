"""Loggers: what they keep, and that W&B cannot harm a run."""

import os
import runpy
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from seg_cli.training.loggers import Csv, ExperimentLogger, TensorBoard, Wandb, decide_mode

CONF = Path(__file__).parents[2] / "conf" / "logger"
LABELS = LabelSpace(names=("Sky", "Car"), colors=((10, 20, 30), (200, 100, 0)))
RESULTS = {
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


@dataclass
class Example:
    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    miou: float | None


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


class Task(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = (self.weight * 0.5).square()
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(logger: Any, task: pl.LightningModule | None = None, epochs: int = 2) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=logger,
        max_epochs=epochs,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(task or Task(), DataLoader(torch.zeros(3), batch_size=1))


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


def read_wandb(folder: Path) -> list[dict[str, dict[str, Any]]]:
    """Config, history rows and summary of every offline run under a folder, oldest first."""
    reader = Path(os.environ.get("SEGRUN_SHARED", Path(__file__).parents[3] / "shared"), "tools", "read_wandb.py")
    if not reader.is_file():
        pytest.skip(f"no reader of .wandb files: {reader} is not there (SEGRUN_SHARED names another folder)")
    wandb.teardown()  # its service may still be writing after a run has finished
    tools = runpy.run_path(str(reader))
    runs = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "exit": None, "project": None}
        for record in tools["records"](str(file)):
            match record.WhichOneof("record_type"):
                case "run":
                    run["config"] |= tools["kv"](record.run.config.update)
                    run |= {"project": record.run.project, "name": record.run.display_name}
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
        assert isinstance(logger, pl.loggers.Logger)
        logger.finalize("failed")


def test_csv_keeps_every_step_and_what_was_there_before(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for _ in range(2):
            fit(Csv(**arguments(tmp_path)))
    for version in ("version_0", "version_1"):
        lines = (tmp_path / "csv" / version / "metrics.csv").read_text().splitlines()
        assert lines[0] == "epoch,step,train/loss"
        assert len(lines) == 1 + 6


def test_tensorboard_shows_curves_predictions_and_results(tmp_path: Path) -> None:
    logger = TensorBoard(**arguments(tmp_path))
    assert isinstance(logger, ExperimentLogger)
    fit(logger)
    logger.log_predictions([EXAMPLE], LABELS, epoch=2)
    logger.log_results(RESULTS)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "results/test/miou"} <= set(tags["scalars"])
    assert tags["images"] == ["predictions/frame 1"]
    assert len(events.Scalars("train/loss")) == 6
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
    fit(logger)
    logger.log_predictions([EXAMPLE], LABELS, epoch=2)
    logger.log_results(RESULTS)
    logger.close()
    logger.close()
    assert not list(elsewhere.iterdir())
    assert "wandb" not in "".join(capfd.readouterr())

    (run,) = read_wandb(run_dir)
    assert (run["project"], run["name"], run["exit"]) == ("streets", "camvid", 0)
    assert run["config"]["seed"] == 3
    curve = [(row["epoch"], row["step"]) for row in run["history"] if "train/loss" in row]
    assert curve == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]
    (overlay,) = [row for row in run["history"] if "predictions.all_masks" in row]
    assert overlay["epoch"] == 2
    assert overlay["predictions.captions"] == ["frame 1"]
    assert set(overlay["predictions.all_masks"][0]) == {"truth", "prediction"}
    (table,) = [row for row in run["history"] if "test/classes.ncols" in row]
    assert (table["test/classes.ncols"], table["test/classes.nrows"]) == (6, 2)
    assert run["summary"]["test/miou"] == 0.5
    assert run["summary"]["train_seconds"] == 12.5


def test_wandb_two_runs_in_one_process_are_two_even_if_the_first_fails(tmp_path: Path) -> None:
    class Failing(Task):
        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            if index == 1:
                raise RuntimeError("out of memory")
            return super().training_step(batch, index)

    first = Wandb(**arguments(tmp_path / "a"))
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(first, Failing())
    second = Wandb(**arguments(tmp_path / "b"))
    fit(second)
    second.close()
    assert [run["exit"] for run in read_wandb(tmp_path)] == [1, 0]
    assert [len([r for r in run["history"] if "train/loss" in r]) for run in read_wandb(tmp_path)] == [1, 6]


def test_wandb_service_killed_in_the_middle_breaks_nothing(tmp_path: Path) -> None:
    """In a process of its own, for its end is part of the test."""
    script = f"""
    import os, signal, sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from pathlib import Path
    from test_loggers import *

    class Killing(Task):
        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                pid = os.environ["WANDB_SERVICE"].split("-")[1]
                children = subprocess.check_output(["pgrep", "-P", pid, "-f", "wandb-core"], text=True)
                [os.kill(int(child), signal.SIGKILL) for child in children.split()]

    logger = Wandb(**arguments(Path({str(tmp_path)!r}) / "a"))
    fit(logger, Killing(), epochs=3)
    logger.log_predictions([EXAMPLE], LABELS, epoch=3)
    logger.log_results(RESULTS)
    logger.close()
    print("finished", flush=True)
    second = Wandb(**arguments(Path({str(tmp_path)!r}) / "b"))
    fit(second)
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
    assert len(read_wandb(tmp_path / "b")[0]["history"]) == 6


def test_wandb_server_away_is_waited_for_briefly_and_the_run_kept_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    logger = Wandb(**arguments(tmp_path), init_timeout=2)
    fit(logger)
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
        fit(logger)
        logger.log_results(RESULTS)
        logger.close()
    assert caplog.text.count("W&B cannot be used") == 1


def test_wandb_keeps_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "5ec2e7" * 7
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Wandb(**arguments(tmp_path))
    fit(logger)
    logger.close()
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert kept
    assert not [file for file in kept if secret.encode() in file.read_bytes()]
