"""What watches a run while it trains: its record on disk, and whether the loss is still a number."""

from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from seg_cli.data.loading import Batch
from seg_cli.errors import RunFailed
from seg_cli.runs.run import Run


class Record(pl.Callback):
    """metrics.csv and status.json, brought up to date after each epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[dict[str, float | None]] = []
        self.validated = False

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        # Lightning goes on showing the scores of an earlier epoch where this one was not validated.
        unwanted = ("step/",) if self.validated else ("step/", "val/")
        self.validated = False
        metrics = {key: value for key, value in trainer.callback_metrics.items() if not key.startswith(unwanted)}
        order = sorted(metrics, key=lambda key: ("lr", "train", "val").index(key.partition("/")[0]))
        values = {key: float(metrics[key]) for key in order}
        self.rows.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **values})
        if trainer.is_global_zero:
            self.run.write_metrics(self.rows)
            self.run.write_status("running", epoch=trainer.current_epoch + 1, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class FiniteLoss(pl.Callback):
    """Stop as soon as the loss is not finite, and say at which step and on which images.

    Looking at the loss means waiting for the device, so that it is looked at every ``every`` steps, for all of them.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.recent: deque[tuple[int, list[str], Tensor]] = deque()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Batch, batch_index: int
    ) -> None:
        self.recent.append((trainer.global_step, batch.names, outputs["loss"].detach()))
        if len(self.recent) >= self.every:
            self._check()

    def on_validation_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._check()  # or weights that are no numbers would be scored, and kept as the best of a first epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._check()

    def _check(self) -> None:
        if not self.recent:
            return
        finite = torch.stack([loss for _, _, loss in self.recent]).isfinite().tolist()
        for (step, names, loss), fine in zip(self.recent, finite, strict=True):
            if not fine:
                raise RunFailed(
                    f"The loss is {float(loss)} at step {step}, on the images {', '.join(names)}. Training "
                    "has stopped; the checkpoints of earlier epochs are kept. Try a smaller optimizer.lr, "
                    "precision=fp32, or a smaller trainer.gradient_clip."
                )
        self.recent.clear()
