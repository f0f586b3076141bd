"""What only a GPU can show: the same integers as on a CPU, and a whole run in mixed precision."""

from collections.abc import Callable

import pytest
import torch

from seg_cli.metrics.confusion import count
from seg_cli.runs.run import Run
from tests.e2e.conftest import SHAPES, TINY, Outcome

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def test_a_gpu_counts_the_same_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(0, 19, (4, 256, 512), generator=generator)
    masks = torch.randint(0, 20, (4, 256, 512), generator=generator).to(torch.uint8)
    masks[masks == 19] = 255
    on_gpu = count(predictions.cuda(), masks.cuda(), 19)
    assert torch.equal(on_gpu.cpu(), count(predictions, masks, 19))


def test_counting_does_not_wait_for_the_gpu() -> None:
    predictions, masks = torch.zeros(2, 64, 64, dtype=torch.long).cuda(), torch.zeros(2, 64, 64).byte().cuda()
    count(predictions, masks, 19)
    torch.cuda.set_sync_debug_mode("error")
    try:
        count(predictions, masks, 19)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["auto", "fp16"])
def test_a_run_on_a_gpu(segrun: Callable[..., Outcome], mode: str) -> None:
    options = [option for option in TINY if not option.startswith(("trainer.accelerator", "precision"))]
    done = segrun(*options, *SHAPES, "trainer.accelerator=gpu", "trainer.devices=1", f"precision={mode}", "run_dir=r")
    assert done.status == 0, done.err
    run = Run.open("r")
    assert run.status["state"] == "finished"
    # The checkpoint scores the same when it is loaded again.
    assert segrun("eval", "run=r", "split=val", "accelerator=gpu", "loader.workers=0").status == 0
