"""What people see of a run: titles, notes and the time that is left, with a clock of our own."""

import io
import os
import pty
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch import Tensor

from seg_cli.training.progress import TrainingDisplay, format_clock, track
from seg_cli.training.stages import Plan, Stage

IMAGE = (64, 64)
PLAIN = Plan([Stage(0, 3, None, 1.0, 8)], 32)  # 3 epochs of 4 batches of 8
PARTS = ["encoder.0", "encoder.1", "encoder.2", "decoder", "head"]
MIOU = [0.4, 0.7, 0.6]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Show:
    """A display, and the loop that drives it: a second for each training step of ``pixels`` of the full size."""

    console: Console
    plan: Plan = PLAIN
    validate_every: int = 1
    quiet: bool = False
    validation: tuple[int, float] = (0, 0.0)  # batches, and seconds of each
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.display = TrainingDisplay(
            self.plan,
            image=IMAGE,
            validate_every=self.validate_every,
            quiet=self.quiet,
            console=self.console,
            clock=self.clock,
        )

    def epoch(
        self,
        epoch: int,
        *,
        done: int = 0,
        frozen: Sequence[str] = (),
        seconds: float = 1.0,
        until: int | None = None,
    ) -> None:
        """The epoch's batches from ``done``, its scoring and its end; or nothing behind the batch ``until``."""
        samples = self.plan.stage(epoch).batch_size * self.plan.world_size
        self.display.begin_epoch(epoch, done, set(frozen), PARTS)
        for batch in range(done, self.plan.batches(epoch) if until is None else until):
            self.clock.now += seconds
            self.display.step(batch + 1, samples, torch.tensor(0.5))
        if until is not None:
            return
        if (epoch + 1) % self.validate_every == 0:
            batches, each = self.validation
            self.display.begin_validation(batches)
            for batch in range(batches):
                self.clock.now += each
                self.display.validated(batch + 1)
            self.display.end_validation(MIOU[epoch])
        self.display.end_epoch(0.5)


@pytest.fixture
def pipe() -> Console:
    return Console(file=io.StringIO(), width=80)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


# ---- plain lines


def test_pipe_gets_a_line_an_epoch_and_one_every_five_seconds(pipe: Console) -> None:
    show = Show(pipe)
    for epoch in range(3):
        show.epoch(epoch)
    assert lines(pipe) == [
        "epoch 1/3  loss 0.500  val mIoU 0.400 (best 0.400)  8.0 img/s  ETA 0:08",
        "epoch 2/3  loss 0.500  val mIoU 0.700 (best 0.700)  8.0 img/s  ETA 0:04",
        "epoch 3/3  loss 0.500  val mIoU 0.600 (best 0.700)  8.0 img/s  ETA 0:00",
    ]


def test_long_epochs_have_lines_in_between(pipe: Console) -> None:
    show = Show(pipe, validate_every=3, validation=(3, 2.0))
    show.epoch(0, seconds=3)
    show.epoch(2, seconds=3)
    assert lines(pipe) == [
        # 30 seconds of steps are left, and a validation of no batches yet
        "epoch 1/3  train 2/4  loss 0.500  2.7 img/s  ETA 0:30",
        "epoch 1/3  train 4/4  loss 0.500  2.7 img/s  ETA 0:24",
        "epoch 1/3  loss 0.500  2.7 img/s  ETA 0:24",
        "epoch 3/3  train 2/4  loss 0.500  2.7 img/s  ETA 0:06",
        "epoch 3/3  train 4/4  loss 0.500  2.7 img/s  ETA 0:00",
        # a validation of 3 batches is taken for a third of as many steps as long as none has ended
        "epoch 3/3  val 3/3  loss 0.500  2.7 img/s  ETA 0:03",
        "epoch 3/3  loss 0.500  val mIoU 0.600 (best 0.600)  2.7 img/s  ETA 0:00",
    ]


def test_the_time_left_counts_the_scorings_that_are_left(pipe: Console) -> None:
    show = Show(pipe, validation=(2, 2.0))
    show.epoch(0)
    assert lines(pipe)[-1].endswith("ETA 0:16")  # two epochs of 4 s of steps and 4 s of scoring


