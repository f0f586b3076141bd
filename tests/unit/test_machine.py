"""What a machine, a container or a job has left."""

from pathlib import Path

from seg_cli.runs.machine import free_memory


def make_proc(root: Path, *, available: int, group: str = "") -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal:  999999 kB\nMemAvailable:    {available} kB\n")
    if group:
        (root / "proc" / "self" / "cgroup").write_text(f"0::/{group}\n")
    return root / "proc"


def limit(folder: Path, most: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 9\n")


def test_free_memory_is_what_the_job_may_still_take(tmp_path: Path) -> None:
    proc, groups = make_proc(tmp_path, available=1000, group="slurm/job_3"), tmp_path / "cgroup"
    assert free_memory(proc, groups) == 1000 * 1024
    limit(groups / "slurm" / "job_3", "max", 10, 0)
    assert free_memory(proc, groups) == 1000 * 1024
    limit(groups / "slurm", "500000", 300000, 50000)
    assert free_memory(proc, groups) == 250000
    limit(groups / "slurm" / "job_3", "100000", 200000, 0)
    assert free_memory(proc, groups) == 0


def test_free_memory_here() -> None:
    assert free_memory() > 2**20
    assert free_memory(Path("/no/such/proc")) > 2**20
