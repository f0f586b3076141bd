"""Losses of models that find edges: Takikawa, Acuna, Jampani, Fidler (2019), arXiv:1907.05740, section 3.2.

One teaches the edges, the other makes edges and classes agree. The paper's weights: ``loss=ce+20*edge+dual_task``.

Both look at what a model says of edges, which it says in training alone: in evaluation (``eval()``) a model returns its
logits and nothing else, and the terms are 0 then, so that a validation loss holds the other terms.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.losses.evidence import Evidence, Term
from seg_cli.losses.settings import check_number


class EdgeLoss(Term):
    """Binary cross-entropy of the edges, in which edges and all else weigh the same in total.

    Mean over the pixels that count of ``-b y log s - (1 - b) (1 - y) log (1 - s)``, b being the share of pixels in the
    batch that are no edges, as in Xie and Tu (2015), arXiv:1504.06375, equation 2. A pixel is a true edge if there is
    another label within ``width`` pixels of it, across, down or diagonally. Pixels with void within ``width`` do not
    count: the boundary may run through it.

    Args:
        width: pixels, 1 or more; true edges are twice as wide.

    Raises:
        ValueError: for a width below 1.
    """

    def __init__(self, *, width: int = 2) -> None:
        super().__init__()
        self.width = int(check_number("width", width, low=1))

    def compute(self, evidence: Evidence) -> Tensor:
        edges = _edges_of(evidence, self, "edge")
        if edges is None:
            return evidence.valid_count.new_zeros(())
        truth, counts = true_edges(evidence.target, self.width)
        truth, counts = truth.to(edges.dtype), counts.to(edges.dtype)
        total = counts.sum().clamp(min=1)
        share = (truth * counts).sum() / total
        weights = counts * torch.where(truth > 0, 1 - share, share)
        # The larger of a logit's two sides is computed from the smaller one, so that certainty is finite.
        return F.binary_cross_entropy_with_logits(edges, truth, weights, reduction="sum") / total


class DualTask(Term):
    """Edges and classes agree, both ways: equations 4 to 6, each of weight 1.

    From classes to edges (equation 5): mean of ``|z - z_true|`` over the pixels where either is above
    ``boundary_threshold``. z is how steep the probabilities are, ``|grad(G * p)| / sqrt(2)``, with a Gaussian G and the
    length taken over all classes and both directions (equation 4); z_true is the same of the mask. On a straight
    boundary z_true is 0.4 / ``sigma``, and nowhere is z above 0.71. Pixels near void, from where the Gaussian reaches
    it, do not count.

    From edges to classes (equation 6): cross-entropy, mean over the valid pixels where the predicted edge is surer than
    ``edge_threshold``. No gradient goes to the edges.

    What differs from the paper: sums are means, so that a size of image does not change the weights; and equation 4 has
    the argmax, which the paper samples by a Gumbel softmax so as to have a gradient. Here it is the softmax itself,
    without noise: the same input gives the same loss, and a boundary that is predicted without certainty is a fainter
    one.

    Args:
        sigma: of the Gaussian, in pixels, above 0.
        boundary_threshold: of z, 0 or more.
        edge_threshold: probability of an edge, in 0..1; the paper's is 0.8.

    Raises:
        ValueError: for settings outside these bounds.
    """

    def __init__(self, *, sigma: float = 1.0, boundary_threshold: float = 0.05, edge_threshold: float = 0.8) -> None:
        super().__init__()
        self.sigma = check_number("sigma", sigma, above=True)
        self.boundary_threshold = check_number("boundary_threshold", boundary_threshold)
        self.edge_threshold = check_number("edge_threshold", edge_threshold, high=1)

    def compute(self, evidence: Evidence) -> Tensor:
        edges = _edges_of(evidence, self, "dual_task")
        if edges is None:
            return evidence.valid_count.new_zeros(())
        return self.boundaries(evidence) + self.at_edges(evidence, edges)

    def boundaries(self, evidence: Evidence) -> Tensor:
        """From classes to edges."""
        truth = torch.stack([evidence.truth(index) for index in range(evidence.num_classes)], 1)
        radius = math.ceil(3 * self.sigma)
        predicted, true = steepness(evidence.probs, self.sigma), steepness(truth, self.sigma)  # (N, 1, H, W)
        void = _void(evidence.target)
        counts = (torch.maximum(predicted, true) > self.boundary_threshold) & ~_within(void, radius + 1)
        counts = counts.to(predicted.dtype)
        return ((predicted - true).abs() * counts).sum() / counts.sum().clamp(min=1)

    def at_edges(self, evidence: Evidence, edges: Tensor) -> Tensor:
        """From edges to classes."""
        sure = (edges.sigmoid() > self.edge_threshold).to(evidence.dtype)  # (N, 1, H, W)
        counts = evidence.valid * (sure if evidence.overlapping else sure.squeeze(1))
        return -(evidence.true_log_prob * counts).sum() / counts.sum().clamp(min=1)


def true_edges(target: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Where the labels of a target change, and where that can be said.

    Args:
        target: (N, H, W) class indices, or (N, C, H, W) zeros and ones where labels overlap; 255 for void.
        width: pixels; how far the other label may be, across, down or diagonally.

    Returns:
        (N, 1, H, W) booleans: there is another label within the width; there is no void within the width.
    """
    labels = target.float() if target.ndim == 4 else target.float().unsqueeze(1)
    size = 2 * width + 1
    highest = F.max_pool2d(labels, size, 1, width)
    lowest = -F.max_pool2d(-labels, size, 1, width)
    return (highest != lowest).any(1, keepdim=True), ~_within(_void(target), width)