def test_the_time_left_of_an_epoch_that_was_gone_on_with(pipe: Console) -> None:
    show = Show(pipe)
    show.epoch(1, done=3)
    assert lines(pipe) == ["epoch 2/3  loss 0.500  val mIoU 0.700 (best 0.700)  8.0 img/s  ETA 0:04"]


def test_many_images_a_second_have_no_decimals(pipe: Console) -> None:
    Show(pipe).epoch(0, seconds=0.1)
    assert "  80 img/s  " in lines(pipe)[0]


# ---- stages

GROWING = Plan([Stage(0, 2, (32, 32), 0.5, 16), Stage(2, 1, None, 1.0, 4)], 32)
"""Two batches of 16 small samples an epoch, then 8 of 4 of the full size: as many pixels each."""


def test_the_stage_is_in_the_title(pipe: Console) -> None:
    show = Show(pipe, plan=GROWING)
    for epoch in range(3):
        show.epoch(epoch, seconds=0.2)
    assert [line.split("  loss")[0] for line in lines(pipe)] == [
        "epoch 1/3  32x32 (1/2)",
        "epoch 2/3  32x32 (1/2)",
        "epoch 3/3  64x64 (2/2)",
    ]


def test_the_time_left_goes_by_pixels(pipe: Console) -> None:
    """A batch of the second stage has as many pixels as one of the first, and there are 4 times as many of them."""
    show = Show(pipe, plan=GROWING)
    show.epoch(0)
    assert lines(pipe)[-1].endswith("16 img/s  ETA 0:10")  # 2 batches of a second, and 8
    same = Plan([Stage(0, 2, (32, 32), 0.5, 4), Stage(2, 1, None, 1.0, 4)], 32)
    console = Console(file=io.StringIO(), width=80)
    Show(console, plan=same).epoch(0, seconds=0.5)
    assert lines(console)[-1].endswith("ETA 0:20")  # 8 batches of half a second, and 8 of four times that


def test_the_pace_of_an_earlier_stage_is_forgotten(pipe: Console) -> None:
    """Batches of the second stage take three times as long as their pixels promise, and the first one shows it."""
    plan = Plan([Stage(0, 2, (32, 32), 0.5, 16), Stage(2, 3, None, 1.0, 4)], 32)
    show = Show(pipe, plan=plan)
    show.epoch(0)
    show.clock.now += 5
    show.epoch(2, seconds=3, until=0)
    assert lines(pipe)[-1].endswith("train 0/8  loss 0.500  val mIoU 0.400 (best 0.400)  4.0 img/s  ETA 0:24")
    show.epoch(2, seconds=3)
    assert lines(pipe)[-1].endswith("1.3 img/s  ETA 0:48")  # 16 batches of 3 seconds


# ---- frozen parts


@pytest.mark.parametrize(
    ("frozen", "shown"),
    [
        ([], ""),
        (["encoder.2", "encoder.0", "encoder.1"], "  encoder frozen"),
        (["encoder.1", "encoder.0"], "  encoder.0+encoder.1 frozen"),
        (["encoder.0"], "  encoder.0 frozen"),
        (["head", "encoder.0", "encoder.1", "encoder.2"], "  encoder+head frozen"),
        (["head", "decoder"], "  decoder+head frozen"),
    ],
)
def test_frozen_parts_are_in_the_title(pipe: Console, frozen: list[str], shown: str) -> None:
    show = Show(pipe)
    show.epoch(0, frozen=frozen)
    show.epoch(1)
    first, second = lines(pipe)
    assert first.startswith(f"epoch 1/3{shown}  loss 0.500")
    assert second.startswith("epoch 2/3  loss 0.500")


# ---- a terminal


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> str:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # which is how the end of a terminal is told
            while piece := os.read(reader, 1 << 16):
                shown.append(piece)

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(writer, "w") as terminal:
        show = Show(Console(file=terminal, width=110), validation=(2, 1.0))
        try:
            for epoch in range(3):
                show.epoch(epoch, frozen=["encoder.0"])
            show.display.say("note: a line of its own")
            if fails:
                show.epoch(1, until=2)
        finally:
            show.display.close()
    thread.join()
    os.close(reader)
    return b"".join(shown).decode()


