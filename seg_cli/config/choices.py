"""The config groups and their choices, read from the files of ``conf/`` without Hydra, so quickly."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seg_cli.config.paths import conf_dir

# Group -> what one of its choices is called, and several: in the order of the groups in conf/train.yaml.
_NOUNS = {
    "model": ("model", "models"),
    "encoder": ("encoder", "encoders"),
    "loss": ("loss", "losses"),
    "data": ("dataset", "datasets"),
    "augment": ("augmentation", "augmentations"),
    "crop": ("crop", "crops"),
    "optimizer": ("optimizer", "optimizers"),
    "scheduler": ("scheduler", "schedulers"),
    "resize": ("resizing", "resizings"),
    "finetune": ("fine-tuning", "fine-tunings"),
    "average": ("average", "averages"),
    "trainer": ("trainer", "trainers"),
    "precision": ("precision", "precisions"),
    "logger": ("logger", "loggers"),
    "metrics": ("metric", "metrics"),
    "tta": ("view", "views"),
    "inference": ("inference", "inferences"),
    "postprocess": ("post-processing", "post-processings"),
    "experiment": ("experiment", "experiments"),
    "benchmark": ("benchmark", "benchmarks"),
    "sweep": ("sweep", "sweeps"),
}

SUM_GROUPS = ("loss", "augment", "logger", "tta", "metrics", "postprocess")
"""The groups that take sums, ``loss=ce+dice``."""

WEIGHTED_GROUPS = ("loss",)
"""The groups whose terms take weights, ``loss=ce+2*dice``."""

UPSAMPLINGS = {
    "nearest": "Repeats each value",
    "bilinear": "Interpolates between 2x2 neighbours",
    "bicubic": "Interpolates between 4x4 neighbours (Keys 1981)",
    "transposed": "A learned transposed convolution that starts as bilinear (Long 2015, arXiv:1411.4038)",
    "bed_of_nails": "The value at the upper left, zeros elsewhere",
    "max_unpool": "The value where the encoder's max pooling found it; for encoder=vgg16_bn and its like",
    "pixel_shuffle": "A learned convolution to factor^2 values a pixel (Shi 2016, arXiv:1609.05158)",
    "area": "Means of areas; for whole factors the same as nearest",
    "gaussian": "A fixed kernel, softer than bilinear",
    "lanczos3": "A fixed kernel, sharper, with some ringing",
    "lanczos5": "A fixed kernel, sharper still, with more ringing",
    "mitchell": "A fixed kernel between softness and ringing (Mitchell 1988)",
}
"""What ``model.upsample=`` takes, with a line on each: a setting of most models, and no group."""


@dataclass(frozen=True)
class Choice:
    """One choice of a group: its name (with its folder where it lies in one), its line of description, and its file."""

    name: str
    line: str
    path: Path


def nouns(group: str) -> tuple[str, str]:
    """What one choice of the group is called, and what several are: ``("loss", "losses")``."""
    return _NOUNS.get(group, (f"choice of {group}", "choices"))


def groups(extra: Iterable[Path] = ()) -> list[str]:
    """The groups that have choices, in the order of ``conf/train.yaml``; what ``extra`` adds comes last."""
    found = {file.parent.name for folder in (conf_dir(), *extra) for file in folder.glob("*/*.yaml")}
    return [group for group in _NOUNS if group in found] + sorted(found - set(_NOUNS) - {"hydra"})


def choices(group: str, extra: Iterable[Path] = ()) -> list[Choice]:
    """The choices of a group by name, with those of ``extra`` config folders. Our own win, as in Hydra.

    A group's folder may hold folders, as ``model/smp/unet.yaml`` for ``model=smp/unet``: their choices come last.
    """
    found: dict[str, Path] = {}
    for folder in (conf_dir(), *extra):
        for path in (folder / group).rglob("*.yaml"):
            found.setdefault(path.relative_to(folder / group).with_suffix("").as_posix(), path)
    names = sorted(found, key=lambda name: ("/" in name, name))
    return [Choice(name, _first_comment(found[name]), found[name]) for name in names]


def _first_comment(path: Path) -> str:
    """The first comment line of a file that describes it; Hydra's ``# @package`` line does not."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return ""
        if "@package" not in line:
            return line.lstrip("# ").strip()
    return ""
