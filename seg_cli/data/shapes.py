"""``data=shapes``: scenes drawn on the fly, the dataset that needs no download.

A scene is a function of (seed, split, index) alone. It has a textured ground, shapes that occlude one another, thin
lines, a small and rare class, uneven light, blur and noise, and a void border around every object as VOC draws it. Each
class has colours that are typical for it, as grass and cars have, but one object in twenty has any colour, and then
only its form tells what it is.
"""

import colorsys
import hashlib
import math
from collections.abc import Sequence

import cv2
import numpy as np

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample, Split

LABELS = LabelSpace(
    names=("Ground", "Disk", "Ring", "Box", "Triangle", "Line", "Star"),
    colors=((70, 70, 70), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167)),
)
GROUND, DISK, RING, BOX, TRIANGLE, LINE, STAR = range(7)
_HUES = {DISK: 0, RING: 60, BOX: 120, TRIANGLE: 180, LINE: 240, STAR: 300}  # typical ones, in degrees
_SPLIT_IDS = {"train": 0, "val": 1, "test": 2}
_SUBPIXEL = 4  # bits of fixed-point coordinates given to OpenCV


class Shapes:
    """Splits of drawn scenes.

    Args:
        train, val, test: number of scenes in each split.
        size: (height, width) of a scene in pixels.
        seed: scenes of another seed are other scenes; independent of the run's seed, so that runs with different
            seeds are scored on the same images.
        noise: standard deviation of the pixel noise, in grey levels of 0..255.

    Raises:
        ValueError: if a size is below 32 or a count below 1.
    """

    labels = LABELS
    channels = 3

    def __init__(
        self,
        *,
        train: int = 1000,
        val: int = 100,
        test: int = 200,
        size: Sequence[int] = (128, 128),
        seed: int = 0,
        noise: float = 10.0,
    ) -> None:
        if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 32:
            raise ValueError(f"size={size}: it must be [height,width] of at least 32 pixels, as in data.size=[64,64].")
        counts = {"train": train, "val": val, "test": test}
        for split, count in counts.items():
            if count < 1:
                raise ValueError(f"{split}={count}: it must be at least 1.")
        self._identity = repr((counts, tuple(size), seed, noise))
        self.splits: dict[str, Split] = {
            split: _Scenes(count, (size[0], size[1]), (seed, _SPLIT_IDS[split]), noise)
            for split, count in counts.items()
        }

    def fingerprint(self) -> str:
        return hashlib.sha256(self._identity.encode()).hexdigest()


class _Scenes:
    def __init__(self, count: int, size: tuple[int, int], seeds: tuple[int, int], noise: float) -> None:
        self._count, self._size, self._seeds, self._noise = count, size, seeds, noise

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        image, mask = draw_scene(np.random.default_rng((*self._seeds, index)), self._size, self._noise)
        return Sample(image, mask, name=f"scene{index:05d}")


