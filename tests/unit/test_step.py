"""A step: the gradients are those of the whole batch, in however many parts memory makes it be computed."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from tiny import Steps, TinyModel, make_data, make_fabric, make_task, train
from torch import Tensor, nn

from seg_cli.data.loading import Batch, BatchShape
from seg_cli.errors import RunFailed
from seg_cli.losses import CrossEntropy, Sum
from seg_cli.training.step import Stepper
from seg_cli.training.task import SegmentationTask


class Cramped(TinyModel):
    """Has memory for so many samples at a time.

    Attributes:
        asked: how many samples it was given, each time.
        computed: what it computed before there was no more room.
    """

    def __init__(self, room: int, message: str | None = None, norm: bool = False) -> None:
        super().__init__(norm=norm)
        self.room, self.message = room, message
        self.asked: list[int] = []
        self.computed: list[weakref.ref[Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(len(images))
        features = self.encoder(images / 255)
        if self.training and len(images) > self.room:
            self.computed.append(weakref.ref(features))
            raise torch.OutOfMemoryError("no") if self.message is None else RuntimeError(self.message)
        return self.head(features)


def stepper(task: SegmentationTask, *, clip: float | None = None, dtype: torch.dtype | None = None) -> Stepper:
    said: list[str] = []
    made = Stepper(task, fabric=make_fabric(), clip=clip, dtype=dtype, say=said.append)
    made.said = said  # type: ignore[attr-defined]
    return made


def task_of(model: nn.Module, rate: float = 0.0) -> SegmentationTask:
    """Plain cross-entropy and plain gradient descent; by default nothing moves."""
    return make_task(
        lambda: model,
        loss=Sum({"ce": CrossEntropy()}, {"ce": 1.0}),
        make_optimizer=lambda groups: torch.optim.SGD(groups, lr=rate),
    )


def batches(*sizes: int) -> list[Batch]:
    """Noise, with a class for every pixel, so that a mean over pixels is a mean over samples."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in sizes:
        images = torch.randint(0, 256, (size, 3, 8, 8), dtype=torch.uint8, generator=generator)
        masks = torch.randint(0, 7, (size, 8, 8), dtype=torch.uint8, generator=generator)
        made.append(Batch(images, masks, [f"{i}" for i in range(size)], [""] * size))
    return made


def whole_gradients(task: SegmentationTask, given: list[Batch]) -> tuple[float, list[Tensor]]:
    """Of all samples at once."""
    images, masks = (torch.cat([getattr(batch, name) for batch in given]) for name in ("images", "masks"))
    loss = nn.functional.cross_entropy(TinyModel.forward(task.model, images), masks.long())
    return float(loss.detach()), list(torch.autograd.grad(loss, list(task.model.parameters())))


def assert_gradients(task: SegmentationTask, expected: list[Tensor]) -> None:
    for parameter, gradient in zip(task.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 2, 3), (5, 1)])
def test_gradients_and_losses_are_means_over_all_samples(sizes: tuple[int, ...]) -> None:
    task, given = task_of(TinyModel(norm=False)), batches(*sizes)
    loss, expected = whole_gradients(task, given)
    losses = stepper(task).step(given, guarded=False)
    assert_gradients(task, expected)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx({"": loss, "/ce": loss}, rel=1e-5)


# ---- memory


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(
    ("sizes", "room", "chunks"), [((4,), 4, 1), ((8,), 4, 2), ((8,), 3, 4), ((7,), 2, 4), ((6,), 1, 6), ((4, 4), 1, 4)]
)
def test_what_does_not_fit_is_computed_in_parts(sizes: tuple[int, ...], room: int, chunks: int, guarded: bool) -> None:
    task, given = task_of(Cramped(room)), batches(*sizes)
    loss, expected = whole_gradients(task, given)
    step = stepper(task)
    losses = step.step(given, guarded=guarded)
    assert step.chunks == chunks
    assert_gradients(task, expected)
    assert float(losses[""]) == pytest.approx(loss, rel=1e-5)
    said = step.said  # type: ignore[attr-defined]
    assert len(said) == (0 if chunks == 1 else len(range(1, chunks.bit_length() + (chunks == 6))))
    assert all("memory does not do for batches of" in line for line in said)
    if said:
        assert f"each is computed in {chunks} parts from now on" in said[-1]

    task.model.asked.clear()  # type: ignore[operator,union-attr]
    step.step(given, guarded=guarded)
    assert max(task.model.asked) <= room  # type: ignore[arg-type]
    assert len(step.said) == len(said)  # type: ignore[attr-defined]


