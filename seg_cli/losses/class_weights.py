"""Weights of classes in a loss: given as numbers, or computed from how often each class occurs in training.

Eigen and Fergus (2015), arXiv:1411.4734; Paszke et al. (2016), arXiv:1606.02147; Cui et al. (2019), arXiv:1901.05555.
A class that is rare adds little to a mean over pixels; its pixels get a larger weight, by one of several formulas.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.class_counts import ClassCounts
from seg_cli.errors import UserError

SCHEMES = ("balanced", "median_frequency", "enet", "effective_number")

BETA = 0.999
"""Of ``effective_number``: a class is taken to have 1 / (1 - BETA) = 1000 images that are truly different."""


def class_weights(scheme: str, counts: ClassCounts) -> np.ndarray:
    """Weights (C,) float64 of the classes, from their counts in training. The weight of class c:

    - ``balanced``: n / (C n_c), n_c its pixels and n those of all classes. Every class then adds the same to a mean
      over the pixels of training, and their mean weight is 1 (scikit-learn's ``class_weight="balanced"``).
    - ``median_frequency``: median(f) / f_c, f_c being its share of the pixels of those images in which it occurs, and
      the median that of all classes (Eigen and Fergus 2015, section 6.3.2; SegNet trains with it).
    - ``enet``: 1 / ln(1.02 + p_c), p_c its share of all pixels; between 1.4 and 50.5, also for a class that never
      occurs (Paszke 2016, section 5.2).
    - ``effective_number``: (1 - b) / (1 - b^n_c), b = ``BETA``, scaled to a mean of 1 (Cui 2019, sections 3 and 4).
      n_c is the number of images in which the class occurs, not that of its pixels. The paper counts samples that
      differ, and discounts those that repeat others, as neighbouring pixels do; with millions of pixels b^n_c is 0
      and all weights are equal. So this is the mildest: classes that occur in every image keep equal weights, however
      small they are.

    Where labels overlap, a pixel counts once for each of its classes.

    Args:
        scheme: one of ``SCHEMES``.
        counts: every class occurs, but for ``enet``, where some class must.
    """
    pixels = np.asarray(counts.pixels, np.float64)
    if scheme == "balanced":
        return pixels.sum() / (len(pixels) * pixels)
    if scheme == "median_frequency":
        frequencies = pixels / np.asarray(counts.image_pixels, np.float64)
        return np.median(frequencies) / frequencies
    if scheme == "enet":
        return 1 / np.log(1.02 + pixels / pixels.sum())
    if scheme == "effective_number":
        inverse = (1 - BETA) / (1 - BETA ** np.asarray(counts.images, np.float64))
        return inverse * len(inverse) / inverse.sum()
    raise ValueError(f"{scheme} is none of {', '.join(SCHEMES)}")


class ClassWeights(nn.Module):
    """The class weights of one loss term: none, numbers, or a scheme that ``fit`` turns into numbers.

    Args:
        weights: None or ``none``, one number of 0 or more for each class, or one of ``SCHEMES``.

    Raises:
        ValueError: if it is none of these.
    """

    _values: Tensor | None

    def __init__(self, weights: Sequence[float] | str | None) -> None:
        super().__init__()
        self.scheme = weights if isinstance(weights, str) and weights != "none" else None
        """The scheme, None where there are no weights or they were given as numbers."""
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise ValueError(
                f"weights={weights}: there is no such scheme.{did_you_mean(self.scheme, ('none', *SCHEMES))} {_ALLOWED}"
            )
        given = None if isinstance(weights, str | None) else _as_numbers(weights)
        # Not in checkpoints: they follow from configuration and data, and a checkpoint with or without fits both.
        self.register_buffer("_values", given, persistent=False)

    @property
    def values(self) -> Tensor | None:
        """(C,) float32 on the module's device, None where there are no weights.

        Raises RuntimeError for a scheme before ``fit``.
        """
        if self._values is None and self.scheme is not None:
            raise RuntimeError(
                f"weights={self.scheme} needs the counts of the classes first: call "
                "fit(count_classes(split, labels, workers=0), labels.names) on the ClassWeights of the loss"
            )
        return self._values

    def check(self, names: Sequence[str], *, where: str = "weights") -> None:
        """Raise UserError, naming the config key ``where``, if numbers were given and they are not one a class."""
        if self._values is not None and len(self._values) != len(names):
            raise UserError(
                f"{where} has {len(self._values)} numbers, and there are {len(names)} classes: {', '.join(names)}. "
                f"Give one number for each class, in this order, or a scheme: {', '.join(SCHEMES)}."
            )

    def fit(self, counts: ClassCounts, names: Sequence[str], *, where: str = "weights") -> None:
        """Compute the weights of a scheme; nothing to do where they are none or given.

        Args:
            counts: of the training masks.
            names: of the classes, for messages.
            where: the config key of the weights, for messages.

        Raises:
            UserError: if a class never occurs and the scheme divides by how often it does.
        """
        if self.scheme is None:
            return
        absent = [name for name, pixels in zip(names, counts.pixels, strict=True) if not pixels]
        if len(absent) == len(names):
            raise UserError(f"{where}={self.scheme}: all pixels of the training masks are void.")
        if absent and self.scheme != "enet":
            raise UserError(
                f"{where}={self.scheme}: the training masks hold no pixel of {', '.join(absent)}, and "
                f"'{self.scheme}' divides by how often a class occurs. Leave the class out of the dataset or merge it "
                f"with another, give one number for each class, or type {where}=enet, which is defined for it."
            )
        self._values = torch.from_numpy(class_weights(self.scheme, counts)).float()

    def extra_repr(self) -> str:
        return self.scheme or ("none" if self._values is None else str(self._values.tolist()))


_ALLOWED = f"Allowed are none, {', '.join(SCHEMES)}, or one number of 0 or more for each class, as [1,0.5,2]."


def _as_numbers(weights: Sequence[float]) -> Tensor:
    listed = isinstance(weights, Sequence | np.ndarray | Tensor) and len(weights)
    numbers = list(weights) if listed else []
    for number in numbers:
        try:
            usable = not isinstance(number, bool | str) and 0 <= float(number) < math.inf
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise ValueError(f"weights: {number} is no weight of a class. {_ALLOWED}")
    if not any(numbers):
        what = "all weights are 0" if listed else f"{weights} is no list of numbers"
        raise ValueError(f"weights: {what}. {_ALLOWED}")
    return torch.tensor([float(number) for number in numbers])
