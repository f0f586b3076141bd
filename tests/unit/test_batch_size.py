"""The largest batch that fits: the search, what counts as not fitting, and the memory of a step by hand."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seg_cli.data.labels import LabelSpace
from seg_cli.errors import RunFailed
from seg_cli.losses import CrossEntropy, Sum
from seg_cli.training.batch_size import fits_gpu, largest
from seg_cli.training.finetune import Phases
from seg_cli.training.schedules import Poly
from seg_cli.training.task import SegmentationTask
from seg_cli.training.trial import measure_memory, random_samples, train_step, unchanged

CPU = torch.device("cpu")


@given(limit=st.integers(1, 5000), most=st.integers(1, 5000))
def test_the_search_finds_the_largest_to_a_32nd_with_few_tries(limit: int, most: int) -> None:
    tried: list[int] = []

    def fits(samples: int) -> bool:
        tried.append(samples)
        assert samples <= most
        return samples <= limit

    found = largest(fits, most=most)
    best = min(limit, most)
    assert found <= best <= found + max(1, found // 32)
    assert found == best or best > 32
    assert len(tried) <= 26


def test_not_even_one_fits() -> None:
    with pytest.raises(RunFailed, match=r"memory does not do for a batch of 1\. Try a smaller loader\.crop"):
        largest(lambda samples: False, most=8)


def test_out_of_memory_means_that_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    steps: list[int] = []

    def step(samples: int) -> None:
        steps.append(samples)
        if samples > 37:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    assert largest(fits_gpu(step, CPU), most=1000, least=2) == 37
    assert steps[:6] == [2, 4, 8, 16, 32, 64]


def test_another_error_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def step(samples: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")

    with pytest.raises(RuntimeError, match="shapes"):
        fits_gpu(step, CPU)(2)


# ---- memory of the machine


# ---- memory of a step


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.encoder(images.float())))


def make_task(**optimizer: Any) -> SegmentationTask:
    return SegmentationTask(
        Net(),
        Sum(terms={"ce": CrossEntropy()}, weights={"ce": 1.0}),
        class_names=["a", "b"],
        make_optimizer=partial(torch.optim.SGD, lr=0.1, **optimizer),
        schedule=Poly(),
        encoder_lr_factor=1.0,
        finetune=Phases(),
    )


def draw(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random_samples(LABELS, samples, bands=3, size=(16, 20), device=CPU)


LABELS = LabelSpace(["a", "b"], [(0, 0, 0), (255, 255, 255)])


def test_the_memory_of_a_step_by_hand() -> None:
    task = make_task(momentum=0.9)
    with unchanged(task):
        memory = measure_memory(task, draw, device=CPU, dtype=None)
    values = 3 * 8 * 9 + 2 * 8 + 8 * 2 + 2
    assert memory.gradients == memory.optimizer == 4 * values
    assert memory.parameters == 4 * (values + 2 * 8) + 8  # batch statistics, and a count of 64 bits
    pixels = 16 * 20
    # uint8 and float images, the input of the norm and that of the head; what the loss keeps of the logits is between
    # one map a class and five.
    least = pixels * (3 + 4 * 3 + 4 * 8 + 4 * 8 + 1 + 4 * 2)
    assert least <= memory.sample <= least + pixels * 4 * 2 * 4
    assert memory.total(8) == memory.parameters + memory.gradients + memory.optimizer + memory.activations(8)
    assert memory.activations(9) - memory.activations(8) == pytest.approx(memory.sample, abs=1)


def test_frozen_parts_and_plain_sgd_need_less() -> None:
    task = make_task()
    task.model.encoder.requires_grad_(False)
    with unchanged(task):
        memory = measure_memory(task, draw, device=CPU, dtype=None)
    assert memory.optimizer == 0
    assert memory.gradients == 4 * (2 * 8 + 8 * 2 + 2)
    assert not task.model.encoder.weight.requires_grad


def test_trials_leave_nothing_behind() -> None:
    task = make_task(momentum=0.9)
    task.loss.epoch = 3
    task.model.norm.eval()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    generator = torch.get_rng_state()
    with unchanged(task):
        task.train()
        task.loss.epoch = 7
        task.requires_grad_(False)
        task.model.head.requires_grad_(True)
        optimizer = task.configure_optimizers()
        train_step(task, optimizer, *draw(2), device=CPU, dtype=None)
        torch.rand(3)
        assert not torch.equal(task.model.norm.running_mean, before["model.norm.running_mean"])
    assert all(torch.equal(before[key], value) for key, value in task.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in task.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not task.model.norm.training
    assert task.model.head.training
    assert task.loss.epoch == 3


@pytest.mark.gpu
def test_on_a_gpu_the_largest_batch_fits_and_a_larger_one_does_not() -> None:
    device = torch.device("cuda")
    task = make_task(momentum=0.9).to(device)
    sample = 2**21  # of 512 * 512 pixels, with some 100 bytes each
    free = torch.cuda.mem_get_info(device)[0]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 40 * 16 * sample / free), device)

    def step(samples: int) -> None:
        optimizer = task.configure_optimizers()
        images, masks = random_samples(LABELS, samples, bands=3, size=(512, 512), device=device)
        train_step(task, optimizer, images, masks, device=device, dtype=None)

    try:
        fits = fits_gpu(step, device)
        found = largest(fits, most=10_000, least=2)
        assert 2 <= found < 10_000
        assert fits(found)
        assert not fits(found + 2 + found // 16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
