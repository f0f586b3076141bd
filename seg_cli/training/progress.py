"""What people see while a run goes: a live bar on a terminal, a plain line now and then in a file or a pipe.

No step waits for the device: the loss stays a tensor until it is shown, at most twice a second.
"""

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as LiveBar
from rich.table import Column

from seg_cli.data.loading import Batch

T = TypeVar("T")
Clock = Callable[[], float]


class Progress(ProgressBar):
    """Lightning callback: epoch, loss, mIoU, images/s, and when the whole run will be over.

    The Trainer takes it in place of its own bar (leave ``enable_progress_bar`` on). It shows ``val/miou`` and
    ``train/loss`` of ``trainer.callback_metrics``, and between them the loss of the latest step.

    Args:
        console: where to; standard output by default.
        clock: seconds.
    """

    def __init__(self, *, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._display = _display(console or Console(), clock)
        self._pace = _Pace(clock)
        self._enabled = True
        self._loss: float | None = None
        self._miou: float | None = None
        self._best: float | None = None

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def state_dict(self) -> dict[str, Any]:
        return {"miou": self._miou, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._miou, self._best = state_dict["miou"], state_dict["best"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pace.begin()
        self._show_when_due(trainer, "train", 0, trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._pace.end_batch(len(batch.images) * trainer.world_size)
        if self._enabled and self._display.due():
            if outputs is not None:
                self._loss = float(outputs["loss"])
            self._show_when_due(trainer, "train", batch_idx + 1, trainer.num_training_batches)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pace.begin()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if _is_fitting(trainer):
            self._show_when_due(trainer, "val", batch_idx + 1, sum(trainer.num_val_batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _is_fitting(trainer):
            return
        self._pace.end_validation()
        if "val/miou" in trainer.callback_metrics:
            self._miou = float(trainer.callback_metrics["val/miou"])
            self._best = self._miou if self._best is None else max(self._best, self._miou)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "train/loss" in trainer.callback_metrics:
            self._loss = float(trainer.callback_metrics["train/loss"])
        if self._enabled:
            batches = int(trainer.num_training_batches)
            self._display.show(_epoch(trainer), self._note(trainer, batches, validated=True))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._display.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._display.close()

    def _show_when_due(self, trainer: pl.Trainer, phase: str, done: int, total: int | float) -> None:
        if self._enabled and self._display.due():
            trained = done if phase == "train" else int(trainer.num_training_batches)
            note = self._note(trainer, trained, validated=False)
            self._display.show(f"{_epoch(trainer)}  {phase}", note, done, int(total))

    def _note(self, trainer: pl.Trainer, trained: int, *, validated: bool) -> str:
        """``loss 0.512  val mIoU 0.634 (best 0.640)  41 img/s  ETA 2:10``, as far as it is known.

        Args:
            trainer: in some epoch.
            trained: number of batches of the epoch that are done.
            validated: whether the epoch's validation is done too.
        """
        parts = []
        if self._loss is not None:
            parts.append(f"loss {self._loss:.3f}")
        if self._miou is not None:
            parts.append(f"val mIoU {self._miou:.3f} (best {self._best:.3f})")
        if self._pace.seconds_per_batch:
            rate = self._pace.images_per_batch / self._pace.seconds_per_batch
            parts.append(f"{rate:.0f} img/s" if rate >= 10 else f"{rate:.1f} img/s")
            epoch, epochs = trainer.current_epoch, trainer.max_epochs or 0
            batches = (epochs - epoch) * int(trainer.num_training_batches) - trained
            every = trainer.check_val_every_n_epoch or 1
            validations = epochs // every - (epoch + validated) // every
            seconds_per_validation = self._pace.seconds_per_validation
            if seconds_per_validation is None:  # none yet: take a batch to cost a third of a training step
                seconds_per_validation = sum(trainer.num_val_batches) * self._pace.seconds_per_batch / 3
            seconds = batches * self._pace.seconds_per_batch + validations * seconds_per_validation
            parts.append(f"ETA {format_clock(seconds)}")
        return "  ".join(parts)


def track(
    iterable: Iterable[T],
    description: str,
    *,
    total: int | None = None,
    console: Console | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[T]:
    """Go through something long and show how far it is, on the main process only.

    Args:
        iterable: what to go through.
        description: what is being done, in a word or two.
        total: how many there are, where ``len(iterable)`` does not tell.
        console: where to; standard output by default.
        clock: seconds.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield from iterable
        return
    total = total or operator.length_hint(iterable) or None
    started, done = clock(), 0
    with closing(_display(console or Console(), clock)) as display:
        for item in iterable:
            yield item
            done += 1
            if display.due():
                display.show(description, "", done, total)
        display.show(description, format_clock(clock() - started), done, total)


def format_clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _epoch(trainer: pl.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"


def _is_fitting(trainer: pl.Trainer) -> bool:
    """False in Lightning's sanity check and in a validation of its own."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


class _Pace:
    """Seconds and images a batch, averaged over about the last 50, and seconds of the last validation."""

    def __init__(self, clock: Clock) -> None:
        self.seconds_per_batch = self.images_per_batch = 0.0
        self.seconds_per_validation: float | None = None
        self._clock = clock
        self._since = clock()
        self._batches = 0

    def begin(self) -> None:
        """A stretch of batches, or a validation, begins."""
        self._since = self._clock()

    def end_batch(self, images: int) -> None:
        now = self._clock()
        self._batches += 1
        weight = max(1 / self._batches, 0.02)
        self.seconds_per_batch += weight * (now - self._since - self.seconds_per_batch)
        self.images_per_batch += weight * (images - self.images_per_batch)
        self._since = now

    def end_validation(self) -> None:
        self.seconds_per_validation = self._clock() - self._since


class _Lines:
    """Plain lines, at least five seconds apart but for those that must be shown."""

    seconds_between = 5.0

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._last = clock()

    def due(self) -> bool:
        return self._clock() - self._last >= self.seconds_between

    def show(self, description: str, note: str, done: int | None = None, total: int | None = None) -> None:
        count = "" if done is None else f" {done}/{total}" if total else f" {done}"
        line = f"{description}{count}  {note}".rstrip()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._last = self._clock()

    def close(self) -> None:
        pass


class _Bar:
    """A live bar, redrawn at most twice a second; what others print meanwhile appears above it."""

    seconds_between = 0.5

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._last = float("-inf")
        self._bar: LiveBar | None = None

    def due(self) -> bool:
        return self._clock() - self._last >= self.seconds_between

    def show(self, description: str, note: str, done: int | None = None, total: int | None = None) -> None:
        if self._bar is None:
            self._bar = LiveBar(
                TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
                BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
                console=self._console,
                auto_refresh=False,
                expand=True,
            )
            self._bar.add_task(description, note=note)
            self._bar.start()
        task = self._bar.tasks[0]
        if done is None:
            self._bar.update(task.id, description=description, note=note)
        else:
            task.total = total  # update() would not take None
            self._bar.update(task.id, description=description, note=note, completed=done)
        self._bar.refresh()
        self._last = self._clock()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _display(console: Console, clock: Clock) -> _Bar | _Lines:
    # Rich alone would take FORCE_COLOR, which CI systems set, for a terminal, and fill their logs with codes.
    live = console.is_interactive and console.file.isatty()
    return _Bar(console, clock) if live else _Lines(console, clock)
