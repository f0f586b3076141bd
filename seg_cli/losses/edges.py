"""Losses of models that find edges: Takikawa, Acuna, Jampani, Fidler (2019), arXiv:1907.05740, section 3.2.

One teaches the edges, the other makes edges and classes agree. The paper's weights: ``loss=ce+20*edge+dual_task``.

Both look at what a model says of edges, which it says in training alone: in evaluation (``eval()``) a model returns its
logits and nothing else, and the terms are 0 then, so that a validation loss holds the other terms.
"""

import math
from collections.abc import Sequence

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
    batch that are no edges, as in Xie and Tu (2015), arXiv:1504.06375, equation 2. A pixel is a true edge if there are
    two labels within ``width`` pixels of it, across, down or diagonally. Void is no label: a pixel that has void and a
    single label around it does not count, since a boundary may run through the void, and void itself does not.

    Args:
        width: pixels, 1 or more; true edges are twice as wide. Where masks have void along every boundary, it must
            be wider than that by 1 or more, or there are no true edges: 6 for Pascal VOC.

    Raises:
        ValueError: for a width that is no whole number of 1 or more.
    """

    needs_edges = True

    def __init__(self, *, width: int = 2) -> None:
        super().__init__()
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise ValueError(f"width={width}: it must be a whole number of 1 or more.")
        self.width = width

    def compute(self, evidence: Evidence) -> Tensor:
        edges = _edges_of(evidence, self, "edge")
        if edges is None:
            return evidence.valid_count.new_zeros(())
        truth, counts = true_edges(evidence.target, self.width)
        truth, counts = truth.to(edges.dtype), counts.to(edges.dtype)
        total = counts.sum().clamp(min=1)
        share = (truth * counts).sum() / total
        weights = counts * torch.where(truth > 0, 1 - share, share)
        return F.binary_cross_entropy_with_logits(edges, truth, weights, reduction="sum") / total


class DualTask(Term):
    """Edges and classes agree, both ways: equations 4 to 6, each of weight 1.

    From classes to edges (equation 5): mean of ``|z - z_true|`` over the pixels where either is above
    ``boundary_threshold``. z is how steep the probabilities are, ``|grad(G * p)| / sqrt(2)``, with a Gaussian G and the
    length taken over all classes and both directions (equation 4); z_true is the same of the mask. Beside a straight
    boundary z_true is 0.32 with a ``sigma`` of 1, and nowhere is z above 0.71, where each pixel has one label. Void
    does not count, and is the same hole in p and in the mask, so that beside it z is z_true where p is right.

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

    needs_edges = True

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
        predicted, true = steepness(evidence.probs, self.sigma), steepness(truth, self.sigma)  # (N, 1, H, W)
        counts = (torch.maximum(predicted, true) > self.boundary_threshold) & ~_void(evidence.target)
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
        (N, 1, H, W) booleans: there are two labels within the width; the pixel is not void, and there is no void within
        the width, or there are two labels all the same.
    """
    labels = target.float() if target.ndim == 4 else target.float().unsqueeze(1)
    size, is_void = 2 * width + 1, labels == VOID
    highest = F.max_pool2d(labels.masked_fill(is_void, -1), size, 1, width)
    lowest = -F.max_pool2d(-labels.masked_fill(is_void, VOID), size, 1, width)
    edges = (highest > lowest).any(1, keepdim=True)  # where all is void, the highest is below the lowest
    void = _void(target)
    near_void = F.max_pool2d(void.float(), size, 1, width) > 0
    return edges, ~void & (edges | ~near_void)


def steepness(maps: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) probabilities -> (N, 1, H, W) the length of the gradient of all of them, Gaussian-filtered.

    It is divided by the square root of 2, since where one class ends another begins (equation 4). Borders replicate.
    """
    radius = math.ceil(3 * sigma)
    heights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    gaussian = [height / sum(heights) for height in heights]
    # Half the difference of a pixel's neighbours, smoothed: the Gaussian, shifted by one to either side.
    slope = [(one - other) / 2 for one, other in zip([0, 0, *gaussian], [*gaussian, 0, 0], strict=True)]
    across = _along(_along(maps, slope, -1), gaussian, -2)
    down = _along(_along(maps, slope, -2), gaussian, -1)
    squares = (across.square() + down.square()).sum(1, keepdim=True) / 2
    return (squares + 1e-12).sqrt()  # the small number keeps the root's gradient finite where nothing changes


def _along(maps: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """Correlate every map with the taps along an axis; the border is repeated.

    It is written as shifts since the gradients of PyTorch's padding and convolutions are not deterministic on CUDA.
    """
    reach, size = len(taps) // 2, maps.shape[axis]
    first, last = maps.narrow(axis, 0, 1), maps.narrow(axis, size - 1, 1)
    padded = torch.cat([*[first] * reach, maps, *[last] * reach], axis)
    total = torch.zeros_like(maps)
    for start, tap in enumerate(taps):
        total = torch.add(total, padded.narrow(axis, start, size), alpha=tap)
    return total


def no_edges(name: str) -> UserError:
    """What to say where the term of this name has no edges to look at."""
    return UserError(
        f"loss.terms.{name}: it needs a model that finds edges, and this one finds none. Type model=gscnn, or leave "
        f"'{name}' out of the loss."
    )


def _edges_of(evidence: Evidence, term: Term, name: str) -> Tensor | None:
    """The edges' logits in the type of the computation; None in evaluation, where a model gives none."""
    if evidence.edges is None:
        if term.training:
            raise no_edges(name)
        return None
    n, _, h, w = evidence.logits.shape
    if tuple(evidence.edges.shape) != (n, 1, h, w):
        raise ValueError(f"edges are (N, 1, H, W) logits, {(n, 1, h, w)} here; got {tuple(evidence.edges.shape)}")
    return evidence.edges.to(evidence.dtype)


def _void(target: Tensor) -> Tensor:
    """(N, 1, H, W) booleans: where a pixel is void, for one class or more where labels overlap."""
    void = target == VOID
    return void.any(1, keepdim=True) if target.ndim == 4 else void.unsqueeze(1)
