"""Loggers: what they keep, and that W&B cannot harm a run."""

import csv
import json
import os
import runpy
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pytest
import wandb
from hydra.types import RunMode
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg_cli import cli
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from seg_cli.inference.evaluate import Example
from seg_cli.training import wandb_runs
from seg_cli.training.loggers import Csv, ExperimentLogger, TensorBoard, Wandb
from seg_cli.training.wandb_runs import decide_mode
from tests.run_folders import write_run

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
    for variable in ("API_KEY", "IDENTITY_TOKEN_FILE", "MODE", "BASE_URL", "RUN_ID", "SWEEP_ID", "SWEEP_PARAM_PATH"):
        monkeypatch.setenv(f"WANDB_{variable}", "")  # so that it is undone, whoever sets or deletes it meanwhile
        monkeypatch.delenv(f"WANDB_{variable}")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(wandb_runs, "HydraConfig", SimpleNamespace(initialized=lambda: False))
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
                    run |= {
                        "project": record.run.project,
                        "entity": record.run.entity,
                        "name": record.run.display_name,
                        "id": record.run.run_id,
                    }
                    run |= {"group": record.run.run_group, "job_type": record.run.job_type}
                    run |= {"tags": list(record.run.tags), "sweep": record.run.sweep_id}
                case "history":
                    run["history"].append(tools["kv"](record.history.item))
                case "summary":
                    run["summary"] |= tools["kv"](record.summary.update)
                case "artifact":
                    run["artifact"] = record.artifact
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
    (message,) = [r.getMessage() for r in caplog.records if r.name == "seg_cli.training.wandb_runs"]
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


def test_wandb_keeps_no_secret_of_the_settings_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["segrun", "model=unet", "+logger.own.api_key=5ec2e71", "data.root=https://me:5ec2e72@host/x"]
    monkeypatch.setattr(sys, "argv", asked)
    settings = {"logger": {"own": {"api_key": "5ec2e71"}}, "data": {"root": "https://me:5ec2e72@host/x"}, "seed": 3}
    for make in (Wandb, TensorBoard):
        logger = make(**arguments(tmp_path) | {"config": settings})
        train(logger)
        logger.close()
    assert sys.argv == asked, "what the processes of a distributed run repeat"
    (run,) = read_wandb(tmp_path)
    masked = {"logger": {"own": {"api_key": "***"}}, "data": {"root": "https://***@host/x"}, "seed": 3}
    assert {key: run["config"][key] for key in masked} == masked
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in kept if b"5ec2e7" in file.read_bytes()]


# ---- jobs of a multirun, W&B's own sweeps, and tables


def in_job(monkeypatch: pytest.MonkeyPatch, number: int, *overrides: str) -> None:
    """As Hydra says it inside a job of a multirun."""
    of = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        job=SimpleNamespace(num=number),
        overrides=SimpleNamespace(task=list(overrides)),
        sweep=SimpleNamespace(dir="outputs/.sweeps/2026-01-31_12-00-00"),
    )
    monkeypatch.setattr(wandb_runs, "HydraConfig", SimpleNamespace(initialized=lambda: True, get=lambda: of))


CHOSEN = {"name": "a@b+c", "choices": {"model": "unet", "loss": "ce", "benchmark": "camvid_small"}}


def test_jobs_of_a_multirun_have_its_group_their_choices_and_a_run_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = arguments(tmp_path) | {"config": CHOSEN}
    in_job(monkeypatch, 0, "+benchmark=camvid_small", "loss=dice", "model=unet", "seed=0", "loss=ce+2*dice+" + "x" * 80)
    first = Wandb(**about)
    in_job(monkeypatch, 1, "model=fpn", "seed=1")
    second = Wandb(**about | {"config": {**CHOSEN, "choices": {"model": "fpn"}}})
    gone_on = Wandb(**about, run_id="abc")
    given = Wandb(**about, group="mine", job_type="tune")
    for logger in (first, second, gone_on, given):
        logger.close()
    found = {run["id"]: run for run in read_wandb(tmp_path)}
    assert len(found) == 4
    runs = [found[name] for name in found if name != "abc"]
    by_group = {run["group"]: run for run in runs}
    assert sorted(by_group) == ["a@b+c 2026-01-31_12-00-00", "camvid_small 2026-01-31_12-00-00", "mine"]
    assert set(by_group["camvid_small 2026-01-31_12-00-00"]["tags"]) == {
        *("a", "benchmark=camvid_small", "model=unet"),
        ("loss=ce+2*dice+" + "x" * 80)[:64],
    }
    assert set(by_group["a@b+c 2026-01-31_12-00-00"]["tags"]) == {"a", "model=fpn"}
    assert [run["job_type"] for run in runs if run["group"] != "mine"] == ["train", "train"]
    assert by_group["mine"]["job_type"] == "tune"
    assert found["abc"]["group"] == "", "a run that goes on stays where it was filed"


