"""What is done to scores after the model: a dense CRF, small parts taken away, holes filled.

Every step goes from scores to scores, so that labels, thresholds and probabilities agree however many steps there are.
Where a step wants another label at a pixel, the two classes exchange their scores; where labels overlap, a class that
is to change its answer gets a score as far on the other side of the threshold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from seg_cli.inference.components import holes, small_components, without_holes, without_small
from seg_cli.metrics.counting import Counting
from seg_cli.models.crf import DenseCRF

FILLS = ("surroundings", "scores")


class Step(Protocol):
    """A step of post-processing."""

    def __call__(self, scores: Tensor, images: Tensor, counting: Counting) -> Tensor:
        """(N, C, H, W) float32 scores, better ones.

        Args:
            scores: (N, C, H, W) float32 logits, which may be written to.
            images: (N, B, H, W) pixel values in 0..255.
            counting: how scores become labels.
        """
        ...


class Postprocess:
    """Steps one after another.

    Args:
        steps: name -> step, in the order in which they are taken.
    """

    def __init__(self, *, steps: Mapping[str, Step]) -> None:
        self.steps = steps

    def __call__(self, scores: Tensor, images: Tensor, counting: Counting) -> Tensor:
        """Scores (N, C, H, W) of images (N, B, H, W), after all steps; without any, as they are."""
        if self.steps:
            scores = scores.to(torch.float32, copy=True)
        for step in self.steps.values():
            scores = step(scores, images, counting)
        return scores


class Crf:
    """A dense CRF over the scores and the colours of the image, see ``models.crf.DenseCRF``, also for the settings.

    Where labels overlap, each class has one of its own, of yes and no.
    """

    def __init__(
        self,
        *,
        iterations: int = 10,
        window: int = 11,
        appearance: Sequence[float] = (4, 67, 3),
        smoothness: Sequence[float] = (3, 3),
    ) -> None:
        self.crf = DenseCRF(iterations=iterations, window=window, appearance=appearance, smoothness=smoothness)

    def __call__(self, scores: Tensor, images: Tensor, counting: Counting) -> Tensor:
        if not counting.overlapping:
            return self.crf(scores, images)
        for plane in scores.split(1, 1):  # (N, 1, H, W)
            no, yes = self.crf(torch.cat((torch.zeros_like(plane), plane), 1), images).split(1, 1)
            plane.copy_(yes - no)
        return scores


class Components:
    """Takes small connected parts of a class away; pixels that touch at a corner are connected.

    Args:
        min_pixels: parts with fewer pixels are small.
        fill: what becomes of their pixels: the class that most of their rim borders on (``surroundings``), or each
            pixel's class with the second-best score (``scores``). Where labels overlap the answer is no.

    Raises:
        ValueError: if a setting is not allowed.
    """

    def __init__(self, *, min_pixels: int, fill: str = "surroundings") -> None:
        if min_pixels < 1:
            raise ValueError(f"min_pixels={min_pixels}: 1 or more is allowed.")
        if fill not in FILLS:
            raise ValueError(f"fill={fill}: {' and '.join(FILLS)} are allowed.")
        self.min_pixels, self.fill = min_pixels, fill

    def __call__(self, scores: Tensor, images: Tensor, counting: Counting) -> Tensor:
        if counting.overlapping:
            return _answer_otherwise(scores, counting, lambda plane: small_components(plane, self.min_pixels))
        return _relabel(scores, counting, lambda labels, scores: self._clean(labels, scores))

    def _clean(self, labels: np.ndarray, scores: Tensor) -> np.ndarray:
        if self.fill == "surroundings" or len(scores) < 2:
            return without_small(labels, self.min_pixels)
        small = np.zeros(labels.shape, bool)
        for label in np.unique(labels):
            small |= small_components(labels == label, self.min_pixels)
        second = scores.topk(2, dim=0).indices[1].cpu().numpy()
        return np.where(small, second, labels)


class Holes:
    """Fills what one class encloses with that class. A hole touches itself at sides, and no border of the image.

    Args:
        max_pixels: larger holes stay; None fills all, a car on a road too.

    Raises:
        ValueError: if it is less than 1.
    """

    def __init__(self, *, max_pixels: int | None) -> None:
        if max_pixels is not None and max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels}: 1 or more is allowed, or null for holes of any size.")
        self.max_pixels = max_pixels

    def __call__(self, scores: Tensor, images: Tensor, counting: Counting) -> Tensor:
        if counting.overlapping:
            return _answer_otherwise(scores, counting, lambda plane: holes(plane, self.max_pixels))
        return _relabel(scores, counting, lambda labels, _: without_holes(labels, self.max_pixels))


def _relabel(scores: Tensor, counting: Counting, change: Callable[[np.ndarray, Tensor], np.ndarray]) -> Tensor:
    """Scores by which the labels of each image are what ``change`` makes of its labels and (C, H, W) scores."""
    labels = counting.predict(scores)  # (N, H, W)
    wanted = torch.stack(
        [
            torch.from_numpy(change(own.cpu().numpy(), its_scores)).to(labels)
            for own, its_scores in zip(labels, scores, strict=True)
        ]
    )
    image, row, column = (wanted != labels).nonzero(as_tuple=True)
    old, new = labels[image, row, column], wanted[image, row, column]
    best, other = scores[image, old, row, column], scores[image, new, row, column]
    scores[image, new, row, column] = best
    # Of equal scores the first class would win, which may be the old one.
    scores[image, old, row, column] = torch.minimum(other, best.nextafter(torch.full_like(best, -torch.inf)))
    return scores


def _answer_otherwise(scores: Tensor, counting: Counting, which: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Scores by which each class of each image answers otherwise where ``which`` says so of its (H, W) answers."""
    answers = counting.predict(scores)  # (N, C, H, W)
    changes = np.stack([which(plane) for plane in answers.flatten(0, 1).cpu().numpy()])
    other = torch.from_numpy(changes).view(answers.shape).to(scores.device)
    threshold = torch.as_tensor(counting.threshold, dtype=torch.float32, device=scores.device)
    limit = threshold.logit(eps=1e-6).view(-1, 1, 1)
    mirrored = 2 * limit - scores
    margin = 1e-6 * (1 + limit.abs())
    mirrored = torch.where(answers, torch.minimum(mirrored, limit - margin), torch.maximum(mirrored, limit + margin))
    return torch.where(other, mirrored, scores)
