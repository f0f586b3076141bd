"""``segrun tune``: a small search from the command line, its end, its going on, and what it refuses."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import SHAPES, TINY, Outcome

SegRun = Callable[..., Outcome]
ALL = (*SHAPES, *TINY)


def sweep(folder: Path, name: str, **section: Any) -> str:
    """Write conf/sweep/<name>.yaml; returns the flag that finds it."""
    (folder / "conf" / "sweep").mkdir(parents=True, exist_ok=True)
    whole = {"objectives": ["miou"], "trials": 3, **section}
    (folder / "conf" / "sweep" / f"{name}.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    return "--config-dir=conf"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_search_its_end_and_its_best(segrun: SegRun, tmp_path: Path) -> None:
    space = {"loss": ["ce+2*dice", "1e39*ce"], "optimizer.lr": {"choices": [0.01], "when": {"loss": "ce+2*dice"}}}
    flag = sweep(tmp_path, "mine", space=space, sampler="grid", trials=9, failures=1)
    done = segrun("tune", flag, "sweep=mine", *ALL)
    assert done.status == 1, done.err  # one of the two points has an infinite loss, whatever one does
    folder = tmp_path / "outputs" / "mine"
    found = {row["loss"] + row["optimizer.lr"]: row for row in rows(folder)}
    assert {name: row["state"] for name, row in found.items()} == {
        "ce+2*dice0.01": "complete",
        "1e39*ce": "failed",
    }
    assert "The loss is inf" in found["1e39*ce"]["note"]
    assert "1 trial failed, and 1 of 2 is finished" in done.err
    assert sum(int(row["best"]) for row in found.values()) == 1
    for row in found.values():
        status = read(tmp_path / row["run"] / "status.json")
        assert status["state"] == ("failed" if row["state"] == "failed" else "finished")
    for name in ("history.png", "slices.png"):
        assert (folder / "figures" / name).read_bytes().startswith(b"\x89PNG")

    best = next(row for row in found.values() if row["best"] == "1")
    results = read(tmp_path / best["run"] / "results.json")
    assert float(best["miou"]) == results["splits"]["val"]["miou"]  # never that of test
    assert (folder / "best.yaml").read_text() == (folder / "experiment" / "best.yaml").read_text()
    again = segrun("--config-dir=outputs/mine", "experiment=best", "run_dir=again")
    assert again.status == 0, again.err
    assert read(tmp_path / "again" / "results.json")["fingerprint"] == results["fingerprint"]
    assert read(tmp_path / "again" / "results.json")["splits"] == results["splits"]

    other = segrun("tune", flag, "sweep=mine", *ALL, "data.train=5")
    assert other.status == 2
    assert "outputs/mine/study.journal has a study of this name that searches otherwise" in other.err
    assert "base has data.train 4 there and 5 here" in other.err


def test_a_pruned_trial_says_so_and_counts(segrun: SegRun, tmp_path: Path) -> None:
    pruner = {"name": "threshold", "lower": 2.0}  # which no mIoU reaches
    flag = sweep(tmp_path, "mine", space={"seed": [7]}, trials=1, pruner=pruner)
    wandb = [word for word in ALL if word != "logger=none"] + ["logger=wandb", "logger.wandb.mode=disabled"]
    done = segrun("tune", flag, "sweep=mine", *wandb, "trainer.max_epochs=3")
    assert done.status == 0, done.err
    assert "no trial of mine is complete yet" in done.out
    (run,) = (tmp_path / "outputs" / "mine").glob("2*")
    status = read(run / "status.json")
    assert (status["state"], status["epoch"]) == ("interrupted", 1)
    assert status["reason"] == "pruned by threshold after epoch 1"
    assert yaml.safe_load((run / "config.yaml").read_text())["logger"]["wandb"]["group"] == "mine"
    again = segrun("tune", flag, "sweep=mine", *ALL, "trainer.max_epochs=3")
    assert again.status == 0
    assert len(list((tmp_path / "outputs" / "mine").glob("2*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "sweep: what is to be searched for? Type sweep=NAME, where NAME is one of architecture, augmentation"),
        (("sweep=lrwd",), "there is no sweep 'lrwd'. Did you mean 'lr_wd'?"),
        (("sweep=lr_wd", "sweep.trails=3"), "Did you mean 'sweep.trials'?"),
        (("sweep=lr_wd", "+sweep.space.optimizer.lrr=[1]"), "sweep.space: optimizer.lrr=1: there is no key"),
        (("sweep=lr_wd", "+sweep.space.loss=[ce,ce+dcie]"), "sweep.space: loss=ce+dcie: there is no loss 'dcie'"),
        (
            ("sweep=lr_wd", "+sweep.space.loader.batch_size={low: 0, high: 4}"),
            "sweep.space: loader.batch_size=0: it must be a whole number >= 1",
        ),
        (
            ("sweep=lr_wd", "optimizer.lr=1"),
            "draws optimizer.lr itself. Leave one out, as with ~sweep.space.optimizer.lr.",
        ),
        (("sweep=lr_wd", "storage=nosuch://me:secret@host/base"), "nosuch://me:***@host/base: it cannot be reached"),
        (("-m", "sweep=lr_wd"), "without -m. Type workers=4"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (("sweep=lr_wd", "sweep.sampler=tpo"), "Did you mean 'tpe'?"),
                (("sweep=lr_wd", "+sweep.sampler.startup=3"), "sweep.sampler.startup: tpe has no such setting"),
                (("sweep=lr_wd", "sweep.space.optimizer.lr.low=1"), "optimizer.lr: the interval from 1.0 to 0.03 is"),
                (("sweep=lr_wd", "run_dir=here"), "Type name=NAME"),
                (("sweep=lr_wd", "workers=0"), "workers=0: it must be a whole number >= 1"),
                (("sweep=lr_wd", "storage=here.txt"), "storage=here.txt: it must be a path that ends in .journal"),
                (("sweep=lr_wd", "model=unet,fpn"), "several values mean several runs"),
                (("sweep=lr_wd", "~model.upsample"), "a search takes key=value and group=choice alone"),
                (("sweep=architecture", "sweep.pruner=median"), "there are 2 objectives"),
                (("sweep=architecture", "model.upsample=nearest"), "Leave one out, as with ~sweep.space.upsample."),
                (("sweep=architecture", "~sweep.space.upsample", "storage=here.txt"), "storage=here.txt"),
                (("sweep=loss_weights", "sweep.space.dice.high=0.1"), "dice: the interval from 0.1 to 0.1 is empty"),
            )
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    segrun: SegRun, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = segrun("tune", *arguments)
    assert says in done.err
    assert done.status == 2
    assert done.err.count("error: ") == 1
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize("name", ["architecture", "augmentation", "loss_weights", "lr_wd"])
def test_every_shipped_sweep_fits_the_configs(segrun: SegRun, name: str) -> None:
    """All of its points compose; the storage is the last thing that is looked at."""
    done = segrun("tune", f"sweep={name}", "storage=here.txt")
    assert "storage=here.txt" in done.err


def test_without_optuna_it_says_what_to_install(segrun: SegRun, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "optuna" else find(name, *of))
    done = segrun("tune", "sweep=lr_wd")
    assert (done.status, done.err.strip()) == (
        2,
        "error: segrun tune: Optuna is not installed. Type: pip install 'segrun[tune]'",
    )


def test_help_and_bad_input_import_no_torch() -> None:
    code = "import sys; from seg_cli import cli; cli.run({}); print('torch' in sys.modules, 'optuna' in sys.modules)"
    for arguments, loaded in (
        (["tune", "--help"], "False False"),
        (["tune", "sweep=lr_wd", "sweep.trials=0"], "False"),
    ):
        done = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        assert loaded in done.stdout.splitlines()[-1]


# ---- slow: many processes


def segrun_process(*arguments: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "seg_cli", *arguments]
    whole = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_a_run(folder: Path, epochs: int) -> dict[str, Any]:
    """The status of the first run that has come so far."""
    for _ in range(600):
        time.sleep(0.2)
        for path in folder.glob("2*/status.json"):
            status = read(path)
            if status["epoch"] >= epochs:
                return status | {"run": path.parent}
    raise AssertionError("no run came so far")


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        (),
        ("hydra/launcher=joblib",),
        ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"),
        ("storage=study.db",),
    ],
)
def test_workers_make_every_point_once(segrun: SegRun, tmp_path: Path, how: tuple[str, ...]) -> None:
    flag = sweep(tmp_path, "mine", space={"seed": {"low": 1, "high": 5}}, sampler="grid", trials=5)
    done = segrun("tune", flag, "sweep=mine", *ALL, "workers=2", *how)
    assert done.status == 0, done.err + done.out
    found = rows(tmp_path / "outputs" / "mine")
    assert sorted(int(row["seed"]) for row in found) == [1, 2, 3, 4, 5]
    assert {row["state"] for row in found} == {"complete"}
    assert len({row["run"] for row in found}) == 5
    alone = segrun("tune", flag, "sweep=mine", *ALL, "name=alone")
    assert alone.status == 0
    scores = [{row["seed"]: row["miou"] for row in rows(tmp_path / "outputs" / of)} for of in ("mine", "alone")]
    assert scores[0] == scores[1]  # results do not depend on who computes them


@pytest.mark.slow
@pytest.mark.parametrize("name", ["architecture", "augmentation", "loss_weights", "lr_wd"])
def test_every_shipped_sweep_comes_to_its_end(segrun: SegRun, tmp_path: Path, name: str) -> None:
    small = (*SHAPES, "loader.batch_size=2", "loader.workers=0", "precision=fp32", "logger=none")
    done = segrun("tune", f"sweep={name}", *small, "trainer.accelerator=cpu", "trainer.max_epochs=1", "sweep.trials=4")
    assert done.status == 0, done.err
    found = rows(tmp_path / "outputs" / name)
    assert [row["state"] for row in found] == ["complete"] * 4
    again = segrun(f"--config-dir=outputs/{name}", "experiment=best", "run_dir=again")
    assert again.status == 0, again.err
    best = max((row for row in found if row["best"] == "1"), key=lambda row: float(row["miou"]))  # of a front, too
    scores = [read(path / "results.json")["splits"] for path in (tmp_path / best["run"], tmp_path / "again")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flag = sweep(tmp_path, "mine", space={"seed": {"low": 1, "high": 3}}, sampler="grid")
    process = segrun_process("tune", flag, "sweep=mine", *ALL, "trainer.max_epochs=12", "workers=2")
    victim = wait_for_a_run(tmp_path / "outputs" / "mine", 3)
    os.kill(victim["process"]["pid"], signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "given again (its worker is gone)" in said
    found = rows(tmp_path / "outputs" / "mine")
    assert sorted(row["seed"] for row in found) == ["1", "2", "3"]
    assert len(list((tmp_path / "outputs" / "mine").glob("2*"))) == 3  # the run of the killed one went on
    assert str(victim["run"].relative_to(tmp_path)) in {row["run"] for row in found}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.chdir(tmp_path)
    flag = sweep(tmp_path, "mine", space={"seed": {"low": 1, "high": 2}}, sampler="grid")
    command = ("tune", flag, "sweep=mine", *ALL, "trainer.max_epochs=12", f"workers={workers}")
    process = segrun_process(*command)
    wait_for_a_run(tmp_path / "outputs" / "mine", 3)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "To go on, type the same command" in said
    again = segrun_process(*command)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert sorted(row["seed"] for row in rows(tmp_path / "outputs" / "mine")) == ["1", "2"]
    states = [read(path)["state"] for path in (tmp_path / "outputs" / "mine").glob("2*/status.json")]
    assert states == ["finished", "finished"]


@pytest.mark.slow
def test_the_parent_may_be_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flag = sweep(tmp_path, "mine", space={"seed": {"low": 1, "high": 4}}, sampler="grid", trials=4)
    command = ("tune", flag, "sweep=mine", *ALL, "trainer.max_epochs=8", "workers=2")
    process = segrun_process(*command)
    wait_for_a_run(tmp_path / "outputs" / "mine", 3)
    process.kill()
    process.wait()
    again = segrun_process(*command)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert sorted(row["seed"] for row in rows(tmp_path / "outputs" / "mine")) == ["1", "2", "3", "4"]
    assert len(list((tmp_path / "outputs" / "mine").glob("2*"))) == 4  # nothing was begun twice


@pytest.mark.slow
def test_trials_of_several_processes_can_be_pruned(segrun: SegRun, tmp_path: Path) -> None:
    pruner = {"name": "threshold", "lower": 2.0}
    flag = sweep(tmp_path, "mine", space={"seed": [7, 8]}, trials=2, sampler="grid", pruner=pruner)
    done = segrun("tune", flag, "sweep=mine", *ALL, "trainer.max_epochs=3", "trainer.devices=2")
    assert done.status == 0, done.err
    reasons = [read(path)["reason"] for path in (tmp_path / "outputs" / "mine").glob("2*/status.json")]
    assert reasons == ["pruned by threshold after epoch 1"] * 2
