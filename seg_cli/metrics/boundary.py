"""How good boundaries are: boundary F-score, boundary IoU and trimap IoU.

F-score: Csurka, Larlus, Perronnin (2013), BMVC; Perazzi et al. (2016), CVPR, as Takikawa et al. (2019),
arXiv:1907.05740, use it. Boundary IoU: Cheng et al. (2021), arXiv:2103.16562. Trimap: Kohli, Ladicky, Torr (2009).

What is void in the truth is void in the prediction too, and a boundary is only where two labels meet: the step from a
class into the void is none, and what a model says of void pixels changes nothing. So boundaries are drawn around void
and not along it, as they would be if void pixels were given some label first.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses.settings import check_number
from seg_cli.metrics.metric import SCALE, by_name, fixed, mean, number, overlaps, pixels_by_class, ratio

_NO_BOUNDARY = 254  # of a prediction; a truth has VOID there, so that no match is found between the two


class Boundary:
    """Boundary F-score at several tolerances, boundary IoU, and IoU in bands around the true boundaries.

    Boundary F-score. The boundary of a class are its pixels that have one of another label above, below, left or right.
    Precision is the share of the predicted boundary pixels of a class from which a true one of the class is not farther
    than the tolerance (Euclidean), recall the share of the true ones from which a predicted one is not, and
    F = 2PR / (P + R). ``f`` takes the shares over all images (one number of pixels); ``image_f`` is the mean of the F
    of each image in which the class has a boundary in truth or prediction, 0 where it has one in one of them alone,
    as the papers have it.

    Boundary IoU. IoU of the two bands of a class: its pixels that have one of another label, or the outside of the
    image, within d pixels in both directions, with d = ``width`` times the image's diagonal, rounded, 1 or more.
    Pixels are summed over the images.

    Trimap IoU. IoU over the pixels around the true boundaries of all classes; around those of its own for each class
    where labels overlap. A width of w is w pixels on either side of a straight boundary: all at most w - 1 (Euclidean)
    from a boundary pixel.

    Args:
        tolerances: 1 or more are pixels; below that it is a share of the diagonal of the image, rounded up to whole
            pixels. None measures no F-score.
        width: share of the diagonal, above 0 and below 1.
        trimap: widths in pixels.

    Raises:
        ValueError: for settings outside these bounds, or a number that stands there twice.
    """

    def __init__(
        self,
        *,
        tolerances: Sequence[float] = (0.00088, 0.001875, 0.00375, 0.005),
        width: float = 0.02,
        trimap: Sequence[int] = (1, 2, 4, 8, 16),
    ) -> None:
        self.tolerances = [check_number("tolerances", tolerance) for tolerance in tolerances]
        self.width = check_number("width", width, high=1, above=True)
        self.trimap = [int(check_number("trimap", pixels, low=1)) for pixels in trimap]
        if len(set(tolerances)) < len(tolerances) or len(set(self.trimap)) < len(trimap):
            raise ValueError(f"tolerances={list(tolerances)}, trimap={list(trimap)}: a number stands there twice.")

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        self._names = list(names)
        rows = 6 * len(self.tolerances) + 2 + 2 * len(self.trimap)
        self._state = torch.zeros(rows, num_classes, dtype=torch.int64, device=device)
        self._image_f: list[Tensor] = []
        self._image_overlaps: list[Tensor] = []

    def state(self) -> Tensor:
        return self._state

    def _parts(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views: (tolerances, 6, C) of the F-score, (2, C) of boundary IoU, (widths, 2, C) of the trimaps."""
        c, scores = state.shape[1], 6 * len(self.tolerances)
        return state[:scores].view(-1, 6, c), state[scores : scores + 2], state[scores + 2 :].view(-1, 2, c)

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        c = self._state.shape[1]
        # Where labels overlap, a plane is an image of its own with the labels 0 and 1, of which only 1 is counted.
        truth = masks.flatten(0, -3)  # (M, H, W)
        predicted = predictions.to(torch.uint8).flatten(0, -3).masked_fill(truth == VOID, VOID)

        def pixels(labels: Tensor) -> Tensor:
            """(M, H, W) -> (N, C)"""
            return (labels == 1).flatten(1).sum(1).view(-1, c) if masks.ndim == 4 else pixels_by_class(labels, c)

        f_scores, bands, trimaps = self._parts(self._state)
        true_edges = edges(truth)
        predicted_boundary = torch.where(edges(predicted), predicted, _NO_BOUNDARY)
        self._count_matches(f_scores, predicted_boundary, torch.where(true_edges, truth, VOID), pixels)

        reach = max(1, round(self.width * math.hypot(*masks.shape[-2:])))
        true_band, predicted_band = (torch.where(near_other(x, reach), x, VOID) for x in (truth, predicted))
        both = pixels(torch.where(true_band == predicted_band, true_band, VOID))
        overlap = torch.stack((both, pixels(true_band) + pixels(predicted_band) - both), 1)  # (N, 2, C)
        bands += overlap.sum(0)
        self._image_overlaps.append(overlap)

        for width, sums in zip(self.trimap, trimaps, strict=True):
            band = disc(true_edges, width - 1).view(masks.shape)
            sums += overlaps(predictions, masks.masked_fill(~band, VOID), c).sum(0)

    def _count_matches(
        self, sums: Tensor, predicted: Tensor, truth: Tensor, pixels: Callable[[Tensor], Tensor]
    ) -> None:
        """Add the matches of two maps of boundary pixels (M, H, W) to (tolerances, 6, C); pixels gives (N, C)."""
        diagonal = math.hypot(*truth.shape[-2:])
        reaches = [t if t >= 1 else math.ceil(t * diagonal) for t in self.tolerances]
        totals = pixels(predicted), pixels(truth)
        found = {}
        for reach, hit, recalled in matches(predicted, truth, sorted(set(reaches))):
            hits = pixels(predicted.masked_fill(~hit, VOID)), pixels(truth.masked_fill(~recalled, VOID))
            found[reach] = torch.stack((totals[0], hits[0], totals[1], hits[1]), 1)  # (N, 4, C)
        image_f = []
        for reach, row in zip(reaches, sums, strict=True):
            counts = found[reach]
            precision, recall = (counts[:, i + 1] / counts[:, i].clamp(min=1) for i in (0, 2))
            f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)  # (N, C)
            occurs = counts[:, 0] + counts[:, 2] > 0
            row[:4] += counts.sum(0)
            row[4] += fixed(f).sum(0)
            row[5] += occurs.sum(0)
            image_f.append(f.masked_fill(~occurs, math.nan))
        if image_f:
            self._image_f.append(torch.stack(image_f, 1))  # (N, tolerances, C)

    def results(self) -> dict[str, Any]:
        f_scores, bands, trimaps = (part.cpu().numpy() for part in self._parts(self._state))
        iou = ratio(bands[0], bands[1])
        return {
            "f": [self._f_result(*found) for found in zip(self.tolerances, f_scores, strict=True)],
            "iou": {"width": self.width, "mean": number(mean(iou)), "classes": by_name(self._names, iou)},
            "trimap": [
                {"pixels": width, "miou": number(mean(ratio(*sums))), "classes": by_name(self._names, ratio(*sums))}
                for width, sums in zip(self.trimap, trimaps, strict=True)
            ],
        }

    def _f_result(self, tolerance: float, counts: np.ndarray) -> dict[str, Any]:
        predicted, hits, true, recalled, image_f, images = counts
        precision, recall = ratio(hits, predicted), ratio(recalled, true)
        missed = np.where(predicted + true > 0, 0, np.nan)
        f = np.where(hits > 0, ratio(2 * precision * recall, precision + recall), missed)
        columns = {"f": f, "image_f": ratio(image_f / SCALE, images), "precision": precision, "recall": recall}
        return {
            "tolerance": tolerance,
            **{key: number(mean(values)) for key, values in columns.items()},
            "classes": {
                name: {key: number(values[i]) for key, values in columns.items()} for i, name in enumerate(self._names)
            },
        }

    def per_image(self) -> dict[str, np.ndarray]:
        """Means over the classes that have a boundary (``boundary_f@<tolerance>``) or a band (``boundary_iou``)."""
        if not self._image_overlaps:
            return {}
        columns = {}
        if self._image_f:
            f_scores = mean(torch.cat(self._image_f).cpu().numpy(), 2)  # (images, tolerances)
            columns = {f"boundary_f@{t:g}": column for t, column in zip(self.tolerances, f_scores.T, strict=True)}
        counts = torch.cat(self._image_overlaps).cpu().numpy()
        return columns | {"boundary_iou": mean(ratio(counts[:, 0], counts[:, 1]), 1)}


