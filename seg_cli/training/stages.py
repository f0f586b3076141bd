"""``resize=none|progressive``: how large images are, and how many make a batch, from epoch to epoch.

A run is cut into stages. In each, batches have one shape. All stages share one job, one optimiser and one set of
workers: the sampler says with every sample how large it is wanted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.geometry import Size, zoomed
from seg_cli.data.loading import BatchShape
from seg_cli.errors import UserError

SMALLEST_SIDE = 32
"""Pixels: what every encoder halves five times."""


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs in which batches have one shape.

    Attributes:
        first: its first epoch, from 0.
        epochs: how many.
        crop: (height, width) of samples; None where each has its own size, times ``zoom``.
        zoom: how much smaller things are than in the file.
        batch_size: samples a batch and process.
        lr_factor: on the learning rate of the schedule.
        warmup: share of the stage's steps in which the learning rate climbs to that, from 0.
    """

    first: int
    epochs: int
    crop: Size | None
    zoom: float
    batch_size: int
    lr_factor: float = 1.0
    warmup: float = 0.0

    @property
    def last(self) -> int:
        return self.first + self.epochs - 1

    def size(self, image: Size) -> Size:
        """(height, width) of a sample, where an image has the size ``image``."""
        return self.crop or zoomed(image, self.zoom)


class Resize(Protocol):
    """Cuts a run into stages."""

    def stages(self, *, epochs: int, crop: Size | None, image: Size, batch_size: int) -> list[Stage]:
        """The stages of a run, which follow on each other and fill its epochs.

        Args:
            epochs: ``trainer.max_epochs``.
            crop: ``loader.crop``.
            image: (height, width) of an image of the dataset.
            batch_size: ``loader.batch_size``, of full-size samples.

        Raises:
            UserError: if they do not fill the epochs, or a size is too small.
        """
        ...


class OneSize:
    """``resize=none``: the same from the first epoch to the last."""

    def stages(self, *, epochs: int, crop: Size | None, image: Size, batch_size: int) -> list[Stage]:
        return [Stage(0, epochs, crop, 1.0, batch_size)]


class Progressive:
    """``resize=progressive``: small images first and whole ones last.

    Early epochs learn what is coarse, and cost a fraction (Howard 2018, DAWNBench; Tan 2021, arXiv:2104.00298).

    Args:
        stages: each with ``size`` (a share of the full side, or [height, width]), ``epochs`` (how many, or a share of
            ``trainer.max_epochs``), ``batch_size`` (``pixels``: as many pixels a batch as at full size; ``same``: as
            many samples; or a number) and ``lr_factor``.
        warmup: share of the steps of every stage but the first in which the learning rate climbs again.
        multiple: sides are rounded to multiples of so many pixels.

    Raises:
        UserError: for a setting that is not there or makes no sense.
    """

    def __init__(self, *, stages: Sequence[Mapping[str, Any]], warmup: float = 0.05, multiple: int = 32) -> None:
        if not stages:
            raise UserError("resize.stages: name at least one stage, or choose resize=none.")
        if not 0 <= warmup < 1:
            raise UserError(f"resize.warmup={warmup}: it is a share of a stage, 0 or more and less than 1.")
        if not (isinstance(multiple, int) and multiple >= 1):
            raise UserError(f"resize.multiple={multiple}: it must be a whole number of pixels, 1 or more.")
        for number, stage in enumerate(stages):
            _check_stage(f"resize.stages[{number}]", stage)
        self.settings, self.warmup, self.multiple = [dict(stage) for stage in stages], warmup, multiple

    def stages(self, *, epochs: int, crop: Size | None, image: Size, batch_size: int) -> list[Stage]:
        full = crop or image
        found: list[Stage] = []
        for number, (setting, count) in enumerate(zip(self.settings, self._epochs(epochs), strict=True)):
            size, zoom = self._size(setting["size"], full)
            if min(size) < SMALLEST_SIDE:
                raise UserError(
                    f"resize.stages[{number}].size={setting['size']}: samples would be {size[0]}x{size[1]} pixels (of "
                    f"{full[0]}x{full[1]}), and no side may be below {SMALLEST_SIDE}."
                )
            wanted = setting.get("batch_size", "pixels")
            if wanted == "pixels":
                wanted = max(1, round(batch_size * full[0] * full[1] / (size[0] * size[1])))
            found.append(
                Stage(
                    first=found[-1].last + 1 if found else 0,
                    epochs=count,
                    crop=None if crop is None and size == full else size,
                    zoom=zoom,
                    batch_size=batch_size if wanted == "same" else wanted,
                    lr_factor=float(setting.get("lr_factor", 1.0)),
                    warmup=self.warmup if found else 0.0,
                )
            )
        return found

    def _size(self, wanted: float | Sequence[int], full: Size) -> tuple[Size, float]:
        """(height, width) of a stage, and how much smaller things are in it."""
        if isinstance(wanted, Sequence):
            size = (int(wanted[0]), int(wanted[1]))
            return size, math.sqrt(size[0] * size[1] / (full[0] * full[1]))
        if wanted == 1:
            return full, 1.0
        height, width = (max(1, round(side * wanted / self.multiple)) * self.multiple for side in full)
        return (height, width), float(wanted)

    def _epochs(self, epochs: int) -> list[int]:
        """Whole epochs of each stage."""
        wanted = [stage["epochs"] for stage in self.settings]
        written = " + ".join(f"{value:g}" for value in wanted)
        if all(isinstance(value, int) for value in wanted) and wanted != [1]:
            if sum(wanted) != epochs:
                raise UserError(
                    f"resize.stages: their epochs are {written} = {sum(wanted)}, and trainer.max_epochs={epochs}. Make "
                    "them agree, or write epochs as shares that add up to 1."
                )
            return wanted
        if not math.isclose(sum(wanted), 1, abs_tol=1e-6):
            raise UserError(
                f"resize.stages: their epochs are shares of the run, and {written} = {sum(wanted):g}, not 1."
            )
        ends = [round(epochs * sum(wanted[: number + 1])) for number in range(len(wanted))]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        if min(counts) < 1:
            raise UserError(
                f"resize.stages[{counts.index(min(counts))}].epochs: of trainer.max_epochs={epochs} there is not one "
                "whole epoch for this stage. Train longer, or have fewer stages."
            )
        return counts


