"""Training and validation as Lightning runs them."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seg_cli.data.loading import Batch
from seg_cli.errors import UserError
from seg_cli.losses import Sum
from seg_cli.metrics.confusion import count, predict_labels, score
from seg_cli.models.outputs import Outputs
from seg_cli.training.precision import shield_dilated_depthwise
from seg_cli.training.schedules import Schedule


class SegmentationTask(pl.LightningModule):
    """One model, one loss, one optimiser.

    Args:
        model: images (N, C, H, W) -> logits (N, num_classes, H, W), or in training ``Outputs``, of which the auxiliary
            logits are weighed by ``model.aux_weight``.
        loss: its terms, and their weights, are logged one by one.
        class_names: as in the label space.
        make_optimizer: parameter groups -> optimiser, as a ``torch.optim`` class with its settings bound.
        schedule: of the learning rate.
        encoder_lr_factor: learning rate of ``model.encoder`` over that of the rest.
    """

    model: nn.Module
    loss: Sum
    matrix: Tensor
    loss_sum: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: Sum,
        *,
        class_names: Iterable[str],
        make_optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Schedule,
        encoder_lr_factor: float,
    ) -> None:
        super().__init__()
        for name, term in loss.terms.items():
            if getattr(term, "needs_edges", False) and not getattr(model, "gives_edges", False):
                raise UserError(
                    f"loss.terms.{name}: it needs a model that finds edges, and this one finds none. "
                    f"Type model=gscnn, or leave '{name}' out of the loss."
                )
        shield_dilated_depthwise(model)
        self.model, self.loss = model, loss
        self.class_names = list(class_names)
        self.make_optimizer, self.schedule, self.encoder_lr_factor = (
            make_optimizer,
            schedule,
            encoder_lr_factor,
        )
        classes = len(self.class_names)
        self.register_buffer("matrix", torch.zeros(classes, classes, dtype=torch.int64), persistent=False)
        self.register_buffer("loss_sum", torch.zeros(2), persistent=False)  # of the losses, of the images

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(parameter_groups(self.model, self.encoder_lr_factor))
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_factor"]
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(min(1.0, step / steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip for fused optimisers, since they undo the fp16 loss scale inside their step. Undoing
        # it before is what they are prepared for, and in other formats there is no scale.
        if gradient_clip_val is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_train_epoch_start(self) -> None:
        self.loss.epoch = self.current_epoch
        self.trainer.train_dataloader.batch_sampler.set_epoch(self.current_epoch)  # type: ignore[union-attr]
        if self.trainer.fit_loop.is_resuming:
            # Lightning began to draw before it had read from the checkpoint in which epoch it goes on.
            iter(self.trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        self.log("lr", self.trainer.optimizers[0].param_groups[-1]["lr"], sync_dist=True)
        weights = {f"train/loss_weight/{name}": weight for name, weight in self.loss.current_weights().items()}
        self.log_dict(weights, sync_dist=True)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss, terms = self._loss(self.model(batch.images), batch.masks)
        values = {"": loss.detach()} | {f"/{name}": value for name, value in terms.items()}
        size = len(batch.names)
        self.log_dict(
            {f"train/loss{name}": v for name, v in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=size,
            sync_dist=True,
        )
        self.log_dict(
            {f"step/loss{name}": v for name, v in values.items()},
            on_step=True,
            on_epoch=False,
            batch_size=size,
        )
        return loss

    def _loss(self, outputs: Tensor | Outputs, masks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of what a model returned in training, and its parts without their weights."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, masks)
        total, terms = self.loss(outputs.logits, masks, outputs.edges)
        if outputs.aux:
            aux = torch.stack([self.loss(logits, masks, outputs.edges)[0] for logits in outputs.aux]).sum()
            total, terms = total + cast(float, self.model.aux_weight) * aux, terms | {"aux": aux.detach()}
        return total, terms

    def on_validation_epoch_start(self) -> None:
        self.matrix.zero_()
        self.loss_sum.zero_()
        if self.trainer.world_size > 1:
            # Each process has batch-norm statistics of its own; a score is of one model, that of the first process.
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, sizes: list[Batch], batch_index: int) -> None:
        for batch in sizes:
            logits = self.model(batch.images)
            loss, _ = self.loss(logits, batch.masks)
            images = len(batch.names)
            self.loss_sum[0] += loss.detach() * images
            self.loss_sum[1] += images
            self.matrix += count(predict_labels(logits), batch.masks, len(self.class_names)).sum(0)

    def on_validation_epoch_end(self) -> None:
        matrix = self.trainer.strategy.reduce(self.matrix, reduce_op="sum")
        loss_sum = self.trainer.strategy.reduce(self.loss_sum, reduce_op="sum")
        scores = score(matrix.cpu().numpy())
        values = {
            "val/loss": float(loss_sum[0] / loss_sum[1]),
            "val/miou": scores.miou,
            "val/pixel_accuracy": scores.pixel_accuracy,
        }
        values |= {f"val/iou/{name}": float(iou) for name, iou in zip(self.class_names, scores.iou, strict=True)}
        # NaN is the score of what does not occur, and no logger has a place for it.
        self.log_dict({key: value for key, value in values.items() if value == value}, sync_dist=True)


def parameter_groups(model: nn.Module, encoder_lr_factor: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: encoder and the rest, each with and without weight decay.

    Norms and biases are not decayed: pulling a scale to zero is no prior worth having (He 2018, arXiv:1812.01187,
    section 3.1). ``lr_factor`` of a group multiplies the optimiser's learning rate.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_factor": encoder_lr_factor if of_encoder else 1.0,
            **({} if decayed else {"weight_decay": 0.0}),
        }
        for (of_encoder, decayed), parameters in groups.items()
    ]