def edges(labels: Tensor) -> Tensor:
    """(M, H, W) uint8 labels, 255 for void -> (M, H, W) booleans: one of the four neighbours has another label."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (1, 2):
        size = labels.shape[axis] - 1
        one, other = labels.narrow(axis, 0, size), labels.narrow(axis, 1, size)
        differ = (one != other) & (one != VOID) & (other != VOID)
        found.narrow(axis, 0, size).logical_or_(differ)
        found.narrow(axis, 1, size).logical_or_(differ)
    return found


def matches(one: Tensor, other: Tensor, reaches: Sequence[float]) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Which pixels of two maps have an equal one in the other map within reach.

    All classes are looked at in one go: a pixel has one label, so equal labels at a distance are all there is to find.
    The two maps are laid over one another, shifted by every step of a disc that grows. That takes time with the square
    of the reach, and no time with the number of classes.

    Args:
        one, other: (M, H, W); values that must not match are different in the two.
        reaches: in pixels, ascending.

    Yields:
        A reach, and (M, H, W) booleans for one and for other, which the next step changes.
    """
    height, width = one.shape[-2:]
    limit = int(reaches[-1]) if reaches else 0
    steps = sorted(
        (dy * dy + dx * dx, dy, dx)
        for dy in range(-min(limit, height - 1), min(limit, height - 1) + 1)
        for dx in range(-min(limit, width - 1), min(limit, width - 1) + 1)
    )
    in_one, in_other = torch.zeros_like(one, dtype=torch.bool), torch.zeros_like(other, dtype=torch.bool)
    done = 0
    for reach in reaches:
        while done < len(steps) and steps[done][0] <= reach * reach:
            _, dy, dx = steps[done]
            here = (..., slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
            there = (..., slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx)))
            equal = one[here] == other[there]
            in_one[here].logical_or_(equal)
            in_other[there].logical_or_(equal)
            done += 1
        yield reach, in_one, in_other


