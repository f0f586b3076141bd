"""Batches as large as memory allows, scores that are too large for it, and what becomes of memory that is freed."""

import ctypes
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls them, with an M_ in front."""


def keep_freed_memory() -> None:
    """Have this process keep up to a gigabyte of the memory that it frees for what it needs next.

    glibc gives it back to the kernel, and gets it again in pages of 4 kB that are cleared first: on a CPU a tenth of a
    training step. Pieces of more than 32 MB it gives back as before, since what is kept of them seldom fits what comes
    next. Nothing happens under other systems, or where the user has set one of glibc's ``MALLOC_`` variables.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**25)
        mallopt(_TRIM_THRESHOLD, 2**30)


def give_back_freed_memory() -> None:
    """Give the kernel what this process has kept, because something of another size comes next."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


class Portions:
    """Cuts work into portions, half as large ones as soon as memory does not do, from then on.

    Args:
        size: items a portion to begin with; None takes all at once.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size

    def run(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Each portion with what ``work`` makes of it.

        Raises:
            RuntimeError: if memory does not do for a single item.
        """
        at = 0
        while at < len(items):
            portion = items[at : at + (self.size or len(items))]
            try:
                result = work(portion)
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(portion) == 1:
                    raise
                self.size = len(portion) // 2
                continue
            yield portion, result
            at += len(portion)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch's says that a device, or the host, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def on_disk(shape: Sequence[int]) -> Tensor:
    """A float32 tensor of zeros that lies in a temporary file, which goes when the tensor goes.

    Only what is being worked on needs to be in memory.
    """
    with tempfile.NamedTemporaryFile(prefix="segrun-scores-") as file:  # the mapping outlives its name
        file.truncate(4 * math.prod(shape))
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=torch.float32).view(*shape)
