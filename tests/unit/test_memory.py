"""What becomes of memory that is freed."""

import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource
from seg_cli.inference.memory import keep_freed_memory

SIZE, LIBC = 20 << 20, ctypes.CDLL(None)
LIBC.malloc.argtypes, LIBC.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
LIBC.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        pieces = [LIBC.malloc(SIZE) for _ in range(10)]
        for piece in pieces:
            ctypes.memset(piece, 1, SIZE)
        for piece in pieces:
            LIBC.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
plain = faults()
keep_freed_memory()
faults()
print(plain, faults())
"""
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


def faults(**variables: str) -> list[int]:
    """How often the kernel has to give a page while 200 MB come and go: before memory is kept, and after."""
    return [int(count) for count in printed(FAULTS, **variables).split()]


def test_memory_is_asked_for_once() -> None:
    before, after = faults()
    assert after < before / 10
    before, after = faults(MALLOC_ARENA_MAX="1")
    assert after > before / 2, "who sets glibc's variables means them"


def test_memory_is_given_back_when_asked_to() -> None:
    freed, given_back = map(int, printed(RESIDENT).split())
    assert freed < 20, "MiB of 240"
    assert given_back > 200
