"""``average=none|ema|swa``: weights averaged over training, which are scored and kept in place of the last ones."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.training.shards import whole


class Average(Protocol):
    """Decides how much of the model goes into the average.

    Attributes:
        recalibrate: training batches from which batch norms take new statistics before the average is scored.
    """

    recalibrate: int

    def share(self, averaged: int, progress: float, *, epoch_ends: bool) -> float | None:
        """The model's share in the new average; None leaves the average as it is.

        Args:
            averaged: how many models are in it.
            progress: share of training done, 0 to 1.
            epoch_ends: whether this is the last step of an epoch.
        """
        ...


def no_average() -> None:
    """``average=none``: the weights as the last step left them."""


class Ema:
    """Exponential moving average: after each step the model's share is ``1 - decay``.

    Polyak, Juditsky (1992); with the warm-up of Izmailov's later users, so that the first, random weights are soon
    forgotten: the decay is at most ``(1 + n) / (10 + n)`` after n steps.

    Args:
        decay: 0 to below 1.

    Raises:
        UserError: if it is outside.
    """

    recalibrate = 0

    def __init__(self, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"average.decay={decay}: it must be 0 or more and below 1.")
        self.decay = decay

    def share(self, averaged: int, progress: float, *, epoch_ends: bool) -> float | None:
        return 1 - min(self.decay, (1 + averaged) / (10 + averaged))


class Swa:
    """Stochastic weight averaging: the plain mean of the models at the ends of the last epochs.

    Izmailov (2018), arXiv:1803.05407. The mean of batch statistics is not the statistics of the mean network, so they
    are taken anew from training batches.

    Args:
        start: share of the run after which models go into the mean; until then there is no average.
        recalibrate: training batches for the new statistics.

    Raises:
        UserError: if ``start`` is no share or ``recalibrate`` no number of batches.
    """

    def __init__(self, *, start: float = 0.75, recalibrate: int = 50) -> None:
        if not 0 <= start < 1:
            raise UserError(f"average.start={start}: it is a share of the run, 0 or more and less than 1.")
        if not (isinstance(recalibrate, int) and recalibrate >= 1):
            raise UserError(f"average.recalibrate={recalibrate}: it is a number of batches, 1 or more.")
        self.start, self.recalibrate = start, recalibrate

    def share(self, averaged: int, progress: float, *, epoch_ends: bool) -> float | None:
        return 1 / (averaged + 1) if epoch_ends and progress > self.start else None


class AveragedModel:
    """The average, in a copy of the model.

    Args:
        model: that is trained.
        average: how.

    Attributes:
        model: the average; of no use before ``averaged`` is above 0.
        averaged: how many models are in it.
    """

    def __init__(self, model: nn.Module, average: Average) -> None:
        self.average = average
        self.model = deepcopy(model).requires_grad_(False)
        self.averaged = 0

    @torch.no_grad()
    def update(self, model: nn.Module, progress: float, *, epoch_ends: bool) -> None:
        """Take in the model as it is after a step."""
        share = self.average.share(self.averaged, progress, epoch_ends=epoch_ends)
        if share is None:
            return
        if self.averaged == 0:
            share = 1.0
        ours, theirs = self.model.state_dict(), whole(model.state_dict())
        floats = [key for key, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[key] for key in floats], [theirs[key].detach() for key in floats], share)
        for key in ours.keys() - floats:
            ours[key].copy_(theirs[key])
        self.averaged += 1

    @torch.no_grad()
    def recalibrate(self, images: Iterable[Tensor]) -> None:
        """New statistics for the batch norms, the plain mean over batches of images (N, B, H, W) in 0..255."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        self.model.train()
        device = next(self.model.parameters()).device
        # Dropout draws here too, and training is to draw on as if nobody had.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in images:
                self.model(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self.averaged, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averaged = state["averaged"]
        self.model.load_state_dict(state["model"])
