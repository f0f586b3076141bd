"""Transforms of albumentations as steps of an augmentation, made safe: void fills what geometry leaves empty, a wrong
argument is an error and not a warning, and all randomness comes from the sample's own generator.

The mask is given to albumentations as ``mask + 1`` in bytes, which makes void 0. So whatever it fills a mask with (its
``fill_mask``, or 0 where a transform has no such argument) is void when it comes back, and a mask that is not empty is
one that has labels.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.labels import VOID
from seg_cli.data.mixing import Others
from seg_cli.data.sample import Sample

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look online for a newer version

_FILLS = ("fill_mask", "mask_drop_value")


class Albumentation:
    """A transform of albumentations, applied to the crop: to pixels alone, or to image and mask.

    Args:
        name: its class name, as ``ColorJitter`` or ``Perspective``.
        args: its arguments.

    Raises:
        ValueError: if there is no such transform, it does not have an argument or not take its value, or the argument
            would fill masks with a label or interpolate between labels.
    """

    def __init__(self, *, name: str, args: Mapping[str, object] | None = None) -> None:
        transform, args = getattr(_library(), name, None), args or {}
        if not (isinstance(transform, type) and issubclass(transform, _transforms())):
            raise ValueError(f"albumentations has no transform '{name}'.{did_you_mean(name, _names())}")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            try:
                made = transform(**args)
            except (TypeError, ValueError) as error:
                raise ValueError(f"albumentations.{name} does not take these arguments: {_line(error)}") from None
        for warning in warned:  # that an argument was dropped or adjusted; others give advice
            if any(re.search(rf"\b{re.escape(key)}\b", str(warning.message)) for key in args):
                raise ValueError(f"albumentations.{name} does not take these arguments: {_line(warning.message)}")
        self._adopt(made)

    @classmethod
    def around(cls, transform: Any) -> "Albumentation":
        """The step of a transform, or a composition of several, that is there already. Raises ValueError as above."""
        step = cls.__new__(cls)
        step._adopt(transform)
        return step

    def _adopt(self, transform: Any) -> None:
        library = _library()
        self.transform = transform
        self.name = type(transform).__name__
        self._moves = False
        for leaf in _leaves(transform):
            name = type(leaf).__name__
            if leaf.invalid_args:
                unknown = ", ".join(leaf.invalid_args)
                raise ValueError(f"albumentations.{name} does not take these arguments: it has no '{unknown}'.")
            for key in _FILLS:
                value = getattr(leaf, key, None)
                if value is None:
                    continue  # it leaves the mask as it is
                if np.any((np.asarray(value) != 0) & (np.asarray(value) != VOID)):
                    raise ValueError(
                        f"albumentations.{name}: {key}={value} would be a label where there is none. What geometry "
                        f"leaves empty is void; leave {key} out."
                    )
                setattr(leaf, key, 0)  # of the mask as albumentations is given it
            if getattr(leaf, "mask_interpolation", cv2.INTER_NEAREST) not in (cv2.INTER_NEAREST, 6):
                raise ValueError(
                    f"albumentations.{name}: mask_interpolation={leaf.mask_interpolation} would mix labels. Masks are "
                    "always taken from the nearest pixel; leave it out."
                )
            self._moves |= not isinstance(leaf, library.ImageOnlyTransform)

    def change(
        self, sample: Sample, others: Others | None, rng: np.random.Generator, *, surely: bool = False
    ) -> Sample:
        """Apply it. Raises ValueError if it does not take such an image, or gives none of the same size and type.

        Args:
            sample: a crop, see ``augment.Change``.
            others: not used.
            rng: its seed is drawn from here; seeding numpy does not reach albumentations.
            surely: apply it whatever its own probability is.
        """
        self.transform.set_random_seed(int(rng.integers(2**31)))
        image, mask = sample.image, sample.mask
        given: dict[str, Any] = {"image": image / np.float32(255) if image.dtype == np.float32 else image}
        if self._moves:
            shifted = mask + np.uint8(1)
            given |= {"mask": shifted} if mask.ndim == 2 else {"masks": list(shifted)}
        try:
            result = self.transform(force_apply=surely, **given)
        except (ValueError, TypeError, KeyError, IndexError, NotImplementedError, cv2.error) as error:
            raise ValueError(
                f"albumentations.{self.name} does not take a {image.dtype} image of {image.shape[2]} bands and "
                f"{image.shape[0]}x{image.shape[1]} pixels (data.channels={image.shape[2]}): {_line(error)}"
            ) from error
        changed = np.asarray(result["image"])
        if changed.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"albumentations.{self.name} makes a picture of {changed.shape[0]}x{changed.shape[1]} of one of "
                f"{image.shape[0]}x{image.shape[1]} (height x width). A step leaves the size as it is; loader.crop is "
                "the size, and crop=random|class_aware|resized what is shown."
            )
        if image.dtype == np.float32 and changed.dtype == np.float32:
            changed = changed * np.float32(255)
        changed = changed.reshape(image.shape) if changed.size == image.size else changed
        if changed.shape != image.shape or changed.dtype != image.dtype:
            raise ValueError(
                f"albumentations.{self.name} gives {changed.dtype} of shape {changed.shape}, and an image must stay "
                f"{image.dtype} of shape {image.shape}. Leave it out; models normalise images themselves."
            )
        if self._moves:
            moved = result["mask"] if mask.ndim == 2 else np.stack(list(result["masks"]))
            mask = moved.reshape(mask.shape).astype(np.uint8, copy=False) - np.uint8(1)
        return replace(sample, image=changed, mask=mask)


def checked(augment: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an augmentation, with steps ``{_target_: albumentations.Rotate}`` as those of an ``Albumentation``.

    Called by its own name, a transform would only warn of an argument that it changed or did not know.
    """
    if not isinstance(augment.get("steps"), Mapping):
        return dict(augment)
    return {**augment, "steps": {name: _checked(settings) for name, settings in augment["steps"].items()}}


def _checked(settings: Any) -> Any:
    target = settings.get("_target_") if isinstance(settings, Mapping) else None
    package, _, name = str(target).rpartition(".")
    if package != "albumentations":
        return settings
    args = {key: value for key, value in settings.items() if key != "_target_"}
    return {"_target_": f"{__name__}.Albumentation", "name": name, "args": args}


def is_albumentation(step: object) -> bool:
    """Whether a step is a transform of albumentations itself, or a composition of some."""
    return type(step).__module__.startswith("albumentations.") and isinstance(step, _transforms())


def _leaves(transform: Any) -> Iterator[Any]:
    """The transforms of a composition, or the transform itself."""
    if isinstance(transform, _library().BasicTransform):
        yield transform
    else:
        for part in transform.transforms:
            yield from _leaves(part)


def _library() -> ModuleType:
    import albumentations  # late, for it takes seconds

    return albumentations


def _transforms() -> tuple[type, type]:
    """Single transforms and compositions of several."""
    from albumentations.core.composition import BaseCompose

    return _library().BasicTransform, BaseCompose


def _names() -> list[str]:
    found = vars(_library()).items()
    return [name for name, value in found if isinstance(value, type) and issubclass(value, _transforms())]


def _line(error: object) -> str:
    """The text of an error on one line that is not too long."""
    return " ".join(str(error).split())[:200]
