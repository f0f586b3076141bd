"""How long ``segrun table`` takes over thousands of runs, before anything is remembered and after.

The runs are made by hand in a temporary folder: 20 models x 5 losses x 10 learning rates x 10 seeds, with the counts of
60 images of 11 classes. Every table is made in a fresh process.

    python bench/tables.py [RUNS]

Exits with 1 if 10,000 runs take 10 s or more, or 2 s when the table is made again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.run_folders import counts_of, write_run

MODELS, LOSSES, RATES = 20, ("ce", "dice", "focal", "dice+focal", "lovasz"), 10
CLASSES = tuple(f"class {number}" for number in range(11))
COLD, CACHED = 10.0, 2.0


def make(folder: Path, runs: int) -> None:
    for number in range(runs):
        seed, method = divmod(number, MODELS * len(LOSSES) * RATES)
        model, other = divmod(method, len(LOSSES) * RATES)
        loss, rate = divmod(other, RATES)
        counts = counts_of(0.5 + 0.005 * model, images=60, classes=len(CLASSES), noise=0.05, seed=number)
        run = folder / f"{number // 1000}" / f"{number:05d}"
        config = {"optimizer": {"lr": 0.001 * (rate + 1)}}
        names = {"model": f"model{model:02d}", "loss": LOSSES[loss]}
        write_run(run, **names, seed=seed, counts=counts, classes=CLASSES, config=config)


def seconds(*arguments: str, cache: Path) -> tuple[float, float]:
    """Wall-clock and processor time of a table."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    start, used = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "seg_cli", "table", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = os.times()
    busy = after.children_user + after.children_system - used.children_user - used.children_system
    return time.perf_counter() - start, busy


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary) / "outputs", Path(temporary) / "cache"
        make(folder, runs)
        times: dict[str, list[tuple[float, float]]] = {"cold": [], "cached": []}
        for _ in range(3):
            shutil.rmtree(cache, ignore_errors=True)
            times["cold"].append(seconds(str(folder), cache=cache))
            times["cached"].append(seconds(str(folder), cache=cache))
        size = sum(file.stat().st_size for file in cache.rglob("*.json"))
    (cold, busy), (cached, busy_cached) = (sorted(of)[1] for of in times.values())
    print(f"{runs} runs, median of 3: {cold:.2f} s cold, {cached:.2f} s cached; {size / 1e6:.1f} MB remembered")
    print(f"of which the processor was busy for {busy:.2f} s and {busy_cached:.2f} s")
    held = runs > 10_000 or (cold < COLD and cached < CACHED)
    print(f"cold < {COLD:g} s and cached < {CACHED:g} s: {'yes' if held else 'NO'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
