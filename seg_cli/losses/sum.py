"""The sum of losses: what ``loss=ce+2*dice`` becomes."""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.losses.evidence import Evidence, Term


class Sum(nn.Module):
    """A weighted sum of terms that share one softmax.

    Args:
        terms: name -> term.
        weights: name -> weight, one for each term.

    Raises:
        UserError: if terms and weights do not have the same names, or a weight is negative or not finite.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise UserError(
                f"loss: the terms are {', '.join(terms) or 'none'} and the weights are for "
                f"{', '.join(weights) or 'none'}; each term needs one weight: loss.weights.<term>=NUMBER."
            )
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise UserError(f"loss.weights.{name}={weight}: a weight must be 0 or more.")
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def forward(self, logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, C, H, W) logits and (N, H, W) targets -> the weighted sum, and each term's own value without weight."""
        evidence = Evidence(logits, target)
        values = {name: cast(Term, term).compute(evidence) for name, term in self.terms.items()}
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return total, {name: value.detach() for name, value in values.items()}
