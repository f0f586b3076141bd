"""What watches a run: its record on disk, and whether the loss is still a number."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import make_data, make_run, make_task, make_trainer

from seg_cli.errors import RunFailed
from seg_cli.runs.run import Run
from seg_cli.training.callbacks import DataWait, FiniteLoss, Record
from seg_cli.training.checkpoints import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path)
    run.write_status("running")
    return run


# ---- the record


def test_every_epoch_is_a_row_with_losses_scores_and_learning_rate(run: Run) -> None:
    make_trainer(run.folder, Record(run), max_epochs=3).fit(make_task(), datamodule=make_data())
    assert [(row["epoch"], row["step"]) for row in run.metrics] == [(1, 3), (2, 6), (3, 9)]
    for row in run.metrics:
        assert {"lr", "train/loss", "train/loss/ce", "train/loss/dice", "val/loss", "val/miou"} <= set(row)
        assert not any(key.startswith("step/") for key in row)
        assert row["train/loss"] == pytest.approx(row["train/loss/ce"] + 0.5 * row["train/loss/dice"], rel=1e-5)
        assert 0 <= row["val/miou"] <= 1
    rates = [row["lr"] for row in run.metrics]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.02)
    assert (run.status["state"], run.status["epoch"], run.status["step"]) == ("running", 3, 9)


def test_an_epoch_without_validation_has_no_scores(run: Run) -> None:
    trainer = make_trainer(run.folder, Record(run), max_epochs=4, check_val_every_n_epoch=2)
    trainer.fit(make_task(), datamodule=make_data())
    assert [row["val/miou"] is None for row in run.metrics] == [True, False, True, False]
    assert all(row["train/loss"] is not None for row in run.metrics)


def test_going_on_keeps_the_rows_of_earlier_epochs(run: Run) -> None:
    first = make_trainer(run.folder, Record(run), Checkpoints(run), max_epochs=1)
    first.fit(make_task(), datamodule=make_data())
    before = run.metrics
    second = make_trainer(run.folder, Record(run), Checkpoints(run), max_epochs=2)
    second.fit(make_task(), datamodule=make_data(), ckpt_path=run.last_checkpoint)
    assert run.metrics[0] == before[0]
    assert [row["epoch"] for row in run.metrics] == [1, 2]


# ---- the share of time that is spent waiting for data


class Pace(pl.Callback):
    """Makes every step, every batch of data, and every validation take this many seconds longer."""

    def __init__(self, *, step: float, data: float) -> None:
        self.step, self.data = step, data

    def setup(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        collate = trainer.datamodule.train_dataloader  # type: ignore[attr-defined]

        def slow() -> Any:
            loader = collate()
            stack = loader.collate_fn
            loader.collate_fn = lambda samples: (time.sleep(self.data), stack(samples))[1]
            return loader

        trainer.datamodule.train_dataloader = slow  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, index: int) -> None:
        time.sleep(self.step)

    def on_validation_start(self, trainer: pl.Trainer, task: Any) -> None:
        time.sleep(0.3)


def test_the_share_of_waiting_is_in_the_record_and_without_validation(run: Run) -> None:
    wait = DataWait()
    pace = Pace(step=0.1, data=0.3)
    make_trainer(run.folder, wait, Record(run), pace, max_epochs=2).fit(make_task(), datamodule=make_data())
    shares = [row["train/data_wait"] for row in run.metrics]
    assert len(shares) == 2
    assert all(0.55 < share <= 0.76 for share in shares)  # 0.75 of what is slept; the rest is computed
    assert wait.share == pytest.approx(shares[1], rel=1e-4)  # of the epochs after the first

    idle = DataWait()
    make_trainer(run.folder, idle, Pace(step=0.2, data=0), max_epochs=1).fit(make_task(), datamodule=make_data())
    assert idle.share is not None
    assert idle.share < 0.3


def test_going_on_keeps_the_shares_of_earlier_epochs(run: Run) -> None:
    first, second = DataWait(), DataWait()
    assert first.share is None
    make_trainer(run.folder, first, Checkpoints(run), max_epochs=2).fit(make_task(), datamodule=make_data())
    trainer = make_trainer(run.folder, second, Checkpoints(run), max_epochs=2)
    trainer.fit(make_task(), datamodule=make_data(), ckpt_path=run.last_checkpoint)
    assert second.share == pytest.approx(first.share)


# ---- losses that are not finite


class Poison(pl.Callback):
    """Makes the weights NaN before a step, counted from 1."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.names: list[str] = []

    def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self.step - 1:
            torch.nn.init.constant_(task.model.head.bias, float("nan"))
            self.names = batch.names


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_loss_that_is_no_number_stops_with_its_step_and_images(run: Run, step: int) -> None:
    poison = Poison(step)
    trainer = make_trainer(run.folder, poison, Record(run), FiniteLoss(every=2), Checkpoints(run), max_epochs=3)
    with pytest.raises(RunFailed) as failure:
        trainer.fit(make_task(), datamodule=make_data())
    assert str(failure.value).startswith(f"The loss is nan at step {step}, on the images {', '.join(poison.names)}. ")
    for way in ("optimizer.lr", "precision=fp32", "trainer.gradient_clip"):
        assert way in str(failure.value)


@pytest.mark.parametrize("step", [2, 5])
def test_weights_that_are_no_numbers_are_never_kept(run: Run, step: int) -> None:
    """Validation comes before the end of the epoch, and would otherwise score and keep them."""
    trainer = make_trainer(run.folder, Poison(step), FiniteLoss(every=100), Checkpoints(run), max_epochs=3)
    with pytest.raises(RunFailed, match=re.escape(f"at step {step},")):
        trainer.fit(make_task(), datamodule=make_data())
    kept = list(run.best_checkpoint.parent.iterdir())
    assert len(kept) == (0 if step == 2 else 2)  # of the first epoch
    for path in kept:
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())


def test_a_finite_loss_is_left_alone(run: Run) -> None:
    watch = FiniteLoss(every=2)
    make_trainer(run.folder, watch).fit(make_task(), datamodule=make_data())
    assert not watch.recent
