"""Matrices: what is done is skipped, what died is gone on with, and one job that fails does not stop the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from seg_cli.errors import RunFailed
from seg_cli.runs.atomic import write_json
from seg_cli.runs.claims import Place, all_newest
from seg_cli.runs.jobs import Job, Jobs
from seg_cli.runs.known import known_runs
from seg_cli.runs.run import Run
from seg_cli.runs.runner import _born
from tests.e2e.conftest import Outcome

TINY = (
    *("model=unet", "encoder.name=test_resnet.r160_in1k", "logger=none", "precision=fp32", "loader.workers=0"),
    *("loader.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu"),
    *("data=shapes", "data.train=4", "data.val=2", "data.test=3", "data.size=[32,32]"),
)


def runs(folder: Path = Path("outputs/shapes")) -> dict[str, dict[str, Any]]:
    """Name of each run directory -> its status."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/status.json"))}


def jobs_of(root: Path, count: int) -> list[Job]:
    """The records of the newest matrix."""
    newest = max((path for path in (root / "outputs" / ".sweeps").glob("[0-9]*")), key=lambda path: path.name)
    return [Jobs(newest).read(number) for number in range(count)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that make a directory and a result, and train nothing: lr=1e30 fails and seed=13 is interrupted, once.

    Gives what has been done, in words.
    """
    from seg_cli.commands import multirun, train

    done: list[str] = []

    def work(config: Mapping[str, Any], directory: Run) -> float:
        with train.recorded(directory, speaks=True):
            directory.write_config(config)
            if config["optimizer"]["lr"] > 1:
                raise RunFailed("The loss is nan.")
            if config["seed"] == 13 and not any(word.startswith("resume") for word in done):
                raise KeyboardInterrupt
            score = config["seed"] / 100
            directory.write_results({"schema": 1, "splits": {"test": {"miou": score}}})
        return score

    def begin(config: dict[str, Any]) -> float:
        directory = train.open_run(config)
        done.append(f"begin {directory.folder.name.rpartition('_')[2]}")
        return work(config, directory)

    def resume(directory: Run) -> float:
        done.append(f"resume {directory.folder.name.rpartition('_')[2]}")
        return work(cast(dict[str, Any], OmegaConf.to_container(directory.config)), directory)

    monkeypatch.setattr(multirun, "_train", begin)
    monkeypatch.setattr(multirun, "_resume", resume)
    return done


def test_a_matrix_does_what_is_left(segrun: Callable[..., Outcome], quick: list[str]) -> None:
    first = segrun("-m", "seed=1,2", "optimizer.lr=1e-3,1e30")
    assert first.status == 1
    assert quick == ["begin 0", "begin 1", "begin 2", "begin 3"], "one that fails does not stop the others"
    assert [line.partition(":")[0] for line in first.out.splitlines()[:4]] == [f"job {i} of 4" for i in (1, 2, 3, 4)]
    assert first.err.count("error: The loss is nan.") == 2
    assert "2 of 4 jobs did not finish (2 finished, 2 failed)" in first.err
    made = runs()
    assert sorted(status["state"] for status in made.values()) == ["failed", "failed", "finished", "finished"]
    assert not list(Path("outputs/shapes").glob("*/heartbeat"))

    again = segrun("-m", "seed=1,2,3", "optimizer.lr=1e-3,1e30")
    assert quick[4:] == ["begin 4", "begin 5"], "jobs keep their numbers"
    assert "6 jobs: 2 finished, 2 failed before (retry=failed tries those again that failed), 2 to do" in again.out
    assert "job 5 of 6: seed=3 optimizer.lr=0.001" in again.out
    assert "0.0200" in again.out, "the score of what was skipped"
    assert "before: The loss is nan." in again.out
    assert again.status == 1, "there are still some that failed"

    retried = segrun("-m", "seed=1,2,3", "optimizer.lr=1e-3,1e30", "retry=failed")
    assert quick[6:] == ["resume 1", "resume 3", "resume 5"], "gone on with where they are"
    assert retried.status == 1

    good = segrun("-m", "seed=1,2", "optimizer.lr=1e-3", "tags=[a]", "loader.workers=3", "logger=csv")
    assert good.status == 0, "what does not decide the result does not count"
    assert "2 jobs: 2 finished before, 0 to do" in good.out
    assert "table: segrun table outputs/shapes" in good.out
    assert len(quick) == 9
    other = segrun("-m", "seed=1", "optimizer.lr=1e-3", "loader.batch_size=3")
    assert (other.status, quick[9:]) == (0, ["begin 0"]), "what decides it does"


def test_an_interrupt_ends_the_matrix(segrun: Callable[..., Outcome], quick: list[str]) -> None:
    stopped = segrun("-m", "seed=12,13,14")
    assert (stopped.status, quick) == (130, ["begin 0", "begin 1"])
    assert "1 finished, 1 interrupted, 1 not begun. To go on: the same command again." in stopped.err
    assert "not begun" in stopped.out
    done = segrun("-m", "seed=12,13,14")
    assert (done.status, quick[2:]) == (0, ["resume 1", "begin 2"])
    assert "resumed" in done.out
    claims = all_newest(Place(Path("outputs/shapes")))
    assert {note.run.name for note in claims.values() if note.run} == set(runs())
    assert not any(note.held for note in claims.values())
    assert set(known_runs(Place(Path("outputs/shapes")))) == set(claims)


def test_jobs_that_ask_for_the_same_run_share_it(segrun: Callable[..., Outcome], quick: list[str]) -> None:
    done = segrun("-m", "notes=a,b", "run_dir=r")
    assert done.status == 0
    assert "same as job 1" in done.out
    assert [path.name for path in Path().glob("r_*")] == ["r_0"]
    assert segrun("-m", "notes=a", "run_dir=q").status == 0
    assert len(quick) == 2, "another run_dir asks for another run"
    assert "1 jobs: 1 finished before, 0 to do" in segrun("-m", "notes=a", "run_dir=r").out


def test_wrong_jobs_among_right_ones(segrun: Callable[..., Outcome], quick: list[str]) -> None:
    some = segrun("-m", "seed=1,x")
    assert some.status == 1
    assert "error: seed=x: it must be a whole number" in some.err
    assert "1 of 2 jobs did not finish (1 finished, 1 failed)" in some.err
    every = segrun("-m", "seed=-1,x")
    assert every.status == 2
    assert "none of the 2 jobs was a request that can be carried out" in every.err
    assert "not begun" not in every.out
    unknown = segrun("-m", "seed=7,8", "model=unet,unett")
    assert unknown.status == 2
    assert "there is no model 'unett'" in unknown.err
    assert quick == ["begin 0"], "what cannot be composed is said before anything begins"


def test_a_run_that_another_process_is_making_is_left_alone(
    segrun: Callable[..., Outcome], quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seg_cli.commands import multirun

    assert segrun("-m", "seed=1").status == 0
    ((name, status),) = runs().items()
    file, begin = Path("outputs/shapes") / name / "status.json", multirun._train
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = status["process"] | {"pid": other.pid, "born": _born(other.pid)}
        write_json(file, status | {"state": "running", "process": process})
        left = segrun("-m", "seed=1,2")
        assert left.status == 0
        assert "2 jobs: 1 running before, 1 to do" in left.out
        assert f"process {other.pid}" in left.out
        assert "still being made elsewhere: 1" in left.out, "and what to type then"

        monkeypatch.setattr(multirun, "_train", lambda config: (write_json(file, status), begin(config))[1])
        both = segrun("-m", "seed=1,3")
        assert "1 running before, 1 to do" in both.out
        assert "made elsewhere" in both.out, "finished meanwhile"
        assert "still being made" not in both.out
        write_json(file, status | {"state": "running", "process": process})
        other.kill()
    done = segrun("-m", "seed=1,2")
    assert (done.status, quick[1:]) == (0, ["begin 1", "begin 1", "resume 0"])


def test_a_run_directory_that_was_removed_is_made_again(segrun: Callable[..., Outcome], quick: list[str]) -> None:
    assert segrun("-m", "seed=1,2").status == 0
    first, second = sorted(runs())
    shutil.rmtree(Path("outputs/shapes") / first)
    (Path("outputs/shapes") / second / "results.json").write_text("{")
    assert segrun("-m", "seed=1,2").status == 0
    assert quick[2:] == ["begin 0", "begin 1"], "without its result, a run is none"


def test_a_benchmark_is_a_matrix_with_a_name(segrun: Callable[..., Outcome], quick: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "benchmark").mkdir(parents=True)
    (tmp_path / "mine" / "benchmark" / "two.yaml").write_text(
        "# @package _global_\n# Mine\ndefaults:\n  - override /loss: dice\nname: two\nhydra:\n  mode: MULTIRUN\n"
        "  sweeper:\n    params: {model: [unet, fpn], seed: 'range(1,3)'}\n    table: {rows: [model], sort: miou}\n"
    )
    done = segrun("--config-dir", "mine", "benchmark=two", "seed=4,5,6", "model=fpn")
    assert done.status == 0, done.err
    assert "job 3 of 3: " in done.out
    assert "table: segrun table outputs/two --rows model --sort miou" in done.out
    assert len(runs(Path("outputs/two"))) == 3
    config = Run.open(Path("outputs/two") / sorted(runs(Path("outputs/two")))[0]).config
    assert (config.choices.benchmark, config.choices.model, config.choices.loss) == ("two", "fpn", "dice")
    both = segrun("-m", "benchmark=shapes_quick,losses")
    assert both.status == 2
    assert "a benchmark is a matrix of its own" in both.err


def test_a_matrix_of_several_processes_is_refused(
    segrun: Callable[..., Outcome], quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    refused = segrun("-m", "seed=1,2")
    assert refused.status == 2
    assert "-m: a matrix is run by one process" in refused.err


QUICK = (
    *("encoder.name=test_resnet.r160_in1k", "precision=fp32", "trainer.accelerator=cpu", "trainer.max_epochs=1"),
    *("trainer.validate_every=1", "data.train=4", "data.val=2", "data.test=8", "data.size=[32,32]"),
)


def check_quick(done: Outcome, segrun: Callable[..., Outcome], rows: int, runs_of_a_row: int) -> None:
    """The matrix of shapes_quick has run, ends in its table, and is skipped the next time."""
    assert done.status == 0, done.err
    assert "--rows model,loss --columns miou,pixel_accuracy,parameters,flops,images_per_second" in done.out
    assert len(runs(Path("outputs/shapes_quick"))) == rows * runs_of_a_row
    again = segrun("benchmark=shapes_quick", *QUICK, *(["model=unet", "seed=0"] if rows == 2 else []))
    assert f"{rows * runs_of_a_row} jobs: {rows * runs_of_a_row} finished before, 0 to do" in again.out
    table = segrun("table", "outputs/shapes_quick", "--rows", "model,loss", "--format", "csv")
    assert table.status == 0, table.err
    assert table.out.count("unet") >= 2
    report = segrun("report", "outputs/shapes_quick")
    assert report.status == 0, report.err


def test_shapes_quick_to_its_table_and_report(segrun: Callable[..., Outcome]) -> None:
    check_quick(segrun("benchmark=shapes_quick", *QUICK, "model=unet", "seed=0"), segrun, rows=2, runs_of_a_row=1)


@pytest.mark.slow
def test_the_whole_of_shapes_quick_to_its_table_and_report(segrun: Callable[..., Outcome]) -> None:
    check_quick(segrun("benchmark=shapes_quick", *QUICK), segrun, rows=6, runs_of_a_row=2)


def test_the_shipped_benchmarks_leave_nothing_out() -> None:
    from seg_cli.config.choices import choices
    from seg_cli.config.paths import conf_dir
    from seg_cli.models.upsample import KINDS

    def params(name: str) -> Any:
        return OmegaConf.load(conf_dir() / "benchmark" / f"{name}.yaml").hydra.sweeper.params

    assert sorted(params("upsampling")["model.upsample"]) == sorted(KINDS)
    terms = {term.rpartition("*")[2] for loss in params("losses").loss for term in loss.split("+")}
    assert terms == {choice.name for choice in choices("loss")} - {"edge", "dual_task"}, "which need model=gscnn"


@pytest.mark.slow
def test_real_runs(segrun: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    from seg_cli.training.loop import Loop

    end = Loop._end

    def interrupted(loop: Loop, epoch: int, scores: dict[str, float]) -> None:
        end(loop, epoch, scores)
        raise KeyboardInterrupt

    assert segrun(*TINY, "trainer.max_epochs=2", "seed=2").status == 0
    monkeypatch.setattr(Loop, "_end", interrupted)
    options = ("-m", *TINY, "trainer.max_epochs=2", "seed=0,1,2")
    stopped = segrun(*options)
    assert stopped.status == 130
    assert "3 jobs: 1 finished before, 2 to do" in stopped.out, "a run by itself is one of them"
    monkeypatch.setattr(Loop, "_end", end)
    done = segrun(*options)
    assert done.status == 0
    assert "after 1 epochs, 2 steps" in done.out
    assert [status["state"] for status in runs().values()] == ["finished"] * 3
    for folder in Path("outputs/shapes").glob("[0-9]*"):
        run = Run.open(folder)
        assert run.results["fingerprint"] == run.status["fingerprint"]
    assert segrun(*TINY, "trainer.max_epochs=2", "seed=2").status == 0
    assert len(runs()) == 4, "a single run is never skipped"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command line in a process of its own, in an empty folder."""
    started: list[subprocess.Popen[str]] = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "300"}

    def run(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "seg_cli", *options]
        with (tmp_path / f"said{len(started)}.txt").open("w") as said:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(look: Callable[[], Any], *, seconds: float = 180) -> Any:
    """What ``look`` gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def trained(root: Path, count: int, epochs: int = 1) -> list[Job]:
    """Jobs that are running and have so many epochs done."""
    try:
        jobs = jobs_of(root, count)
    except ValueError:
        return []
    going = [job for job in jobs if job.state == "running" and job.run]
    return [job for job in going if json.loads((root / job.run / "status.json").read_text())["epoch"] >= epochs]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_worker_that_is_killed(launcher: str, start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    workers = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    options = ("-m", *TINY, "trainer.max_epochs=60", "seed=0,1,2", f"hydra/launcher={launcher}", *workers)
    matrix = start(*options)
    (victim, *_) = wait_for(lambda: trained(tmp_path, 3))
    os.kill(victim.process["pid"], signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: f"lost: job {victim.number + 1} " in (tmp_path / "said0.txt").read_text(), seconds=60)
    assert time.monotonic() - killed < 60
    assert matrix.wait(timeout=300) == 0, (tmp_path / "said0.txt").read_text()
    said = (tmp_path / "said0.txt").read_text()
    assert f"job {victim.number + 1} was lost; it is gone on with, alone" in said
    assert [job.state for job in jobs_of(tmp_path, 3)] == ["finished"] * 3
    found = runs(tmp_path / "outputs" / "shapes")
    assert [status["state"] for status in found.values()] == ["finished"] * 3
    rows = Run.open(tmp_path / victim.run).metrics
    assert [row["epoch"] for row in rows] == list(range(1, 61)), "gone on with, not begun again"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_parent_that_is_killed_and_started_again(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    options = ("-m", *TINY, "trainer.max_epochs=150", "seed=0,1", "hydra/launcher=submitit_local")
    matrix = start(*options)
    wait_for(lambda: len(trained(tmp_path, 2)) == 2)
    matrix.kill()
    matrix.wait()
    again = start(*options)
    assert again.wait(timeout=300) == 0
    said = (tmp_path / "said1.txt").read_text()
    assert "2 jobs: 2 running before, 0 to do" in said
    wait_for(lambda: all(s["state"] == "finished" for s in runs(tmp_path / "outputs" / "shapes").values()))
    last = start(*options)
    assert last.wait(timeout=300) == 0
    assert "2 jobs: 2 finished before, 0 to do" in (tmp_path / "said2.txt").read_text()
    assert len(runs(tmp_path / "outputs" / "shapes")) == 2, "nothing was made twice"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_the_workers_too(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    workers = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    options = ("-m", *TINY, "trainer.max_epochs=3000", "seed=0,1,2", *workers)
    matrix = start(*options)
    wait_for(lambda: len(trained(tmp_path, 3)) == 2)
    matrix.send_signal(signal.SIGINT)
    assert matrix.wait(timeout=60) == 130
    assert "2 interrupted, 1 not begun. To go on: the same command again." in (tmp_path / "said0.txt").read_text()
    found = runs(tmp_path / "outputs" / "shapes")
    assert [(s["state"], s["reason"]) for s in found.values()] == [("interrupted", "SIGTERM")] * 2


@pytest.mark.slow
def test_two_matrices_at_once_share_the_work(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    options = ("-m", *TINY, "seed=0,1,2,3")
    both = [start(*options), start(*options)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    found = runs(tmp_path / "outputs" / "shapes")
    assert [status["state"] for status in found.values()] == ["finished"] * 4
    assert len({status["fingerprint"] for status in found.values()}) == 4
