"""Which devices and processes a run gets: what is asked for, what torchrun and srun say, and what does not fit."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seg_cli.errors import UserError
from seg_cli.training import launch
from seg_cli.training.devices import device_of, make_fabric
from seg_cli.training.launch import World, world_around

CPU = torch.device("cpu")
ALONE = {"accelerator": "auto", "devices": "auto", "nodes": 1, "strategy": "auto"}
TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "first", "MASTER_PORT": "29500"},
}
SRUN = {
    **{"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
    **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "n[1-2]"},
}


@pytest.fixture(autouse=True)
def started_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name in TORCHRUN or name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def setenv(monkeypatch: pytest.MonkeyPatch, words: dict[str, str]) -> None:
    for name, word in words.items():
        monkeypatch.setenv(name, word)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    assert device_of(ALONE).type == "cpu"
    with_gpus(monkeypatch, 2)
    assert device_of(ALONE).type == "cuda"
    assert device_of({**ALONE, "devices": 2}).type == "cuda"
    assert device_of({**ALONE, "accelerator": "cpu", "devices": 9}).type == "cpu"
    assert device_of({"accelerator": "auto"}).type == "cuda"  # as segrun eval asks


@pytest.mark.parametrize(
    ("gpus", "asked", "said"),
    [
        (0, {"accelerator": "gpu"}, "accelerator=gpu: torch finds no GPU"),
        (
            2,
            {"devices": 3},
            "trainer.devices=3: of this machine's GPUs, 2 can be used here. Allowed are auto and 1 to 2",
        ),
        (0, {"strategy": "fsdp"}, "trainer.strategy=fsdp: .* this run is on a CPU. Type trainer=default"),
        (2, {"strategy": "fsdp", "accelerator": "cpu"}, "trainer.strategy=fsdp: .* on a CPU"),
    ],
)
def test_what_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, asked: dict[str, Any], said: str
) -> None:
    with_gpus(monkeypatch, gpus)
    with pytest.raises(UserError, match=said):
        device_of({**ALONE, **asked})


@pytest.mark.parametrize(
    ("words", "asked", "said"),
    [
        ({}, {"nodes": 2}, "trainer.nodes=2: .* started alone. Start it on every machine at once, with srun"),
        ({}, {"strategy": "fsdp"}, "trainer.strategy=fsdp: .* this run has one. Type trainer=default"),
        (
            TORCHRUN,
            {"nodes": 2, "devices": 2},
            "torchrun started 4 on each of 2 machines. Type trainer.nodes=2 trainer.dev",
        ),
        (TORCHRUN, {"nodes": 1}, "trainer.nodes=1 trainer.devices=auto: torchrun started 4 on each of 2 machines"),
        (TORCHRUN | {"WORLD_SIZE": "7"}, {}, "torchrun started 4 of 7 processes on this machine"),
        (SRUN, {"nodes": 2, "devices": 1}, "srun started 2 on each of 2 machines"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "3"}, {"nodes": 2}, "srun started 3 processes on 2 machines"),
    ],
)
def test_processes_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, str], asked: dict[str, Any], said: str
) -> None:
    setenv(monkeypatch, words | ({"MASTER_ADDR": "first"} if words else {}))
    with pytest.raises(UserError, match=said):
        make_fabric({**ALONE, **asked}, CPU, thaws=False)


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"})  # a batch script without srun
    assert world_around() is None
    for asked in ({}, {"strategy": "ddp"}, {"devices": 1}):
        fabric = make_fabric({**ALONE, **asked}, CPU, thaws=False)
        assert (fabric.world_size, fabric.global_rank, fabric.device) == (1, 0, CPU)


def test_torchruns_words(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, TORCHRUN | SRUN)  # torchrun inside srun is torchrun
    world = world_around()
    assert world == World(8, 4, 5, 1, "first", 29500, "torchrun")
    assert world.nodes == 2


def test_sruns_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$2" = hostnames ] && printf "no-such-node.invalid\\nother\\n" && exit\n'
        '[ "$3" = no-such-node.invalid ] && echo "NodeName=$3 Arch=x\n   NodeAddr=127.0.0.1 Port=1"\n'
    )
    scontrol.chmod(0o755)
    setenv(monkeypatch, SRUN | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    # The name of the first node leads nowhere; SLURM itself knows its address.
    assert world_around() == World(4, 2, 3, 1, "127.0.0.1", 20000 + 31 * 7 + 2, "srun")
    setenv(monkeypatch, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert world_around() == World(4, 2, 3, 1, "10.0.0.1", 1234, "srun")
    monkeypatch.delenv("MASTER_ADDR")
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "no-such-node.invalid")
    with pytest.raises(UserError, match=r"first node, no-such-node.invalid, cannot be found out. Set MASTER_ADDR"):
        world_around()
    setenv(monkeypatch, {"SLURM_STEP_NUM_NODES": "1"})
    assert world_around() == World(4, 4, 3, 1, "127.0.0.1", 1234, "srun")


def test_started_processes_repeat_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/segrun", "resume", "RUN"])
    assert launch._this_command() == [sys.executable, "/somewhere/bin/segrun", "resume", "RUN"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/seg_cli/__main__.py", "trainer=cpu_ddp"])
    assert launch._this_command() == [sys.executable, "-m", "seg_cli", "trainer=cpu_ddp"]
    # A job of a sweep is run by whatever its launcher started, which knows only this of the command.
    sources = [
        {"provider": "main", "schema": "file", "path": "/conf"},
        {"provider": "command-line", "schema": "file", "path": "/mine"},
    ]
    job = {
        "mode": "MULTIRUN",
        "runtime": {"config_sources": sources},
        "job": {"config_name": "train"},
        "overrides": {"task": ["loss=ce+2*dice", "seed=1"], "hydra": ["hydra/launcher=joblib"]},
    }
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": job}))
    monkeypatch.setattr(launch, "RunMode", type("RunMode", (), {"MULTIRUN": "MULTIRUN"}))
    assert launch._this_command()[1:] == [
        *("-m", "seg_cli", "train", "--config-dir=/mine", "--config-name=train", "loss=ce+2*dice", "seed=1")
    ]


def test_how_a_process_ended_is_said_in_words() -> None:
    assert launch._how(2) == "ended with status 2"
    assert launch._how(-9) == "was killed by SIGKILL"
    assert launch._how(-99) == "was killed by signal 99"
