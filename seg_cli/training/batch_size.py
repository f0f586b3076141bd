"""``trainer.auto_batch_size=true``: the largest batch whose training step fits into memory, found before training.

On a GPU steps of random images are tried, in twice as many samples each time until memory does not do, and then in
between. On a CPU, where a process that asks for too much is killed, memory is computed from two small steps instead.
"""

from collections.abc import Callable

import torch

from seg_cli.errors import RunFailed

GPU_SHARE = 0.9
"""Of a GPU's memory; the rest is for gradients in exchange, scoring, and memory in pieces."""

CPU_SHARE = 0.5
"""Of the memory that is free; the rest is for processes that read, and what comes and goes inside operations."""


def largest(fits: Callable[[int], bool], *, most: int, least: int = 1) -> int:
    """The largest number up to ``most`` that fits, where all smaller ones fit too; exact to a 32nd.

    Raises:
        RunFailed: if ``least`` does not fit.
    """
    if not fits(least):
        raise RunFailed(
            f"trainer.auto_batch_size: memory does not do for a batch of {least}. Try a smaller loader.crop, a smaller "
            "model, or precision=bf16."
        )
    good, bad = least, most + 1
    while good < most:
        tried = min(2 * good, most)
        if not fits(tried):
            bad = tried
            break
        good = tried
    while bad - good > max(1, good // 32):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def fits_gpu(step: Callable[[int], None], device: torch.device) -> Callable[[int], bool]:
    """Whether a step of so many samples runs on a GPU; out of memory is caught, and what was tried is freed.

    Args:
        step: takes a number of samples, and does steps as training does them.
        device: a CUDA device.
    """

    def fits(samples: int) -> bool:
        try:
            step(samples)
        except RuntimeError as error:
            # Some kernels count in 32 bits, and refuse a batch that would fit into a large memory.
            if not isinstance(error, torch.OutOfMemoryError) and "memory" not in str(error) and "32" not in str(error):
                raise
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    return fits
