"""What SLURM says, by commands that answer as it does; and what is refused before anything is submitted."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from seg_cli.commands.slurm_checks import Resources, check
from seg_cli.errors import UserError
from seg_cli.runs import slurm

SINFO = """\
main*|2|gpu:2|4|8000|infinite
high|2|gpu:a100:4(S:0-1),shard:8|64+|512000+|1-12:30:00
short|10|(null)|32|64000|30:00
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH whose commands answer as SLURM's do; what sbatch is given goes to ``sbatch.txt``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "sinfo.txt").write_text(SINFO)
    write(folder / "sinfo", f"cat '{tmp_path}/sinfo.txt'")
    write(folder / "sbatch", f"echo \"$@\" >> '{tmp_path}/sbatch.txt'")
    write(folder / "squeue", "printf '7_0\\n7_2\\n'")
    write(folder / "scancel", f"echo \"$@\" >> '{tmp_path}/scancel.txt'")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def resources(
    *,
    partition: str | None = None,
    account: str | None = None,
    nodes: int = 1,
    tasks: int = 1,
    gpus: int = 1,
    cpus: int = 4,
    memory: float = 4,
    minutes: int = 20,
) -> Resources:
    return Resources(
        partition=partition,
        account=account,
        qos=None,
        constraint=None,
        exclude=None,
        nodes=nodes,
        tasks_per_node=tasks,
        gpus_per_node=gpus,
        cpus_per_task=cpus,
        mem_gb=memory,
        timeout_min=minutes,
    )


def job(accelerator: str = "auto", devices: object = "auto", nodes: object = 1) -> DictConfig:
    return OmegaConf.create({"trainer": {"accelerator": accelerator, "devices": devices, "nodes": nodes}})


def test_partitions_are_read(commands: Path) -> None:
    main, high, short = slurm.partitions()
    assert (main.partition, main.default, main.count, main.gpus, main.cpus, main.memory) == (
        "main",
        True,
        2,
        2,
        4,
        8000,
    )
    assert main.minutes is None
    assert (high.default, high.gpus, high.cpus, high.minutes) == (False, 4, 64, 36 * 60 + 30)
    assert (short.gpus, short.minutes) == (0, 30)


def test_the_queue_is_read_job_by_job(commands: Path) -> None:
    assert slurm.queued(["7_0", "7_1"]) == {"7_0"}
    write(commands / "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.queued(["7_0"]) == set()
    write(commands / "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert slurm.queued(["7_0"]) is None


def test_a_task_of_an_array_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert slurm.own_job() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert slurm.own_job() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.own_job() == "12_3"


def test_submitted_jobs_are_noted_one_after_the_other(tmp_path: Path) -> None:
    assert slurm.submitted(tmp_path) == []
    slurm.note_submitted(tmp_path, ["7_0", "7_1"])
    slurm.note_submitted(tmp_path, ["9"])
    assert slurm.submitted(tmp_path) == ["7_0", "7_1", "9"]


def test_what_is_no_job_is_passed_to_no_command(commands: Path, tmp_path: Path) -> None:
    write(commands / "scancel", f'echo "$@" >> "{tmp_path}/scancel.txt"')
    (tmp_path / "slurm.json").write_text(json.dumps(["7_0", "--me", "9 --user=root", 12, None]))
    assert slurm.submitted(tmp_path) == ["7_0", "12"]
    slurm.cancel(["--me", "7_0", "-t", "8;ls"], "--signal=TERM")
    assert (tmp_path / "scancel.txt").read_text().split() == ["--quiet", "--signal=TERM", "7_0"]
    slurm.cancel(["--me"])
    assert len((tmp_path / "scancel.txt").read_text().splitlines()) == 1


def test_what_can_work_is_tried_out_with_slurm_itself(commands: Path) -> None:
    check(resources(account="lab"), [job()])
    said = (commands.parent / "sbatch.txt").read_text()
    assert "--test-only" in said
    assert "--account=lab" in said
    assert "--gpus-per-node=1" in said
    assert "--mem=4096M" in said
    assert "--partition" not in said


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            resources(partition="mian"),
            "hydra.launcher.partition=mian: there is no such partition. Did you mean 'main'?",
        ),
        (resources(gpus=3), "gpus_per_node=3: the machines of the default partition, main, have at most 2 GPUs."),
        (resources(partition="short"), "gpus_per_node=1: the machines of partition short have no GPUs. Type hydra"),
        (resources(cpus=3, tasks=2), "cpus_per_task=3 with tasks_per_node=2: the machines of the default partition"),
        (resources(memory=9), "mem_gb=9: the machines of the default partition, main, have at most 7.812 GB"),
        (resources(nodes=3), "nodes=3: the default partition, main, has 2 machines"),
        (
            resources(partition="short", gpus=0, minutes=31),
            "timeout_min=31: in partition short jobs run for at most 30",
        ),
        (resources(minutes=0), "hydra.launcher.timeout_min=0: it must be 1 or more."),
    ],
)
def test_what_a_partition_has_not_is_refused(commands: Path, asked: Resources, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check(asked, [job()])
    assert sentence in str(caught.value)
    assert not (commands.parent / "sbatch.txt").exists()


@pytest.mark.parametrize(
    ("asked", "trainer", "sentence"),
    [
        (resources(nodes=2), job(), "nodes=2 tasks_per_node=1 with trainer.nodes=1: srun would start 2 processes."),
        (resources(), job(nodes=2), "trainer.nodes=2 with hydra.launcher.nodes=1"),
        (resources(), job(devices=2), "trainer.devices=2 with hydra.launcher.gpus_per_node=1"),
        (resources(gpus=0), job("gpu"), "trainer.accelerator=gpu with hydra.launcher.gpus_per_node=0"),
        (resources(nodes=2, gpus=2), job("gpu", nodes=2), "tasks_per_node=1 with gpus_per_node=2: there is a process"),
        (
            resources(nodes=2, tasks=2, gpus=2, cpus=1),
            job("gpu", devices=1, nodes=2),
            "tasks_per_node=2 with trainer.devices=1",
        ),
    ],
)
def test_processes_that_do_not_fit_the_trainer_are_refused(
    commands: Path, asked: Resources, trainer: DictConfig, sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(asked, [job(), trainer] if asked.nodes == 1 and trainer.trainer.accelerator == "auto" else [trainer])
    assert sentence in str(caught.value)
    assert not (commands.parent / "sbatch.txt").exists()


def test_trainers_read_the_nodes_that_the_job_will_have(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NNODES", raising=False)
    nodes = "${oc.decode:${oc.env:SLURM_NNODES,1}}"
    check(resources(nodes=2), [job("gpu", nodes=nodes)])
    assert "SLURM_NNODES" not in os.environ


def test_what_slurm_refuses_is_passed_on(commands: Path) -> None:
    write(commands / "sbatch", "echo 'allocation failure: Invalid account specified' >&2; exit 1")
    with pytest.raises(UserError, match=r"SLURM would not take such jobs \(Invalid account specified\)"):
        check(resources(account="nobody"), [job()])


def test_a_machine_without_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch"):
        check(resources(), [job()])