def test_a_single_run_has_no_group(tmp_path: Path) -> None:
    Wandb(**arguments(tmp_path)).close()
    (run,) = read_wandb(tmp_path)
    assert (run["group"], run["job_type"], run["tags"]) == ("", "train", ["a"])


def test_of_a_multirun_started_by_wandbs_agent_only_the_first_job_is_the_agents_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    for number in range(3):
        in_job(monkeypatch, number, f"seed={number}")
        logger = Wandb(**arguments(tmp_path))
        train(logger)
        logger.close()
    runs = read_wandb(tmp_path)
    assert len({run["id"] for run in runs}) == 3
    assert [(run["id"], run["sweep"]) for run in runs if run["sweep"]] == [("agents", "sweep1")]
    assert len({run["group"] for run in runs}) == 1


def table_command(place: str, *more: str) -> list[str]:
    return ["table", "runs", "--rows", "model", "--columns", "miou", *more, "--wandb", place]


def test_a_table_is_an_artifact_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for model, benchmark, miou in (("unet", "camvid @+ 1", 0.6), ("f\x1b[2Jpn", "camvid @+ 1", 0.4)):
        write_run(Path("runs", benchmark, str(miou)), model=model, miou=miou, choices={"benchmark": benchmark})
    assert cli.run(table_command("ours/streets", "--format", "json", "--figures", "plots")) == 0
    said = capsys.readouterr()
    assert said.err.startswith("W&B: the artifact camvid-1 is logged (offline; to upload it: wandb sync ")
    shown = json.loads(said.out[said.out.index("{") :])
    write_run(Path("runs/other"), model="segnet", miou=0.2, choices={"benchmark": "another"})
    assert cli.run(table_command("streets")) == 0

    one, several = read_wandb(tmp_path)
    assert (one["entity"], one["project"], one["group"], one["job_type"], one["exit"]) == (
        *("ours", "streets", "camvid @+ 1", "table"),
        0,
    )
    assert one["tags"] == ["benchmark=camvid @+ 1"]
    assert (several["entity"], several["group"], several["artifact"].name) == ("", "", "table")
    assert (one["artifact"].type, one["artifact"].name) == ("table", "camvid-1")
    kept = [entry.path for entry in one["artifact"].manifest.contents]
    assert all(Path(entry.local_path).is_file() for entry in one["artifact"].manifest.contents), "to be uploaded later"
    formats = [f"table.{suffix}" for suffix in ("csv", "html", "json", "md", "tex", "txt")]
    assert sorted(path for path in kept if not path.startswith("figures/")) == formats
    drawn = sorted(f"figures/{path.name}" for path in Path("plots").iterdir())
    assert sorted(path for path in kept if path.startswith("figures/")) == drawn
    table = min((tmp_path / "wandb").rglob("*.table.json"), key=lambda file: file.stat().st_mtime_ns)
    logged = json.loads(table.read_text())
    assert logged["columns"][:3] == ["model", "runs", "miou"]
    assert [row[:3] for row in logged["data"]] == [
        ["unet", 1, shown["rows"][0]["scores"]["miou"]["mean"]],
        ["f\\x1b[2Jpn", 1, shown["rows"][1]["scores"]["miou"]["mean"]],
    ]


def test_a_table_that_wandb_does_not_take_is_shown_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_run(Path("runs/a"))
    with monkeypatch.context() as patch:
        patch.setattr(wandb.Run, "log_artifact", lambda *_: 1 / 0)
        assert cli.run(table_command("p")) == 1
    said = capsys.readouterr()
    assert "unet" in said.out
    assert "W&B failed (division by zero); the table is not logged." in said.err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert cli.run(table_command("p")) == 0
    assert capsys.readouterr().err == "W&B: the table is not logged.\n"


@pytest.mark.parametrize("place", ["a/b/c", "", "a b", "https://wandb.ai/a", "/p", "p?"])
def test_a_place_that_is_none_is_refused_before_runs_are_read(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(table_command(place)) == 2
    assert f"--wandb {place}: it is no project of W&B." in " ".join(capsys.readouterr().err.split(" "))


def test_a_table_is_checked_or_logged(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(table_command("p", "--check", "paper.csv")) == 2
    assert "--wandb: with --check no table is made." in capsys.readouterr().err
