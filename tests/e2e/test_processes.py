"""Several processes: one run, one score, the same weights on each; and an end when one of them dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_cli.data.augment import Augment
from seg_cli.data.datamodule import DataModule
from seg_cli.data.geometry import HorizontalFlip
from seg_cli.data.sample import Sample
from seg_cli.data.shapes import Shapes
from seg_cli.errors import RunFailed
from seg_cli.losses import CrossEntropy, Sum
from seg_cli.runs.run import Run
from seg_cli.training import companions
from seg_cli.training import loop as loops
from seg_cli.training.averaging import Ema
from seg_cli.training.checkpoints import read_checkpoint, read_latest
from seg_cli.training.devices import make_fabric
from seg_cli.training.finetune import Gradual, Phases
from seg_cli.training.fit import fit
from seg_cli.training.signals import Interrupted
from seg_cli.training.stages import OneSize, Plan
from tests.e2e.conftest import SHAPES, TINY
from tests.e2e.ranks import Ended, Troubled, digest, together
from tests.unit.tiny import TRAINER, TinyModel, make_task

CPU_DDP = {"devices": "auto", "nodes": 1, "strategy": "auto"}


class NoVoid:
    """Samples without void, so that the mean over a batch is the mean over the means of its halves."""

    labels, channels = Shapes.labels, 3

    def __init__(self, train: int) -> None:
        rng = np.random.default_rng(0)
        drawn = [
            Sample(rng.integers(0, 256, (16, 16, 3), np.uint8), rng.integers(0, 7, (16, 16), np.uint8), name=f"{i}")
            for i in range(train)
        ]
        self.splits = {"train": drawn, "val": drawn[:3]}


def trained(
    folder: Path,
    *,
    model: Callable[[], torch.nn.Module] = Troubled,
    dataset: Any = None,
    batch_size: int = 2,
    epochs: int = 1,
    stop_at: int | None = None,
    guarded: int = 3,
    sharded: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """``fit`` in this process of several; what it saw.

    Args:
        stop_at: step after which somebody asks for an end.
        guarded: steps of an epoch in which processes agree before they exchange gradients.
        sharded: whether parameters are in parts.
        changes: of the task, the average, and the settings of ``trainer``.
    """
    changes = {"finetune": Phases(), "average": None, "lr": 0.02, "sgd": False} | changes
    finetune, average, lr, sgd = (changes.pop(key) for key in ("finetune", "average", "lr", "sgd"))
    dataset = dataset or Shapes(train=12, val=5, test=5, size=(32, 32))
    fabric = make_fabric(CPU_DDP | {"strategy": "fsdp" if sharded else "auto"}, torch.device("cpu"), thaws=True)
    optimizer = torch.optim.SGD if sgd else torch.optim.AdamW
    task = make_task(
        model,
        loss=Sum({"ce": CrossEntropy()}, {"ce": 1.0}),
        finetune=finetune,
        make_optimizer=lambda groups: optimizer(groups, lr=lr),
    )
    data = DataModule(dataset, augment=Augment({"flip": HorizontalFlip()}), eval_batch_size=2, workers=0, seed=0)
    stages = OneSize().stages(epochs=epochs, crop=None, image=(32, 32), batch_size=batch_size)
    plan = Plan(stages, len(dataset.splits["train"]), world_size=fabric.world_size)
    if fabric.is_global_zero and not (folder / "run").exists():
        Run.create(folder / "run", numbered=False)
    fabric.barrier()
    run = Run(folder / "run")
    saw: dict[str, Any] = {"names": [], "digests": [], "matrices": [], "rank": fabric.global_rank}
    _look(saw, stop_at, guarded)
    content, _ = read_latest(run) if stop_at is None else (None, [])
    try:
        fitted = fit(
            task,
            data,
            run,
            fabric=fabric,
            plan=plan,
            settings=TRAINER | {"max_epochs": epochs} | changes,
            mode="fp32",
            average=average,
            loggers=[],
            identity={},
            image_size=(32, 32),
            checkpoint=content,
        )
        saw["best"] = fitted.best_epoch
    except Interrupted:
        saw["best"] = None
    saw["digest"] = digest(task.model)
    saw["weights"] = {
        key: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()
        for key, value in task.model.state_dict().items()
    }
    return saw


def _look(saw: dict[str, Any], stop_at: int | None, guarded: int) -> None:
    """Have the loop of this process note down what it does."""
    loops._GUARDED_STEPS = guarded
    step, score, batches = loops.Loop._step, loops.score, DataModule.training_batches

    def noted_step(self: loops.Loop, *arguments: Any) -> None:
        step(self, *arguments)
        averaged = self.average.model if self.average else self.task.model
        saw["digests"].append((digest(self.task.model), digest(averaged)))
        saw["chunks"] = self.stepper.chunks
        if self.at.step == stop_at and saw["rank"] == 0:
            self.stop.received = "SIGTERM"

    def noted_score(matrix: np.ndarray) -> Any:
        saw["matrices"].append(matrix.tolist())
        return score(matrix)

    def noted_batches(self: DataModule, *arguments: Any) -> Any:
        for batch in batches(self, *arguments):
            saw["names"].append(list(batch.names))
            yield batch

    loops.Loop._step = noted_step  # type: ignore[method-assign]
    loops.score = noted_score
    DataModule.training_batches = noted_batches  # type: ignore[method-assign]


def results(ended: Sequence[Ended]) -> list[dict[str, Any]]:
    """What every process saw; none of them failed."""
    assert [process.status for process in ended] == [0] * len(ended), "\n".join(process.err for process in ended)
    assert all(isinstance(process.result, dict) for process in ended), "\n".join(process.err for process in ended)
    return [process.result for process in ended]


# ---- one run


def work_scores(folder: Path) -> dict[str, Any]:
    return trained(folder, lr=0.0)


def test_scores_are_the_same_integers_and_every_sample_is_seen_once(tmp_path: Path) -> None:
    found = {count: results(together(count, tmp_path / str(count), work_scores)) for count in (1, 2, 3)}
    alone = found[1][0]["matrices"]
    assert np.sum(alone) > 0
    for count, processes in found.items():
        names = sorted(name for saw in processes for name in chain.from_iterable(saw["names"]))
        assert names == [f"scene{i:05d}" for i in range(12)]
        assert {len(saw["names"]) for saw in processes} == {12 // (2 * count)}
        for saw in processes:
            assert saw["matrices"] == alone
            assert saw["best"] == 1
        best = read_checkpoint(tmp_path / str(count) / "run" / "checkpoints" / "best.ckpt")["state_dict"]
        for key, value in processes[-1]["weights"].items():
            assert torch.equal(best[f"model.{key}"], value)
        assert (tmp_path / str(count) / "run" / "metrics.csv").read_text().count("\n") == 2


def work_half(folder: Path, batch_size: int, guarded: int) -> dict[str, Any]:
    return trained(folder, dataset=NoVoid(4), batch_size=batch_size, guarded=guarded, sgd=True, lr=1.0, limit_batches=1)


@pytest.mark.parametrize("guarded", [0, 3])
def test_two_halves_of_a_batch_have_the_gradients_of_the_whole(tmp_path: Path, guarded: int) -> None:
    # One step of plain gradient descent, so that weights differ as gradients do.
    (whole,) = results(together(1, tmp_path / "one", work_half, 4, guarded))
    halves = results(together(2, tmp_path / "two", work_half, 2, guarded))
    torch.manual_seed(0)
    before = Troubled().state_dict()
    assert any((whole["weights"][key] - before[key]).abs().max() > 1e-3 for key in before)
    for key, value in whole["weights"].items():
        assert torch.allclose(halves[0]["weights"][key], value, rtol=0, atol=1e-6)


def work_thawing(folder: Path, guarded: int, norm: bool) -> dict[str, Any]:
    return trained(
        folder,
        model=TinyModel if norm else Troubled,
        finetune=Gradual(start=0.3, end=0.6),
        average=Ema(decay=0.9),
        guarded=guarded,
        epochs=4,
        gradient_clip=1.0,
    )


def test_weights_and_their_average_stay_equal_while_parts_thaw(tmp_path: Path) -> None:
    first, second = results(together(2, tmp_path / "a", work_thawing, 1, True))
    assert len(first["digests"]) == 12
    assert len({weights for weights, _ in first["digests"]}) == 12
    assert first["digests"] == second["digests"]
    assert all(weights != averaged for weights, averaged in first["digests"][1:])
    assert first["best"] == second["best"]
    guarded, _ = results(together(2, tmp_path / "b", work_thawing, 100, False))
    unguarded, _ = results(together(2, tmp_path / "c", work_thawing, 0, False))
    for key, value in guarded["weights"].items():
        assert torch.allclose(unguarded["weights"][key], value, rtol=1e-4, atol=1e-5), key


def troubled(trouble: str, rank: int, step: int) -> Callable[[], torch.nn.Module]:
    return lambda: Troubled(trouble, rank, step)


def work_trouble(folder: Path, trouble: str, rank: int, step: int) -> dict[str, Any]:
    return trained(folder, model=troubled(trouble, rank, step), epochs=2, dataset=NoVoid(12), sgd=True, lr=0.1)


def test_memory_that_ends_in_one_process_has_all_of_them_split_batches(tmp_path: Path) -> None:
    first, second = results(together(2, tmp_path / "m", work_trouble, "memory", 1, 0))
    assert first["chunks"] == second["chunks"] == 2
    assert first["digests"] == second["digests"]
    assert len(first["digests"]) == 6
    plain, _ = results(together(2, tmp_path / "p", work_trouble, "", 1, 0))
    for key, value in plain["weights"].items():
        assert torch.allclose(first["weights"][key], value, rtol=0, atol=1e-5)


# ---- an end together


@pytest.mark.parametrize(
    ("trouble", "rank", "step"), [("exit", 1, 0), ("kill", 1, 3), ("kill", 0, 3), ("error", 1, 3), ("error", 0, 1)]
)
def test_a_process_that_dies_or_fails_ends_the_others_and_is_named(
    tmp_path: Path, trouble: str, rank: int, step: int
) -> None:
    before = time.monotonic()
    ended = together(3, tmp_path / "k", work_trouble, trouble, rank, step, seconds=40)
    assert time.monotonic() - before < 40
    gone = f"Process {rank} (pid {ended[rank].pid} on "
    why = "failed: ValueError: this image has no pixels" if trouble == "error" else "died in the middle of training"
    for number, process in enumerate(ended):
        if number == rank:
            assert isinstance(process.result, ValueError) == (trouble == "error")
        elif number == 0 or rank == 0:
            assert isinstance(process.result, RunFailed), process.err
            assert str(process.result).startswith(gone)
            assert why in str(process.result)
        else:  # the first says it for all
            assert process.status == 1
            assert "Error" not in process.err.replace("RuntimeError", "")


def work_hanging(folder: Path) -> dict[str, Any]:
    companions.GRACE = 1.0
    return work_trouble(folder, "hang", 1, 2)


def test_a_process_that_waits_for_ever_is_ended_when_another_is_gone(tmp_path: Path) -> None:
    ended = together(3, tmp_path / "h", work_hanging, seconds=40)
    assert [process.status for process in ended] == [1, -signal.SIGKILL, 1]
    sentence = f"Process 1 (pid {ended[1].pid} on "
    assert f"error: {sentence}" in ended[0].err
    assert Run(tmp_path / "h" / "run").status["state"] == "failed"
    assert Run(tmp_path / "h" / "run").status["reason"].startswith(sentence)


# ---- going on with another number of processes


def work_stop(folder: Path, stop_at: int | None) -> dict[str, Any]:
    return trained(
        folder,
        epochs=2,
        stop_at=stop_at,
        average=Ema(decay=0.9),
        dataset=Shapes(train=17, val=5, test=5, size=(32, 32)),
    )


@pytest.mark.parametrize(("before", "after", "stop_at"), [(2, 1, 2), (1, 2, 1), (1, 2, 3), (3, 2, 1), (2, 3, 3)])
def test_every_sample_of_an_epoch_is_still_seen_once_on_another_number_of_processes(
    tmp_path: Path, before: int, after: int, stop_at: int
) -> None:
    first = results(together(before, tmp_path / "r", work_stop, stop_at))
    assert all(saw["best"] is None for saw in first)
    done = [name for saw in first for batch in saw["names"][:stop_at] for name in batch]
    assert len(done) == 2 * before * stop_at
    second = results(together(after, tmp_path / "r", work_stop, None))
    rest = (17 - len(done)) // (2 * after)
    seen = done + [name for saw in second for batch in saw["names"][:rest] for name in batch]
    assert len(seen) == len(set(seen)) == len(done) + rest * 2 * after
    epoch = 17 // (2 * after)
    assert {len(saw["names"]) for saw in second} == {rest + epoch}
    assert len({saw["digest"] for saw in second}) == 1
    assert len((tmp_path / "r" / "run" / "metrics.csv").read_text().splitlines()) == 3


# ---- parameters in parts


def work_parts(folder: Path, sharded: bool, stop_at: int | None = None) -> dict[str, Any]:
    return trained(
        folder,
        model=Troubled,
        sharded=sharded,
        stop_at=stop_at,
        epochs=3,
        average=Ema(decay=0.9),
        finetune=Gradual(start=0.3, end=0.6),
        gradient_clip=1.0,
    )


def test_parameters_in_parts_learn_as_whole_ones_do(tmp_path: Path) -> None:
    # On GPUs this is trainer=fsdp; the same code runs on CPUs, where it only costs time.
    parts = results(together(2, tmp_path / "parts", work_parts, True))
    whole = results(together(2, tmp_path / "whole", work_parts, False))
    assert parts[0]["digests"] == parts[1]["digests"]
    assert len(parts[0]["digests"]) == 9
    for key, value in whole[0]["weights"].items():
        assert torch.allclose(parts[0]["weights"][key], value, rtol=1e-4, atol=1e-5), key
    saved, plain = (read_latest(Run(tmp_path / name / "run"))[0] for name in ("parts", "whole"))
    assert saved is not None
    assert plain is not None
    assert saved["state_dict"].keys() == plain["state_dict"].keys()
    for number, remembered in plain["stepper"]["optimizer"]["state"].items():
        for key, value in remembered.items():
            found = saved["stepper"]["optimizer"]["state"][number][key]
            assert torch.allclose(found, value, rtol=1e-3, atol=1e-5), (number, key)


@pytest.mark.parametrize("sharded", [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_with_parameters_in_parts_or_whole(tmp_path: Path, sharded: tuple[bool, bool]) -> None:
    results(together(2, tmp_path / "r", work_parts, sharded[0], 4))
    second = results(together(2, tmp_path / "r", work_parts, sharded[1]))
    undisturbed = results(together(2, tmp_path / "u", work_parts, sharded[1]))
    assert len(second[0]["digests"]) == 9 - 4
    if sharded[0] == sharded[1]:
        assert second[0]["digests"] == undisturbed[0]["digests"][4:]
    for key, value in undisturbed[0]["weights"].items():
        assert torch.allclose(second[0]["weights"][key], value, rtol=1e-4, atol=1e-5), key


# ---- from the command line


def start(folder: Path, *options: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    """``segrun`` on tiny scenes in a process of its own, with its output in one pipe."""
    command = [sys.executable, *launcher, "-m", "seg_cli", *TINY, *SHAPES, "data.train=8", "data.val=5", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def torchrun(*options: str) -> list[str]:
    return ["-m", "torch.distributed.run", *options]


def check_run(folder: Path, *, processes: int) -> Run:
    """One finished run, with one record of it."""
    run = Run.open(folder)
    assert run.status["state"] == "finished"
    assert f"{processes} processes" in (folder.parent / "said.txt").read_text()
    assert [len(list((run.folder / "csv").iterdir())), len(run.metrics)] == [1, 2]
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]
    best = run.metrics[run.results["best_epoch"] - 1]
    assert best["val/miou"] == pytest.approx(run.results["splits"]["val"]["miou"], abs=1e-6)
    return run


def finish(folder: Path, *started: subprocess.Popen[str]) -> None:
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(said)
    (folder / "said.txt").write_text("\n".join(said))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_that_segrun_starts(tmp_path: Path, processes: int) -> None:
    options = ("trainer=cpu_ddp", f"trainer.devices={processes}", "trainer.max_epochs=2", "logger=csv", "run_dir=r")
    finish(tmp_path, start(tmp_path, *options))
    check_run(tmp_path / "r", processes=processes)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_processes_that_torchrun_starts(tmp_path: Path, nodes: int) -> None:
    options = ["trainer=cpu_ddp", "trainer.devices=auto", f"trainer.nodes={nodes}", "trainer.max_epochs=2"]
    options += ["logger=csv", "run_dir=r"]
    words = [f"--nnodes={nodes}", f"--nproc-per-node={3 - nodes}"]
    if nodes > 1:
        port = 29000 + os.getpid() % 1000
        words += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=segrun"]
    finish(tmp_path, *(start(tmp_path, *options, launcher=torchrun(*words)) for _ in range(nodes)))
    check_run(tmp_path / "r", processes=2)


@pytest.mark.slow
def test_jobs_of_a_sweep_have_processes_of_their_own(tmp_path: Path) -> None:
    options = ("trainer=cpu_ddp", "seed=0,1", "run_dir=r")
    finish(tmp_path, start(tmp_path, "-m", *options))
    finish(tmp_path, start(tmp_path, "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *options, "run_dir=j"))
    for name in ("r", "j"):
        first, second = (Run.open(tmp_path / f"{name}_{job}") for job in (0, 1))
        assert first.status["state"] == second.status["state"] == "finished"
        assert first.metrics != second.metrics


@pytest.mark.slow
def test_workers_that_read_inside_workers_of_joblib(tmp_path: Path) -> None:
    joblib = (
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "loader.workers=1",
        "loader.crop=[32,32]",
        "seed=0,1",
    )
    finish(tmp_path, start(tmp_path, *joblib, "crop=class_aware", "run_dir=r"))
    assert [Run.open(tmp_path / f"r_{job}").status["state"] for job in (0, 1)] == ["finished", "finished"]
    check = [sys.executable, "-m", "seg_cli", "check", *SHAPES, *joblib, "out=c"]
    subprocess.run(check, cwd=tmp_path, check=True, timeout=300)


def still_there(folder: Path) -> list[int]:
    """Processes whose working directory is this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_all_within_a_minute(tmp_path: Path, rank: int) -> None:
    options = ("trainer=cpu_ddp", "trainer.devices=3", "trainer.max_epochs=3000", "loader.workers=1", "run_dir=r")
    started = start(tmp_path, *options)
    for _ in range(1200):
        if (tmp_path / "r" / "metrics.csv").exists():
            break
        assert started.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    words = {child: Path(f"/proc/{child}/environ").read_bytes() for child in children}
    ranks = {0: started.pid} | {
        int(found[1]): int(child) for child, own in words.items() if (found := re.search(rb"\0RANK=(\d)", own))
    }
    os.kill(ranks[rank], signal.SIGKILL)
    killed = time.monotonic()
    said = started.communicate(timeout=60)[0]
    while still_there(tmp_path) and time.monotonic() - killed < 60:
        time.sleep(0.2)
    assert still_there(tmp_path) == []
    assert started.returncode == (1 if rank else -signal.SIGKILL)
    assert len(re.findall(rf"error: Process {rank} \(pid {ranks[rank]} on \S+\) died in the middle of training", said))
    assert "Traceback" not in said
    if rank:
        status = json.loads((tmp_path / "r" / "status.json").read_text())
        assert status["state"] == "failed"
        assert status["reason"].startswith(f"Process 1 (pid {ranks[1]} on ")


@pytest.mark.gpu
def test_parameters_in_parts_on_gpus(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    options = ("trainer=fsdp", "trainer.accelerator=gpu", "trainer.devices=2", "trainer.max_epochs=2")
    for name, strategy in (("fsdp", "fsdp"), ("ddp", "ddp")):
        (tmp_path / name).mkdir()
        finish(tmp_path / name, start(tmp_path / name, *options, f"trainer.strategy={strategy}", "run_dir=r"))
    parts, whole = (Run.open(tmp_path / name / "r").metrics for name in ("fsdp", "ddp"))
    assert parts[0]["train/loss"] == pytest.approx(whole[0]["train/loss"], rel=1e-2)
