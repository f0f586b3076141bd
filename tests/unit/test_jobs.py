"""The records of a matrix's jobs, signs of life, and the runs that a place has already."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seg_cli.config.sweeps import as_values, count_jobs, job_number
from seg_cli.reports.jobs import count_states, end_line, varied
from seg_cli.runs.claims import Place
from seg_cli.runs.heartbeat import NAME, beating, silence
from seg_cli.runs.jobs import Job, Jobs, running, wait_for_decision
from seg_cli.runs.known import known_runs
from seg_cli.runs.runner import describe_runner, lives, named_process


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    job = Job(3, overrides=["seed=1"], state="finished", run="outputs/x", score=0.5, remark="resumed")
    jobs.write(job)
    assert jobs.read(3) == job
    assert jobs.read(4) == Job(4), "nobody has begun it"
    jobs.path(3).write_text("{")
    assert jobs.read(3) == Job(3)


def test_a_running_job_whose_process_is_gone_is_lost(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    job = running(Job(0))
    jobs.write(job)
    assert jobs.read(0).state == "running"
    jobs.write(replace(job, process={**(job.process or {}), "born": -1.0}))
    lost = jobs.read(0)
    assert lost.state == "lost"
    assert f"process {os.getpid()} on " in str(lost.reason)


@pytest.mark.parametrize("change", [{"pid": -1}, {"pid": 0}, {"pid": "1"}, {"pid": True}, {"tries": None}])
def test_a_file_cannot_name_all_processes_of_a_user_as_its_own(tmp_path: Path, change: dict[str, Any]) -> None:
    process = describe_runner()
    assert named_process(process) == process
    damaged = process | change | {"born": None}
    assert named_process(damaged) is None
    assert not lives(process | {"pid": -1, "born": None}, silent=0.0)
    jobs = Jobs(tmp_path)
    jobs.write(replace(running(Job(0)), process=damaged))
    assert jobs.read(0).process is None
    (tmp_path / "plan.json").write_text(json.dumps({"process": damaged, "jobs": []}))
    assert jobs.matrix is None


@pytest.mark.parametrize("value", [None, {}, [], "1", {"pid": 1, "host": "a"}])
def test_what_is_no_process_is_none(value: object) -> None:
    assert named_process(value) is None


def test_a_job_of_another_machine_is_lost_after_a_minute_of_silence(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    job = running(Job(0))
    jobs.write(replace(job, process={**(job.process or {}), "host": "elsewhere"}, run=str(tmp_path / "run")))
    assert jobs.read(0).state == "running"
    silent = time.time() - 120
    os.utime(jobs.path(0), (silent, silent))
    assert jobs.read(0).state == "lost"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).touch()
    assert jobs.read(0).state == "running", "its run is heard of"


def test_a_launchers_numbers_are_those_of_the_jobs_that_are_left(tmp_path: Path) -> None:
    assert job_number(tmp_path, 1) == 1
    Jobs(tmp_path).write_order([2, 5])
    assert [job_number(tmp_path, number) for number in (0, 1, 2)] == [2, 5, 2]


def test_other_processes_wait_for_the_decision_of_their_turn(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    jobs.write(Job(0, decision="begin", turn="first"))
    with pytest.raises(TimeoutError, match="job 1: its first process has not begun"):
        wait_for_decision(jobs, 0, "second", patience=0.05, every=0.01)
    later = threading.Timer(0.1, jobs.write, [Job(0, decision="resume", turn="second")])
    later.start()
    assert wait_for_decision(jobs, 0, "second", patience=20, every=0.01).decision == "resume"


def test_signs_of_life_come_and_go(tmp_path: Path) -> None:
    path, looks = tmp_path / NAME, threading.Event()
    assert silence(tmp_path) == float("inf")
    with beating(path, also=looks.set, every=0.01):
        os.utime(path, (0, 0))
        looks.clear()
        assert looks.wait(20)
        assert looks.is_set()
        assert silence(tmp_path) < 60
    assert not path.exists()
    path.touch()
    with beating(path, every=0.01):
        pass
    assert path.exists(), "it was not made for this"


def write_run(folder: Path, status: dict[str, Any], results: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps(status))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))


def test_of_several_runs_the_finished_one_is_known_then_the_newest(tmp_path: Path) -> None:
    write_run(tmp_path / "1", {"state": "finished", "fingerprint": "a"})
    write_run(tmp_path / "2", {"state": "failed", "fingerprint": "a"})
    write_run(tmp_path / "3", {"state": "failed", "fingerprint": "b"})
    write_run(tmp_path / "4", {"state": "failed", "fingerprint": "b"})
    write_run(tmp_path / "5", {"state": "finished"}, {"fingerprint": "c"})  # of an earlier version
    write_run(tmp_path / ".6", {"state": "finished", "fingerprint": "d"})
    write_run(tmp_path / "7", {"state": "odd", "fingerprint": "e"})
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "status.json").write_text("[")
    assert {name: run.folder.name for name, run in known_runs(Place(tmp_path)).items()} == {
        "a": "1",
        "b": "4",
        "c": "5",
    }
    assert known_runs(Place(tmp_path / "none")) == {}


def test_params_are_read_as_lists_or_as_typed() -> None:
    assert as_values(["ce", "dice+focal"]) == "ce,dice+focal"
    assert as_values("range(3)") == "range(3)"
    assert count_jobs([f"loss={as_values(['ce', 'dice'])}", f"seed={as_values('range(3)')}"]) == 6


def test_what_a_table_of_jobs_is_headed_by() -> None:
    jobs = [
        Job(0, overrides=["model=unet", "seed=0"], state="finished"),
        Job(1, overrides=["model=unet", "+seed=1"], state="waiting"),
        Job(2, overrides=["model=unet", "seed=2"], state="finished"),
    ]
    assert varied(jobs) == ["seed"]
    assert count_states(jobs) == "2 finished, 1 not begun"


def test_the_end_of_a_job_is_a_line() -> None:
    job = Job(4, overrides=["model=fpn", "seed=1"], state="finished", score=0.42131)
    assert end_line(job, ended=12, of=24) == "finished: job 5 model=fpn seed=1, mIoU 0.4213 (12 of 24 ended)"
    lost = replace(job, state="lost", score=None, reason="process 7 on n1\nis gone")
    assert end_line(lost, ended=1, of=2) == "lost: job 5 model=fpn seed=1 (1 of 2 ended): process 7 on n1 is gone"
