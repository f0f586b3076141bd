"""Drawing pixels of a training split, as many of each class if wanted, for methods that learn from pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from seg_cli.data.labels import VOID
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError
from seg_cli.models.classical.method import Progress

PRIORS = ("frequency", "balanced")


@dataclass(frozen=True)
class Pixels:
    """Pixels of many images.

    Attributes:
        features: (P, D) float32.
        classes: (P,) uint8, none of them void.
        frequencies: (256,) int64: pixels of each class in all masks, drawn or not.
    """

    features: np.ndarray
    classes: np.ndarray
    frequencies: np.ndarray


def draw_pixels(
    samples: Split,
    features_of: Callable[[np.ndarray], np.ndarray],
    total: int,
    seed: int,
    *,
    balanced: bool = False,
    progress: Progress = iter,
) -> Pixels:
    """About ``total`` pixels, as many of each image.

    Args:
        samples: of the training split.
        features_of: image (H, W, B) -> (H, W, D).
        total: pixels, or all where there are fewer.
        seed: of the choice.
        balanced: as many of each class of an image, as far as it has them.

    Raises:
        UserError: if there is no pixel that is not void.
    """
    rng = np.random.default_rng(seed)
    each = max(1, total // len(samples))
    features, classes, frequencies = [], [], np.zeros(256, np.int64)
    for index in progress(range(len(samples))):
        sample = samples[index]
        mask = sample.mask.ravel()
        frequencies += np.bincount(mask, minlength=256)
        chosen = _choose(mask, each, rng, balanced)
        if len(chosen):
            found = features_of(sample.image)
            features.append(found.reshape(-1, found.shape[2])[chosen])
            classes.append(mask[chosen])
    if not features:
        raise UserError("data: every pixel of the training images is void, and there is nothing to learn from.")
    return Pixels(np.concatenate(features).astype(np.float32), np.concatenate(classes), frequencies)


def log_prior(frequencies: np.ndarray, drawn: np.ndarray, num_classes: int) -> np.ndarray:
    """What to add to the logits of a classifier that saw classes in other shares than they have.

    Args:
        frequencies: (256,) pixels of each class.
        drawn: (P,) classes that it saw.
        num_classes: C.

    Returns:
        (C,) float32: the logarithm of how much more frequent a class is than it was in what was drawn, about 0 for a
        class that was never drawn.
    """
    true = frequencies[:num_classes] / max(1, frequencies[:num_classes].sum())
    seen = np.bincount(drawn, minlength=num_classes)[:num_classes] / max(1, len(drawn))
    ratio = np.where(seen > 0, true / np.maximum(seen, 1e-9), 1.0)
    return np.log(np.maximum(ratio, 1e-6)).astype(np.float32)


def draw_places(samples: Split, total: int, seed: int) -> Iterator[tuple[Sample, np.ndarray, np.ndarray]]:
    """About ``total`` pixels, as many of each class of an image: each sample with rows and columns."""
    rng = np.random.default_rng(seed)
    each = max(1, total // len(samples))
    for index in range(len(samples)):
        sample = samples[index]
        chosen = _choose(sample.mask.ravel(), each, rng, balanced=True)
        if len(chosen):
            yield sample, *np.divmod(chosen, sample.mask.shape[1])


def _choose(mask: np.ndarray, count: int, rng: np.random.Generator, balanced: bool) -> np.ndarray:
    """Places in a mask (H * W,), none of them void, in order."""
    if not balanced:
        places = np.flatnonzero(mask != VOID)
        return np.sort(rng.choice(places, min(count, len(places)), replace=False))
    present = [value for value in np.unique(mask) if value != VOID]
    chosen = []
    for value in present:
        places = np.flatnonzero(mask == value)
        chosen.append(rng.choice(places, min(max(1, count // len(present)), len(places)), replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