def steepness(maps: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) probabilities -> (N, 1, H, W) the length of the gradient of all of them, Gaussian-filtered.

    It is divided by the square root of 2, since where one class ends another begins (equation 4). Borders replicate.
    """
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    gaussian = torch.softmax(-offsets.square() / (2 * sigma**2), 0)
    slope = F.pad(gaussian, (0, 2)) - F.pad(gaussian, (2, 0))  # the Gaussian, then half of right minus left
    smooth, slope = F.pad(gaussian, (1, 1)), slope / 2
    squares = _along(_along(maps, slope, -1), smooth, -2).square() + _along(_along(maps, smooth, -1), slope, -2).square()
    # The small number keeps the root's gradient finite where nothing changes.
    return (squares.sum(1, keepdim=True) / 2 + 1e-12).sqrt()


def _along(maps: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Correlate every channel with the taps along an axis, -1 or -2."""
    n, c, h, w = maps.shape
    reach = len(taps) // 2
    padding = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
    padded = F.pad(maps.reshape(n * c, 1, h, w), padding, mode="replicate")
    return F.conv2d(padded, taps.view(1, 1, 1, -1) if axis == -1 else taps.view(1, 1, -1, 1)).view(n, c, h, w)


def _edges_of(evidence: Evidence, term: Term, name: str) -> Tensor | None:
    """The edges' logits in the type of the computation; None in evaluation, where a model gives none."""
    if evidence.edges is None:
        if term.training:
            raise UserError(
                f"loss.terms.{name}: it needs a model that finds edges, and this one finds none. "
                f"Type model=gscnn, or leave '{name}' out of the loss."
            )
        return None
    n, _, h, w = evidence.logits.shape
    if tuple(evidence.edges.shape) != (n, 1, h, w):
        raise ValueError(f"edges are (N, 1, H, W) logits, {(n, 1, h, w)} here; got {tuple(evidence.edges.shape)}")
    return evidence.edges.to(evidence.dtype)


def _void(target: Tensor) -> Tensor:
    """(N, 1, H, W) booleans: where a pixel is void, for one class or more where labels overlap."""
    void = target == VOID
    return void.any(1, keepdim=True) if target.ndim == 4 else void.unsqueeze(1)


def _within(mask: Tensor, distance: int) -> Tensor:
    """Which pixels have one of the mask within a distance, across, down or diagonally."""
    return F.max_pool2d(mask.float(), 2 * distance + 1, 1, distance) > 0
