"""Kills (-9) at random moments: after ``segrun resume``, is a run what it would have been if it had been left alone?

A run of each schedule is left alone once. Then runs of the same commands are killed, with all of their processes, at
random moments of their lives, or in the very moment in which a checkpoint is being written; resumed, perhaps killed
again, and resumed to the end. Weights in best.ckpt and last.ckpt, the optimiser's state, metrics.csv, per_image.csv and
the scores must be the same bits. Every step writes a checkpoint here, so that many kills meet one.

    python bench/kills.py --kills 50

Runs are forked from one process that has imported everything; otherwise most of the time would be Python's start-up.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "NO_ALBUMENTATIONS_UPDATE": "1"}

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

import seg_cli.commands.train
from seg_cli import cli
from seg_cli.runs.run import Run

EPOCHS = 4
TINY = (
    *(
        "model=deeplabv3plus",
        "encoder.name=test_resnet.r160_in1k",
        "model.channels=32",
        "loader.batch_size=2",
        "precision=fp32",
    ),
    *("logger=none", "data=shapes", "data.train=12", "data.val=4", "data.test=2", "data.size=[64,64]"),
    *(
        "augment=geometry+color",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.accelerator=cpu",
        "trainer.checkpoint_minutes=0",
    ),
)
SCHEDULES = {
    "plain": ("loader.workers=0",),
    "progressive": ("loader.workers=1", "resize=progressive"),
    "gradual unfreezing": ("loader.workers=0", "finetune=gradual"),
    "EMA": ("loader.workers=0", "average=ema"),
    "2 processes": ("loader.workers=0", "trainer=cpu_ddp"),
}
PATIENCE = 300.0  # seconds for any one sitting


class Sitting:
    """A ``segrun`` command in processes of its own, all of one process group.

    Args:
        arguments: of the command line.
        folder: where it runs; its output goes to ``said.txt`` there.
        processes: how many work together.
    """

    def __init__(self, arguments: list[str], folder: Path, processes: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        self.group = 0
        self.pids: list[int] = []
        for rank in range(processes):
            pid = os.fork()
            if pid == 0:
                environment = shared | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) if processes > 1 else {}
                _be(arguments, folder, rank, environment, self.group)
            self.group = self.group or pid
            os.setpgid(pid, self.group)
            self.pids.append(pid)

    def wait(self, until: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait until something is the case; False if the command ended before, or the time was over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until():
                return True
            if os.waitid(os.P_PID, self.pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.0002)
        return False

    def end(self) -> list[int]:
        """The exit statuses of all processes, once they have ended."""
        self.wait(lambda: False)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]

    def kill(self) -> bool:
        """Kill all of them; False if the command had ended before."""
        ended = os.waitid(os.P_PID, self.pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.killpg(self.group, signal.SIGKILL)
        return -signal.SIGKILL in [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids] and not ended


def _be(arguments: list[str], folder: Path, rank: int, environment: dict[str, str], group: int) -> NoReturn:
    """In a forked process: become the command."""
    status = 70
    try:
        os.setpgid(0, group)
        os.chdir(folder)
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ |= environment
        rank_zero_only.rank = rank
        status = cli.run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def outcome(run: Run) -> dict[str, Any]:
    """All that must be the same."""
    best, last = (torch.load(path, weights_only=True) for path in (run.best_checkpoint, run.last_checkpoint))
    state = run.status
    return {
        "state": (state["state"], state["epoch"], state["step"]),
        "best.ckpt": (best["epoch"], best["state_dict"]),
        "last.ckpt": [last[key] for key in ("state_dict", "stepper", "average")],
        "metrics.csv": (run.folder / "metrics.csv").read_bytes(),
        "per_image.csv": (run.folder / "per_image.csv").read_bytes(),
        "results.json": json.dumps([run.results["splits"], run.results["best_epoch"], run.results["fingerprint"]]),
    }


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Trial:
    """Runs of one schedule, in a folder: one that is left alone, and others to be killed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.processes = 2 if "trainer=cpu_ddp" in SCHEDULES[name] else 1
        self.options = [*TINY, *SCHEDULES[name]]
        folder.mkdir()
        began = time.monotonic()
        sitting = Sitting([*self.options, "run_dir=alone"], folder, self.processes)
        sitting.wait((folder / "alone" / "config.yaml").exists)
        self.opening = time.monotonic() - began
        if any(sitting.end()):
            sys.exit((folder / "said.txt").read_text())
        self.seconds = time.monotonic() - began - self.opening
        self.expected = outcome(Run(folder / "alone"))

    def kill_one(self, number: int, kills: int, rng: random.Random) -> tuple[list[str], list[str]]:
        """Begin a run, kill it so often, and resume it to its end.

        Returns:
            Where each kill met it, and what is not as it should be in the end.
        """
        run = Run(self.folder / f"run{number}")
        met: list[str] = []
        arguments = [*self.options, f"run_dir={run.folder.name}"]
        while len(met) < kills:
            left = self.seconds * (1 - self._share_done(run))
            sitting = Sitting(arguments, self.folder, self.processes)
            resumed = (run.folder / "config.yaml").exists()
            sitting.wait((run.folder / "config.yaml").exists)
            moment = rng.uniform(0, left + (self.opening if resumed else 0))
            sitting.wait(lambda: False, moment)
            while_writing = rng.random() < 0.4
            if while_writing:
                sitting.wait(lambda: _half_written(run))
            if sitting.kill():
                met.append(_where(run))
            elif run.status["state"] == "finished":  # it was faster than we thought
                shutil.rmtree(run.folder)
                met.clear()
                arguments = [*self.options, f"run_dir={run.folder.name}"]
                continue
            else:
                return met, [f"it ended by itself: {(self.folder / 'said.txt').read_text()[-2000:]}"]
            arguments = ["resume", run.folder.name]
        statuses = Sitting(arguments, self.folder, self.processes).end()
        if any(statuses):
            return met, [f"exit status {statuses}: {(self.folder / 'said.txt').read_text()[-2000:]}"]
        found = outcome(run)
        wrong = [f"{key} differs" for key, value in self.expected.items() if not same(value, found[key])]
        if not wrong:
            shutil.rmtree(run.folder)
        return met, wrong

    def _share_done(self, run: Run) -> float:
        done = run.status["step"] if (run.folder / "status.json").exists() else 0
        return 0.9 * done / self.expected["state"][2]


