"""The contract of classical methods: fitted in one go, no epochs, and then a module that gives logits like a network.

What a method has learned is kept in ``learned``, plain arrays and values, which a checkpoint holds as tensors: nothing
of it is pickled, and nothing is executed when it is read.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError

CERTAIN = 16.0
"""The logit of the class that a method without probabilities chose; the others have 0."""

MANY_CLASSES = "kmeans, watershed, region_growing, graphcut, pixel_forest, patch_cnn and threshold with multi_otsu"

CHANNELS = ("gray", "red", "green", "blue", "hue", "saturation", "value")

Progress = Callable[[Iterable], Iterable]


@dataclass(frozen=True)
class Step:
    """A step of a method on one image, to be looked at.

    Attributes:
        title: what it shows.
        picture: (H, W) booleans, (H, W) float32 of any range, (H, W) int32 numbers of regions, or (H, W, 3) uint8.
    """

    title: str
    picture: np.ndarray


class Method(nn.Module):
    """A classical method. Children say how they fit, and how they label an image.

    Args:
        num_classes: C.

    Attributes:
        binary: whether it can tell only two classes apart.
        learned: what fitting found: name -> array, text, number or list of numbers; empty before.
    """

    binary: bool
    learned: dict[str, Any]

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.learned, self.binary = num_classes, {}, False
        # Whoever asks a module for its parts or its device looks at its parameters.
        self.nothing = nn.Parameter(torch.zeros(0))

    # ---- what children say

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        """Learn from samples; void pixels teach nothing.

        Args:
            samples: of the training split.
            seed: of every random choice.
            device: where to compute, for a method that has a network in it.
            progress: is given an iterable of what takes time, and yields its items.

        Raises:
            UserError: if the samples do not allow what was asked for.
        """
        raise TypeError(f"{type(self).__name__} does not say how it is fitted")

    def label(self, image: np.ndarray) -> np.ndarray:
        """(H, W, B) uint8, or float32 in 0..255 -> (H, W) uint8 class indices."""
        return self.scores(image).argmax(0).astype(np.uint8)

    def scores(self, image: np.ndarray) -> np.ndarray:
        """The same as (C, H, W) float32 logits."""
        chosen = self.label(image)[None] == np.arange(self.num_classes, dtype=np.uint8)[:, None, None]
        return np.multiply(chosen, np.float32(CERTAIN), dtype=np.float32)

    def steps(self, image: np.ndarray) -> list[Step]:
        """What happens on the way to the labels of an image."""
        return []

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What was learned, for people: plain values that JSON has."""
        return {}

    # ---- what they share

    def check(self, sample: Sample, labels: LabelSpace) -> None:
        """Whether the method suits a dataset, as far as one sample tells. Raises UserError if not."""
        if labels.overlapping:
            raise UserError(
                f"model: {self.title} gives each pixel one class, and the labels of this dataset overlap. Choose a "
                "network, as model=unet, or data.multilabel=false."
            )
        if self.binary and labels.num_classes > 2:
            raise UserError(
                f"model: {self.title} tells two classes apart, and the dataset has {labels.num_classes}. For more "
                f"than two there are {MANY_CLASSES}, and all networks. See: segrun list models"
            )

    @property
    def title(self) -> str:
        """What messages call it: its name with small letters, as pixel_forest."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def learned_values(self) -> int:
        """How many numbers labelling needs that were learned; of a network its parameters."""
        used = ("class_of", "centers", "spread", "prior")
        return sum(int(np.size(self.learned[key])) for key in used if key in self.learned)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C, H, W) float32 of images (N, B, H, W); computed on the CPU."""
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            raise UserError(f"model: {self.title} is no network, and cannot be compiled or exported.")
        self.check_fitted()
        pictures = images.permute(0, 2, 3, 1).cpu()
        if pictures.dtype != torch.uint8:
            pictures = pictures.float()
        logits = torch.empty(len(images), self.num_classes, *images.shape[2:])
        for found, picture in zip(logits, pictures.numpy(), strict=True):
            found.copy_(torch.from_numpy(self.scores(picture)))
        return logits.to(images.device)  # (N, C, H, W)

    def check_fitted(self) -> None:
        """Raises UserError before ``fit``, or before what it learned is loaded."""
        if not self.learned:
            raise UserError(f"model: {self.title} knows nothing before it is fitted to data, as segrun train does.")

    def get_extra_state(self) -> dict[str, Any]:
        """``learned`` as tensors and plain values, for a checkpoint."""
        return {key: _as_tensor(value) for key, value in self.learned.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take what ``get_extra_state`` gave. Raises RuntimeError if it cannot be that."""
        try:
            self.learned = {key: _as_array(value) for key, value in state.items()}
            self.restore()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise RuntimeError(f"what was learned is damaged: {type(error).__name__}: {error}") from error

    def restore(self) -> None:
        """Make what is needed of ``learned``, which was just read; raises ValueError or KeyError if it is damaged."""


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def need(module: str) -> ModuleType:
    """A module of the extra ``classical``. Raises UserError with what to type if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = {"skimage": "scikit-image", "sklearn": "scikit-learn", "scipy": "scipy"}[module.partition(".")[0]]
        raise UserError(f"model: {package} is not installed. Type pip install 'segrun[classical]'.") from None


def one_of(setting: str, value: object, allowed: Sequence[str]) -> None:
    """Raises UserError if a setting is none of the allowed words."""
    if value not in allowed:
        raise UserError(f"model.{setting}={value}: {', '.join(allowed[:-1])} or {allowed[-1]} are allowed.")


def in_range(setting: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises UserError if a number is not between two others."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not good:
        bound = f"from {low:g} to {high:g}" if high < float("inf") else f"of {low:g} or more"
        raise UserError(f"model.{setting}={value}: a number {bound} is allowed.")


def whole(setting: str, value: int, low: int, high: float = float("inf")) -> None:
    """Raises UserError if a setting is no whole number between two others."""
    in_range(setting, value, low, high)
    if not isinstance(value, int):
        raise UserError(f"model.{setting}={value}: a whole number is allowed.")


# ---- images


def as_bytes(image: np.ndarray) -> np.ndarray:
    """An image or a band of it as uint8; OpenCV's thresholds take nothing else."""
    if image.dtype == np.uint8:
        return image
    return np.rint(np.clip(np.nan_to_num(image), 0, 255)).astype(np.uint8)


def gray(image: np.ndarray) -> np.ndarray:
    """(H, W, B) -> (H, W) of the same type: luminance of three bands, else the mean of all."""
    if image.shape[2] == 1:
        return np.ascontiguousarray(image[..., 0])
    if image.shape[2] == 3:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return image.mean(2).astype(image.dtype)


def has_color(image: np.ndarray) -> bool:
    """Whether three bands say more than one."""
    return image.shape[2] == 3 and bool(
        (image[..., 0] != image[..., 1]).any() or (image[..., 1] != image[..., 2]).any()
    )


def smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur; 0 leaves values as they are."""
    return cv2.GaussianBlur(values, (0, 0), sigma) if sigma > 0 else values


def channel_of(image: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3 or more) -> (H, W) uint8, one of ``CHANNELS``."""
    if name == "gray":
        return as_bytes(gray(image))
    if name in ("red", "green", "blue"):
        return np.ascontiguousarray(as_bytes(image[..., ("red", "green", "blue").index(name)]))
    hsv = cv2.cvtColor(np.ascontiguousarray(as_bytes(image)), cv2.COLOR_RGB2HSV)
    return np.ascontiguousarray(hsv[..., ("hue", "saturation", "value").index(name)])


def colors_of(image: np.ndarray, space: str) -> np.ndarray:
    """(H, W, B) -> (H, W, D) float32 of a colour space: ``rgb`` or bands as they are, ``lab``, ``gray``."""
    if space == "gray":
        return gray(image).astype(np.float32)[..., None]
    if space == "lab":
        return cv2.cvtColor(np.ascontiguousarray(image, np.float32) / 255, cv2.COLOR_RGB2LAB)
    return image.astype(np.float32)


def choose_space(space: str, sample: Sample) -> str:
    """``auto`` as what it means for images like this one. Raises UserError where colour is asked of gray images."""
    if space == "auto":
        return "lab" if has_color(sample.image) else "rgb" if sample.image.shape[2] not in (1, 3) else "gray"
    if space == "lab" or (space == "rgb" and sample.image.shape[2] in (1, 3)):
        check_color(f"space={space}", sample)
    return space


def check_color(setting: str, sample: Sample) -> None:
    """Raises UserError if the images are gray, or have other bands than red, green and blue."""
    bands = sample.image.shape[2]
    if bands != 3:
        raise UserError(f"model.{setting}: it needs colour, and the images have {bands} band{'s' * (bands > 1)}.")
    if not has_color(sample.image):
        raise UserError(
            f"model.{setting}: it needs colour, and the images are gray: the three bands of '{sample.name}' are "
            f"equal. Type model.{setting.partition('=')[0]}=gray"
        )
