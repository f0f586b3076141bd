"""``segrun check``: is this dataset sound? Reads all of it, says what is wrong, and draws what it looks like."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from seg_cli.commands.build import build
from seg_cli.commands.folders import open_folder
from seg_cli.data.augment import Augment
from seg_cli.data.datamodule import fit_augment
from seg_cli.data.files import FilePairs
from seg_cli.data.findings import Finding, Place, choose_samples, find, summarize
from seg_cli.data.inspect import Facts, count, inspect
from seg_cli.data.labels import LabelSpace
from seg_cli.data.loading import worker_count
from seg_cli.data.sample import Dataset, Split
from seg_cli.errors import RunFailed, UserError
from seg_cli.losses.class_weights import ClassWeights
from seg_cli.reports.check import finding_lines, numbers_of, tables
from seg_cli.reports.sheets import Section, Tile, draw_sheet
from seg_cli.runs.atomic import write_json
from seg_cli.training.progress import track
from seg_cli.training.quiet import quiet

SCHEMA = 1
"""Of check.json; raised when a reader of the old form would misunderstand the new one."""

_SCHEMES = ("balanced", "median_frequency")
_WORST = 12  # pictures of findings on the sheet, and findings of one kind:
_WORST_OF_A_KIND = 2


def run(cfg: DictConfig) -> None:
    """Check as asked. Raises RunFailed if there are errors in the data, once all is told and written."""
    quiet()
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    choices = HydraConfig.get().runtime.choices
    console = Console()
    dataset: Dataset = build(_lenient(config), "data")
    for note in getattr(dataset, "notes", ()):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    # A wrong augmentation is told before a long reading.
    augment: Augment | None = build(config, "augment", policy=build(config, "crop")) if config["sheet"] else None
    workers = worker_count(config["loader"]["workers"])

    folder = open_folder("checks", config)
    began = time.monotonic()
    facts = inspect(
        dataset,
        workers=workers,
        progress=lambda samples: track(samples, f"reading {choices['data']}"),
    )
    seconds = time.monotonic() - began
    unpaired = [Finding("error", "unpaired", line) for line in getattr(dataset, "unpaired", ())]
    findings = find(facts, dataset.labels, known=unpaired)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "data": {"choice": choices["data"], "settings": config["data"]},
        "labels": {"classes": list(dataset.labels.names), "overlapping": dataset.labels.overlapping},
        "errors": sum(finding.level == "error" for finding in findings),
        "warnings": sum(finding.level == "warning" for finding in findings),
        "seconds": round(seconds, 2),
        "splits": summarize(facts, dataset.labels),
        "weights": _weights(facts, dataset.labels),
        "findings": [_written(finding, facts) for finding in findings],
    }
    write_json(folder / "check.json", report)

    images = sum(len(samples) for samples in facts.values())
    title = f"{config['name']}: {images:,} images, {dataset.labels.num_classes} classes"
    legend = _legend(report)
    sections = [
        *_samples(dataset, facts, config["samples"]),
        Section("findings", "errors first", _worst(dataset, facts, findings)),
    ]
    draw_sheet(title, sections, dataset.labels, legend, folder / "sheet.png")
    pictures = [folder / "sheet.png"]
    if augment is not None:
        try:
            section = _draws(augment, dataset, facts, config, f"augment={choices['augment']} crop={choices['crop']}")
        except UserError as error:
            if not report["errors"]:
                raise
            console.print(f"No augmented samples are drawn: {error}", markup=False, highlight=False, soft_wrap=True)
        else:
            columns = 1 + config["draws"]
            draw_sheet(title, [section], dataset.labels, legend, folder / "augmented.png", columns=columns)
            pictures.append(folder / "augmented.png")

    console.print(tables(report))
    console.print(finding_lines(report["findings"], str(folder / "check.json")), end="", soft_wrap=True)
    for what, path in (("numbers", folder / "check.json"), *(("picture", path) for path in pictures)):
        console.print(f"{what}  {path}", markup=False, highlight=False, soft_wrap=True)
    if report["errors"]:
        raise RunFailed(
            f"data={choices['data']}: {numbers_of(report['findings'])}. An error would break a training or falsify its "
            f"scores. All of them: {folder / 'check.json'}"
        )
    console.print(f"sound, with {numbers_of(report['findings'])}", markup=False, highlight=False)


def _lenient(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with which a dataset of files does not stop at the first that lacks its partner."""
    if "unpaired" not in config["data"]:
        return config
    return {**config, "data": {**config["data"], "unpaired": "leave_out"}}


