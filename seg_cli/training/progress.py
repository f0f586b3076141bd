"""What people see while a run goes: a live bar on a terminal, a plain line now and then in a file or a pipe.

No step waits for the device: the loss stays a tensor until it is shown, at most twice a second.
"""

import operator
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as LiveBar
from rich.table import Column

if TYPE_CHECKING:  # predicting with an exported model shows its progress without PyTorch
    from torch import Tensor

    from seg_cli.training.stages import Plan

T = TypeVar("T")
Clock = Callable[[], float]


class TrainingDisplay:
    """Epoch, stage, loss, mIoU, images/s, and when the whole run will be over.

    Args:
        plan: stages, batches and epochs.
        image: (height, width) of an image, to say how large a stage's are.
        validate_every: epochs between two scorings.
        quiet: say nothing, as all processes but the first do.
        console: where to; standard output by default.
        clock: seconds.
    """

    def __init__(
        self,
        plan: "Plan",
        *,
        image: tuple[int, int],
        validate_every: int,
        quiet: bool = False,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._plan, self._image, self._every = plan, image, validate_every
        self._validation_batches = 0
        self._console = console or Console()
        self._display = _display(self._console, clock)
        self._pace = _Pace(clock)
        self._quiet = quiet
        self._epoch, self._trained = 0, 0
        self._frozen = ""
        self._loss: float | None = None
        self._miou: float | None = None
        self._best: float | None = None

    def restore(self, miou: float | None, best: float | None) -> None:
        """The latest and the best val mIoU of an earlier sitting."""
        self._miou, self._best = miou, best

    def begin_epoch(self, epoch: int, done: int, frozen: set[str], parts: Sequence[str]) -> None:
        """``done`` batches of the epoch are behind it; of the model's ``parts`` these are frozen."""
        before, now = self._plan.stage(self._epoch), self._plan.stage(epoch)
        if now is not before:
            self._pace.change(self._pixels(epoch) / self._pixels(self._epoch), now.batch_size / before.batch_size)
        self._epoch, self._trained = epoch, done
        levels = {part for part in parts if part.startswith("encoder.")}
        names = ["encoder"] if levels and levels <= frozen else []
        names += [part for part in parts if part in frozen and not (names and part in levels)]
        self._frozen = f"  {'+'.join(names)} frozen" if names else ""
        self._pace.begin()
        self._show_when_due("train", done, self._plan.batches(epoch))

    def step(self, done: int, images: int, loss: "Tensor") -> None:
        """A batch more is done; ``images`` are those of it over all processes."""
        self._trained = done
        self._pace.end_batch(images)
        if not self._quiet and self._display.due():
            self._loss = float(loss)
            self._show_when_due("train", done, self._plan.batches(self._epoch))

    def begin_validation(self, batches: int) -> None:
        self._validation_batches = batches
        self._pace.begin()

    def validated(self, done: int) -> None:
        self._show_when_due("val", done, self._validation_batches)

    def end_validation(self, miou: float | None) -> None:
        self._pace.end_validation()
        if miou is not None:
            self._miou = miou
            self._best = miou if self._best is None else max(self._best, miou)

    def end_epoch(self, loss: float | None) -> None:
        self._loss = self._loss if loss is None else loss
        if not self._quiet:
            self._display.show(self._title(), self._note(validated=True))

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._display.close()

    def _show_when_due(self, phase: str, done: int, total: int) -> None:
        if not self._quiet and self._display.due():
            self._display.show(f"{self._title()}  {phase}", self._note(validated=False), done, total)

    def _title(self) -> str:
        """``epoch 3/10``, and the stage where there are several."""
        stages = len(self._plan.stages)
        stage = self._plan.stage(self._epoch)
        height, width = stage.size(self._image)
        size = f"  {height}x{width} ({self._plan.number(self._epoch) + 1}/{stages})" if stages > 1 else ""
        return f"epoch {self._epoch + 1}/{self._plan.epochs}{size}{self._frozen}"

    def _note(self, *, validated: bool) -> str:
        """``loss 0.512  val mIoU 0.634 (best 0.640)  41 img/s  ETA 2:10``, as far as it is known.

        Args:
            validated: whether the epoch's scoring is done too.
        """
        parts = []
        if self._loss is not None:
            parts.append(f"loss {self._loss:.3f}")
        if self._miou is not None:
            parts.append(f"val mIoU {self._miou:.3f} (best {self._best:.3f})")
        if self._pace.seconds_per_image:
            rate = 1 / self._pace.seconds_per_image
            parts.append(f"{rate:.0f} img/s" if rate >= 10 else f"{rate:.1f} img/s")
            parts.append(f"ETA {format_clock(self._seconds_left(validated))}")
        return "  ".join(parts)

    def _seconds_left(self, validated: bool) -> float:
        """Pixels still to be trained on, at the pace of those that are, and the scorings that are left."""
        plan = self._plan
        here = self._pixels(self._epoch)
        pixels = (plan.batches(self._epoch) - self._trained) * here
        pixels += sum(plan.batches(epoch) * self._pixels(epoch) for epoch in range(self._epoch + 1, plan.epochs))
        seconds_per_pixel = self._pace.seconds_per_batch / here
        validations = plan.epochs // self._every - (self._epoch + validated) // self._every
        seconds_per_validation = self._pace.seconds_per_validation
        if seconds_per_validation is None:  # none yet: take a batch to cost a third of a training step
            seconds_per_validation = self._validation_batches * self._pace.seconds_per_batch / 3
        return pixels * seconds_per_pixel + validations * seconds_per_validation

    def _pixels(self, epoch: int) -> float:
        """Of a batch of that epoch."""
        stage = self._plan.stage(epoch)
        height, width = stage.size(self._image)
        return stage.batch_size * height * width


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
    lightning = sys.modules.get("pytorch_lightning.utilities.rank_zero")  # without it there is one process
    if getattr(getattr(lightning, "rank_zero_only", None), "rank", 0) != 0:
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


class _Pace:
    """Seconds and images a batch, averaged over about the last 50, and seconds of the last validation."""

    def __init__(self, clock: Clock) -> None:
        self.seconds_per_batch = self.images_per_batch = 0.0
        self.seconds_per_validation: float | None = None
        self._clock = clock
        self._since = clock()
        self._batches = 0

    @property
    def seconds_per_image(self) -> float:
        return self.seconds_per_batch / self.images_per_batch if self.images_per_batch else 0.0

    def change(self, pixels: float, images: float) -> None:
        """Batches have so many times the pixels and images from here on: an estimate until one of them is done."""
        self.seconds_per_batch *= pixels
        self.images_per_batch *= images
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
