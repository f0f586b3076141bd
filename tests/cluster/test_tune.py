"""``segrun tune`` with workers that are jobs of a real SLURM: ``pytest -m slurm`` where sbatch reaches a cluster."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import SHAPES, TINY

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no sbatch"),
]

SMALL = ("hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
SLURM = ("hydra/launcher=slurm", *SMALL, "hydra.launcher.timeout_min=30")


Process = subprocess.Popen[str]


def start(folder: Path, *options: str, trials: int) -> Process:
    """A search over as many seeds."""
    section = {"space": {"seed": {"low": 1, "high": trials}}, "objectives": ["miou"], "trials": trials}
    (folder / "conf" / "sweep").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "sweep" / "mine.yaml").write_text(yaml.safe_dump(section | {"sampler": "grid"}))
    command = [sys.executable, "-m", "seg_cli", "tune", "--config-dir=conf", "sweep=mine", *SLURM, *SHAPES, *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*command, *options], cwd=folder, env=environment, text=True, **output)  # type: ignore[call-overload, no-any-return]


def wait_for_an_epoch(folder: Path, process: Process) -> dict[str, Any]:
    """The status of a run that has come so far and goes on."""
    for _ in range(1200):
        time.sleep(0.5)
        states = [json.loads(path.read_text()) for path in folder.glob("outputs/mine/2*/status.json")]
        found = next((of for of in states if of["state"] == "running" and of["epoch"] >= 1), None)
        if found or process.poll() is not None:
            break
    assert found, process.communicate()[0]
    return dict(found)


def check_that_each_was_made_once(folder: Path, said: str, *, trials: int) -> list[dict[str, str]]:
    with (folder / "outputs" / "mine" / "trials.csv").open() as file:
        found = list(csv.DictReader(file))
    assert sorted(int(row["seed"]) for row in found) == list(range(1, trials + 1)), said
    assert {row["state"] for row in found} == {"complete"}
    assert len({row["run"] for row in found}) == len(list(folder.glob("outputs/mine/2*"))) == trials
    return found


def test_a_search_of_many_jobs_of_which_one_is_killed(tmp_path: Path) -> None:
    """That of the killed one goes on elsewhere."""
    process = start(tmp_path, "workers=4", "trainer.max_epochs=6", trials=12)
    victim = wait_for_an_epoch(tmp_path, process)
    os.kill(victim["process"]["pid"], signal.SIGKILL)  # the nodes of slurm_up.sh are on this machine
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    found = check_that_each_was_made_once(tmp_path, said, trials=12)
    assert "given again (its worker is gone)" in said
    jobs = [json.loads((tmp_path / row["run"] / "status.json").read_text())["process"]["job"] for row in found]
    assert None not in jobs  # all were made by jobs of SLURM
    assert len(set(jobs)) >= 2


def test_jobs_go_on_without_the_one_who_sent_them(tmp_path: Path) -> None:
    """And the same command finds them, and sends no others beside them."""
    options = ("workers=2", "trainer.max_epochs=10")
    process = start(tmp_path, *options, trials=4)
    wait_for_an_epoch(tmp_path, process)
    process.kill()
    process.wait()
    again = start(tmp_path, *options, trials=4)
    said, _ = again.communicate(timeout=1200)
    assert again.returncode == 0, said
    check_that_each_was_made_once(tmp_path, said, trials=4)
    assert len(list(tmp_path.glob("outputs/mine/workers/*"))) == 1


def test_preempted_jobs_lose_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "workers=2", "trainer.max_epochs=10", trials=3)
    wait_for_an_epoch(tmp_path, process)
    intruder = ["sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 20"]
    subprocess.run([*intruder, "--output=/dev/null"], cwd=tmp_path, check=True)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    check_that_each_was_made_once(tmp_path, said, trials=3)
