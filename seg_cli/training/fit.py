"""One training run: the loop with all that it needs, begun or gone on with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from pytorch_lightning.loggers.logger import Logger
from torch import nn

from seg_cli.data.datamodule import DataModule
from seg_cli.inference.memory import give_back_freed_memory, keep_freed_memory
from seg_cli.runs.run import Run
from seg_cli.training.averaging import Average, AveragedModel
from seg_cli.training.companions import Companions
from seg_cli.training.loop import Loop
from seg_cli.training.progress import TrainingDisplay
from seg_cli.training.signals import StopSignals
from seg_cli.training.stages import Plan
from seg_cli.training.task import SegmentationTask


@dataclass(frozen=True)
class Fitted:
    """How training went: epochs count from 1, ``seconds`` are those of training and scoring, over all sittings."""

    best_epoch: int
    epochs: int
    seconds: float
    data_wait: float | None
    """Share of the time of training steps in which they waited for data, in the latest sitting."""


def fit(
    task: SegmentationTask,
    data: DataModule,
    run: Run,
    *,
    fabric: Fabric,
    plan: Plan,
    settings: Mapping[str, Any],
    mode: str,
    average: Average | None,
    loggers: list[Logger],
    identity: Mapping[str, Any],
    image_size: tuple[int, int],
    checkpoint: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train until the epochs are done or early stopping ends it; checkpoints and the record go to ``run``.

    Args:
        fabric: the processes, launched.
        plan: stages, batches and steps.
        settings: the ``trainer`` group.
        mode: a resolved precision, see ``precision.resolve``.
        average: how weights are averaged; None leaves them as they are.
        loggers: of the first process.
        identity: plain values that every checkpoint holds besides: what it is of.
        image_size: (height, width) of an image, to show how large a stage's are.
        checkpoint: a last.ckpt to go on from; None begins.

    Raises:
        KeyboardInterrupt: if the user or the system asked for an end; last.ckpt is of the latest step then.
        RunFailed: if the loss is not finite, the disk is full, memory does not do for a single sample, or another
            process is gone.
    """
    set_backends(deterministic=settings["deterministic"])
    keep_freed_memory()
    if settings["sync_batchnorm"] and fabric.world_size > 1 and fabric.device.type == "cuda":
        task.model = nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
    averaged = AveragedModel(task.model, average) if average is not None else None
    if settings["compile"]:
        task.model.compile()
    display = TrainingDisplay(
        plan,
        image=image_size,
        validate_every=settings["validate_every"],
        quiet=not fabric.is_global_zero,
    )

    def note_failure(sentence: str) -> None:
        if fabric.is_global_zero:
            run.write_status("failed", reason=sentence)

    with StopSignals() as stop, Companions(fabric, on_loss=note_failure):
        loop = Loop(
            task,
            data,
            run,
            fabric=fabric,
            plan=plan,
            settings=settings,
            mode=mode,
            average=averaged,
            loggers=loggers,
            display=display,
            stop=stop,
            identity=identity,
        )
        if checkpoint is not None:
            loop.restore(checkpoint)
        try:
            loop.run()
        finally:
            display.close()
            give_back_freed_memory()
    assert loop.at.best_epoch is not None
    return Fitted(loop.at.best_epoch + 1, loop.at.epoch, loop.at.seconds, loop.waiting.share)


def set_backends(*, deterministic: bool) -> None:
    """TensorFloat-32 where the device has it, and the fastest kernels; or, if asked for, only those that give the same
    bits every time."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
