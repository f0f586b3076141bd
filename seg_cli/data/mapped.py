"""A dataset with the classes of another, so that a model that learned those can be scored on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Dataset, Sample, Split
from seg_cli.errors import UserError


class MappedDataset:
    """A dataset whose masks say which of a model's classes a pixel is.

    Classes of the same name are the same. Of the others, ``mapping`` says which class of the model they are, or that
    they are void.

    Args:
        dataset: with classes of its own.
        names: of the model's classes, in their order.
        mapping: class of the dataset -> class of the model, or None for void.

    Raises:
        UserError: if a class of the dataset is none of the model's and ``mapping`` does not say what it is, if it names
            what is not there, or if labels overlap in one and not in the other.
    """

    def __init__(self, dataset: Dataset, names: Sequence[str], mapping: Mapping[str, str | None] | None = None) -> None:
        ours, mapping = list(dataset.labels.names), mapping or {}
        for name, other in mapping.items():
            for word, known, whose in ((name, ours, "dataset"), (other, names, "model")):
                if word is not None and word not in known:
                    raise UserError(
                        f"classes.map.{name}: the {whose} has no class '{word}'.{did_you_mean(word, known)} "
                        f"Its classes: {', '.join(known)}."
                    )
        meant = {name: name for name in ours if name in names} | dict(mapping)
        unknown = [name for name in ours if name not in meant]
        if unknown:
            raise UserError(
                f"classes.map: the dataset has classes that the model does not know: {', '.join(unknown)}. The model's "
                f"classes: {', '.join(names)}. The dataset's: {', '.join(ours)}. Say what each of them is, or null for "
                f"void, as in 'classes.map={{{unknown[0]}: {names[0]}}}'."
            )
        colors = {meant[name]: color for name, color in zip(ours, dataset.labels.colors, strict=True)}
        self._indices = [VOID if meant[name] is None else list(names).index(str(meant[name])) for name in ours]
        self.labels = LabelSpace(
            tuple(names),
            tuple(colors.get(name, (0, 0, 0)) for name in names),
            overlapping=dataset.labels.overlapping,
        )
        self.channels = dataset.channels
        self._dataset = dataset
        self.splits: dict[str, Split] = {
            split: _Mapped(samples, self._indices, self.labels) for split, samples in dataset.splits.items()
        }

    def fingerprint(self) -> str:
        return f"{self._dataset.fingerprint()} as {self._indices}"


class _Mapped:
    def __init__(self, split: Split, indices: Sequence[int], labels: LabelSpace) -> None:
        self._split, self._labels = split, labels
        self._table = np.full(256, VOID, np.uint8)
        self._table[: len(indices)] = indices
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> Sample:
        sample = self._split[index]
        if not self._labels.overlapping:
            return replace(sample, mask=self._table[sample.mask])
        mask = np.zeros((self._labels.num_classes, *sample.mask.shape[1:]), np.uint8)
        for plane, target in zip(sample.mask, self._indices, strict=True):
            if target != VOID:
                mask[target] = np.where((mask[target] == 1) | (plane == 1), 1, np.maximum(mask[target], plane))
        return replace(sample, mask=mask)
