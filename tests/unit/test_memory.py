"""What becomes of memory that is freed."""

import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
{call}
def fill():
    torch.empty(48 << 20, dtype=torch.uint8).fill_(1)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from seg_cli.inference.memory import keep_freed_memory; keep_freed_memory()"


def faults(call: str, **variables: str) -> int:
    """How often the kernel has to give a page while ten tensors of the same size come and go."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)], env=own, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="malloc is not glibc's here"
)
def test_memory_is_asked_for_once() -> None:
    plain = faults("")
    assert faults(KEEP) < plain / 10
    assert faults(KEEP, MALLOC_ARENA_MAX="1") > plain / 2, "who sets glibc's variables means them"
