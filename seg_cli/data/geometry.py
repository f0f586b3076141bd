"""Geometry of augmentation: random maps, and the one resampling that applies them to image and mask alike.

Steps of two kinds are combined. Affine ones are multiplied into one matrix. Bends move the points at which the crop
looks, so that they come after the affine ones, whatever the order in which they are written. Image and mask are then
resampled once, straight into the crop: nothing outside the crop is computed, nothing is interpolated twice, and what is
left empty is 0 in the image and void in the mask.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
import numpy as np

from seg_cli.data.labels import VOID

Size = tuple[int, int]
"""(height, width)"""


class Geometry(Protocol):
    """A random affine map."""

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        """(2, 2) float64: where a point goes, seen from the centre of the image, x before y."""
        ...


class Bend(Protocol):
    """A random map that is not affine."""

    def bend(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Where each pixel of the crop looks: (H, W, 2) float32 of x and y in the crop -> the same, moved.

        What is not to be changed is returned as it is; ``points`` itself is not written to.
        """
        ...


class HorizontalFlip:
    """Mirror left and right with probability ``p``."""

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = probability(p)

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([[-1.0 if rng.random() < self.p else 1.0, 0.0], [0.0, 1.0]])


class QuarterTurns:
    """Turn by 0, 90, 180 or 270 degrees, each as likely as the others: for pictures from above."""

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[rng.integers(4)]
        return np.array([[cos, sin], [-sin, cos]], float)


class RandomScale:
    """Scale by a factor from ``low`` to ``high``, drawn so that halving is as likely as doubling."""

    def __init__(self, *, low: float, high: float) -> None:
        if not 0 < low <= high < math.inf:
            raise ValueError(f"low={low}: a scale needs 0 < low <= high, and high is {high}.")
        self.bounds = (low, high)

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        return np.eye(2) * log_uniform(rng, self.bounds)


class RandomRotation:
    """Turn by an angle drawn uniformly from ``-degrees..degrees``."""

    def __init__(self, *, degrees: float) -> None:
        if not 0 <= degrees <= 180:
            raise ValueError(f"degrees={degrees}: it must be from 0 to 180.")
        self.degrees = degrees

    def matrix(self, rng: np.random.Generator) -> np.ndarray:
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


