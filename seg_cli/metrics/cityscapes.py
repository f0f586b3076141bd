"""The scores of the Cityscapes benchmark beside mIoU: category IoU, and IoU weighted by the size of instances (iIoU).

Cordts et al. (2016), arXiv:1604.01685, section 4.1; the numbers are those of cityscapesScripts.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.images import read_plain
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.metrics.metric import SCALE, by_name, fixed, mean, number, overlaps, ratio

CATEGORIES = {
    "flat": {"road": 7, "sidewalk": 8},
    "construction": {"building": 11, "wall": 12, "fence": 13},
    "object": {"pole": 17, "traffic light": 19, "traffic sign": 20},
    "nature": {"vegetation": 21, "terrain": 22},
    "sky": {"sky": 23},
    "human": {"person": 24, "rider": 25},
    "vehicle": {"car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
"""The classes that are evaluated, with their label ids, by category."""

INSTANCE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""Mean pixels of an instance of each class that has instances, as cityscapesScripts has them."""

_LABEL_IDS = 34
_INSTANCES = "_gtFine_instanceIds.png"
_IDS = [index for members in CATEGORIES.values() for index in members.values()]
_INSTANCE_CATEGORIES = {"human": (24, 25), "vehicle": (26, 27, 28, 29, 30, 31, 32, 33)}
"""The categories whose classes have instances. To iIoU a prediction of caravan (29) or trailer (30), which are no
classes of the benchmark, is one of a vehicle; to IoU it is not."""
_WEIGHED = (*INSTANCE_SIZES, *_INSTANCE_CATEGORIES)
"""What has instances; true positives and false negatives are summed for each."""


class CategoryIou:
    """IoU of groups of classes: taking one class of a group for another is no error.

    Pixels are summed over the split. Every class must stand in one category.

    Args:
        categories: name -> names of its classes.

    Raises:
        UserError: when it starts, for a class that the dataset does not have, that stands nowhere or twice; in
            ``update`` where labels overlap.
    """

    def __init__(self, *, categories: Mapping[str, Sequence[str]]) -> None:
        self.categories = {name: list(classes) for name, classes in categories.items()}

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        where = "metrics.cityscapes.categories"
        named = [(category, name) for category, classes in self.categories.items() for name in classes]
        for category, name in named:
            if name not in names:
                raise UserError(
                    f"{where}.{category}: there is no class '{name}'.{did_you_mean(name, names)} "
                    f"Classes: {', '.join(names)}."
                )
        category_of = {name: category for category, name in named}
        missing = [name for name in names if name not in category_of]
        if missing or len(named) > len(names):
            problem = f"these stand in none: {', '.join(missing)}" if missing else "a class stands there twice"
            raise UserError(f"{where}: every class of the dataset must stand in one category; {problem}.")
        table = torch.full((256,), VOID, dtype=torch.uint8)
        for index, name in enumerate(names):
            table[index] = list(self.categories).index(category_of[name])
        self._table = table.to(device)
        self._state = torch.zeros(2, len(self.categories), dtype=torch.int64, device=device)

    def state(self) -> Tensor:
        return self._state

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        if masks.ndim == 4:
            raise UserError(
                "metrics=cityscapes: category IoU needs one class a pixel, and the labels of this dataset overlap. "
                "Leave it out of metrics."
            )
        grouped, truth = (self._table[labels.long()] for labels in (predictions, masks))
        self._state += overlaps(grouped, truth, len(self.categories)).sum(0)

    def results(self) -> dict[str, Any]:
        iou = ratio(*self._state.cpu().numpy())
        return {"category_miou": number(mean(iou)), "categories": by_name(list(self.categories), iou)}

    def per_image(self) -> dict[str, np.ndarray]:
        return {}


