"""Wrong requests and runs that go wrong: what is said, the exit status, and that nothing is lost."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image

from seg_cli.runs.atomic import write_file
from seg_cli.runs.run import Run
from seg_cli.training import checkpoints
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]


def test_a_run_directory_that_exists_is_left_alone(segrun: Segrun) -> None:
    Path("r").mkdir()
    Path("r/precious.txt").write_text("mine")
    done = segrun(*TINY, *SHAPES, "run_dir=r")
    assert done.status == 2
    assert "run_dir=r: this folder exists already" in done.err
    assert [path.name for path in Path("r").iterdir()] == ["precious.txt"]


def test_a_wrong_request_makes_no_directory(segrun: Segrun) -> None:
    for options, said in (
        (["data=camvid"], "data.root=data/camvid: there is no such folder"),
        ([*SHAPES, "encoder.name=resnett18"], "Did you mean resnet18"),
        ([*SHAPES, "encoder.weights=none.pt"], "encoder.weights=none.pt: there is no such file"),
        ([*SHAPES, "+model.depht=3"], "depht"),
        ([*SHAPES, "trainer.max_epochs=0"], "trainer.max_epochs=0"),
        ([*SHAPES, "loss.terms.ce.gamma=1"], "gamma"),
        ([*SHAPES, "data.size=[16,16]"], "data.size"),
        ([*SHAPES, "precision.mode=fp16"], "half precision needs a GPU"),
    ):
        done = segrun(*TINY, *options)
        assert (done.status, said in done.err) == (2, True), done.err
        assert done.err.count("\n") <= 6
        assert not Path("outputs").exists()


def break_label(root: Path) -> str:
    path = sorted((root / "trainannot").glob("*.png"))[0]
    mask = np.array(Image.open(path))
    mask[:2, :5] = 77
    Image.fromarray(mask).save(path)
    return f"{path}: the mask holds label values that the dataset does not define: 77 (10 pixels)"


def break_size(root: Path) -> str:
    path = sorted((root / "trainannot").glob("*.png"))[0]
    Image.open(path).crop((0, 0, 20, 10)).save(path)
    return f"{path}: the mask is 20x10 pixels and its image"


def break_image(root: Path) -> str:
    path = sorted(path for path in (root / "train").iterdir())[0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return f"{path}: the image is truncated"


def lose_mask(root: Path) -> str:
    sorted((root / "valannot").glob("*.png"))[0].unlink()
    return f"data.root={root}: 1 of the 2 samples of 'val'"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("harm", [break_label, break_size, break_image, lose_mask])
def test_broken_data_is_named(segrun: Segrun, camvid_root: Path, harm: Callable[[Path], str], workers: int) -> None:
    said = harm(camvid_root)
    done = segrun(*TINY, "data=camvid", f"data.root={camvid_root}", f"loader.workers={workers}", "run_dir=r")
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    if Path("r").exists():
        assert Run.open("r").status["state"] == "failed"
        assert said in Run.open("r").status["reason"]


def test_a_crop_larger_than_the_image_is_padded_and_said_once(segrun: Segrun) -> None:
    done = segrun(*TINY, *SHAPES, "loader.crop=[64,64]", "trainer.max_epochs=2", "run_dir=r")
    assert done.status == 0, done.err
    assert (done.out + done.err).count("crops of 64x64 are larger than images of 32x40") == 1


def test_a_loss_that_is_not_finite_stops_the_run(segrun: Segrun) -> None:
    options = ("optimizer=sgd", "optimizer.lr=1e30", "trainer.gradient_clip=null", "augment=none")
    done = segrun(*TINY, *SHAPES, *options, "trainer.max_epochs=3", "run_dir=r")
    assert done.status == 1
    assert "The loss is nan at step" in done.err
    assert "on the images scene0000" in done.err
    assert Run.open("r").status["state"] == "failed"
    assert "Traceback" not in done.err


def test_a_full_disk_costs_no_checkpoint(segrun: Segrun, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write_until_full(path: Path, data: memoryview) -> None:
        def write_half(file: BinaryIO) -> None:
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        written.append(path)
        fits = len(written) <= 2  # best and last of the first epoch
        write_file(path, (lambda file: file.write(data)) if fits else write_half)

    monkeypatch.setattr(checkpoints, "write_bytes", write_until_full)
    done = segrun(*TINY, *SHAPES, "trainer.max_epochs=3", "run_dir=r")
    assert done.status == 1
    assert "no space is left on the disk" in done.err
    run = Run.open("r")
    assert run.status["state"] == "failed"
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(run.last_checkpoint, weights_only=True)["position"]["epoch"] == 1


def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    options = [*TINY, *SHAPES, "trainer.max_epochs=2000", "run_dir=r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "seg_cli", *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "r" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    run = Run.open(tmp_path / "r")
    assert run.status["state"] == "interrupted"
    assert run.status["epoch"] >= 1
    assert torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    assert not (run.folder / "results.json").exists()
