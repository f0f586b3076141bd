"""Two nodes of a real SLURM: ``pytest -m slurm`` where sbatch reaches a cluster that sees this folder."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY

pytestmark = pytest.mark.slurm

DDP = ("trainer=ddp_slurm", "trainer.accelerator=cpu", "logger=csv", "run_dir=r")
MODEL, OWN_MODEL = TINY[:3], ("model=own/module", "model._target_=dying.Dying")

DYING = """
import os, torch

class Dying(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Conv2d(3, num_classes, 1)
        self.steps = 0

    def forward(self, images):
        self.steps += self.training
        if self.steps == 3 and os.environ["SLURM_PROCID"] == "RANK":
            os.kill(os.getpid(), 9)
        return self.head(images / 255)
"""


def submit(
    folder: Path, *options: str, model: tuple[str, ...] = MODEL, tasks: int = 1, srun: str = "srun"
) -> tuple[str, str]:
    """``segrun`` as a batch job of two nodes with so many tasks each; the job's state in the end, and what it said."""
    words = (*model, *TINY[3:], *SHAPES, *DDP, *options)
    quoted = " ".join(f"'{word}'" for word in words)
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\nexport OMP_NUM_THREADS=1\n{srun} '{sys.executable}' -m seg_cli {quoted}\n")
    command = ["sbatch", "--parsable", "--nodes=2", f"--ntasks-per-node={tasks}", "--output=said.txt", str(script)]
    job = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    state = "PENDING"
    before = time.monotonic()
    while state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
        if time.monotonic() - before > 300:
            subprocess.run(["scancel", job], check=True)
            break
        time.sleep(0.5)
        shown = subprocess.run(["scontrol", "show", "job", job], check=True, capture_output=True, text=True).stdout
        state = dict(field.partition("=")[::2] for field in shown.split())["JobState"]
    return state, (folder / "said.txt").read_text()


@pytest.mark.parametrize("tasks", [1, 2])
def test_two_nodes_make_one_run(tmp_path: Path, tasks: int) -> None:
    state, said = submit(tmp_path, "data.train=8", "data.val=5", "trainer.max_epochs=2", tasks=tasks)
    assert state == "COMPLETED", said
    assert f"{2 * tasks} processes" in said
    run = Run.open(tmp_path / "r")
    assert run.status["state"] == "finished"
    assert len(list((run.folder / "csv").iterdir())) == 1
    assert not list(tmp_path.glob("checkpoints"))
    assert run.config.trainer.nodes == 2
    best = run.metrics[run.results["best_epoch"] - 1]
    assert best["val/miou"] == pytest.approx(run.results["splits"]["val"]["miou"], abs=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_dies_ends_the_job_and_is_named(tmp_path: Path, rank: int) -> None:
    (tmp_path / "dying.py").write_text(DYING.replace("RANK", str(rank)))
    state, said = submit(tmp_path, "trainer.max_epochs=100", model=OWN_MODEL)
    assert state == "FAILED", said
    assert f"error: Process {rank} (pid " in said
    assert "died in the middle of training" in said
    assert "Traceback" not in said
    if rank:
        assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "failed"


def test_a_script_without_srun_is_refused(tmp_path: Path) -> None:
    state, said = submit(tmp_path, srun="")
    assert state == "FAILED"
    assert "trainer.nodes=2: segrun starts the processes of one machine" in said
    assert not (tmp_path / "r").exists()