def _weights(facts: Mapping[str, Sequence[Facts]], labels: LabelSpace) -> dict[str, Any]:
    """The class weights that follow from train; null for a scheme that is not defined, for a class never occurs."""
    split = "train" if "train" in facts else next(iter(facts))
    counts = count(facts[split], labels)
    schemes: dict[str, dict[str, float] | None] = {}
    for scheme in _SCHEMES:
        weights = ClassWeights(scheme)
        try:
            weights.fit(counts, labels.names)
        except UserError:
            schemes[scheme] = None
            continue
        assert weights.values is not None
        values = [float(f"{value:.7g}") for value in weights.values.tolist()]
        schemes[scheme] = dict(zip(labels.names, values, strict=True))
    return {"split": split, "schemes": schemes}


def _written(finding: Finding, facts: Mapping[str, Sequence[Facts]]) -> dict[str, Any]:
    """A finding as check.json has it."""
    samples = [
        {
            "split": place.split,
            "name": facts[place.split][place.index].name,
            "files": list(facts[place.split][place.index].files),
        }
        for place in finding.places
    ]
    return {
        "level": finding.level,
        "kind": finding.kind,
        "message": finding.message,
        "samples": samples,
        "details": dict(finding.details),
    }


# ---- pictures


def _legend(report: Mapping[str, Any]) -> list[str]:
    """The share of each class and of void in the split that weights are of."""
    split = report["splits"][report["weights"]["split"]]
    return [f"{of['share']:.1%}" for of in (*split["classes"].values(), split["void"])]


def _samples(dataset: Dataset, facts: Mapping[str, Sequence[Facts]], number: int) -> list[Section]:
    """Some samples of each split, chosen to show every class."""
    sections: list[Section] = []
    for split, samples in facts.items():
        if any(samples is facts[section.heading] for section in sections):
            continue  # the same as one before
        tiles = [_tile(dataset, Place(split, index)) for index in choose_samples(samples, number)]
        sections.append(Section(split, f"{len(tiles)} of {len(samples):,}", tiles))
    return sections


def _tile(dataset: Dataset, place: Place) -> Tile:
    sample = dataset.splits[place.split][place.index]
    return Tile(sample.image, sample.mask, sample.name)


def _worst(dataset: Dataset, facts: Mapping[str, Sequence[Facts]], findings: Sequence[Finding]) -> list[Tile]:
    """What the first findings of each kind look like."""
    tiles: list[Tile] = []
    shown: dict[str, int] = {}
    for finding in findings:
        if not finding.places or shown.get(finding.kind, 0) >= _WORST_OF_A_KIND or len(tiles) >= _WORST:
            continue
        shown[finding.kind] = shown.get(finding.kind, 0) + 1
        for place in finding.places[:2]:
            name = facts[place.split][place.index].name
            image, mask, marked = _readable(dataset.splits[place.split], place.index)
            caption = f"{finding.kind.replace('_', ' ')}: {place.split}/{name}"
            tiles.append(Tile(image, mask, caption, finding.level, marked))
    return tiles


def _readable(split: Split, index: int) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Image, mask, and where labels are undefined, as far as a broken sample can be read."""
    if not isinstance(split, FilePairs):
        sample = _try(lambda: split[index])
        return (None, None, None) if sample is None else (sample.image, sample.mask, None)
    pair = split.pairs[index]
    image, mask, marked = _try(lambda: split.read_image(pair.image)), _try(lambda: split.mask(index)), None
    if mask is None and not split.labels.overlapping:
        raw = _try(lambda: split.read_mask(pair))
        marked = None if raw is None else ~np.isin(raw, list(split.labels.meanings))
    if image is None or (mask is not None and mask.shape[-2:] != image.shape[:2]):
        return image, None, None
    return image, mask, marked


def _try(read: Any) -> Any:
    try:
        return read()
    except Exception:  # which one it is was told
        return None


def _draws(
    augment: Augment, dataset: Dataset, facts: Mapping[str, Sequence[Facts]], config: Mapping[str, Any], choice: str
) -> Section:
    """A row a training sample: as it is, and as the first epochs of a training with this seed see it.

    Raises UserError if the augmentation does not fit the data, or meets a sample that cannot be read.
    """
    crop = tuple(config["loader"]["crop"]) if config["loader"]["crop"] else None
    fit_augment(
        augment,
        dataset,
        crop=crop,
        workers=worker_count(config["loader"]["workers"]),
        progress=lambda masks: track(masks, "finding classes"),
    )
    split = dataset.splits["train"]
    tiles = []
    for index in choose_samples(facts["train"], config["samples"]):
        tiles.append(_tile(dataset, Place("train", index)))
        for epoch in range(config["draws"]):
            # The same numbers as in loading.training_loader
            drawn = augment(split, index, crop, np.random.default_rng((config["seed"], epoch, index)))
            tiles.append(Tile(drawn.image, drawn.mask, f"epoch {epoch + 1}"))
    size = "whole images" if crop is None else f"crops of {crop[0]}x{crop[1]}"
    return Section(f"train, {choice}", f"{size}, seed {config['seed']}", tiles)
