"""K-means of the colours of pixels: Lloyd (1957, 1982), MacQueen (1967).

Clusters are found in the colours of the training pixels, with their position if wanted; a pixel belongs to the nearest
one, in any image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError
from seg_cli.models.classical.method import Progress, Step, choose_space, colors_of, in_range, need, one_of, whole
from seg_cli.models.classical.pixels import draw_pixels
from seg_cli.models.classical.regions import SPACES, FixedRegions


class KMeans(FixedRegions):
    """Clusters of colours.

    Args:
        num_classes: C.
        clusters: K.
        space: ``lab``, ``rgb`` (of other bands than three, the bands), ``gray``, or ``auto``: gray where images are.
        position: how much a distance across the whole image weighs, in units of colour (L* of Lab has 100, a band
            255); 0: colour alone counts.
        pixels: of the training split that are clustered.
        mapping: of clusters to classes, see ``regions.assign``.

    Raises:
        UserError: for a setting that is not allowed; in fitting, if there are fewer colours than clusters.
    """

    def __init__(
        self, *, num_classes: int, clusters: int, space: str, position: float, pixels: int, mapping: str
    ) -> None:
        whole("clusters", clusters, 2, 250)
        one_of("space", space, SPACES)
        in_range("position", position, 0)
        whole("pixels", pixels, clusters)
        names = [f"cluster {number + 1}" for number in range(clusters)]
        super().__init__(num_classes=num_classes, mapping=mapping, names=names)
        self.clusters, self.space, self.position, self.pixels = clusters, space, position, pixels

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        need("sklearn.cluster")
        choose_space(self.space, sample)

    def features(self, image: np.ndarray, space: str) -> np.ndarray:
        """(H, W, D) float32: colour, and position where it counts."""
        colors = colors_of(image, space)
        if not self.position:
            return colors
        height, width = image.shape[:2]
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) * (self.position / max(height, width))
        return np.concatenate((colors, rows[..., None], columns[..., None]), 2)

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        space = choose_space(self.space, samples[0])
        drawn = draw_pixels(samples, lambda image: self.features(image, space), self.pixels, seed, progress=progress)
        colors = drawn.features[:, : drawn.features.shape[1] - 2 * bool(self.position)]
        distinct = len(np.unique(colors, axis=0))
        if distinct < self.clusters:
            raise UserError(
                f"model.clusters={self.clusters}: the training images have only {distinct} different colours"
                f"{' (in gray)' if space == 'gray' else ''}. Type model.clusters={max(distinct, 2)}"
            )
        cluster = need("sklearn.cluster").KMeans(self.clusters, n_init=4, random_state=seed).fit(drawn.features)
        # In order of brightness, so that numbers mean something.
        order = np.argsort(cluster.cluster_centers_[:, : colors.shape[1]].sum(1), kind="stable")
        shown = np.random.default_rng(seed).permutation(len(drawn.features))[:2000]
        self.learned |= {
            "space": space,
            "centers": cluster.cluster_centers_[order].astype(np.float32),
            "examples": drawn.features[shown].astype(np.float32),
        }
        super().fit(samples, seed=seed, device=device, progress=progress)

    def regions(self, image: np.ndarray) -> np.ndarray:
        features = self.features(image, self.learned["space"])
        return nearest(features.reshape(-1, features.shape[2]), self.learned["centers"]).reshape(image.shape[:2])

    def steps(self, image: np.ndarray) -> list[Step]:
        return [Step(f"{self.clusters} clusters", self.regions(image).astype(np.int32) + 1)]

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        about = {"space": self.learned["space"], "centers": np.round(self.learned["centers"], 2).tolist()}
        return about | super().report(class_names)

    def restore(self) -> None:
        super().restore()
        if len(self.learned["centers"]) != self.clusters:
            raise ValueError(f"{self.clusters} centers were expected")


def nearest(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(P, D) float32, (K, D) float32 -> (P,) uint8: the number of the nearest center."""
    # |x - c|^2 without |x|^2, which is the same for all centers
    distances = torch.from_numpy((centers**2).sum(1)) - 2 * torch.from_numpy(features) @ torch.from_numpy(centers.T)
    return distances.min(1).indices.to(torch.uint8).numpy()
