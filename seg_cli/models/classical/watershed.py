"""Watershed: Beucher, Lantuejoul (1979); Vincent, Soille (1991).

A picture is a landscape that is flooded from its valleys; where two lakes meet there is a line. The lakes are the
regions, sorted into kinds by their colour, and the lines are a kind of their own.
"""

import cv2
import numpy as np

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.models.classical.method import Step, as_bytes, gray, in_range, need, one_of, smoothed, whole
from seg_cli.models.classical.regions import LooseRegions


class Watershed(LooseRegions):
    """Lakes of a relief.

    Args:
        num_classes: C.
        relief: what is high: ``gradient``: edges; ``dark``: dark lines; ``bright``: bright ones.
        smooth: standard deviation of a Gaussian before it, in pixels.
        markers: where lakes begin: in ``minima`` of the relief, or on a ``grid``.
        depth: of minima: how deep a valley has to be, in grey levels.
        spacing: of the grid, in pixels.
        line: width of the lines between lakes in pixels; 0 for none.
        kinds, space, mapping: see ``LooseRegions``.

    Raises:
        UserError: for a setting that is not allowed.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        relief: str,
        smooth: float,
        markers: str,
        depth: float,
        spacing: int,
        line: int,
        kinds: int,
        space: str,
        mapping: str,
    ) -> None:
        one_of("relief", relief, ("gradient", "dark", "bright"))
        one_of("markers", markers, ("minima", "grid"))
        in_range("smooth", smooth, 0)
        in_range("depth", depth, 0, 255)
        whole("spacing", spacing, 2)
        whole("line", line, 0)
        super().__init__(num_classes=num_classes, kinds=kinds, space=space, mapping=mapping)
        self.relief, self.smooth, self.markers = relief, smooth, markers
        self.depth, self.spacing, self.line = depth, spacing, line

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        need("skimage.segmentation")

    def height(self, image: np.ndarray) -> np.ndarray:
        """(H, W) float32 relief, in grey levels."""
        values = smoothed(gray(image).astype(np.float32), self.smooth)
        if self.relief == "gradient":
            across, down = cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)
            return cv2.magnitude(across, down) / 8
        return 255 - values if self.relief == "dark" else values

    def begin(self, height: np.ndarray) -> np.ndarray:
        """(H, W) int32: where lakes begin, numbered from 1."""
        if self.markers == "grid":
            marks = np.zeros(height.shape, np.int32)
            places = np.s_[self.spacing // 2 :: self.spacing, self.spacing // 2 :: self.spacing]
            marks[places] = np.arange(1, marks[places].size + 1).reshape(marks[places].shape)
            return marks if marks.any() else np.ones(height.shape, np.int32)
        morphology = need("skimage.morphology")
        levels = as_bytes(height)
        filled = levels
        if self.depth >= 1:  # valleys that are less deep are filled up
            raised = cv2.add(levels, np.full_like(levels, round(self.depth)))
            filled = morphology.reconstruction(raised, levels, method="erosion")
        minima = morphology.local_minima(filled, allow_borders=True).astype(np.uint8)
        count, marks = cv2.connectedComponents(minima)
        return marks if count > 1 else np.ones(height.shape, np.int32)

    def regions(self, image: np.ndarray) -> np.ndarray:
        height = self.height(image)
        flood = need("skimage.segmentation").watershed
        lakes = flood(height, self.begin(height), watershed_line=self.line > 0).astype(np.int32)
        if self.line > 1:
            between = cv2.dilate((lakes == 0).astype(np.uint8), np.ones((self.line, self.line), np.uint8))
            lakes[between > 0] = 0
        return lakes

    def steps(self, image: np.ndarray) -> list[Step]:
        height = self.height(image)
        return [
            Step(f"relief: {self.relief}", height),
            Step("where lakes begin", self.begin(height) > 0),
            *super().steps(image),
        ]
