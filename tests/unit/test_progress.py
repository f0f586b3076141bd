"""The progress bar and its plain lines, in a real fit with a clock of our own."""

import io
import os
import pty
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch.utils.data import DataLoader

from seg_cli.data.loading import Batch
from seg_cli.training.progress import Progress, format_clock, track

BATCHES, BATCH_SIZE = 4, 8


class Clock:
    """A second passes at every training step."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Task(pl.LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.clock = clock

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        self.clock.now += 1
        loss = self.weight * 0 + 0.5
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=BATCH_SIZE)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("val/miou", [0.4, 0.7, 0.6][self.current_epoch], batch_size=BATCH_SIZE)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(console: Console, folder: Path, *, epochs: int = 3, validate_every: int = 1) -> None:
    clock = Clock()
    batch = Batch(torch.zeros(BATCH_SIZE, 3, 2, 2), torch.zeros(BATCH_SIZE, 2, 2), [""], [""])
    loader = DataLoader([batch] * BATCHES, batch_size=None)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[Progress(console=console, clock=clock)],
        max_epochs=epochs,
        check_val_every_n_epoch=validate_every,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )
    trainer.fit(Task(clock), loader, loader)


@pytest.fixture
def pipe() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_pipe_gets_a_line_an_epoch_and_one_every_five_seconds(pipe: Console, tmp_path: Path) -> None:
    fit(pipe, tmp_path)
    assert pipe.file.getvalue().splitlines() == [
        "epoch 1/3  loss 0.500  val mIoU 0.400 (best 0.400)  8.0 img/s  ETA 0:08",
        "epoch 2/3  loss 0.500  val mIoU 0.700 (best 0.700)  8.0 img/s  ETA 0:04",
        "epoch 3/3  loss 0.500  val mIoU 0.600 (best 0.700)  8.0 img/s  ETA 0:00",
    ]


def test_long_epoch_has_lines_in_between(pipe: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg_cli.training.progress._Lines.seconds_between", 2.0)
    fit(pipe, tmp_path, epochs=2, validate_every=2)
    first, second, epoch, *_ = pipe.file.getvalue().splitlines()
    # 6 steps of a second are left, and a validation of 4 batches that is taken for a third of as many steps
    assert first == "epoch 1/2  train 2/4  loss 0.500  8.0 img/s  ETA 0:07"
    assert second.startswith("epoch 1/2  train 4/4  loss 0.500")
    assert epoch == "epoch 1/2  loss 0.500  8.0 img/s  ETA 0:05"


def test_pipe_gets_no_control_characters_even_with_force_color(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(file=io.StringIO(), width=80)
    fit(console, tmp_path)
    assert "\x1b" not in console.file.getvalue()
    assert "\r" not in console.file.getvalue()


def test_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        fit(Console(file=terminal, width=100), tmp_path)
        terminal.flush()
        shown = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert "epoch 3/3  train" in shown
    assert "━" in shown
    assert "val mIoU 0.600 (best 0.700)" in shown
    assert shown.rstrip().endswith("\x1b[?25h"), "the cursor is left hidden"


def test_loss_is_read_only_when_a_line_is_due(pipe: Console) -> None:
    class Unread:
        def __float__(self) -> float:
            raise AssertionError("the loss was read, which waits for the device")

    progress = Progress(console=pipe, clock=Clock())
    batch = Batch(torch.zeros(BATCH_SIZE, 3, 2, 2), torch.zeros(BATCH_SIZE, 2, 2), [""], [""])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[progress])
    progress.on_train_batch_end(trainer, None, {"loss": Unread()}, batch, 0)


def test_best_survives_a_resume(pipe: Console) -> None:
    before, after = Progress(console=pipe), Progress(console=pipe)
    before._miou, before._best = 0.5, 0.7
    after.load_state_dict(before.state_dict())
    assert (after._miou, after._best) == (0.5, 0.7)


def test_track_gives_every_item_and_says_how_long_it_took(pipe: Console) -> None:
    clock, seen = Clock(), []
    for item in track(range(10), "score test", console=pipe, clock=clock):
        seen.append(item)
        clock.now += 2
    assert seen == list(range(10))
    assert pipe.file.getvalue().splitlines() == [
        "score test 3/10",
        "score test 6/10",
        "score test 9/10",
        "score test 10/10  0:20",
    ]


def test_track_without_a_length(pipe: Console) -> None:
    assert list(track(iter("ab"), "read", console=pipe, clock=Clock())) == ["a", "b"]
    assert pipe.file.getvalue() == "read 2/2  0:00\n"


def test_only_the_main_process_prints(pipe: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert list(track([1], "read", console=pipe)) == [1]
    assert pipe.file.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (130, "2:10"), (3599.7, "1:00:00"), (90061, "25:01:01")],
)
def test_format_clock(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text
