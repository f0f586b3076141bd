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
    return [torch.empty(size << 20, dtype=torch.uint8).fill_(1) for size in (40, 48, 44, 36)]
for _ in range(3):
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from seg_cli.inference.memory import keep_freed_memory; keep_freed_memory()"


RESIDENT = """
import os, torch
from seg_cli.inference.memory import give_back_freed_memory, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
keep_freed_memory()
tensors = [torch.ones(8 << 20, dtype=torch.uint8) for _ in range(30)]
last = torch.ones(1 << 20)  # above them, so that the heap cannot shrink from its end
held = resident()
del tensors
kept = resident()
give_back_freed_memory()
print(held - kept, kept - resident())
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="malloc is not glibc's here"
)


def printed(program: str, **variables: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    return subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True).stdout


def faults(call: str, **variables: str) -> int:
    """How often the kernel has to give a page while tensors come and go ten times."""
    return int(printed(FAULTS.format(call=call), **variables))


def test_memory_is_asked_for_once() -> None:
    plain = faults("")
    assert faults(KEEP) < plain / 10
    assert faults(KEEP, MALLOC_ARENA_MAX="1") > plain / 2, "who sets glibc's variables means them"


def test_memory_is_given_back_when_asked_to() -> None:
    freed, given_back = map(int, printed(RESIDENT).split())
    assert freed < 20, "MiB of 240"
    assert given_back > 200
