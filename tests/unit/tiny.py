"""The smallest training set-up that is real: our task, data and loaders on a network of two layers."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from seg_cli.data.augment import Augment
from seg_cli.data.datamodule import DataModule
from seg_cli.data.geometry import HorizontalFlip
from seg_cli.data.shapes import Shapes
from seg_cli.losses import CrossEntropy, Dice, Sum
from seg_cli.runs.run import Run
from seg_cli.training.checkpoints import AtomicCheckpointIO
from seg_cli.training.schedules import Poly
from seg_cli.training.task import SegmentationTask


class TinyModel(nn.Module):
    """Images (N, 3, H, W) in 0..255 -> logits (N, classes, H, W)."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images / 255))


def make_task(**changes: Any) -> SegmentationTask:
    torch.manual_seed(0)
    settings = {
        "class_names": Shapes.labels.names,
        "make_optimizer": lambda groups: torch.optim.AdamW(groups, lr=0.02, fused=True),
        "schedule": Poly(),
        "encoder_lr_factor": 1.0,
    }
    loss = Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": 0.5})
    return SegmentationTask(TinyModel(), loss, **(settings | changes))


def make_data(*, train: int = 12, workers: int = 0) -> DataModule:
    return DataModule(
        Shapes(train=train, val=5, test=5, size=(32, 32)),
        augment=Augment({"flip": HorizontalFlip()}),
        crop=None,
        batch_size=4,
        eval_batch_size=2,
        workers=workers,
        seed=0,
    )


def make_trainer(folder: Path, *callbacks: pl.Callback, **changes: Any) -> pl.Trainer:
    """As ``seg_cli.training.fit`` makes it."""
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        **(settings | quiet | changes),
    )


def make_run(folder: Path) -> Run:
    return Run.create(folder / "run", numbered=False)
