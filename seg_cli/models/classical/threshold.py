"""Thresholds on gray or one channel: Otsu (1979), its form for several levels (Liao 2001), and adaptive ones.

Otsu cuts the histogram of an image where the parts differ most from one another; an adaptive threshold is the mean
around each pixel. What dark, middle and bright mean is learned.
"""

import cv2
import numpy as np

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError
from seg_cli.models.classical.method import (
    CHANNELS,
    Step,
    channel_of,
    check_color,
    in_range,
    need,
    one_of,
    smoothed,
    whole,
)
from seg_cli.models.classical.regions import FixedRegions

_LEVELS = ("darkest", "second", "third", "fourth", "fifth")


class Threshold(FixedRegions):
    """Pixels by how bright they are.

    Args:
        num_classes: C; otsu and adaptive tell two apart.
        method: ``otsu``, ``multi_otsu`` or ``adaptive``.
        levels: of multi_otsu, 2 to 5.
        channel: ``gray``, red, green, blue, hue, saturation or value.
        smooth: standard deviation of a Gaussian before it, in pixels; 0 for none.
        window: of adaptive: side of the square whose mean is taken, in pixels, odd.
        offset: of adaptive: a pixel is bright if it is above that mean less so many grey levels.
        mapping: of levels to classes, see ``regions.assign``.

    Raises:
        UserError: for a setting that is not allowed.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        method: str,
        levels: int,
        channel: str,
        smooth: float,
        window: int,
        offset: float,
        mapping: str,
    ) -> None:
        one_of("method", method, ("otsu", "multi_otsu", "adaptive"))
        one_of("channel", channel, CHANNELS)
        whole("levels", levels, 2, 5)
        whole("window", window, 3)
        in_range("smooth", smooth, 0)
        in_range("offset", offset, -255, 255)
        if window % 2 == 0:
            raise UserError(f"model.window={window}: an odd number is allowed, so that there is a middle.")
        count = levels if method == "multi_otsu" else 2
        super().__init__(num_classes=num_classes, mapping=mapping, names=[*_LEVELS[: count - 1], "brightest"])
        self.method, self.levels, self.channel, self.smooth = method, count, channel, smooth
        self.window, self.offset = window, offset
        self.binary = count == 2

    @property
    def title(self) -> str:
        return f"threshold with {self.method}"

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        if self.channel != "gray":
            check_color(f"channel={self.channel}", sample)
        if self.method == "multi_otsu":
            need("skimage.filters")

    def values(self, image: np.ndarray) -> np.ndarray:
        """(H, W) uint8: what the thresholds are held against."""
        return smoothed(channel_of(image, self.channel), self.smooth)

    def cuts(self, values: np.ndarray) -> np.ndarray:
        """Where the histogram of (H, W) uint8 is cut: values above a cut are in the next level."""
        if self.levels == 2:
            return np.array([cv2.threshold(values, 0, 255, cv2.THRESH_OTSU)[0]])
        counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
        present = np.flatnonzero(counts)
        if len(present) <= self.levels:
            return present[: self.levels - 1]
        shown = np.arange(present[0], present[-1] + 1)
        histogram = (counts[shown], shown)
        return np.asarray(need("skimage.filters").threshold_multiotsu(hist=histogram, classes=self.levels))

    def regions(self, image: np.ndarray) -> np.ndarray:
        values = self.values(image)
        if self.method == "adaptive":
            mean, binary = cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY
            return cv2.adaptiveThreshold(values, 1, mean, binary, self.window, self.offset)
        table = (np.arange(256)[:, None] > self.cuts(values)).sum(1).astype(np.uint8)
        return cv2.LUT(values, table)

    def steps(self, image: np.ndarray) -> list[Step]:
        values = self.values(image)
        return [
            Step(f"{self.channel}, smoothed" if self.smooth else self.channel, values.astype(np.float32)),
            Step(f"{self.levels} levels", self.regions(image).astype(np.float32)),
        ]
