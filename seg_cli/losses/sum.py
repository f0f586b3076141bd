"""The sum of losses: what ``loss=ce+2*dice`` becomes."""

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.losses.evidence import Term, evidence_of, no_autocast

Weight = float | Callable[[int], float]
"""A number, or a function of the epoch, counted from 0."""


class Sum(nn.Module):
    """A weighted sum of terms that share one softmax.

    Args:
        terms: name -> term.
        weights: name -> weight, one for each term.

    Attributes:
        epoch: in which weights are taken that change; the training loop sets it.

    Raises:
        UserError: if terms and weights do not have the same names, or a weight is negative or not finite.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, Weight]) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise UserError(
                f"loss: the terms are {', '.join(terms) or 'none'} and the weights are for "
                f"{', '.join(weights) or 'none'}; each term needs one weight: loss.weights.<term>=NUMBER."
            )
        for name, weight in weights.items():
            if not callable(weight) and not (isinstance(weight, int | float) and 0 <= weight < math.inf):
                raise UserError(
                    f"loss.weights.{name}={weight}: a weight must be 0 or more, or a schedule such as "
                    "{_target_: seg_cli.losses.Ramp, start: 0.01, end: 1.0, epochs: 20}."
                )
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.epoch = 0

    def current_weights(self) -> dict[str, float]:
        """The weight of each term in this epoch."""
        return {name: float(w(self.epoch) if callable(w) else w) for name, w in self.weights.items()}

    def forward(self, logits: Tensor, target: Tensor, edges: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term's own value.

        Args:
            logits: (N, C, H, W).
            target: (N, H, W) class indices, or (N, C, H, W) zeros and ones where labels overlap; 255 for void.
            edges: (N, 1, H, W) edge logits, of models that have them.
        """
        evidence, weights = evidence_of(logits, target, edges), self.current_weights()
        with no_autocast(logits):
            values = {name: cast(Term, term).compute(evidence) for name, term in self.terms.items()}
            total = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}