def test_what_an_attempt_computed_is_let_go_before_the_next() -> None:
    """Already where it is said, since the device's memory is tidied just before that."""
    model = Cramped(1)
    left: list[bool] = []
    step = stepper(task_of(model))
    step.say = lambda line: left.append(any(reference() is not None for reference in model.computed))
    gc.disable()
    try:
        step.step(batches(8), guarded=False)
    finally:
        gc.enable()
    assert len(model.computed) == 3
    assert left == [False] * 3


def test_the_message_of_the_cpu_is_known() -> None:
    task = task_of(Cramped(2, "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"))
    step = stepper(task)
    step.step(batches(4), guarded=False)
    assert step.chunks == 2


def test_another_error_is_no_matter_of_memory() -> None:
    task = task_of(Cramped(2, "mat1 and mat2 shapes cannot be multiplied"))
    step = stepper(task)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        step.step(batches(4), guarded=True)
    assert step.chunks == 1


def test_a_sample_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"Memory does not do for a single sample\. Try a smaller loader\.crop"):
        train(tmp_path, task=task_of(Cramped(0)))


def test_a_run_goes_on_in_parts_and_ends_as_with_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within rounding, where the loss is a mean over samples of as many pixels that count."""
    steps = Steps(monkeypatch)
    rows = []
    for room in (4, 1):
        torch.manual_seed(0)
        done = train(tmp_path / str(room), task=task_of(Cramped(room), rate=0.1), data=make_data(), epochs=2)
        rows.append(done.run.metrics[-1])
        kept = torch.load(done.run.last_checkpoint, weights_only=True)
        assert kept["stepper"]["chunks"] == 4 // room
    assert [len(names) for names in steps.names] == [4] * 12
    assert rows[0]["train/loss"] == pytest.approx(rows[1]["train/loss"], rel=0.02)  # void is not the same in all
    assert rows[0]["step"] == rows[1]["step"] == 6


# ---- clipping, precision, learning rates


@pytest.mark.parametrize(("clip", "moved"), [(0.01, 0.01), (None, None), (1e6, None)])
def test_gradients_are_clipped_together(clip: float | None, moved: float | None) -> None:
    task = task_of(TinyModel(norm=False), rate=1.0)
    _, gradients = whole_gradients(task, batches(4))
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    assert norm > 0.1
    before = [value.detach().clone() for value in task.parameters()]
    stepper(task, clip=clip).step(batches(4), guarded=False)
    difference = [(value - old).norm() for value, old in zip(task.parameters(), before, strict=True)]
    assert float(torch.stack(difference).norm().detach()) == pytest.approx(moved or norm, rel=1e-3)


def test_bfloat16_is_computed_in_and_float32_kept() -> None:
    task = task_of(TinyModel(), rate=0.1)
    seen: list[torch.dtype] = []
    task.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))  # type: ignore[union-attr]
    losses = {}
    for dtype in (None, torch.bfloat16):
        step = stepper(task, dtype=dtype)
        losses[dtype] = step.step(batches(4), guarded=False)[""]
    assert seen == [torch.float32, torch.bfloat16]
    for value in task.parameters():
        assert value.grad is not None
        assert value.dtype == value.grad.dtype == torch.float32
    assert losses[torch.bfloat16].dtype == torch.float32


def test_learning_rates_are_products() -> None:
    task = task_of(TinyModel(), rate=0.5)
    step = stepper(task)
    for group, factor in zip(step.optimizer.param_groups, (1, 1, 2, 3, 3), strict=True):
        group["lr_factor"] = factor
    step.set_learning_rates(0.1, {"encoder.1": 0.25})
    assert [group["lr"] for group in step.optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.025, 0.15, 0.15])


def test_the_state_of_a_step_comes_back() -> None:
    task = make_task(lambda: Cramped(2))
    step = stepper(task)
    step.step(batches(4), guarded=False)
    other = stepper(make_task(lambda: Cramped(2)))
    other.load_state_dict(step.state_dict())
    assert other.chunks == 2
    old, new = step.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key]["exp_avg"], new[key]["exp_avg"]) for key in old)


def test_batches_of_the_loader_are_taken_as_they_are() -> None:
    data, task = make_data(), task_of(TinyModel())
    data.open(lambda epoch: BatchShape(4))
    losses = stepper(task).step(list(data.training_batches(0, range(2))), guarded=True)
    assert losses[""].isfinite()