def near_other(labels: Tensor, reach: int) -> Tensor:
    """(M, H, W) uint8 labels -> booleans: another label, or the image's outside, is within reach across and down.

    That is what is left of a label after ``reach`` erosions with a 3x3 square, with an image whose outside is of no
    class; void pixels are skipped.
    """
    # Both of them are 0 where a window has only void, so void wins in neither.
    highest, lowest = _spread(labels + 1, reach), _spread(VOID - labels, reach)  # 255 + 1 is 0 in uint8
    near = highest + lowest != 0  # where a window has the one label l they are l + 1 and 255 - l, of sum 256: 0 again
    for axis in (1, 2):
        size = labels.shape[axis]
        near.narrow(axis, 0, min(reach, size)).fill_(True)
        near.narrow(axis, max(0, size - reach), min(reach, size)).fill_(True)
    return near


def disc(mask: Tensor, radius: int) -> Tensor:
    """(M, H, W) booleans -> booleans: a true one is at most ``radius`` pixels away (Euclidean)."""
    height, found = mask.shape[-2], mask.clone()
    for dy in range(min(radius, height - 1) + 1):
        half = math.isqrt(radius * radius - dy * dy)
        rows = _window_max(F.pad(mask.to(torch.uint8), (half, half)), 2 * half + 1, -1).bool()
        found[..., dy:, :].logical_or_(rows[..., : height - dy, :])
        found[..., : height - dy, :].logical_or_(rows[..., dy:, :])
    return found


def _spread(values: Tensor, reach: int) -> Tensor:
    """The highest value of the square of 2 reach + 1 pixels around each pixel."""
    rows = _window_max(F.pad(values, (reach, reach)), 2 * reach + 1, -1)
    return _window_max(F.pad(rows, (0, 0, reach, reach)), 2 * reach + 1, -2)


def _window_max(values: Tensor, size: int, axis: int) -> Tensor:
    """The highest of each ``size`` values in a row, by windows that double: a handful of steps for any size."""
    reached = 1
    while reached < size:
        step = min(reached, size - reached)
        length = values.shape[axis] - step
        values = torch.maximum(values.narrow(axis, 0, length), values.narrow(axis, step, length))
        reached += step
    return values
