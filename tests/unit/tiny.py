"""The smallest training set-up that is real: our task, data, loaders and loop on a network of two layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from seg_cli.data.augment import Augment
from seg_cli.data.datamodule import DataModule
from seg_cli.data.geometry import HorizontalFlip, Size
from seg_cli.data.loading import Batch
from seg_cli.data.sample import Split
from seg_cli.data.shapes import Shapes
from seg_cli.losses import CrossEntropy, Dice, Sum
from seg_cli.runs.run import Run
from seg_cli.training.averaging import Average
from seg_cli.training.checkpoints import read_latest
from seg_cli.training.finetune import Phases
from seg_cli.training.fit import Fitted, fit
from seg_cli.training.schedules import Poly
from seg_cli.training.signals import Interrupted
from seg_cli.training.stages import OneSize, Plan, Resize
from seg_cli.training.step import Stepper
from seg_cli.training.task import SegmentationTask

TRAINER: dict[str, Any] = {
    "accumulate": 1,
    "lr_batch": None,
    "gradient_clip": None,
    "compile": False,
    "deterministic": False,
    "sync_batchnorm": False,
    "validate_every": 1,
    "early_stop": None,
    "checkpoint_minutes": None,
    "limit_batches": None,
}
"""The settings of ``trainer`` that the loop reads."""


class TinyModel(nn.Module):
    """Images (N, 3, H, W) in 0..255 -> logits (N, classes, H, W).

    Args:
        classes: number of classes.
        dropout: share of the features that is dropped.
        norm: whether there is a batch norm.
    """

    def __init__(self, classes: int = 7, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.encoder(images / 255)))


def make_task(make_model: Callable[[], nn.Module] = TinyModel, **changes: Any) -> SegmentationTask:
    """Two losses and AdamW; the weights are the same each time."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "loss": Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": 0.5}),
        "class_names": Shapes.labels.names,
        "make_optimizer": lambda groups: torch.optim.AdamW(groups, lr=0.02, fused=True),
        "schedule": Poly(),
        "encoder_lr_factor": 1.0,
        "finetune": Phases(),
    }
    return SegmentationTask(make_model(), **(settings | changes))


def make_data(*, train: int = 12, workers: int = 0, flip: bool = True, size: Size = (32, 32)) -> DataModule:
    dataset = Shapes(train=train, val=5, test=5, size=size)
    dataset.splits = dict(_drawn(train, size))
    return DataModule(
        dataset,
        augment=Augment({"flip": HorizontalFlip()} if flip else {}),
        eval_batch_size=2,
        workers=workers,
        seed=0,
    )


@cache
def _drawn(train: int, size: Size) -> dict[str, Split]:
    """Scenes that are drawn once for all tests."""
    splits = Shapes(train=train, val=5, test=5, size=size).splits
    return {name: [split[index] for index in range(len(split))] for name, split in splits.items()}


def make_run(folder: Path) -> Run:
    return Run.create(folder / "run", numbered=False)


def make_fabric() -> Fabric:
    """One process on the CPU."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


@dataclass(frozen=True)
class Trained:
    """What a training left behind."""

    run: Run
    task: SegmentationTask
    fitted: Fitted


def train(
    folder: Path,
    *,
    task: SegmentationTask | None = None,
    data: DataModule | None = None,
    epochs: int = 2,
    batch_size: int = 4,
    resize: Resize | None = None,
    average: Average | None = None,
    mode: str = "fp32",
    loggers: Any = (),
    identity: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Trained:
    """``fit`` as the commands call it, on one process; the run directory is ``folder/run``, made where it is not there.

    Args:
        changes: of the settings of ``trainer``.
    """
    run = Run(folder / "run") if (folder / "run").exists() else make_run(folder)
    data = data or make_data()
    settings = TRAINER | {"max_epochs": epochs} | changes
    image = data.dataset.splits["train"][0].size
    stages = (resize or OneSize()).stages(epochs=epochs, crop=None, image=image, batch_size=batch_size)
    plan = Plan(
        stages,
        len(data.dataset.splits["train"]),
        accumulate=settings["accumulate"],
        limit_batches=settings["limit_batches"],
    )
    task = task or make_task()
    pl.seed_everything(0 if checkpoint is None else 1, verbose=False)
    fitted = fit(
        task,
        data,
        run,
        fabric=make_fabric(),
        plan=plan,
        settings=settings,
        mode=mode,
        average=average,
        loggers=list(loggers),
        identity=identity or {},
        image_size=image,
        checkpoint=checkpoint,
    )
    return Trained(run, task, fitted)


class Steps:
    """What each step of the optimiser was given and gave, once this is made.

    Attributes:
        names: of the samples, a list a step.
        rates: the learning rates of the groups of parameters, a list a step.
        losses: the mean loss of each step.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[list[str]] = []
        self.rates: list[list[float]] = []
        self.losses: list[float] = []
        step = Stepper.step

        def noted(stepper: Stepper, batches: list[Batch], *, guarded: bool) -> dict[str, Tensor]:
            self.names.append([name for batch in batches for name in batch.names])
            self.rates.append([group["lr"] for group in stepper.optimizer.param_groups])
            losses = step(stepper, batches, guarded=guarded)
            self.losses.append(float(losses[""]))
            return losses

        monkeypatch.setattr(Stepper, "step", noted)


def train_in_sittings(
    folder: Path, *, task: Callable[[], SegmentationTask], data: Callable[[], DataModule] = make_data, **settings: Any
) -> tuple[Trained, int]:
    """``train``, gone on with after each end that somebody asked for; the last sitting, and how many there were.

    Each goes on in a process that might be another: its model has other weights, and its generators drew other numbers.
    """
    checkpoint, sittings = None, 0
    while True:
        sittings += 1
        fresh = task()
        if checkpoint is not None:
            for parameter in fresh.parameters():
                parameter.data.add_(1.0)
        try:
            return train(folder, task=fresh, data=data(), checkpoint=checkpoint, **settings), sittings
        except Interrupted:
            checkpoint, complaints = read_latest(Run(folder / "run"))
            assert not complaints
            assert checkpoint is not None
