"""A random forest on multi-scale features of each pixel, as ilastik has it: Breiman (2001); Berg et al. (2019).

A pixel is described by filters of several widths around it, and many decision trees vote on what it is. The trees are
kept as plain arrays.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError
from seg_cli.models.classical.method import (
    Method,
    Progress,
    Step,
    choose_space,
    colors_of,
    gray,
    in_range,
    need,
    one_of,
    whole,
)
from seg_cli.models.classical.pixels import PRIORS, draw_pixels, log_prior

_FILTERS = ("Laplacian", "gradient", "structure 1", "structure 2", "Hessian 1", "Hessian 2")


class PixelForest(Method):
    """A random forest on pixels.

    Args:
        num_classes: C.
        sigmas: standard deviations of the filters, in pixels.
        trees: of the forest.
        depth: of a tree at most; null for no bound.
        min_leaf: drawn pixels in a leaf at least.
        pixels: drawn from the training split, as many of each class of an image.
        prior: ``frequency``: votes are weighed by how frequent classes are in training, so that most pixels are right;
            ``balanced``: they are not, so that rare classes are found more often.

    Raises:
        UserError: for a setting that is not allowed.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        sigmas: Sequence[float],
        trees: int,
        depth: int | None,
        min_leaf: int,
        pixels: int,
        prior: str,
    ) -> None:
        one_of("prior", prior, PRIORS)
        if not isinstance(sigmas, Sequence) or isinstance(sigmas, str) or not sigmas:
            raise UserError(f"model.sigmas={sigmas}: a list of widths in pixels is allowed, as [1,2,4].")
        for sigma in sigmas:
            in_range("sigmas", sigma, 0.3)
        whole("trees", trees, 1)
        whole("min_leaf", min_leaf, 1)
        whole("pixels", pixels, 2)
        if depth is not None:
            whole("depth", depth, 1)
        super().__init__(num_classes=num_classes)
        self.sigmas, self.trees, self.depth, self.min_leaf = tuple(sigmas), trees, depth, min_leaf
        self.pixels, self.prior = pixels, prior
        self._forest: list[Any] = []

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        super().check(sample, labels)
        need("sklearn.ensemble")
        need("skimage.feature")

    def feature_names(self) -> list[str]:
        """What each feature is, in order."""
        bands = {"gray": ["gray"], "lab": ["L*", "a*", "b*"]}
        colors = bands.get(self.learned["space"], [f"band {n + 1}" for n in range(int(self.learned["bands"]))])
        names = list(colors)
        for sigma in self.sigmas:
            names += [f"{name}, σ {sigma:g}" for name in (*colors, *_FILTERS)]
        return names

    def features(self, image: np.ndarray, space: str) -> np.ndarray:
        """(H, W, D) float32: colours, and for each sigma the smoothed colours and filters of gray."""
        feature = need("skimage.feature")
        colors = colors_of(image, space)
        light = gray(image).astype(np.float32)
        found = [colors]
        for sigma in self.sigmas:
            blurred = cv2.GaussianBlur(light, (0, 0), sigma)
            across, down = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
            structure = feature.structure_tensor_eigenvalues(feature.structure_tensor(light, sigma, order="rc"))
            hessian = feature.hessian_matrix(light, sigma, order="rc", use_gaussian_derivatives=False)
            curved = feature.hessian_matrix_eigvals(hessian)
            filters = [cv2.Laplacian(blurred, cv2.CV_32F), cv2.magnitude(across, down), *structure, *curved]
            found += [cv2.GaussianBlur(colors, (0, 0), sigma).reshape(colors.shape), np.stack(filters, 2)]
        return np.concatenate(found, 2, dtype=np.float32)

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        space = choose_space("auto", samples[0])
        drawn = draw_pixels(
            samples,
            lambda image: self.features(image, space),
            self.pixels,
            seed,
            balanced=True,
            progress=progress,
        )
        classes, indices = np.unique(drawn.classes, return_inverse=True)
        forest = need("sklearn.ensemble").RandomForestClassifier(
            self.trees,
            max_depth=self.depth,
            min_samples_leaf=self.min_leaf,
            random_state=seed,
            n_jobs=_threads(),
        )
        forest.fit(drawn.features, indices)
        trees = [fitted.tree_.__getstate__() for fitted in forest.estimators_]
        nodes = np.concatenate([tree["nodes"] for tree in trees])
        self.learned |= {
            "space": space,
            "bands": samples[0].image.shape[2],
            "log_prior": log_prior(drawn.frequencies, drawn.classes, self.num_classes),
            "importances": forest.feature_importances_.astype(np.float32),
            "classes": classes,
            "counts": np.array([tree["node_count"] for tree in trees]),
            "depths": np.array([tree["max_depth"] for tree in trees]),
            "left": nodes["left_child"],
            "right": nodes["right_child"],
            "feature": nodes["feature"],
            "threshold": nodes["threshold"],
            "missing": nodes["missing_go_to_left"],
            "shares": np.concatenate([tree["values"][:, 0] for tree in trees]).astype(np.float32),
        }
        self.restore()

    def restore(self) -> None:
        """Make the trees of their arrays."""
        learned = self.learned
        ends = np.cumsum(learned["counts"])
        if learned["log_prior"].shape != (self.num_classes,):
            raise ValueError(f"a prior of {self.num_classes} classes was expected")
        if ends[-1] != len(learned["left"]) or learned["classes"].max() >= self.num_classes:
            raise ValueError("trees of other sizes were expected")
        width = len(learned["importances"])
        self._forest = [
            _tree(learned, slice(int(end - count), int(end)), int(depth), width)
            for count, end, depth in zip(learned["counts"], ends, learned["depths"], strict=True)
        ]

    def shares(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) float32: the votes, which sum to 1."""
        features = self.features(image, self.learned["space"])
        rows = features.reshape(-1, features.shape[2])
        stripes = np.array_split(rows, max(1, len(rows) // 65536))
        with ThreadPoolExecutor(_threads()) as pool:
            votes = np.concatenate(list(pool.map(self._votes, stripes)))
        shares = np.zeros((len(rows), self.num_classes), np.float32)
        shares[:, self.learned["classes"]] = votes
        return shares.reshape(*image.shape[:2], self.num_classes)

    def _votes(self, rows: np.ndarray) -> np.ndarray:
        votes = np.stack([tree.predict(rows) for tree in self._forest])
        return votes.mean(axis=0, dtype=np.float32)

    def scores(self, image: np.ndarray) -> np.ndarray:
        scores = np.log(self.shares(image) + 1e-4)
        if self.prior == "frequency":
            scores += self.learned["log_prior"]
        return np.ascontiguousarray(np.moveaxis(scores, 2, 0))

    def steps(self, image: np.ndarray) -> list[Step]:
        features, names = self.features(image, self.learned["space"]), self.feature_names()
        best = np.argsort(-self.learned["importances"], kind="stable")[:2]
        shares = self.shares(image)
        return [
            *(Step(names[number], features[..., number]) for number in best),
            Step("share of the votes for the winner", shares.max(2)),
        ]

    @property
    def learned_values(self) -> int:
        """Of each node which feature, where it is cut, and the votes."""
        return int(sum(self.learned[key].size for key in ("feature", "threshold", "shares"))) if self.learned else 0

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        values = self.learned["importances"].round(5).tolist()
        return {
            "trees": len(self.learned["counts"]),
            "nodes": int(self.learned["counts"].sum()),
            "importances": dict(zip(self.feature_names(), values, strict=True)),
        }


def _tree(learned: dict[str, Any], part: slice, depth: int, width: int) -> Any:
    """scikit-learn's tree of arrays; its code trusts what it is given, so that it is looked at first."""
    module = need("sklearn.tree._tree")
    nodes = np.zeros(part.stop - part.start, module.NODE_DTYPE)
    for name, key in (
        ("left_child", "left"),
        ("right_child", "right"),
        ("feature", "feature"),
        ("threshold", "threshold"),
        ("missing_go_to_left", "missing"),
    ):
        nodes[name] = learned[key][part]
    shares = learned["shares"][part].astype(np.float64)
    leaf = nodes["left_child"] == -1
    inner, numbers = nodes[~leaf], np.flatnonzero(~leaf)
    for child in ("left_child", "right_child"):
        # A child comes behind its parent, so that every way ends.
        if (inner[child] <= numbers).any() or (inner[child] >= len(nodes)).any():
            raise ValueError("a tree leads nowhere")
    if ((inner["feature"] < 0) | (inner["feature"] >= width)).any():
        raise ValueError("a tree asks for a feature that is not there")
    if shares.shape != (len(nodes), len(learned["classes"])):
        raise ValueError("a tree has other classes")
    tree = module.Tree(width, np.array([shares.shape[1]], dtype=np.intp), 1)
    state = {"max_depth": depth, "node_count": len(nodes), "nodes": nodes, "values": shares[:, None].copy()}
    tree.__setstate__(state)
    return tree


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
