"""Regions that grow: from seeds (Adams, Bischof 1994), by graphs (Felzenszwalb 2004), or of merged SLIC pixels (Achanta
2012).

Neighbours that look alike belong together. The regions are sorted into kinds by their colour, and kinds are classes.
"""

import warnings

import cv2
import numpy as np

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.models.classical.method import Step, as_bytes, in_range, need, one_of, smoothed, whole
from seg_cli.models.classical.regions import LooseRegions


class RegionGrowing(LooseRegions):
    """Regions of similar pixels.

    Args:
        num_classes: C.
        method: ``seeds``, ``felzenszwalb`` or ``slic``.
        spacing: of seeds, and of the pixels of SLIC, in pixels.
        tolerance: by how many grey levels a band may differ from its seed; of slic, by how much the mean colours of
            neighbours that are merged.
        scale, min_size: of felzenszwalb: how readily regions merge, and the smallest region in pixels.
        compactness: of slic: how much distance counts beside colour.
        smooth: standard deviation of a Gaussian before it, in pixels.
        kinds, space, mapping: see ``LooseRegions``.

    Raises:
        UserError: for a setting that is not allowed.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        method: str,
        spacing: int,
        tolerance: float,
        scale: float,
        min_size: int,
        compactness: float,
        smooth: float,
        kinds: int,
        space: str,
        mapping: str,
    ) -> None:
        one_of("method", method, ("seeds", "felzenszwalb", "slic"))
        whole("spacing", spacing, 2)
        in_range("tolerance", tolerance, 0, 255)
        in_range("scale", scale, 1)
        whole("min_size", min_size, 1)
        in_range("compactness", compactness, 0.001)
        in_range("smooth", smooth, 0)
        super().__init__(num_classes=num_classes, kinds=kinds, space=space, mapping=mapping)
        self.method, self.spacing, self.tolerance = method, spacing, tolerance
        self.scale, self.min_size, self.compactness, self.smooth = scale, min_size, compactness, smooth

    @property
    def title(self) -> str:
        return f"region growing by {self.method}"

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        need("skimage.segmentation")

    def regions(self, image: np.ndarray) -> np.ndarray:
        values = smoothed(np.ascontiguousarray(as_bytes(image)), self.smooth)
        values = values.reshape(*image.shape[:2], -1)  # OpenCV drops a single band
        if self.method == "seeds":
            return self._grow(values)
        segmentation = need("skimage.segmentation")
        if self.method == "felzenszwalb":
            with warnings.catch_warnings():  # that other bands than three may be a mistake
                warnings.simplefilter("ignore", RuntimeWarning)
                found = segmentation.felzenszwalb(
                    values, scale=self.scale, sigma=0, min_size=self.min_size, channel_axis=2
                )
            return (found + 1).astype(np.int32)
        return self._merge(values)

    def _grow(self, values: np.ndarray) -> np.ndarray:
        """Flood from a grid of seeds those that no other reached; what is left goes to its nearest region."""
        height, width = values.shape[:2]
        # OpenCV floods images of one or three bands; of others, their first three say enough.
        bands = np.ascontiguousarray(values[..., :3] if values.shape[2] >= 3 else values[..., 0])
        regions = np.zeros((height, width), np.int32)
        taken = np.zeros((height + 2, width + 2), np.uint8)
        span = (float(self.tolerance),) * 3
        flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (2 << 8)
        count = 0
        for row in range(min(self.spacing // 2, height - 1), height, self.spacing):
            for column in range(min(self.spacing // 2, width - 1), width, self.spacing):
                if taken[row + 1, column + 1]:
                    continue
                *_, (left, top, across, down) = cv2.floodFill(bands, taken, (column, row), 0, span, span, flags)
                window = np.s_[top + 1 : top + down + 1, left + 1 : left + across + 1]
                fresh = taken[window] == 2
                taken[window][fresh] = 1
                count += 1
                regions[top : top + down, left : left + across][fresh] = count
        grown = need("skimage.segmentation").expand_labels(regions, distance=height + width)
        return grown.astype(np.int32)

    def _merge(self, values: np.ndarray) -> np.ndarray:
        """SLIC's pixels, of which neighbours of nearly the same mean colour are merged."""
        graph = need("skimage.graph")
        segments = max(2, values.shape[0] * values.shape[1] // self.spacing**2)
        pixels = need("skimage.segmentation").slic(
            values, n_segments=segments, compactness=self.compactness, start_label=0, channel_axis=2
        )
        bands = np.repeat(values, 3, 2) if values.shape[2] == 1 else values[..., :3]
        neighbours = graph.rag_mean_color(bands, pixels)
        return (graph.cut_threshold(pixels, neighbours, self.tolerance) + 1).astype(np.int32)

    def steps(self, image: np.ndarray) -> list[Step]:
        regions, kinds = super().steps(image)
        return [Step(f"{regions.title} by {self.method}", regions.picture), kinds]
