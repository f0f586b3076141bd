"""What medical papers report of a segmentation: distances between surfaces, and dice, for each case (image) and class.

The definitions are those of MONAI, with pixels as the unit of length.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.losses.settings import check_number
from seg_cli.metrics.metric import SCALE, fixed, mean, number, overlaps, ratio

Region = NDArray[np.bool_]


class Medical:
    """Hausdorff distance at a percentile, average symmetric surface distance, and dice, each a mean over the cases.

    The surface of a class are its pixels that have one that is not of the class, or the outside of the image, above,
    below, left or right. From each pixel of either surface the distance to the nearest pixel of the other is taken.
    ``hausdorff`` is the percentile of the distances from the prediction to the truth, or of those the other way round,
    whichever is larger (not the percentile of all of them, as in medpy); ``surface_distance`` is the mean of all of
    them. Void belongs to no class, in the truth nor in the prediction.

    A case in which the class is missing from the truth or from the prediction has no distance: it is left out of the
    means of distances and counted, as ``missed`` (predicted nowhere) or ``invented`` (in the prediction alone). So read
    the distances with these counts, since a model that predicts less has fewer distances to answer for. ``dice`` is 0
    in such a case, and counts. A case in which the class is in neither counts nowhere.

    Distances are exact and computed on the CPU, so a GPU is waited for in every batch.

    Args:
        percentile: of the Hausdorff distance, in 0..100; 100 is the distance itself.
        classes: names of the classes to score; None for all. Naming those of interest leaves the background out.

    Raises:
        ValueError: for a percentile outside these bounds.
        UserError: when it starts, for a class that the dataset does not have.
    """

    def __init__(self, *, percentile: float = 95, classes: Sequence[str] | None = None) -> None:
        self.percentile = check_number("percentile", percentile, high=100)
        self.classes = None if classes is None else list(classes)

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        for name in self.classes or []:
            if name not in names:
                raise UserError(
                    f"metrics.medical.classes: there is no class '{name}'.{did_you_mean(name, names)} "
                    f"Classes: {', '.join(names)}."
                )
        self._names = list(names if self.classes is None else self.classes)
        self._indices = [list(names).index(name) for name in self._names]
        self._num_classes = num_classes
        # A row each: Hausdorff and surface distances, cases with both, missed, invented; dice, cases with either.
        self._state = torch.zeros(7, len(self._names), dtype=torch.int64, device=device)
        self._cases: list[NDArray[np.float64]] = []

    def state(self) -> Tensor:
        return self._state

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        both, either = overlaps(predictions, masks, self._num_classes)[:, :, self._indices].unbind(1)
        dice = 2 * both / (both + either).clamp(min=1)  # as truth + predicted = intersection + union
        found = np.stack([self._case(*pair) for pair in zip(_host(predictions), _host(masks), strict=True)])
        hausdorff, distance, in_truth, predicted = torch.from_numpy(found).unbind(1)  # (N, classes) each
        in_both, in_either = (in_truth * predicted).long(), (in_truth + predicted > 0).long()
        counts = [in_both, in_truth.long() - in_both, predicted.long() - in_both]
        rows = [fixed(hausdorff), fixed(distance), *counts, fixed(dice).cpu(), in_either]
        self._state += torch.stack([row.sum(0) for row in rows]).to(self._state.device)
        dice_of_case = np.where(in_either.numpy() > 0, dice.cpu().numpy(), np.nan)
        self._cases.append(np.stack((found[:, 0], found[:, 1], dice_of_case), 1))  # (N, 3, classes)

    def _case(self, prediction: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(4, classes): the two distances, NaN where there are none; whether the class is in truth, prediction."""
        case = np.full((4, len(self._indices)), np.nan)
        for column, index in enumerate(self._indices):
            if mask.ndim == 3:
                truth, predicted = mask[index] == 1, (prediction[index] == 1) & (mask[index] != VOID)
            else:
                truth, predicted = mask == index, (prediction == index) & (mask != VOID)
            case[2:, column] = truth.any(), predicted.any()
            if case[2:, column].all():
                there, back = surface_distances(predicted, truth)
                case[0, column] = max(np.percentile(there, self.percentile), np.percentile(back, self.percentile))
                case[1, column] = (there.sum() + back.sum()) / (there.size + back.size)
        return case

    def results(self) -> dict[str, Any]:
        hausdorff, distance, both, missed, invented, dice, either = self._state.cpu().numpy()
        columns = {
            "hausdorff": ratio(hausdorff / SCALE, both),
            "surface_distance": ratio(distance / SCALE, both),
            "dice": ratio(dice / SCALE, either),
        }
        counts = {"cases": both, "missed": missed, "invented": invented}
        return {
            "percentile": self.percentile,
            **{key: number(mean(values)) for key, values in columns.items()},
            **{key: int(values.sum()) for key, values in counts.items()},
            "classes": {
                name: {key: number(values[i]) for key, values in columns.items()}
                | {key: int(values[i]) for key, values in counts.items()}
                for i, name in enumerate(self._names)
            },
        }

    def per_image(self) -> dict[str, np.ndarray]:
        """``hausdorff/<class>``, ``surface_distance/<class>`` and ``case_dice/<class>``."""
        if not self._cases:
            return {}
        cases = np.concatenate(self._cases)
        kinds = ("hausdorff", "surface_distance", "case_dice")
        return {
            f"{kind}/{name}": cases[:, row, column]
            for column, name in enumerate(self._names)
            for row, kind in enumerate(kinds)
        }


def surface_distances(one: Region, other: Region) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances from each pixel of one region's surface to the other's surface, and from the other to the one.

    Args:
        one, other: (H, W) booleans; neither is empty.

    Returns:
        Two arrays of distances in pixels, in no order that means anything.
    """
    rows, columns = np.flatnonzero((one | other).any(1)), np.flatnonzero((one | other).any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)  # both surfaces lie in it
    one, other = _surface(one[box]), _surface(other[box])
    return _distances(other)[one], _distances(one)[other]


def _surface(region: Region) -> Region:
    inner = np.zeros_like(region)
    inner[1:-1, 1:-1] = region[:-2, 1:-1] & region[2:, 1:-1] & region[1:-1, :-2] & region[1:-1, 2:]
    return region & ~inner


def _distances(surface: Region) -> NDArray[np.float64]:
    squares = (
        cv2.distanceTransform((~surface).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64) ** 2
    )
    return np.sqrt(np.rint(squares))  # a square is a whole number, which takes the rounding of float32 away


def _host(labels: Tensor) -> NDArray[np.uint8]:
    return labels.to(torch.uint8).cpu().numpy()