def test_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(monkeypatch)
    assert "epoch 3/3  encoder.0 frozen  train" in shown
    assert "epoch 3/3  encoder.0 frozen  val" in shown
    assert "4/4" in shown
    assert "2/2" in shown
    assert "━" in shown
    assert "val mIoU 0.600 (best 0.700)" in shown
    assert "note: a line of its own" in shown
    assert shown.rstrip().endswith("\x1b[?25h"), "the cursor is left hidden"


def test_terminal_has_its_cursor_back_when_training_ends_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(monkeypatch, fails=True).rstrip().endswith("\x1b[?25h")


def test_pipe_gets_no_control_characters_even_with_force_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(file=io.StringIO(), width=80)
    Show(console).epoch(0)
    assert lines(console)
    assert not {"\x1b", "\r"} & set("".join(lines(console)))


# ---- who speaks, and when


class Unread(Tensor):
    """A loss that is still being computed."""

    def __float__(self) -> float:
        raise AssertionError("the loss was read, which waits for the device")


def test_the_loss_is_read_only_when_a_line_is_due(pipe: Console) -> None:
    show = Show(pipe)
    show.display.begin_epoch(0, 0, set(), PARTS)
    show.clock.now = 4.9
    show.display.step(1, 8, Unread())
    show.clock.now = 5
    with pytest.raises(AssertionError, match="the loss was read"):
        show.display.step(2, 8, Unread())


def test_a_quiet_display_says_nothing_and_reads_nothing(pipe: Console) -> None:
    show = Show(pipe, quiet=True, validation=(1, 9.0))
    show.epoch(0, seconds=9)
    show.clock.now += 100
    show.display.step(1, 8, Unread())
    show.display.say("note")
    show.display.close()
    assert lines(pipe) == []


def test_a_line_of_its_own_is_not_wrapped_and_not_marked_up(pipe: Console) -> None:
    text = "note: [bold]" + " memory" * 30
    Show(pipe).display.say(text)
    assert lines(pipe) == [text]


def test_the_best_score_survives_a_resume(pipe: Console) -> None:
    show = Show(pipe)
    show.display.restore(0.5, 0.8)
    show.epoch(1)
    assert "val mIoU 0.700 (best 0.800)" in lines(pipe)[0]


def test_a_scoring_without_a_score_leaves_the_one_before(pipe: Console) -> None:
    show = Show(pipe)
    show.epoch(0)
    show.display.begin_validation(1)
    show.display.end_validation(None)
    show.display.end_epoch(None)
    assert "loss 0.500  val mIoU 0.400 (best 0.400)" in lines(pipe)[1]


# ---- track


def test_track_gives_every_item_and_says_how_long_it_took(pipe: Console) -> None:
    clock, seen = Clock(), []
    for item in track(range(10), "score test", console=pipe, clock=clock):
        seen.append(item)
        clock.now += 2
    assert seen == list(range(10))
    assert lines(pipe) == ["score test 3/10", "score test 6/10", "score test 9/10", "score test 10/10  0:20"]


def test_track_without_a_length(pipe: Console) -> None:
    assert list(track(iter("ab"), "read", console=pipe, clock=Clock())) == ["a", "b"]
    assert lines(pipe) == ["read 2/2  0:00"]


def test_track_ends_with_what_it_goes_through(pipe: Console) -> None:
    numbers = track((1 / number for number in (1, 0)), "divide", console=pipe, clock=Clock())
    assert next(numbers) == 1
    with pytest.raises(ZeroDivisionError):
        next(numbers)
    assert lines(pipe) == []


def test_only_the_main_process_prints(pipe: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert list(track([1], "read", console=pipe)) == [1]
    assert lines(pipe) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (130, "2:10"), (3599.7, "1:00:00"), (90061, "25:01:01")],
)
def test_format_clock(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text
