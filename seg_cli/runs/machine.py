"""What the machine, or the container or job on it, has left."""

import os
import re
from pathlib import Path


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory that this process may still take: of the machine, and of the container or job that it is in.

    Args:
        proc, cgroups: where Linux tells.
    """
    try:
        free = 1024 * int(re.findall(r"MemAvailable:\s+(\d+)", (proc / "meminfo").read_text())[0])
    except (OSError, IndexError):  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        own = (proc / "self" / "cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    except OSError:
        return free
    group = cgroups / own
    while group.is_relative_to(cgroups):
        try:
            used = int((group / "memory.current").read_text())
            cached = int(re.findall(r"inactive_file (\d+)", (group / "memory.stat").read_text())[0])
            free = min(free, int((group / "memory.max").read_text()) - used + cached)
        except (OSError, ValueError, IndexError):  # nothing is said, or "max"
            pass
        group = group.parent
    return max(0, free)
