"""Edges whose closed contours are filled: Canny (1986), or the gradient of Sobel and Feldman (1968).

Things are what has an outline: edges are found, gaps between them closed, and what they enclose is inside.
"""

import cv2
import numpy as np

from seg_cli.models.classical.method import Step, as_bytes, gray, in_range, one_of, smoothed, whole
from seg_cli.models.classical.regions import FixedRegions


class Edges(FixedRegions):
    """Outside, inside and the edges between them, for two classes.

    Args:
        num_classes: C, at most 2.
        method: ``canny`` or ``sobel``.
        low, high: grey levels a pixel: Canny keeps edges above ``low`` that hang together with one above ``high``;
            sobel those above ``high``.
        smooth: standard deviation of a Gaussian before it, in pixels.
        close: gaps of up to so many pixels are closed.
        mapping: of the three regions to classes, see ``regions.assign``.

    Raises:
        UserError: for a setting that is not allowed.
    """

    def __init__(
        self, *, num_classes: int, method: str, low: float, high: float, smooth: float, close: int, mapping: str
    ) -> None:
        one_of("method", method, ("canny", "sobel"))
        in_range("high", high, 0)
        in_range("low", low, 0, high)
        in_range("smooth", smooth, 0)
        whole("close", close, 0)
        super().__init__(num_classes=num_classes, mapping=mapping, names=("outside", "inside", "edge"))
        self.binary = True
        self.method, self.low, self.high, self.smooth, self.close = method, low, high, smooth, close

    def edges(self, image: np.ndarray) -> np.ndarray:
        """(H, W) uint8 of 0 and 1."""
        values = smoothed(as_bytes(gray(image)), self.smooth)
        # Sobel's kernel sums eight differences of a pixel, so that its values are eight times those of a gradient.
        across, down = (cv2.Sobel(values, cv2.CV_16S, *axis) for axis in ((1, 0), (0, 1)))
        if self.method == "canny":
            return (cv2.Canny(across, down, self.low * 8, self.high * 8, L2gradient=True) > 0).astype(np.uint8)
        return (np.hypot(across.astype(np.float32), down.astype(np.float32)) > self.high * 8).astype(np.uint8)

    def closed(self, edges: np.ndarray) -> np.ndarray:
        """Edges with their gaps closed."""
        if not self.close:
            return edges
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (self.close + 1 | 1, self.close + 1 | 1))
        return cv2.morphologyEx(edges, cv2.MORPH_CLOSE, disk)

    def regions(self, image: np.ndarray) -> np.ndarray:
        closed = self.closed(self.edges(image))
        outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        found = np.zeros_like(closed)
        cv2.drawContours(found, outlines, -1, 1, cv2.FILLED)
        found[closed > 0] = 2
        return found

    def steps(self, image: np.ndarray) -> list[Step]:
        edges = self.edges(image)
        return [
            Step(f"edges of {self.method}", edges > 0),
            Step("gaps closed", self.closed(edges) > 0),
            Step("contours filled", self.regions(image) > 0),
        ]
