"""What one training step computes: the model, its loss, and the parameters as an optimiser takes them."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seg_cli.losses import Sum
from seg_cli.losses.edges import no_edges
from seg_cli.metrics.counting import Counting
from seg_cli.models.outputs import Outputs
from seg_cli.training.finetune import Finetune, parts_of
from seg_cli.training.precision import shield_dilated_depthwise
from seg_cli.training.schedules import Schedule


class SegmentationTask(pl.LightningModule):
    """One model, one loss, one optimiser.

    Args:
        model: images (N, B, H, W) -> logits (N, num_classes, H, W), or in training ``Outputs``, of which the auxiliary
            logits are weighed by ``model.aux_weight``.
        loss: its terms, and their weights, are logged one by one.
        class_names: as in the label space.
        overlapping: whether a pixel may belong to several classes, so that validation scores each class by itself.
        make_optimizer: parameter groups -> optimiser, as a ``torch.optim`` class with its settings bound.
        schedule: of the learning rate.
        encoder_lr_factor: learning rate of ``model.encoder`` over that of the rest.
        finetune: which parts learn when, and how fast.

    Raises:
        UserError: if the loss needs edges and the model finds none.
    """

    model: nn.Module
    loss: Sum

    def __init__(
        self,
        model: nn.Module,
        loss: Sum,
        *,
        class_names: Iterable[str],
        make_optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Schedule,
        encoder_lr_factor: float,
        finetune: Finetune,
        overlapping: bool = False,
    ) -> None:
        super().__init__()
        for name, term in loss.terms.items():
            if getattr(term, "needs_edges", False) and not getattr(model, "gives_edges", False):
                raise no_edges(name)
        shield_dilated_depthwise(model)
        self.model, self.loss = model, loss
        self.class_names = list(class_names)
        self.counting = Counting(len(self.class_names), overlapping)
        self.schedule, self.finetune = schedule, finetune
        self.make_optimizer, self.encoder_lr_factor = make_optimizer, encoder_lr_factor

    @property
    def parts(self) -> list[str]:
        """The parts of the model, as ``finetune`` names them."""
        return list(parts_of(self.model))

    def training_step(self, images: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """The loss of a batch, and its parts without their weights."""
        return self.loss_of(self.model(images), masks)

    forward = training_step
    """What is wrapped for many devices."""

    def loss_of(self, outputs: Tensor | Outputs, masks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of what the model returned, and its parts without their weights."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, masks)
        total, terms = self.loss(outputs.logits, masks, outputs.edges)
        if outputs.aux:
            aux = torch.stack([self.loss(logits, masks, outputs.edges)[0] for logits in outputs.aux]).sum()
            total, terms = total + cast(float, self.model.aux_weight) * aux, terms | {"aux": aux.detach()}
        return total, terms

    def configure_optimizers(self) -> Optimizer:
        """The optimiser of all parameters, whether they are frozen just now or not."""
        return self.make_optimizer(parameter_groups(self.model, self.encoder_lr_factor, self.finetune))


def parameter_groups(model: nn.Module, encoder_lr_factor: float, finetune: Finetune) -> list[dict[str, Any]]:
    """Groups for an optimiser: each part of the model, with and without weight decay.

    Norms and biases are not decayed: pulling a scale to zero is no prior worth having (He 2018, arXiv:1812.01187,
    section 3.1). ``lr_factor`` of a group multiplies the optimiser's learning rate; ``part`` says what it is of.
    """
    parts = parts_of(model)
    groups = []
    for part, named in parts.items():
        factor = finetune.lr_factor(part, list(parts)) * (encoder_lr_factor if part.startswith("encoder.") else 1.0)
        for decayed in (True, False):
            parameters = [parameter for _, parameter in named if (parameter.ndim > 1) == decayed]
            if parameters:
                decay = {} if decayed else {"weight_decay": 0.0}
                groups.append({"params": parameters, "part": part, "lr_factor": factor, **decay})
    return groups
