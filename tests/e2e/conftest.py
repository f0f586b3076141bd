"""What the end-to-end tests share: the command line in this process, and the smallest run that is a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from seg_cli import cli

TINY = (
    *("model=unet", "encoder.name=resnet10t", "model.decoder_channels=[16,16,16,8,8]", "logger=none"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "loader.batch_size=2", "loader.workers=0", "precision=fp32"),
)
SHAPES = ("data=shapes", "data.train=4", "data.val=2", "data.test=3", "data.size=[32,40]")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: exit status, and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture
def segrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command line in an empty folder of its own, offline, without starting another Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COLUMNS", "500")
    for name in ("SEGRUN_DATA", "SEGRUN_RUN_DIR", "SEGRUN_TRACEBACKS", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        status = cli.run(arguments)
        said = capfd.readouterr()
        return Outcome(status, said.out, said.err)

    return run