class ElasticDeformation:
    """Smooth random displacements, drawn on a coarse grid and interpolated: Ronneberger 2015, arXiv:1505.04597, 3.1.

    Args:
        spread: standard deviation of the displacements, in pixels.
        spacing: distance between the points of the grid, in pixels. From four times ``spread`` on, nothing folds over.
        p: probability that a sample is deformed.
    """

    def __init__(self, *, spread: float = 10.0, spacing: float = 128.0, p: float = 0.5) -> None:
        if not 0 <= spread < math.inf:
            raise ValueError(f"spread={spread}: it must be a number of pixels, 0 or more.")
        if not max(1, 4 * spread) <= spacing < math.inf:
            raise ValueError(f"spacing={spacing}: it must be at least 1 and four times the spread, which is {spread}.")
        self.spread, self.spacing, self.p = spread, spacing, probability(p)

    def bend(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.p:
            return points
        height, width = points.shape[:2]
        grid = (math.ceil(height / self.spacing) + 1, math.ceil(width / self.spacing) + 1, 2)
        coarse = rng.normal(0, self.spread, grid).astype(np.float32)
        moved: np.ndarray = points + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return moved


def probability(p: float) -> float:
    """``p`` itself. Raises ValueError unless it is from 0 to 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: a probability is a number from 0 to 1.")
    return p


def log_uniform(rng: np.random.Generator, bounds: Sequence[float]) -> float:
    """A factor between two, drawn so that halving is as likely as doubling."""
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def extent(size: Size, linear: np.ndarray) -> np.ndarray:
    """(width, height) in float64 of an image after a map.

    Scales, mirrors and quarter turns change it; of another rotation, the nearest quarter turn does, so that a small one
    leaves void corners and does not shrink the picture.
    """
    (xx, xy), (yx, yy) = linear.tolist()  # numpy takes longer for four numbers than all that is done with them
    width, height = math.hypot(xx, yx) * size[1], math.hypot(xy, yy) * size[0]
    turned = abs(xy) + abs(yx) > abs(xx) + abs(yy)
    return np.array((height, width) if turned else (width, height))


def centered(size: Size, linear: np.ndarray, crop: Size, shift: np.ndarray) -> np.ndarray:
    """The whole map of an image into its crop.

    Args:
        size: (height, width) of the image.
        linear: (2, 2), a map about the centre.
        crop: (height, width) of the crop.
        shift: (x, y), how far the centre of the image is from the centre of the crop.

    Returns:
        (2, 3) float64, from pixel coordinates of the image to those of the crop, x before y. Where ``linear`` only
        mirrors or turns by quarters, it lands on whole pixels, so that pixels are copied and not blurred.
    """
    (xx, xy), (yx, yy) = linear.tolist()
    center_x, center_y = (size[1] - 1) / 2, (size[0] - 1) / 2
    offset_x = (crop[1] - 1) / 2 + float(shift[0]) - (xx * center_x + xy * center_y)
    offset_y = (crop[0] - 1) / 2 + float(shift[1]) - (yx * center_x + yy * center_y)
    across, along = abs(xx) + abs(yy), abs(xy) + abs(yx)
    if (
        min(across, along) < 1e-6
        and max(abs(across + along - 2), abs(abs(xx) - abs(yy)), abs(abs(xy) - abs(yx))) < 1e-6
    ):
        xx, xy, yx, yy, offset_x, offset_y = map(round, (xx, xy, yx, yy, offset_x, offset_y))
    return np.array([[xx, xy, offset_x], [yx, yy, offset_y]], np.float64)


def resample(
    image: np.ndarray, mask: np.ndarray, matrix: np.ndarray, crop: Size, points: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask at the pixels of a crop.

    Args:
        image: (H, W, B) uint8 or float32.
        mask: (H, W) or (C, H, W) uint8.
        matrix: (2, 3) from the image to the crop, see ``centered``.
        crop: (height, width) of the result.
        points: (height, width, 2) float32, where in the crop each of its pixels looks, x before y; None: at itself.

    Returns:
        Both of the size of the crop, 0 and ``VOID`` where there is nothing. They may be views of the arguments, and are
        not to be written to.
    """
    height, width = crop
    if points is not None:
        inverse = np.linalg.inv(matrix[:, :2])
        rows = np.column_stack((inverse, -inverse @ matrix[:, 2])).astype(np.float32)
        places = [row[0] * points[..., 0] + row[1] * points[..., 1] + row[2] for row in rows]

        def take(array: np.ndarray, flags: int, fill: int) -> np.ndarray:
            border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": [fill] * 4}
            return cv2.remap(array, places[0], places[1], flags, **border)  # type: ignore[call-overload]

    elif _is_window(matrix):

        def take(array: np.ndarray, flags: int, fill: int) -> np.ndarray:
            return _window(array, matrix, crop, fill)

    else:

        def take(array: np.ndarray, flags: int, fill: int) -> np.ndarray:
            return cv2.warpAffine(array, matrix, (width, height), flags=flags, borderValue=[fill] * 4)

    if points is None and _is_window(matrix):
        taken = take(image, cv2.INTER_LINEAR, 0)
    else:
        taken = each_band(image, lambda bands: take(bands, cv2.INTER_LINEAR, 0))
    return taken, each_plane(mask, lambda plane: take(plane, cv2.INTER_NEAREST, VOID))


def each_band(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What OpenCV makes of an image (H, W, B), whatever the number of bands.

    It drops the axis of one band, interpolates two coarsely, and has no borders or areas for more than four.
    """
    if image.shape[2] in (3, 4):
        return change(image)
    return np.dstack([change(np.ascontiguousarray(image[..., band])) for band in range(image.shape[2])])


def each_plane(mask: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What becomes of a mask (H, W), or of each plane of a mask (C, H, W)."""
    return change(mask) if mask.ndim == 2 else np.stack([change(plane) for plane in mask])


def _is_window(matrix: np.ndarray) -> bool:
    """Whether a map only cuts, and mirrors, so that nothing has to be interpolated."""
    return bool((np.abs(matrix[:, :2]) == np.eye(2)).all() and (matrix[:, 2] == np.rint(matrix[:, 2])).all())


def _window(array: np.ndarray, matrix: np.ndarray, crop: Size, fill: int) -> np.ndarray:
    """What ``cv2.warpAffine`` would give for a map that only cuts and mirrors; a view where it only cuts."""
    source, target, mirrored = [], [], []
    for axis, (length, wanted) in enumerate(zip(array.shape[:2], crop, strict=True)):
        sign, offset = matrix[1 - axis, 1 - axis], int(matrix[1 - axis, 2])
        start = -offset if sign > 0 else offset - wanted + 1
        low, high = max(start, 0), max(min(start + wanted, length), 0)
        before = low - start if sign > 0 else start + wanted - high
        source.append(slice(low, high))
        target.append(slice(before, before + max(high - low, 0)))
        mirrored.append(sign < 0)
    piece = array[tuple(source)]
    if any(mirrored) and piece.size:
        flipped = cv2.flip(piece, -1 if all(mirrored) else int(mirrored[1]))
        piece = flipped.reshape(piece.shape)
    if piece.shape[:2] == crop:
        return piece
    whole = np.full((*crop, *array.shape[2:]), fill, array.dtype)
    whole[tuple(target)] = piece
    return whole


def zoomed(size: Size, zoom: float) -> Size:
    """(height, width) times ``zoom``, in whole pixels."""
    return (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom)))
