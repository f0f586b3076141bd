"""Cuts of a graph of pixels from seeds: GrabCut (Rother 2004), the random walker (Grady 2006).

What a colour mostly is in the training split is the prior. Where it is sure there are seeds; the cut decides the rest,
so that borders lie where neighbours differ.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.models.classical.kmeans import nearest
from seg_cli.models.classical.method import (
    Method,
    Progress,
    Step,
    as_bytes,
    choose_space,
    colors_of,
    in_range,
    need,
    one_of,
    smoothed,
    whole,
)
from seg_cli.models.classical.pixels import draw_pixels
from seg_cli.models.classical.regions import SPACES


class GraphCut(Method):
    """Seeds from a prior, and a cut between them.

    Args:
        num_classes: C; grabcut tells two apart.
        method: ``random_walker`` or ``grabcut``.
        colors: how many colours the prior knows, found by k-means.
        space: of colours: ``lab``, ``rgb``, ``gray``, or ``auto``, gray where the images are.
        smooth: standard deviation of a Gaussian before the prior, in pixels.
        sure: share of the prior from which on a pixel is a seed; classes count as if they were equally frequent.
        beta: of the random walker: how much a difference between neighbours holds it up.
        rounds: of grabcut: how often its colour models are fitted.
        longest: images are cut at a size whose longer side has at most so many pixels; null: as they are.
        pixels: of the training split that the prior is learned from.

    Raises:
        UserError: for a setting that is not allowed.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        method: str,
        colors: int,
        space: str,
        smooth: float,
        sure: float,
        beta: float,
        rounds: int,
        longest: int | None,
        pixels: int,
    ) -> None:
        one_of("method", method, ("random_walker", "grabcut"))
        one_of("space", space, SPACES)
        whole("colors", colors, 2, 250)
        whole("rounds", rounds, 1)
        whole("pixels", pixels, 2)
        in_range("smooth", smooth, 0)
        in_range("sure", sure, 0, 1)
        in_range("beta", beta, 0)
        if longest is not None:
            whole("longest", longest, 16)
        super().__init__(num_classes=num_classes)
        self.method, self.colors, self.space, self.smooth, self.sure = method, colors, space, smooth, sure
        self.beta, self.rounds, self.longest, self.pixels = beta, rounds, longest, pixels
        self.binary = method == "grabcut"

    @property
    def title(self) -> str:
        return f"graphcut with {self.method}"

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        need("sklearn.cluster")
        if self.method == "random_walker":
            need("skimage.segmentation")
        choose_space(self.space, sample)

    def features(self, image: np.ndarray, space: str) -> np.ndarray:
        """(H, W, D) float32 colours."""
        colors = smoothed(colors_of(image, space), self.smooth)
        return colors.reshape(*image.shape[:2], -1)

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        space = choose_space(self.space, samples[0])
        drawn = draw_pixels(samples, lambda image: self.features(image, space), self.pixels, seed, progress=progress)
        distinct = len(np.unique(drawn.features, axis=0))
        cluster = need("sklearn.cluster").KMeans(min(self.colors, distinct), n_init=1, random_state=seed)
        codes = cluster.fit_predict(drawn.features)
        counts = np.zeros((len(cluster.cluster_centers_), self.num_classes))
        np.add.at(counts, (codes, drawn.classes), 1)
        shares = (counts + 0.5) / np.maximum(counts.sum(0), 1)  # as if classes were equally frequent
        shares[:, counts.sum(0) == 0] = 0
        self.learned |= {
            "space": space,
            "centers": cluster.cluster_centers_.astype(np.float32),
            "prior": (shares / shares.sum(1, keepdims=True)).astype(np.float32),
        }

    def prior(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) float32: what each pixel is, going by its colour."""
        features = self.features(image, self.learned["space"])
        codes = nearest(features.reshape(-1, features.shape[2]), self.learned["centers"])
        return self.learned["prior"][codes].reshape(*image.shape[:2], self.num_classes)

    def seeds(self, prior: np.ndarray) -> np.ndarray:
        """(H, W) int32: class index + 1 where the prior is sure, else 0."""
        best = prior.argmax(2)
        return np.where(prior.max(2) >= self.sure, best + 1, 0).astype(np.int32)

    def label(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        small = self._shrunk(image)
        prior = self.prior(small)
        found = self.cut(small, prior, self.seeds(prior))
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)

    def cut(self, image: np.ndarray, prior: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """(H, W) uint8 classes; what no seed reaches is what the prior says."""
        likely = prior.argmax(2).astype(np.uint8)
        present = np.unique(seeds[seeds > 0])
        if len(present) < 2 or seeds.all():
            return likely
        if self.method == "grabcut":
            return self._grabcut(as_bytes(image), likely, seeds)
        values = as_bytes(image).astype(np.float32) / 255
        # Seeds have to be numbered 1, 2, 3 without a gap.
        numbered = np.searchsorted(present, seeds) + 1
        numbered[seeds == 0] = 0
        walker = need("skimage.segmentation").random_walker
        # Probabilities that are not exact say which class is the most probable all the same, without a warning.
        found = walker(values, numbered, beta=self.beta, mode="cg_j", tol=1e-3, prob_tol=1.0, channel_axis=2)
        reached = found > 0
        likely[reached] = (present[found[reached] - 1] - 1).astype(np.uint8)
        return likely

    def _grabcut(self, image: np.ndarray, likely: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        mask = np.where(likely == 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        mask[seeds == 1], mask[seeds == 2] = cv2.GC_BGD, cv2.GC_FGD
        bands = np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2))
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))  # of colours, made by it
        cv2.setRNGSeed(0)  # its k-means would else depend on what was computed before
        cv2.grabCut(bands, mask, (0, 0, 0, 0), background, foreground, self.rounds, cv2.GC_INIT_WITH_MASK)
        return (mask & 1).astype(np.uint8)

    def _shrunk(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        factor = (self.longest or max(height, width)) / max(height, width)
        if factor >= 1:
            return image
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)

    def steps(self, image: np.ndarray) -> list[Step]:
        small = self._shrunk(image)
        prior = self.prior(small)
        return [
            Step("what colours mostly are", prior.argmax(2).astype(np.int32) + 1),
            Step(f"seeds: the prior is {self.sure:.0%} sure", self.seeds(prior)),
            Step(f"cut by {self.method}", self.cut(small, prior, self.seeds(prior)).astype(np.int32) + 1),
        ]

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        colors = zip(self.learned["centers"].round(2).tolist(), self.learned["prior"].round(4).tolist(), strict=True)
        rows = [{"color": center, "prior": dict(zip(class_names, shares, strict=True))} for center, shares in colors]
        return {"space": self.learned["space"], "colors": rows}

    def restore(self) -> None:
        if self.learned["prior"].shape != (len(self.learned["centers"]), self.num_classes):
            raise ValueError(f"a prior of {self.num_classes} classes was expected")
