"""One training run under Lightning's Trainer."""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger

from seg_cli.data.datamodule import DataModule
from seg_cli.errors import UserError
from seg_cli.runs.run import Run
from seg_cli.training import precision
from seg_cli.training.callbacks import FiniteLoss, Record
from seg_cli.training.checkpoints import AtomicCheckpointIO, Checkpoints
from seg_cli.training.progress import Progress
from seg_cli.training.task import SegmentationTask


@dataclass(frozen=True)
class Fitted:
    """How training went: epochs count from 1, ``seconds`` are those of training and validation."""

    best_epoch: int
    epochs: int
    seconds: float
    is_global_zero: bool
    """Whether this process is the one that scores and reports."""


def fit(
    task: SegmentationTask,
    data: DataModule,
    run: Run,
    *,
    settings: Mapping[str, Any],
    mode: str,
    loggers: list[Logger],
) -> Fitted:
    """Train until the epochs are done or early stopping ends it; checkpoints and the record go to ``run``.

    Args:
        settings: the ``trainer`` group.
        mode: a resolved precision, see ``precision.resolve``.

    Raises:
        KeyboardInterrupt: if the user or the system asked for an end; there is a checkpoint then.
        RunFailed: if the loss is not finite, or the disk is full.
    """
    checkpoints = Checkpoints(run)
    callbacks: list[pl.Callback] = [Progress(), Record(run), FiniteLoss()]
    if settings["early_stop"] is not None:
        callbacks.append(EarlyStopping("val/miou", mode="max", patience=settings["early_stop"], check_finite=False))
    callbacks.append(checkpoints)
    trainer = pl.Trainer(
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        precision=precision.lightning_name(mode),  # type: ignore[arg-type]
        max_epochs=settings["max_epochs"],
        gradient_clip_val=settings["gradient_clip"],
        check_val_every_n_epoch=settings["validate_every"],
        limit_train_batches=settings["limit_batches"],
        limit_val_batches=settings["limit_batches"],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=True,
        default_root_dir=run.folder,
    )
    started = time.perf_counter()
    try:
        trainer.fit(task, datamodule=data)
    except SystemExit:
        # Lightning turns Ctrl-C into exit(1), and ignores further ones while it winds up.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    if checkpoints.best_epoch is None:
        # validate_every is larger than the number of epochs that were trained; all processes save together
        trainer.save_checkpoint(run.best_checkpoint, weights_only=True)
    best = checkpoints.best_epoch if checkpoints.best_epoch is not None else trainer.current_epoch - 1
    return Fitted(best + 1, trainer.current_epoch, time.perf_counter() - started, trainer.is_global_zero)


def device_of(settings: Mapping[str, Any]) -> torch.device:
    """The first device that ``accelerator`` (auto, cpu, gpu) means on this machine.

    Raises:
        UserError: if a GPU is asked for where there is none, or more GPUs than there are.
    """
    accelerator, devices = settings["accelerator"], settings.get("devices", "auto")
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if accelerator == "cpu" or (accelerator == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise UserError(
            "accelerator=gpu: torch finds no GPU on this machine. Type accelerator=cpu (trainer.accelerator=cpu for "
            "training), or see what is missing: segrun doctor."
        )
    if devices != "auto" and devices > gpus:
        raise UserError(f"trainer.devices={devices}: this machine has {gpus} GPUs. Allowed are auto and 1 to {gpus}.")
    return torch.device("cuda" if torch.cuda.is_available() else "mps")