def draw_scene(rng: np.random.Generator, size: tuple[int, int], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: an (H, W, 3) uint8 image and its (H, W) uint8 mask."""
    height, width = size
    image = _texture(rng, height, width, _color(rng, GROUND))
    mask = np.zeros((height, width), np.uint8)
    scale = math.sqrt(height * width) / 128
    # Lines and stars come last in some scenes and first in others, so that they occlude and are occluded.
    kinds = list(rng.choice([DISK, RING, BOX, TRIANGLE], size=rng.integers(3, 7))) + [LINE] * int(rng.integers(1, 4))
    if rng.random() < 0.5:
        kinds += [STAR] * int(rng.integers(1, 3))
    for kind in rng.permutation(kinds):
        _draw(rng, image, mask, int(kind), scale)
    return _photograph(rng, image, noise), mask


def _draw(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, kind: int, scale: float) -> None:
    height, width = mask.shape
    center = rng.uniform((0, 0), (width, height))
    thickness = 0
    if kind == LINE:
        outline = _line(rng, center, rng.uniform(50, 120) * scale)
        thickness = max(1, round(rng.uniform(3, 5) * scale))
    elif kind == STAR:
        outline = _star(rng, center, rng.uniform(7, 12) * scale)
    elif kind == BOX:
        outline = _box(rng, center, rng.uniform(12, 32) * scale)
    elif kind == TRIANGLE:
        outline = _polygon(rng, center, rng.uniform(15, 34) * scale, corners=3)
    else:
        outline = _polygon(rng, center, rng.uniform(12, 30) * scale, corners=32)

    points = [np.rint(outline * (1 << _SUBPIXEL)).astype(np.int32)]
    inside = np.zeros((height, width), np.uint8)
    border = np.zeros((height, width), np.uint8)
    if thickness:
        cv2.polylines(inside, points, False, 255, thickness, cv2.LINE_8, _SUBPIXEL)
        cv2.polylines(border, points, False, 255, thickness + 2, cv2.LINE_8, _SUBPIXEL)
    else:
        if kind == RING:
            middle = outline.mean(0)
            hole = middle + (outline - middle) * rng.uniform(0.45, 0.65)
            points.append(np.rint(hole * (1 << _SUBPIXEL)).astype(np.int32))
        cv2.fillPoly(inside, points, 255, cv2.LINE_8, _SUBPIXEL)
        cv2.polylines(border, points, True, 255, 1, cv2.LINE_8, _SUBPIXEL)

    # The box around the object, with its border, is all that has to be touched.
    left, top, box_width, box_height = cv2.boundingRect(cv2.bitwise_or(inside, border))
    if not box_width:
        return
    window = np.s_[top : top + box_height, left : left + box_width]
    surface = _texture(rng, box_height, box_width, _color(rng, kind))
    cv2.copyTo(surface, inside[window], image[window])
    mask[window][border[window] > 0] = VOID
    if thickness:
        mask[window][inside[window] > 0] = kind
    else:
        mask[window][cv2.subtract(inside[window], border[window]) > 0] = kind


def _rotated(rng: np.random.Generator, points: np.ndarray, center: np.ndarray) -> np.ndarray:
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) + center


def _polygon(rng: np.random.Generator, center: np.ndarray, radius: float, corners: int) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    squeeze = rng.uniform(0.6, 1.0)
    return _rotated(rng, np.stack((np.cos(angles), squeeze * np.sin(angles)), 1) * radius, center)


def _box(rng: np.random.Generator, center: np.ndarray, radius: float) -> np.ndarray:
    half = radius * np.array([1.0, rng.uniform(0.5, 1.0)])
    return _rotated(rng, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half, center)


def _star(rng: np.random.Generator, center: np.ndarray, radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 10, endpoint=False)
    radii = np.where(np.arange(10) % 2, 0.45, 1.0) * radius
    return _rotated(rng, np.stack((np.cos(angles), np.sin(angles)), 1) * radii[:, None], center)


def _line(rng: np.random.Generator, center: np.ndarray, length: float) -> np.ndarray:
    """A gently bent line: a parabola of the given length."""
    along = np.linspace(-0.5, 0.5, 9)
    return _rotated(rng, np.stack((along, rng.uniform(-0.3, 0.3) * (4 * along**2 - 1)), 1) * length, center)


def _color(rng: np.random.Generator, kind: int) -> np.ndarray:
    """A colour (red, green, blue) in 0..255: any for the ground, and mostly a typical one for an object."""
    if kind == GROUND:
        hue, saturation, value = rng.uniform(0, 360), rng.uniform(0, 0.4), rng.uniform(0.3, 0.9)
    else:
        typical = rng.random() < 0.95
        hue = rng.normal(_HUES[kind], 8) % 360 if typical else rng.uniform(0, 360)
        saturation, value = rng.uniform(0.45, 0.95), rng.uniform(0.45, 0.95)
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360, saturation, value))


def _texture(rng: np.random.Generator, height: int, width: int, color: np.ndarray) -> np.ndarray:
    """A textured surface, (H, W, 3) uint8: a colour, blotches of two sizes, and sometimes stripes."""
    coarse = rng.normal(0, 12, (4, 4, 3)).astype(np.float32)
    fine = rng.normal(0, 8, (max(4, height // 6), max(4, width // 6), 1)).astype(np.float32)
    surface: np.ndarray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    surface += cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    if rng.random() < 0.4:
        angle, period = rng.uniform(0, math.pi), rng.uniform(4, 14)
        x = np.arange(width, dtype=np.float32) * (math.cos(angle) * 2 * math.pi / period)
        y = np.arange(height, dtype=np.float32) * (math.sin(angle) * 2 * math.pi / period)
        # sin(x + y) from its two one-dimensional parts
        stripes = np.outer(np.cos(y), np.sin(x)) + np.outer(np.sin(y), np.cos(x))
        surface += (rng.uniform(5, 15) * stripes)[..., None].astype(np.float32)
    surface += color.astype(np.float32)
    return np.clip(surface, 0, 255).astype(np.uint8)


def _photograph(rng: np.random.Generator, image: np.ndarray, noise: float) -> np.ndarray:
    """Uneven light, a little blur, and noise."""
    height, width = image.shape[:2]
    light = cv2.resize(rng.uniform(0.7, 1.2, (2, 2)).astype(np.float32), (width, height))
    photograph: np.ndarray = image * light[..., None]
    if rng.random() < 0.5:
        photograph = cv2.GaussianBlur(photograph, (3, 3), 0)
    photograph += rng.standard_normal((height, width, 3), np.float32) * np.float32(noise)
    return np.clip(photograph, 0, 255).astype(np.uint8)
