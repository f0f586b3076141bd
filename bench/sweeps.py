"""What a matrix costs beside its runs, and what a second worker gives.

1,000 jobs of no work are composed, claimed and recorded, and the same command is given again when all have finished;
each time is that of a whole process. Then small runs are trained one after the other in one process, and what a job
takes outside of its run (until environment.json is written, and after status.json says that it has ended) is its
overhead: composing, claiming, opening the data and building the model.
Then one and two workers of joblib do the same matrix, with a thread each.

    python bench/sweeps.py [--jobs 1000] [--runs 12]

Exits with 1 if the jobs of no work take 60 s or more, or 10 s the second time; if the overhead is above 0.5 s a job; or
if two workers take more than 0.6 of the time of one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

NO_WORK = """
import sys
from seg_cli import cli
from seg_cli.commands import multirun, train

def nothing(config):
    directory = train.open_run(config)
    with train.recorded(directory, speaks=True):
        directory.write_config(config)
        directory.write_results({"schema": 1, "splits": {"test": {"miou": config["seed"] / 1e4}}})
    return config["seed"] / 1e4

multirun._train = nothing
cli.main(sys.argv[1:])
"""
SMALL = (
    *("model=unet", "encoder.name=test_resnet.r160_in1k", "logger=none", "precision=fp32", "loader.workers=0"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=2", "data.train=192", "data.val=16", "data.test=16"),
    "data.size=[64,64]",
)
TARGETS = {"begun": 60.0, "again": 10.0, "overhead": 0.5, "ratio": 0.6}


def seconds(command: list[str], folder: Path) -> float:
    """How long a command takes in a folder; what it says comes out if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def without_work(jobs: int, folder: Path) -> dict[str, float]:
    """Seconds of a matrix of jobs of no work, and of the same once all have finished."""
    command = [sys.executable, "-c", NO_WORK, "-m", "model=unet,fpn", f"seed=range({jobs // 2})", "logger=none"]
    times = {"begun": seconds(command, folder), "again": seconds(command, folder)}
    finished = list((folder / "outputs" / "shapes").glob("*/results.json"))
    assert len(finished) == jobs // 2 * 2, f"{len(finished)} runs of {jobs}"
    return times


def overheads(runs: int, folder: Path) -> list[float]:
    """Seconds of each job but the first outside of its run, from when the run before it had ended."""
    seconds([sys.executable, "-m", "seg_cli", "-m", *SMALL, f"seed=range({runs})"], folder)
    found = (folder / "outputs" / "shapes").glob("*/status.json")
    spans = sorted(
        ((path.parent / "environment.json").stat().st_mtime, path.stat().st_mtime)  # the last things to be written
        for path in found
    )
    return [begun - ended for (_, ended), (begun, _) in pairwise(spans)]


def workers(number: int, runs: int, folder: Path) -> float:
    """Seconds that so many workers take."""
    where = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={number}")
    return seconds([sys.executable, "-m", "seg_cli", "-m", *SMALL, f"seed=range({runs})", *where], folder)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("none", "overhead", "one", "two")]
        for folder in folders:
            folder.mkdir()
        figures = without_work(options.jobs, folders[0])
        print(
            f"{options.jobs} jobs of no work  {figures['begun']:6.1f} s    again  {figures['again']:6.1f} s", flush=True
        )
        times = overheads(options.runs, folders[1])
        figures["overhead"] = statistics.median(times)
        print(f"overhead of a job  {figures['overhead']:6.2f} s, at most {max(times):.2f} s", flush=True)
        one, two = workers(1, options.runs, folders[2]), workers(2, options.runs, folders[3])
        figures["ratio"] = two / one
        print(f"{options.runs} runs  1 worker {one:6.1f} s    2 workers {two:6.1f} s    ratio {figures['ratio']:.2f}")
    missed = [f"{name} {figures[name]:.2f} > {target}" for name, target in TARGETS.items() if figures[name] > target]
    print(f"targets: {', '.join(missed) if missed else 'all met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
