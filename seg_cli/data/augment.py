"""Augmentation: what happens to a training sample between the file and the batch.

Geometry comes first: all of it is one map, and image and mask are resampled once, straight into the crop. The other
steps then see only the crop, in the order in which they are written: colours, mixing with other samples, transforms of
albumentations.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from seg_cli.data.albumentation import Albumentation, is_albumentation
from seg_cli.data.class_places import ClassPlaces
from seg_cli.data.crops import Crop, RandomCrop
from seg_cli.data.geometry import Bend, Geometry, Size, resample, zoomed
from seg_cli.data.labels import LabelSpace
from seg_cli.data.mixing import Others
from seg_cli.data.sample import Sample, Split
from seg_cli.errors import UserError


class Color(Protocol):
    """A random change of pixel values."""

    def recolor(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, B) -> the same shape and type, a new array."""
        ...


class Change(Protocol):
    """A random change of a crop with its mask, perhaps with the help of other samples."""

    def change(self, sample: Sample, others: Others, rng: np.random.Generator) -> Sample:
        """The changed sample, of the same size; the arrays of the given one are not written to.

        Raises:
            ValueError: if the step does not take such samples; the message is shown with the name of the step.
        """
        ...


class Augment:
    """A sum of steps, and which part of the image a crop shows.

    A step has one of the methods ``matrix`` (``Geometry``), ``bend`` (``Bend``), ``recolor`` (``Color``) and ``change``
    (``Change``), or is a transform of albumentations. One that also has ``fit(places, labels, where)`` is given what it
    needs to know of the training split, as the crop is.

    Args:
        steps: name -> step. ``augment=geometry+color`` merges the steps of both files.
        policy: where crops are taken; anywhere where it is not given.

    Raises:
        UserError: if a step is none.
    """

    def __init__(self, steps: Mapping[str, Any], policy: Crop | None = None) -> None:
        self.policy = policy or RandomCrop()
        self.geometry: list[Geometry] = []
        self.bends: list[Bend] = []
        self.changes: list[tuple[str, Any]] = []  # name and step, Color or Change
        for name, step in steps.items():
            if is_albumentation(step):
                try:
                    step = Albumentation.around(step)
                except ValueError as error:
                    raise UserError(f"augment.steps.{name}: {error}") from None
            if hasattr(step, "matrix"):
                self.geometry.append(step)
            elif hasattr(step, "bend"):
                self.bends.append(step)
            elif hasattr(step, "recolor") or hasattr(step, "change"):
                self.changes.append((name, step))
            else:
                raise UserError(
                    f"augment.steps.{name}: a {type(step).__name__} is no step; it has none of the methods matrix(), "
                    "bend(), recolor() and change(), and is no transform of albumentations."
                )
        parts = [("crop", self.policy), *((f"augment.steps.{name}", step) for name, step in steps.items())]
        self._learners = [(where, part) for where, part in parts if hasattr(part, "fit")]

    @property
    def needs_places(self) -> bool:
        """Whether ``fit`` has to be called before the first sample is asked for."""
        return bool(self._learners)

    def fit(self, places: ClassPlaces, labels: LabelSpace) -> None:
        """Give steps and crop what they need to know of the training split; not in a worker, but before there are any.

        Raises:
            UserError: if a step names a class that is not there.
        """
        for where, part in self._learners:
            part.fit(places, labels, where)

    def check(self, split: Split, crop: Size | None) -> None:
        """Try every transform of albumentations on the first sample.

        Raises:
            UserError: if one does not take such images, or if the crop needs a size and there is none.
        """
        if crop is None and getattr(self.policy, "needs_size", False):
            raise UserError(
                f"loader.crop=null: a {type(self.policy).__name__} cuts crops of one size out of images. Type "
                "loader.crop=[HEIGHT,WIDTH], or crop=random, which takes whole images as they are."
            )
        tried = [(name, step) for name, step in self.changes if isinstance(step, Albumentation)]
        if not tried:
            return
        rng = np.random.default_rng(0)
        sample = split[0]
        matrix = RandomCrop().place(0, sample.size, np.eye(2), crop or sample.size, rng)
        image, mask = resample(sample.image, sample.mask, matrix, crop or sample.size)
        for name, step in tried:
            try:
                step.change(replace(sample, image=image, mask=mask), None, rng, surely=True)
            except ValueError as error:
                raise UserError(f"augment.steps.{name}: {error}") from error

    def __call__(
        self, split: Split, index: int, crop: Size | None, rng: np.random.Generator, *, zoom: float = 1.0
    ) -> Sample:
        """Augment one sample of a split.

        Args:
            split, index: which sample; it may have any size.
            crop: (height, width) of the result; None keeps the sample's size, times ``zoom``.
            rng: all randomness comes from here, so that a sample is a function of its seed.
            zoom: how much smaller things are shown than in the file, besides what the steps do.

        Returns:
            A sample of size ``crop``; pixels from outside the image are 0 in the image and ``VOID`` in the mask. Its
            arrays may be views of those that the split gave, and are not to be written to.

        Raises:
            UserError: if a step does not take such samples, or changes the size of one.
        """
        return self._make(split, index, crop, rng, len(self.changes), zoom)

    def _make(
        self, split: Split, index: int, crop: Size | None, rng: np.random.Generator, steps: int, zoom: float
    ) -> Sample:
        """A crop of a sample after the geometry and the first ``steps`` of the other steps."""
        sample = self._cut(split[index], index, crop, rng, zoom)
        for done, (name, step) in enumerate(self.changes[:steps]):

            def cut(other: int, size: Size, rng: np.random.Generator, done: int = done) -> Sample:
                return self._make(split, other, size, rng, done, zoom)

            try:
                if hasattr(step, "change"):
                    changed = step.change(sample, Others(split, index, cut), rng)
                else:
                    changed = replace(sample, image=step.recolor(sample.image, rng))
            except ValueError as error:
                raise UserError(f"augment.steps.{name}: {error}") from error
            _check_form(f"augment.steps.{name}", sample, changed)
            sample = changed
        return sample

    def _cut(self, sample: Sample, index: int, crop: Size | None, rng: np.random.Generator, zoom: float) -> Sample:
        size = crop or zoomed(sample.size, zoom)
        linear = zoom * np.eye(2)
        for step in self.geometry:
            linear = step.matrix(rng) @ linear
        matrix = self.policy.place(index, sample.size, linear, size, rng)
        points = None
        if self.bends:
            straight = np.dstack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in reversed(size))))
            points = straight
            for bend in self.bends:
                points = bend.bend(points, rng)
            if points is straight:
                points = None
        image, mask = resample(sample.image, sample.mask, matrix, size, points)
        return replace(sample, image=image, mask=mask)


def _check_form(where: str, before: Sample, after: Sample) -> None:
    """Raises UserError if a step changed the shape or type of an image or its mask."""
    for what, old, new in (("image", before.image, after.image), ("mask", before.mask, after.mask)):
        if new.shape != old.shape or new.dtype != old.dtype:
            raise UserError(
                f"{where}: it made {new.dtype} of shape {new.shape} of the {what}, which was {old.dtype} of shape "
                f"{old.shape}. A step leaves size and type as they are; loader.crop is the size of crops."
            )
