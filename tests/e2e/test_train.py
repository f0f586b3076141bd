"""``segrun`` from the command to the run directory, on data small enough for seconds."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]
CAMVID_CLASSES = 11


def test_a_run_leaves_what_the_contract_says(segrun: Segrun, camvid_root: Path) -> None:
    done = segrun(
        *TINY, "loss=ce+2*dice", "data=camvid", f"data.root={camvid_root}", "trainer.max_epochs=2", "run_dir=r"
    )
    assert done.status == 0, done.err
    run = Run.open("r")
    found = {path.name for path in run.folder.iterdir()}
    assert found == {
        *("config.yaml", "environment.json", "status.json", "metrics.csv", "results.json", "per_image.csv"),
        *("steps.csv", "checkpoints", "figures"),
    }
    pictures = {"curves.png", "confusion.png", "predictions.png"}
    assert {path.name for path in run.figures.iterdir()} == pictures | {"examples"}
    for picture in run.figures.glob("*.png"):
        assert min(Image.open(picture).size) > 100
    kept = {path.name for path in (run.folder / "checkpoints").iterdir()}
    assert kept == {"best.ckpt", "last.ckpt", "previous.ckpt"}

    assert run.status["state"] == "finished"
    assert (run.status["epoch"], run.status["reason"]) == (2, None)
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    last = run.metrics[-1]
    total, ce, dice = (last[key] for key in ("train/loss", "train/loss/ce", "train/loss/dice"))
    assert total == pytest.approx(ce + 2 * dice, rel=1e-4)

    results = run.results
    assert results["schema"] == 1
    assert results["choices"]["loss"] == "ce+2*dice"
    assert results["choices"]["encoder"] == "resnet10t"
    assert results["choices"]["tta"] == "none"
    assert results["pretrained"] == "none"
    assert results["epochs"] == 2
    assert results["best_epoch"] in (1, 2)
    assert len(results["fingerprint"]) == 64
    assert all(results["cost"][key] > 0 for key in results["cost"])
    costs = {"parameters", "flops", "train_seconds", "images_per_second", "data_wait", "peak_memory_bytes"}
    assert set(results["cost"]) == costs
    assert list(results["splits"]) == ["val", "test"]
    assert json.loads((run.folder / "environment.json").read_text())["packages"]["torch"]

    # The counts of the images are those of the confusion matrix, and the IoU follows from them.
    for split, of in results["splits"].items():
        rows = [row for row in run.per_image if row["split"] == split]
        assert of["images"] == len(rows)
        matrix = np.array(of["confusion"])
        assert matrix.shape == (CAMVID_CLASSES, CAMVID_CLASSES)
        for index, (name, scores) in enumerate(of["classes"].items()):
            intersection = sum(int(row[f"intersection/{name}"]) for row in rows)
            union = sum(int(row[f"union/{name}"]) for row in rows)
            assert intersection == matrix[index, index]
            assert scores["iou"] == (pytest.approx(intersection / union) if union else None)
            assert (name in of["absent_classes"]) == (union == 0)

    # best.ckpt is the epoch that metrics.csv says, and no pickle is needed to read it.
    best = max(row["val/miou"] for row in run.metrics)
    if results["best_epoch"] == 2:
        assert results["splits"]["val"]["miou"] == pytest.approx(best, abs=1e-6)
    assert "state_dict" in torch.load(run.best_checkpoint, weights_only=True)
    assert "stepper" in torch.load(run.last_checkpoint, weights_only=True)
    assert "try" in done.out or "next" in done.out
    assert "Sky" in done.out


def test_eval_scores_again_and_touches_nothing(segrun: Segrun) -> None:
    assert segrun(*TINY, *SHAPES, "run_dir=r").status == 0
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    done = segrun("eval", "run=r", "split=[val,train]", "accelerator=cpu", "loader.workers=0")
    assert done.status == 0, done.err
    assert {path: path.read_bytes() for path in before} == before
    again = json.loads(next(Path("r/eval").glob("*/results.json")).read_text())
    assert again["splits"]["val"] == Run.open("r").results["splits"]["val"]
    assert again["splits"]["train"]["images"] == 4

    wrong = segrun("eval", "run=r", "split=tset", "accelerator=cpu")
    assert (wrong.status, "Did you mean 'test'?" in wrong.err) == (2, True)
    absent = segrun("eval", "run=nowhere")
    assert absent.status == 2
    assert "nowhere does not exist" in absent.err


def test_the_same_seed_gives_the_same_numbers(segrun: Segrun) -> None:
    for name, workers in (("a", 0), ("b", 1)):
        options = (*TINY, *SHAPES, "augment=geometry+color", "loader.crop=[32,32]", f"loader.workers={workers}")
        assert segrun(*options, f"run_dir={name}").status == 0
    assert segrun(*TINY, *SHAPES, "augment=geometry+color", "loader.crop=[32,32]", "seed=1", "run_dir=c").status == 0
    first, second, other = (Run.open(name) for name in "abc")
    assert first.metrics == second.metrics
    assert first.results["splits"] == second.results["splits"]
    assert first.results["fingerprint"] == second.results["fingerprint"] != other.results["fingerprint"]
    assert first.metrics != other.metrics


def test_several_jobs_are_several_runs(segrun: Segrun) -> None:
    done = segrun("-m", *TINY, *SHAPES, "loss=ce,dice+focal")
    assert done.status == 0, done.err
    runs = sorted(Path("outputs/shapes").glob("[!.]*"))
    assert [run.name[-2:] for run in runs] == ["_0", "_1"]
    assert [Run.open(run).results["choices"]["loss"] for run in runs] == ["ce", "dice+focal"]


def test_own_losses_and_experiments_live_in_a_folder_of_ones_own(segrun: Segrun, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    for group in ("loss", "experiment"):
        (own / group).mkdir(parents=True)
    (own / "loss" / "sharp.yaml").write_text(
        "# Focal, sharper\n_target_: seg_cli.losses.Sum\nterms:\n  sharp:\n    _target_: seg_cli.losses.Focal\n"
        "    gamma: 4.0\nweights:\n  sharp: 1.0\n"
    )
    (own / "experiment" / "e.yaml").write_text(
        "# @package _global_\n# Mine\ndefaults:\n  - override /loss: dice+0.5*sharp\nname: mine\n"
    )
    done = segrun(f"--config-dir={own}", *TINY, *SHAPES, "experiment=e")
    assert done.status == 0, done.err
    (run,) = Path("outputs/mine").iterdir()
    config = Run.open(run).config
    assert dict(config.loss.weights) == {"dice": 1.0, "sharp": 0.5}
    assert Run.open(run).results["choices"]["loss"] == "dice+0.5*sharp"


@pytest.mark.parametrize(
    "experiment", sorted(p.stem for p in (Path(__file__).parents[2] / "conf/experiment").glob("*.yaml"))
)
def test_every_experiment_runs_one_batch(segrun: Segrun, camvid_root: Path, experiment: str) -> None:
    own = experiment == "tour"
    options = () if own else ("data=camvid", f"data.root={camvid_root}", "loader.crop=[64,96]")
    options += ("encoder.weights=none", "loader.workers=0", "logger=none")
    epochs = 5 if "progressive" in experiment else 1  # stages are whole epochs
    options += (f"trainer.max_epochs={epochs}", "trainer.limit_batches=1", "trainer.accelerator=cpu")
    options += ("loader.batch_size=2",)
    done = segrun(f"experiment={experiment}", *options, "run_dir=r")
    assert done.status == 0, done.err
    assert Run.open("r").status["state"] == "finished"


def test_weights_and_their_hash_stand_in_the_results(segrun: Segrun, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "mine.safetensors")
    assert segrun(*TINY, *SHAPES, "encoder.weights=mine.safetensors", "run_dir=r").status == 0
    assert Run.open("r").results["pretrained"].startswith("mine.safetensors sha256:")
    # A run is scored without the file that it once started from.
    (tmp_path / "mine.safetensors").unlink()
    assert segrun("eval", "run=r", "accelerator=cpu", "loader.workers=0").status == 0


def test_wandb_offline_holds_the_run(segrun: Segrun) -> None:
    options = [option for option in TINY if option != "logger=none"]
    done = segrun(*options, *SHAPES, "logger=wandb+csv", "run_dir=r")
    assert done.status == 0, done.err
    assert list(Path("r/wandb").glob("offline-run-*/*.wandb"))
    assert list(Path("r/csv").rglob("metrics.csv"))
    assert not Path("wandb").exists()


def test_two_processes_are_one_run_with_one_score(tmp_path: Path) -> None:
    options = [*TINY, *SHAPES, "data.val=5", "trainer.devices=2", "trainer.max_epochs=2", "run_dir=r"]
    command = [sys.executable, "-m", "seg_cli", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "r")
    assert run.status["state"] == "finished"
    # What two processes counted on their halves of val during training is what one counts on the whole of it.
    best = run.metrics[run.results["best_epoch"] - 1]
    assert run.results["splits"]["val"]["images"] == 5
    assert best["val/miou"] == pytest.approx(run.results["splits"]["val"]["miou"], abs=1e-6)


@pytest.mark.slow
def test_the_demo_reaches_its_score(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seg_cli", "model=deeplabv3plus", "loss=dice+focal", "run_dir=r"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=900)
    assert Run.open(tmp_path / "r").results["splits"]["test"]["miou"] >= 0.80


@pytest.mark.slow
def test_unet_without_augmentation_does_not_solve_the_shapes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seg_cli", "model=unet", "augment=none", "run_dir=r"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=900)
    assert 0.5 < Run.open(tmp_path / "r").results["splits"]["test"]["miou"] < 0.99


@pytest.mark.slow
def test_camvid_on_a_cpu_reaches_its_score(tmp_path: Path, shared: Path) -> None:
    weights = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    options = [
        "experiment=camvid_cpu",
        f"data.root={shared / 'data/camvid'}",
        f"encoder.weights={weights}",
        "run_dir=r",
    ]
    subprocess.run([sys.executable, "-m", "seg_cli", *options], cwd=tmp_path, check=True, timeout=2400)
    assert Run.open(tmp_path / "r").results["splits"]["test"]["miou"] >= 0.57


def test_early_stopping_and_rare_validation(segrun: Segrun) -> None:
    # A learning rate of next to nothing cannot improve val for long, so that patience ends the run.
    options = ("trainer.max_epochs=50", "trainer.early_stop=1", "trainer.validate_every=2", "optimizer.lr=1e-12")
    assert segrun(*TINY, *SHAPES, *options, "augment=none", "run_dir=r").status == 0
    rows = Run.open("r").metrics
    assert Run.open("r").results["epochs"] == len(rows) < 50
    assert [row["val/miou"] is not None for row in rows] == [bool(number % 2) for number in range(len(rows))]