@dataclass(frozen=True)
class Plan:
    """The stages of a run, counted in batches and steps.

    Args:
        stages: of the run.
        samples: in the training split.
        world_size: processes that train.
        accumulate: batches whose gradients make a step.
        limit_batches: use only so many batches of an epoch; None for all.
    """

    stages: Sequence[Stage]
    samples: int
    world_size: int = 1
    accumulate: int = 1
    limit_batches: int | None = None

    @property
    def epochs(self) -> int:
        return self.stages[-1].last + 1

    def stage(self, epoch: int) -> Stage:
        """The stage of an epoch; the last one where training went on longer."""
        return next((stage for stage in self.stages if epoch <= stage.last), self.stages[-1])

    def shape(self, epoch: int) -> BatchShape:
        """What the batches of an epoch look like, as the loader takes it."""
        stage = self.stage(epoch)
        return BatchShape(stage.batch_size, stage.crop, stage.zoom)

    def number(self, epoch: int) -> int:
        """Which stage that is, from 0."""
        return list(self.stages).index(self.stage(epoch))

    def batches(self, epoch: int) -> int:
        """Batches of an epoch, a process. The last, smaller one is left out unless it is the only one."""
        batches = max(1, self.samples // (self.stage(epoch).batch_size * self.world_size))
        return batches if self.limit_batches is None else min(batches, self.limit_batches)

    def steps(self, epoch: int) -> int:
        """Steps of the optimiser in an epoch."""
        return math.ceil(self.batches(epoch) / self.accumulate)

    @property
    def step_samples(self) -> int:
        """Samples of a step over all processes, in the stage of the largest images.

        Stages of smaller ones do not count: their larger batches hold no more pixels, and they have a factor of their
        own on the learning rate.
        """
        return max(self.stages, key=lambda stage: stage.zoom).batch_size * self.world_size * self.accumulate

    def steps_before(self, epoch: int) -> int:
        return sum(stage_epochs * self.steps(first) for first, stage_epochs in self._spans(epoch))

    @property
    def total_steps(self) -> int:
        return self.steps_before(self.epochs)

    def progress(self, epoch: int, step: int) -> float:
        """Share of the run's steps that are done before ``step`` of ``epoch``, 0 to 1."""
        return min(1.0, (self.steps_before(epoch) + step) / self.total_steps)

    def lr_factor(self, epoch: int, step: int) -> float:
        """The stage's factor on the learning rate, with its warm-up."""
        stage = self.stage(epoch)
        warm = stage.warmup * stage.epochs * self.steps(epoch)
        done = (epoch - stage.first) * self.steps(epoch) + step + 1
        return stage.lr_factor * min(1.0, done / warm if warm else 1.0)

    def _spans(self, end: int) -> list[tuple[int, int]]:
        """Of each stage that begins before epoch ``end``: its first epoch, and its epochs before ``end``."""
        return [(s.first, min(s.epochs, end - s.first)) for s in self.stages if s.first < end]


def _check_stage(where: str, stage: Mapping[str, Any]) -> None:
    if not isinstance(stage, Mapping):
        raise UserError(f"{where}={stage}: it must be a stage, as in {{size: 0.5, epochs: 0.5}}.")
    known = ("size", "epochs", "batch_size", "lr_factor")
    for key in stage:
        if key not in known:
            raise UserError(
                f"{where}.{key}: there is no such setting.{did_you_mean(key, known)} Settings: {', '.join(known)}."
            )
    for key in ("size", "epochs"):
        if key not in stage:
            raise UserError(f"{where}: its {key} is missing, as in {{size: 0.5, epochs: 0.5}}.")
    size, epochs = stage["size"], stage["epochs"]
    if not (_is_share(size) or (isinstance(size, Sequence) and len(size) == 2 and all(map(_is_count, size)))):
        raise UserError(f"{where}.size={size}: it must be a share of the full side, 0 to 1, or [height, width].")
    if not (_is_share(epochs) or _is_count(epochs)):
        raise UserError(f"{where}.epochs={epochs}: it must be a number of epochs, or a share of them, 0 to 1.")
    batch_size, lr_factor = stage.get("batch_size", "pixels"), stage.get("lr_factor", 1.0)
    if batch_size not in ("pixels", "same") and not _is_count(batch_size):
        raise UserError(f"{where}.batch_size={batch_size}: it must be pixels, same, or a number of samples.")
    number = isinstance(lr_factor, int | float) and not isinstance(lr_factor, bool)
    if not (number and 0 < lr_factor < math.inf):
        raise UserError(f"{where}.lr_factor={lr_factor}: it must be a number > 0.")


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
