"""Going on with a run: what counts as a change, who runs a run, and jobs that are put back into SLURM's queue."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seg_cli import cli
from seg_cli.commands.completion import candidates
from seg_cli.commands.resume import differences
from seg_cli.runs import requeue
from seg_cli.runs.run import Run
from seg_cli.runs.runner import PATIENCE, describe_runner, who_runs

CONFIG = {
    "seed": 0,
    "name": "a",
    "data": {"_target_": "x.Data", "root": "/here", "classes": {0: "sky"}, "size": [32, 32]},
    "trainer": {"max_epochs": 3, "devices": "auto", "strategy": "auto", "checkpoint_minutes": 10},
    "loader": {"batch_size": 2, "workers": 0},
    "logger": {"wandb": {"mode": "auto"}},
    "loss": {"terms": {"ce": {"weights": None}}},
    "choices": {"logger": "wandb"},
}


def changed(**sections: Any) -> dict[str, Any]:
    return CONFIG | {key: CONFIG[key] | value if isinstance(value, dict) else value for key, value in sections.items()}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"name": "b"},
        {"data": {"root": "/there"}},
        {"data": {"size": (32, 32), "classes": {"0": "sky"}}},  # as JSON has it
        {"trainer": {"devices": 2, "strategy": "ddp", "checkpoint_minutes": None}},
        {"loader": {"workers": 4}},
        {"logger": {"csv": {}}, "choices": {"logger": "wandb+csv"}},
    ],
)
def test_where_and_how_is_no_change_of_the_result(sections: dict[str, Any]) -> None:
    assert differences(CONFIG, changed(**sections)) == {}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"seed": 1}, {"seed": (0, 1)}),
        ({"trainer": {"max_epochs": 5, "devices": 2}}, {"trainer.max_epochs": (3, 5)}),
        ({"data": {"size": [32, 40]}}, {"data.size": ([32, 32], [32, 40])}),
        ({"loader": {"batch_size": 4}, "seed": 2}, {"seed": (0, 2), "loader.batch_size": (2, 4)}),
        ({"loss": {"terms": {"dice": {}}}}, {"loss.terms.ce.weights": (None, None), "loss.terms.dice": (None, {})}),
    ],
)
def test_what_changes_the_result_is_named(sections: dict[str, Any], expected: dict[str, Any]) -> None:
    assert differences(CONFIG, changed(**sections)) == {k: v for k, v in expected.items() if v[0] != v[1]}


def status(**process: Any) -> dict[str, Any]:
    return {"state": "running", "process": describe_runner() | process}


def test_a_run_is_going_while_its_process_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        born = int(Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19])
        going = status(pid=other.pid, born=born)
        assert who_runs(going, silent=1e6) == f"process {other.pid} on this machine"
        assert who_runs(going | {"state": "interrupted"}, silent=0) is None
        assert who_runs(status(pid=other.pid, born=born - 1), silent=0) is None, "a later process with the same number"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert who_runs(going, silent=0) is None, "dead, though nobody has asked how it ended"
    assert who_runs(going, silent=0) is None


def test_this_process_and_a_run_without_one_are_no_obstacle() -> None:
    assert who_runs(status(), silent=0) is None
    assert who_runs({"state": "running"}, silent=0) is None


def test_another_machine_is_given_time() -> None:
    away = status(host="elsewhere", pid=7)
    assert "process 7 on elsewhere" in (who_runs(away, silent=30) or "")
    assert who_runs(away, silent=PATIENCE) is None


def test_an_earlier_try_of_the_same_job_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    away = status(host="elsewhere", job="42", tries=0)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert who_runs(away, silent=0) is not None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert who_runs(away, silent=0) is None
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert who_runs(away, silent=0) is not None


def test_the_process_stays_in_the_status(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", numbered=False)
    run.write_status("running", process=describe_runner())
    run.write_status("failed", reason="a full disk")
    assert run.status["process"]["host"] == socket.gethostname()
    assert run.status["process"]["pid"] == os.getpid()


def test_a_job_that_is_begun_again_finds_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r").mkdir()
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    requeue.remember(CONFIG, Path("r"))
    assert not (tmp_path / "outputs").exists(), "outside of SLURM nothing is noted down"

    monkeypatch.setenv("SLURM_JOB_ID", "42")
    requeue.remember(CONFIG, Path("r"))
    assert requeue.earlier_run(CONFIG) is None, "the first try"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeue.earlier_run(CONFIG) is None, "killed before there was a config.yaml"
    (tmp_path / "r" / "config.yaml").touch()
    assert requeue.earlier_run(CONFIG) == tmp_path / "r"
    assert requeue.earlier_run(CONFIG | {"seed": 1}) is None, "another command of the same job"
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert requeue.earlier_run(CONFIG) is None, "another job"


def test_requeue_says_how_it_went(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(requeue, "_back", False)  # what this process has done is forgotten again
    assert requeue.requeue() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    scontrol = tmp_path / "scontrol"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue.requeue().startswith("SLURM did not take job 42 back into its queue (")
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "said"}\n')
    scontrol.chmod(0o755)
    assert requeue.requeue() == "Job 42 is back in SLURM's queue."
    assert (tmp_path / "said").read_text() == "requeue 42\n"
    scontrol.write_text("#!/bin/sh\necho 'Job is not permitted' >&2\nexit 1\n")
    assert "did not take job 42 back into its queue (Job is not permitted)" in requeue.requeue()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "resume: which run? Type segrun resume RUN"),
        (["nowhere"], "nowhere does not exist"),
        (["r", "--acept-changes"], "Did you mean '--accept-changes'?"),
    ],
)
def test_wrong_requests(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["resume", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_finished_run_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", numbered=False)
    run.write_config({"model": {}})
    run.write_status("finished", epoch=3)
    code = f"import sys; from seg_cli import cli; print(cli.run(['resume', '{run.folder}']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 False\n", done.stderr


def test_completion() -> None:
    assert candidates("segrun resu") == ["resume"]
    assert candidates("segrun resume out") == [], "the shell knows the folders"
    assert candidates("segrun resume r --acc") == ["--accept-changes"]
    assert candidates("segrun resume r trainer.dev") == ["trainer.devices="]
