"""Classical methods: quality on ISBI membranes, how fast thresholds are, and what one pass buys a patch classifier.

    python bench/classical.py folds DATA [MODEL ...]   5-fold by image: pixel accuracy, mIoU, seconds to fit
    python bench/classical.py speed                    threshold, 512x512 PNG files, reading and scoring included
    python bench/classical.py patches                  patch by patch against one pass, of the same network
    python bench/classical.py plot RUNS FILE           mIoU against training images, of the runs below a folder

DATA is a folder of 30 slices with masks, as data=folder takes it (masks_are=binary). Timings depend on what else runs.
"""

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seg_cli.commands.build import build_model
from seg_cli.commands.score import Scoring, score_splits
from seg_cli.config import sums
from seg_cli.config.paths import conf_dir
from seg_cli.data.fewer import Chosen
from seg_cli.data.folder import Folder
from seg_cli.data.sample import Dataset
from seg_cli.metrics.confusion import score
from seg_cli.models.classical.method import Method
from seg_cli.models.classical.patch_cnn import PatchCNN
from seg_cli.reports.figures_classical import quality_by_images
from seg_cli.runs.run import Run

FOLDS = 5
CPU = torch.device("cpu")


def configured(*overrides: str) -> dict[str, Any]:
    sums.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["name=bench", *overrides])
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def method(name: str, num_classes: int) -> Method:
    made = build_model(configured(f"model={name}"), num_classes)
    assert isinstance(made, Method)
    return made


def scored(model: Method, dataset: Dataset, split: str, *, workers: int) -> tuple[np.ndarray, float]:
    """Confusion matrix, and images a second with reading."""
    loader = {"eval_batch_size": 16, "workers": workers}
    found = score_splits(model, dataset, [split], scoring=Scoring({}), loader=loader, device=CPU, dtype=None)[split]
    return found.matrix, len(found.names) / found.seconds


def folds(root: str, *names: str) -> None:
    dataset = Folder(
        root=root, splits="fractions", fractions=(0.7, 0.3), masks_are="binary", names=["membrane", "cell"]
    )
    every = sorted(
        {
            pair.name: (split, index)
            for split in ("train", "val")
            for index, pair in enumerate(dataset.splits[split].pairs)
        }.items()
    )  # type: ignore[attr-defined]
    samples = _All(dataset, [place for _, place in every])
    order = np.random.default_rng(0).permutation(len(samples))
    print(f"{len(samples)} images of {samples[0].size}, {FOLDS} folds by image")
    for name in names or ("threshold", "pixel_forest"):
        matrix, seconds = np.zeros((2, 2), np.int64), []
        for fold in range(FOLDS):
            test = sorted(order[fold::FOLDS].tolist())
            train = sorted(set(order.tolist()) - set(test))
            model = method(name, 2)
            began = time.perf_counter()
            model.fit(Chosen(samples, train), seed=0, device=CPU)
            seconds.append(time.perf_counter() - began)
            dataset.splits["test"] = Chosen(samples, test)
            matrix += scored(model.eval(), dataset, "test", workers=0)[0]
        found = score(matrix)
        print(
            f"{name:<15} pixel accuracy {found.pixel_accuracy:.4f}  mIoU {found.miou:.4f}  "
            f"fit of {len(train)} images {statistics.median(seconds):.1f} s (median)",
            flush=True,
        )


class _All:
    def __init__(self, dataset: Dataset, places: list[tuple[str, int]]) -> None:
        self.splits, self.places = dict(dataset.splits), places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        split, place = self.places[index]
        return self.splits[split][place]


def speed() -> None:
    """400 pictures of blobs, one band."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("images", "masks"):
            (root / part).mkdir()
        for number in range(400):
            field = cv2.resize(rng.normal(size=(64, 64)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
            image = np.clip(128 + 60 * field + rng.normal(0, 12, field.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / "images" / f"{number:03d}.png"), image)
            cv2.imwrite(str(root / "masks" / f"{number:03d}.png"), (field > 0.5).astype(np.uint8))
        dataset = Folder(root=folder, fractions=(0.02, 0.98))
        model = method("threshold", 2)
        model.fit(dataset.splits["train"], seed=0, device=CPU)
        workers = min(2, os.cpu_count() or 1)
        rates = [scored(model.eval(), dataset, "val", workers=workers)[1] for _ in range(3)]
        began = time.process_time()  # which other processes do not lengthen much
        scored(model, dataset, "val", workers=0)
        each = (time.process_time() - began) / len(dataset.splits["val"])
    print(f"{each * 1000:.1f} ms of a core an image, reading and scoring included")
    print(f"threshold (multi_otsu, 3 levels), 512x512: {max(rates):.0f} images/s, {workers} workers")


def patches() -> None:
    """An image of 96x96 and one of 256x256; the answers are compared first."""
    torch.manual_seed(0)
    model = method("patch_cnn", 2).eval()
    assert isinstance(model, PatchCNN)
    for side in (96, 256):
        image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        with torch.inference_mode():
            padded = model.padded(image.float())
            torch.testing.assert_close(model.dense(padded), model.one_by_one(padded), rtol=1e-3, atol=1e-4)
            ratios = []
            for _ in range(3):
                began = time.perf_counter()
                model.one_by_one(padded)
                middle = time.perf_counter()
                model.dense(padded)
                ratios.append((middle - began) / (time.perf_counter() - middle))
        print(
            f"{side}x{side}: one pass is {statistics.median(ratios):.1f} times faster than patch by patch", flush=True
        )


def plot(folder: str, out: str) -> None:
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(Path(folder).glob("*/results.json")):
        results = Run(path.parent).results
        found[results["choices"]["model"]][results["data"]["train_images"]].append(results["splits"]["test"]["miou"])
    quality_by_images(found, Path(out), title=f"{Path(folder).name}: quality by training images")
    print(f"written: {out}")


if __name__ == "__main__":
    doing, *rest = sys.argv[1:] or ["--help"]
    known = {"folds": folds, "speed": speed, "patches": patches, "plot": plot}
    if doing not in known:
        sys.exit(__doc__)
    known[doing](*rest)
