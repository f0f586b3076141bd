"""How long ``segrun report`` takes over hundreds of runs, and how large its file is.

The runs are made by hand in a temporary folder: 10 models x 5 losses x 10 seeds, each with the counts of 233 images of
11 classes, 60 epochs, and pictures of four fixed images of 480x640. The report is made in a fresh process, without
anything remembered.

    python bench/reports.py [RUNS]

Exits with 1 if 500 runs take 20 s or more, or 15 MB, or if the report of one of them has 8 MB.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from seg_cli.data.labels import LabelSpace
from seg_cli.inference.evaluate import Example
from seg_cli.reports.gallery import save_examples
from tests.run_folders import counts_of, write_run

MODELS, LOSSES = 10, ("ce", "dice", "focal", "dice+focal", "lovasz")
CLASSES = tuple(f"class {number}" for number in range(11))
IMAGES, EPOCHS, SIZE = 233, 60, (480, 640)
SECONDS, MEGABYTES, OF_ONE = 20.0, 15.0, 8.0


def make(folder: Path, runs: int) -> None:
    rng = np.random.default_rng(0)
    labels = LabelSpace(names=CLASSES, colors=[tuple(map(int, rng.integers(0, 255, 3))) for _ in CLASSES])
    images = [cv2.resize(rng.integers(0, 255, (30, 40, 3), np.uint8), SIZE[::-1]) for _ in range(4)]
    masks = [blobs(rng, 12) for _ in range(4)]
    for number in range(runs):
        seed, method = divmod(number, MODELS * len(LOSSES))
        model, loss = divmod(method, len(LOSSES))
        counts = counts_of(0.5 + 0.02 * model, images=IMAGES, classes=len(CLASSES), noise=0.05, seed=number)
        names = {"model": f"model{model:02d}", "loss": LOSSES[loss]}
        run = write_run(folder / f"{number:05d}", **names, seed=seed, counts=counts, classes=CLASSES)
        rows = [f"{n},{1 / n},{1.1 / n},{1 - 1 / n},{0.1 / n}" for n in range(1, EPOCHS + 1)]
        (run / "metrics.csv").write_text("\n".join(["epoch,train/loss,val/loss,val/miou,lr", *rows]) + "\n")
        shifts = rng.integers(1, 20, 4)
        examples = [Example(f"a{i:02d}", images[i], masks[i], np.roll(masks[i], int(shifts[i])), 0.5) for i in range(4)]
        save_examples(examples, labels, run / "figures" / "examples", [("fixed",)] * 4)


def blobs(rng: np.random.Generator, cells: int) -> np.ndarray:
    """A mask of smooth regions."""
    noise = rng.random((len(CLASSES), cells, cells)).astype(np.float32)
    planes = [cv2.resize(plane, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for plane in noise]
    return np.argmax(planes, 0).astype(np.uint8)


def report(folder: Path, out: Path, cache: Path) -> tuple[float, float, float]:
    """Wall-clock and processor seconds of a report, and its megabytes."""
    start, used = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "seg_cli", "report", str(folder), "--out", str(out)]
    subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, check=True, capture_output=True)
    taken, after = time.perf_counter() - start, os.times()
    busy = after.children_user + after.children_system - used.children_user - used.children_system
    return taken, busy, out.stat().st_size / 1e6


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "outputs", Path(temporary) / "report.html"
        make(folder, runs)
        taken, busy, size = report(folder, out, Path(temporary) / "cache")
        again, busy_again, _ = report(folder, out, Path(temporary) / "cache")
        *_, one = report(folder / "00000", out, Path(temporary) / "cache")
    print(
        f"{runs} runs: {taken:.1f} s (processor {busy:.1f} s), {size:.1f} MB; again {again:.1f} s ({busy_again:.1f} s)"
    )
    print(f"one run: {one:.1f} MB")
    held = runs > 500 or (taken < SECONDS and size < MEGABYTES and one < OF_ONE)
    print(f"< {SECONDS:g} s, < {MEGABYTES:g} MB, < {OF_ONE:g} MB: {'yes' if held else 'NO'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