class InstanceIou:
    """iIoU of the classes and categories of Cityscapes, as ``iiou`` defines it, in the pass that scores a split.

    Instances are read from the dataset's own files, by the names of the samples. They are counted on the CPU, which
    waits for the device with every batch.

    Args:
        instances: a folder at any depth of which lie the files ``*_gtFine_instanceIds.png``.

    Raises:
        UserError: when it starts, for a class that Cityscapes does not have or a folder without such files; in
            ``update`` where an image has no such file, or one of another size.
    """

    def __init__(self, *, instances: str | None) -> None:
        self.instances = instances

    def start(self, num_classes: int, names: Sequence[str], device: torch.device) -> None:
        known = {name: index for members in CATEGORIES.values() for name, index in members.items()}
        for name in names:
            if name not in known:
                raise UserError(
                    f"metrics=iiou: its classes are those of Cityscapes, and this dataset has '{name}'. "
                    "Leave it out of metrics."
                )
        self._ids = np.zeros(256, np.uint8)  # void is unlabeled, which nobody scores
        self._ids[: len(names)] = [known[name] for name in names]
        self._files = self._find()
        self._state = torch.zeros(_LABEL_IDS**2 + 2 * len(_WEIGHED), dtype=torch.int64, device=device)

    def state(self) -> Tensor:
        return self._state

    def update(self, logits: Tensor, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        parts = zip(predictions.cpu().numpy(), masks.cpu().numpy(), names, strict=True)
        for prediction, truth, name in parts:
            instances = self._read(name, truth.shape)
            matrix = np.bincount(
                (self._ids[truth].astype(np.int64) * _LABEL_IDS + self._ids[prediction]).ravel(),
                minlength=_LABEL_IDS**2,
            )
            weights = {key: np.zeros(2) for key in _WEIGHED}
            _weigh(weights, self._ids[prediction], instances)
            counted = torch.from_numpy(np.concatenate([*weights.values()]))
            self._state += torch.cat((torch.from_numpy(matrix), fixed(counted))).to(self._state.device)

    def results(self) -> dict[str, Any]:
        counts = self._state.cpu().numpy()
        matrix = counts[: _LABEL_IDS**2].reshape(_LABEL_IDS, _LABEL_IDS)
        return _scores(matrix, dict(zip(_WEIGHED, (counts[_LABEL_IDS**2 :] / SCALE).reshape(-1, 2), strict=True)))

    def per_image(self) -> dict[str, np.ndarray]:
        return {}

    def _find(self) -> dict[str, Path]:
        if self.instances is None:
            raise UserError("metrics.iiou.instances: where are the instances? Type the folder gtFine of Cityscapes.")
        folder = Path(self.instances).expanduser()
        files = {path.name.removesuffix(_INSTANCES): path for path in sorted(folder.rglob(f"*{_INSTANCES}"))}
        if not files:
            raise UserError(f"metrics.iiou.instances={self.instances}: there are no files *{_INSTANCES} below it.")
        return files

    def _read(self, name: str, size: tuple[int, ...]) -> NDArray[Any]:
        if name not in self._files:
            raise UserError(f"metrics.iiou.instances={self.instances}: there is no file {name}{_INSTANCES} below it.")
        instances = read_plain(self._files[name], "mask")
        if instances.shape != size:
            raise UserError(f"{self._files[name]}: the instances are {instances.shape}, and the mask is {size}.")
        return instances


def iiou(images: Iterable[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """IoU and iIoU of the classes and categories of Cityscapes over a split, as cityscapesScripts computes them.

    iIoU = iTP / (iTP + FP + iFN): a pixel of an instance has as its weight the mean size of the instances of its class
    over the size of this one. Pixels of groups are of no instance, so they count in neither. What is predicted where
    the class is not has no instance either, and no weight.

    Args:
        images: of each image three (H, W) arrays: the prediction and the truth (``gtFine_labelIds``), both label ids in
            0..33, and ``gtFine_instanceIds``, where a pixel of an instance is 1000 times the label id and a number.

    Returns:
        ``classes`` and ``categories``: name -> ``{"iou", "iiou"}``; and the means ``miou``, ``miiou``,
        ``category_miou``, ``category_miiou``. None where a score is not defined, and for what has no instances.

    Raises:
        ValueError: for shapes that differ, or a label id outside 0..33.
    """
    matrix = np.zeros((_LABEL_IDS, _LABEL_IDS), np.int64)
    weights = {name: np.zeros(2) for name in _WEIGHED}
    for prediction, truth, instances in images:
        _check(prediction, truth, instances)
        cells = truth.astype(np.int64) * _LABEL_IDS + prediction
        matrix += np.bincount(cells.ravel(), minlength=matrix.size).reshape(matrix.shape)
        _weigh(weights, prediction, instances)

    return _scores(matrix, weights)


def _scores(matrix: NDArray[np.int64], weights: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """As ``iiou`` returns them, of the confusion matrix of label ids, and the weighted pixels of what has instances."""

    def scores(name: str, ids: Sequence[int]) -> dict[str, float | None]:
        others = [index for index in _IDS if index not in ids]
        hits = matrix[np.ix_(ids, ids)].sum()
        iou = ratio(hits, matrix[ids].sum() + matrix[np.ix_(others, ids)].sum())
        if name not in weights:
            return {"iou": number(iou), "iiou": None}
        wrong = matrix[np.ix_(others, _INSTANCE_CATEGORIES.get(name, ids))].sum()
        return {"iou": number(iou), "iiou": number(ratio(weights[name][0], weights[name].sum() + wrong))}

    classes = {name: scores(name, [index]) for members in CATEGORIES.values() for name, index in members.items()}
    categories = {name: scores(name, list(members.values())) for name, members in CATEGORIES.items()}
    return {
        "miou": _mean(classes, "iou"),
        "miiou": _mean(classes, "iiou"),
        "category_miou": _mean(categories, "iou"),
        "category_miiou": _mean(categories, "iiou"),
        "classes": classes,
        "categories": categories,
    }


def _check(prediction: NDArray[Any], truth: NDArray[Any], instances: NDArray[Any]) -> None:
    if not prediction.shape == truth.shape == instances.shape:
        raise ValueError(f"shapes differ: {prediction.shape}, {truth.shape}, {instances.shape}")
    for what, labels in (("prediction", prediction), ("truth", truth)):
        if labels.size and not 0 <= labels.min() <= labels.max() < _LABEL_IDS:
            raise ValueError(f"label ids are 0 to 33; the {what} has {labels.min()} to {labels.max()}")


def _weigh(weights: dict[str, NDArray[np.float64]], prediction: NDArray[Any], instances: NDArray[Any]) -> None:
    """Add the weighted pixels of an image's instances to the two numbers of their class and of its category."""
    counted = instances > 1000
    ids, instance, sizes = np.unique(instances[counted], return_inverse=True, return_counts=True)
    labels, predicted = ids // 1000, prediction[counted]
    for category, members in _INSTANCE_CATEGORIES.items():
        as_class = np.bincount(instance, predicted == labels[instance], len(ids))
        as_category = np.bincount(instance, np.isin(predicted, members), len(ids))
        for name, index in CATEGORIES[category].items():
            of_class = labels == index
            weight = INSTANCE_SIZES[name] / sizes[of_class]
            for key, hits in ((name, as_class[of_class]), (category, as_category[of_class])):
                weights[key] += (weight * hits).sum(), (weight * (sizes[of_class] - hits)).sum()


def _mean(scores: Mapping[str, Mapping[str, float | None]], key: str) -> float | None:
    return number(mean(np.array([score[key] for score in scores.values()], np.float64)))