def _half_written(run: Run) -> bool:
    return any(name.endswith(".tmp") for name in os.listdir(run.folder / "checkpoints"))


def _where(run: Run) -> str:
    """What a kill met, in a word."""
    if _half_written(run):
        return "writing a checkpoint"
    if not run.last_checkpoint.exists():
        return "before a checkpoint" if not run.previous_checkpoint.exists() else "between renames"
    status = run.status
    return "in scoring" if status["epoch"] == EPOCHS else "in training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which must not exist; else they are removed")
    asked = parser.parse_args()
    assert seg_cli.commands.train  # imported for the processes to come
    torch.set_num_threads(1)
    rng = random.Random(asked.seed)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(exist_ok=not asked.keep)
    trials: dict[str, Trial] = {}
    good, done, number = 0, 0, 0
    began = time.monotonic()
    while done < asked.kills:
        name = list(SCHEDULES)[number % len(SCHEDULES)]
        number += 1
        if name not in trials:
            trials[name] = Trial(name, folder / name.replace(" ", "_"))
        met, wrong = trials[name].kill_one(number, min(rng.choice((1, 1, 2)), asked.kills - done), rng)
        done += len(met)
        good += 0 if wrong else len(met)
        counts = ", ".join(f"{count}x {what}" for what, count in Counter(met).items())
        print(f"{name}: killed {counts}: {'; '.join(wrong) or 'the same bits'}", flush=True)
        if wrong and not met:
            break
    print(f"{good}/{asked.kills} in {time.monotonic() - began:.0f} s")
    if not asked.keep:
        shutil.rmtree(folder)
    sys.exit(good != asked.kills)


if __name__ == "__main__":
    main()
