"""Checkpoints: best.ckpt by validation mIoU and last.ckpt of the last whole epoch, each written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from torch import nn

from seg_cli.errors import UserError
from seg_cli.runs.atomic import write_bytes
from seg_cli.runs.run import Run


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's files, written atomically: a full disk or a kill leaves the checkpoint that was there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        # Into memory first: a Ctrl-C that meets torch's zip writer on a file comes out as an error of the writer.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer())


class Checkpoints(pl.Callback):
    """Keep the best and the last state of a run.

    best.ckpt holds the weights alone. last.ckpt holds all that is needed to go on.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.best_miou = float("-inf")
        self.best_epoch: int | None = None

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        # A split of void alone has no score; its first epoch is then as good as any.
        miou = float(trainer.callback_metrics.get("val/miou", 0.0))
        if not trainer.sanity_checking and miou > self.best_miou:
            self.best_miou, self.best_epoch = miou, trainer.current_epoch
            trainer.save_checkpoint(self.run.best_checkpoint, weights_only=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.run.last_checkpoint)

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        # An interrupted first epoch leaves something to look at; later ones leave the last whole epoch as it is.
        if isinstance(exception, KeyboardInterrupt | SystemExit) and not self.run.last_checkpoint.exists():
            trainer.save_checkpoint(self.run.last_checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"best_miou": self.best_miou, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_miou, self.best_epoch = state["best_miou"], state["best_epoch"]


def load_model(model: nn.Module, checkpoint: Path) -> None:
    """Fill a model with a checkpoint's weights; no pickle is executed.

    Raises:
        UserError: if the file is missing, damaged, or of another model.
    """
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: this run has no such checkpoint; it ended before its first epoch did.")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        weights = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{checkpoint}: the checkpoint cannot be read ({reason}).") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{checkpoint}: the checkpoint is of another model than config.yaml says ({reason}).") from None
