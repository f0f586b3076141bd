"""Run directories made by hand: the files that tables and reports read, of scores that the test chooses."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CLASSES = ("Road", "Car", "Sky")
Counts = tuple[np.ndarray, np.ndarray]
"""Intersections and unions, each (images, C)."""


def counts_of(miou: float, *, images: int = 8, classes: int = 3, noise: float = 0.0, seed: int = 0) -> Counts:
    """Counts of images of 300 pixels that give about this mIoU; with noise, images differ in how well they are done."""
    rng = np.random.default_rng(seed)
    truth = np.full((images, classes), 300 // classes)
    share = 2 * miou / (1 + miou)  # of the pixels of a class that are right, where as many are wrong
    right = truth * (share + noise * rng.standard_normal((images, classes)))
    hits = np.clip(np.rint(right), 0, truth).astype(np.int64)
    return hits, 2 * truth - hits


def write_run(
    folder: Path,
    *,
    model: str = "unet",
    loss: str = "ce",
    seed: int = 0,
    miou: float = 0.5,
    counts: Counts | Mapping[str, Counts] | None = None,
    classes: Sequence[str] = CLASSES,
    state: str = "finished",
    reason: str | None = None,
    groups: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    choices: Mapping[str, str] | None = None,
    ended: str = "2026-01-02T12:00:00+00:00",
) -> Path:
    """Write config.yaml, status.json, environment.json, and of a finished run results.json and per_image.csv.

    Args:
        folder: to make.
        counts: of the test split, or of each split by name; None makes some of ``miou``.
        config, results, environment, choices: what differs from the usual; sections are merged one level deep.
        state: only of a finished run are there scores.
    """
    folder.mkdir(parents=True)
    chosen = {"model": model, "encoder": "resnet18", "loss": loss, "data": "shapes", "tta": "none", **(choices or {})}
    written: dict[str, Any] = {
        "name": "shapes",
        "run_dir": None,
        "seed": seed,
        "void": "ignored",
        "loader": {"batch_size": 8, "crop": None, "workers": 0},
        "encoder": {"name": "resnet18", "weights": "none"},
        "model": {"_target_": f"models.{model}", "upsample": "bilinear"},
        "loss": {"terms": {name: {"_target_": f"losses.{name}"} for name in loss.split("+")}},
        "data": {"_target_": "data.Shapes", "root": "/somewhere"},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001},
        "trainer": {"max_epochs": 7, "devices": "auto", "limit_batches": None},
        "choices": chosen,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(_merged(written, config), sort_keys=False))
    status = {"state": state, "reason": reason, "epoch": 7, "step": 70, "started": "2026-01-02T11:00:00+00:00"}
    (folder / "status.json").write_text(json.dumps({**status, "ended": None if state == "running" else ended}))
    about = {
        "git": {"commit": "0123456789abcdef", "changed": False},
        "packages": {"segrun": "0.1.0"},
        "cpu": {"model": "A processor", "cores": 2},
        "gpus": [],
    }
    (folder / "environment.json").write_text(json.dumps(_merged(about, environment)))
    if state != "finished":
        return folder
    by_split = counts if isinstance(counts, Mapping) else {"test": counts or counts_of(miou, classes=len(classes))}
    given: dict[str, Any] = {
        "schema": 1,
        "name": "shapes",
        "fingerprint": f"{model} {loss} {seed}",
        "choices": chosen,
        "seed": seed,
        "data": {"content": "d0", "train_images": 20, "image_size": [15, 20]},
        "splits": {split: _scores(*of, classes) for split, of in by_split.items()},
        "cost": {
            "parameters": 1_000_000 * (1 + len(model)),
            "flops": 2_000_000_000,
            "train_seconds": 60.0 + seed,
            "images_per_second": 10.0 + seed,
            "peak_memory_bytes": 10**9,
        },
        "pretrained": "none",
        "best_epoch": 6,
        "epochs": 7,
    }
    (folder / "results.json").write_text(json.dumps(_merged(given, results), indent=2, ensure_ascii=False))
    write_per_image(folder / "per_image.csv", by_split, classes, groups)
    return folder


def write_per_image(
    path: Path, by_split: Mapping[str, Counts], classes: Sequence[str] = CLASSES, groups: Sequence[str] | None = None
) -> None:
    """per_image.csv of these counts, the images of a split called a00, a01 and so on."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "name", "group", *(f"{of}/{c}" for c in classes for of in ("intersection", "union"))])
        for split, (hits, unions) in by_split.items():
            pairs = np.stack((hits, unions), 2).reshape(len(hits), -1).tolist()
            for i, row in enumerate(pairs):
                writer.writerow([split, f"a{i:02d}", groups[i] if groups else "", *row])


def _scores(hits: np.ndarray, unions: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """What results.json says of a split with these counts."""
    images, hits, unions = len(hits), hits.sum(0), unions.sum(0)
    present = unions > 0
    iou = np.where(present, hits / np.maximum(unions, 1), np.nan)
    dice = np.where(present, 2 * hits / np.maximum(hits + unions, 1), np.nan)
    truth = (hits + unions) // 2  # as many pixels are missed as are wrongly found
    accuracy = float(2 * hits.sum() / (hits + unions).sum())
    of_class = {
        name: {
            "iou": float(iou[i]) if present[i] else None,
            "dice": float(dice[i]) if present[i] else None,
            "precision": float(dice[i]) if present[i] else None,
            "recall": float(dice[i]) if present[i] else None,
            "pixels": int(truth[i]),
        }
        for i, name in enumerate(classes)
    }
    return {
        "miou": float(np.nanmean(iou)),
        "pixel_accuracy": accuracy,
        "mean_accuracy": accuracy,
        "mean_dice": float(np.nanmean(dice)),
        "fw_iou": float(np.nanmean(iou)),
        "classes": of_class,
        "labels": "exclusive",
        "confusion": [[0] * len(classes)] * len(classes),
        "images": images,
        "void": "ignored",
        "absent_classes": [name for i, name in enumerate(classes) if not present[i]],
    }


def _merged(base: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    found = dict(base)
    for key, value in (more or {}).items():
        old = found.get(key)
        found[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found
