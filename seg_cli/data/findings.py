"""What is wrong with a dataset, judged from the facts of its samples.

An error would break a training or falsify its scores; a warning is what a person should have seen.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from seg_cli.data.inspect import Facts, count
from seg_cli.data.labels import LabelSpace
from seg_cli.data.lookalikes import nearest

KINDS = {
    "empty_split": "a split without samples",
    "unreadable": "a file or sample that cannot be read",
    "unpaired": "an image without a mask, or a mask without an image",
    "mismatch": "a mask of another size than its image",
    "undefined_label": "a label or colour that the dataset does not define",
    "jpeg_mask": "a mask saved as JPEG",
    "wrong_form": "an image or mask of another shape or type than the dataset promises",
    "same_picture": "the same picture in two splits",
    "same_split": "two splits that are the same",
    "group_leak": "a group in several splits",
    "near_duplicate": "pictures of two splits that look alike",
    "repeated": "the same picture twice in a split",
    "all_void": "a mask without a pixel that counts",
    "one_class": "a mask that is all one class, or has none where labels overlap",
    "absent_class": "a class without a pixel in a split",
    "blank_image": "an image of one colour",
    "odd_size": "a very small or very long image",
    "several_sizes": "images of several sizes",
    "depth": "images of 8 and of 16 bits together, or of 16 bits and dark",
}
"""Kind of finding -> what it is, in the order in which they are told."""

SMALL = 32
"""Pixels: an image with a shorter side is an ``odd_size``, for most encoders reduce by 32."""

LONG = 5
"""Times its height (or width) at which an image is an ``odd_size``."""

DARK = 64
"""Of 255: 16-bit images with no brighter value are probably of 12 bits, and their range should be said."""

_SHOWN = 3  # examples in a sentence
_KEPT = 1000  # pairs in a finding's details


@dataclass(frozen=True)
class Place:
    """A sample: its split and its number there."""

    split: str
    index: int


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or that should be known.

    Attributes:
        level: ``error`` or ``warning``.
        kind: one of ``KINDS``.
        message: one line, with the file, or the sample's name.
        places: the samples that it is about; the first are the best to look at.
        details: numbers, by names that depend on the kind alone.
    """

    level: str
    kind: str
    message: str
    places: tuple[Place, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


FactsBySplit = Mapping[str, Sequence[Facts]]


def find(facts: FactsBySplit, labels: LabelSpace, *, known: Sequence[Finding] = ()) -> list[Finding]:
    """Everything that is wrong, errors first, then in the order of ``KINDS``.

    Args:
        facts: what ``inspect`` gave.
        labels: of the dataset.
        known: findings about what is no sample.
    """
    own: dict[str, Sequence[Facts]] = {}  # splits that are not another one by a second name
    found = [*known]
    for split, samples in facts.items():
        same = next((name for name in own if own[name] is samples), None)
        if same is None:
            own[split] = samples
        else:
            found.append(Finding("warning", "same_split", _same_split(same, split, len(samples))))
    found += [
        *_samples(own, labels),
        *_splits(own, labels),
        *_same_pictures(own),
        *_groups(own),
        *_near(own),
        *_sizes(own),
        *_depths(own),
    ]
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(found, key=lambda finding: (finding.level != "error", order[finding.kind]))


def _same_split(first: str, second: str, count: int) -> str:
    return (
        f"{second} holds the same {count} samples as {first}: a score on {second} is one on the data that chose the "
        "checkpoint"
    )


def _samples(facts: FactsBySplit, labels: LabelSpace) -> Iterator[Finding]:
    """What a sample shows by itself."""
    for split, samples in facts.items():
        for index, sample in enumerate(samples):
            yield from _sample(sample, Place(split, index), labels)


def _sample(sample: Facts, where: Place, labels: LabelSpace) -> Iterator[Finding]:
    place = (where,)
    image = sample.files[0] if sample.files else f"{where.split}/{sample.name}"
    mask = sample.files[1] if len(sample.files) == 2 else image
    for trouble in sample.troubles:
        yield Finding("error", trouble.kind, trouble.message, place, trouble.details)
    if sample.pixels is not None and sample.void == sample.total:
        yield Finding("warning", "all_void", f"{mask}: the mask is all void", place)
    elif sample.pixels is not None and labels.overlapping and not sample.pixels:
        yield Finding("warning", "one_class", f"{mask}: the mask holds no class", place)
    elif sample.pixels is not None and not labels.overlapping and len(sample.pixels) == 1 < labels.num_classes:
        (only,) = (labels.names[index] for index in sample.pixels)
        yield Finding("warning", "one_class", f"{mask}: the mask is all {only}", place, {"class": only})
    if sample.is_blank:
        yield Finding("warning", "blank_image", f"{image}: the image is all of one colour", place)
    if sample.size and (min(sample.size) < SMALL or max(sample.size) >= LONG * min(sample.size)):
        size = _written(sample.size)
        message = f"{image}: the image is {size} pixels (height x width)"
        yield Finding("warning", "odd_size", message, place, {"size": size})


def _splits(facts: FactsBySplit, labels: LabelSpace) -> Iterator[Finding]:
    """What a split lacks."""
    for split, samples in facts.items():
        if not samples:
            yield Finding("error", "empty_split", f"{split} has no samples", (), {"split": split})
            continue
        pixels = count(samples, labels).pixels
        absent = [name for name, number in zip(labels.names, pixels, strict=True) if not number]
        if absent:
            nothing = len(absent) == labels.num_classes
            listed = "any class" if nothing else _listed(absent, 12)
            message = f"{split} has no pixel of {listed}"
            details = {"split": split, "classes": absent}
            yield Finding("error" if nothing else "warning", "absent_class", message, (), details)


def _same_pictures(facts: FactsBySplit) -> Iterator[Finding]:
    """Pictures that are there more than once, by what they show and not by their names."""
    places: dict[bytes, list[Place]] = defaultdict(list)
    for split, samples in facts.items():
        for index, sample in enumerate(samples):
            if sample.content:
                places[sample.content].append(Place(split, index))
    for same in places.values():
        by_split: dict[str, list[Place]] = defaultdict(list)
        for place in same:
            by_split[place.split].append(place)
        for split, twins in by_split.items():
            if len(twins) > 1:
                message = _repeated(split, [_at(facts, place) for place in twins])
                yield Finding("warning", "repeated", message, tuple(twins))
        for first, second in combinations(by_split, 2):
            # What was trained on is not tested by it; that val and test share a picture only makes them less apart.
            level = "error" if _is_train(first) != _is_train(second) else "warning"
            pair = (by_split[first][0], by_split[second][0])
            yield Finding(level, "same_picture", _same_picture(pair, _at(facts, pair[0]), _at(facts, pair[1])), pair)


def _is_train(split: str) -> bool:
    return split.startswith("train")


def _repeated(split: str, twins: Sequence[Facts]) -> str:
    files = Counter(twin.files[0] for twin in twins if twin.files)
    if len(files) == 1 and files.total() == len(twins):
        return f"{twins[0].files[0]}: the image stands {len(twins)} times in {split}"
    names = [twin.files[0] if twin.files else twin.name for twin in twins]
    masks = "" if len({twin.truth for twin in twins}) == 1 else ", with different masks"
    others = _listed(names[1:], _SHOWN)
    return f"{names[0]}: the same picture stands {len(twins)} times in {split}, also as {others}{masks}"


def _same_picture(pair: tuple[Place, Place], first: Facts, second: Facts) -> str:
    one, other = (place.split for place in pair)
    masks = "" if first.truth == second.truth else ", with different masks"
    if first.files and first.files[0] == (second.files or ("",))[0]:
        return f"{first.files[0]}: the image is in {one} and in {other}{masks}"
    if first.files and second.files:
        return f"{first.files[0]} and {second.files[0]} are the same picture, in {one} and in {other}{masks}"
    return f"{one}/{first.name} and {other}/{second.name} are the same picture{masks}"


def _groups(facts: FactsBySplit) -> Iterator[Finding]:
    """Groups, as the frames of a video, that are not kept within one split."""
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for split, samples in facts.items():
        for sample in samples:
            if sample.group:
                sizes[sample.group][split] += 1
    for group, by_split in sizes.items():
        if len(by_split) > 1:
            listed = ", ".join(f"{number} in {split}" for split, number in by_split.items())
            message = f"the group {group} is spread over splits: {listed}"
            yield Finding("warning", "group_leak", message, (), {"group": group, "images": dict(by_split)})


def _near(facts: FactsBySplit) -> Iterator[Finding]:
    """Pictures that look like one of another split, as frames that follow one another or copies of another size."""
    for first, second in combinations(facts, 2):
        ours = [index for index, sample in enumerate(facts[first]) if sample.look is not None]
        theirs = [index for index, sample in enumerate(facts[second]) if sample.look is not None]
        index_of, apart, is_whole = nearest(_looks(facts[first], ours), _looks(facts[second], theirs))
        contents = {facts[first][index].content for index in ours}
        pairs = [
            (int(apart[i]), Place(first, ours[index_of[i]]), Place(second, theirs[i]))
            for i in np.flatnonzero(index_of >= 0).tolist()
            if facts[second][theirs[i]].content not in contents  # those are the same, which is told already
        ]
        if not pairs:
            continue
        pairs.sort(key=lambda pair: pair[0])
        shown = "; ".join(f"{_at(facts, b).name} and {_at(facts, a).name}" for _, a, b in pairs[:_SHOWN])
        verb = "looks" if len(pairs) == 1 else "look"
        message = (
            f"{len(pairs)} of the {len(facts[second])} pictures of {second} {verb} like one of {first}, as {shown}"
        )
        if not is_whole:
            message += " (there are so many alike that not all were compared)"
        listed = [[_at(facts, a).name, _at(facts, b).name, bits] for bits, a, b in pairs[:_KEPT]]
        details = {"splits": [first, second], "images": len(pairs), "whole": is_whole, "pairs": listed}
        yield Finding("warning", "near_duplicate", message, pairs[0][1:], details)


def _looks(samples: Sequence[Facts], indices: Sequence[int]) -> np.ndarray:
    return np.array([samples[index].look for index in indices], np.uint64)


def _sizes(facts: FactsBySplit) -> Iterator[Finding]:
    sizes = Counter(_written(sample.size) for samples in facts.values() for sample in samples if sample.size)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} ({number})" for size, number in sizes.most_common(_SHOWN))
        more = f" and {len(sizes) - _SHOWN} more" if len(sizes) > _SHOWN else ""
        message = f"images have {len(sizes)} sizes (height x width): {listed}{more}; loader.crop=[H,W] makes them one"
        yield Finding("warning", "several_sizes", message, (), {"sizes": dict(sizes.most_common(_KEPT))})


def _depths(facts: FactsBySplit) -> Iterator[Finding]:
    """Images of 16 bits that are not what the others are, or whose values are those of fewer bits."""
    read = [
        (Place(split, index), sample)
        for split, samples in facts.items()
        for index, sample in enumerate(samples)
        if sample.size
    ]
    wide = sorted((pair for pair in read if pair[1].peak is not None), key=lambda pair: pair[1].peak or 0)
    if not wide:
        return
    darkest = wide[0][1]
    where = darkest.files[0] if darkest.files else darkest.name
    places = tuple(place for place, _ in wide[:_SHOWN])
    advice = "data.value_range=[LOW,HIGH] says which values in the files are black and white"
    if len(wide) < len(read):
        message = f"{len(wide)} of {len(read)} images have 16 bits or floats and the others 8, as {where}; {advice}"
        yield Finding("warning", "depth", message, places, {"wide": len(wide)})
    elif max(sample.peak or 0 for _, sample in wide) < DARK:
        message = (
            f"the images are dark: no value is above {wide[-1][1].peak or 0:.0f} of 255; {advice}, as [0,4095] of 12 "
            "bits in 16"
        )
        yield Finding("warning", "depth", message, places, {"wide": len(wide)})


# ---- the numbers


def summarize(facts: FactsBySplit, labels: LabelSpace) -> dict[str, Any]:
    """What the splits hold, as check.json keeps it: split -> counts, sizes and shares of its pixels.

    Shares are of all pixels, void among them; where labels overlap, of the pixels of all planes for void, and of the
    pixels of one plane for a class.
    """
    summary = {}
    for split, samples in facts.items():
        counts = count(samples, labels)
        total = sum(sample.total for sample in samples)
        void = sum(sample.void for sample in samples)
        area = total // labels.num_classes if labels.overlapping else total
        sizes = Counter(_written(sample.size) for sample in samples if sample.size)
        groups = Counter(sample.group for sample in samples if sample.group)
        summary[split] = {
            "images": len(samples),
            "usable": sum(not sample.troubles for sample in samples),
            "sizes": dict(sizes.most_common()),
            "groups": dict(groups.most_common()),
            "pixels": total,
            "void": {"pixels": void, "share": _share(void, total)},
            "classes": {
                name: {"pixels": pixels, "share": _share(pixels, area), "images": images}
                for name, pixels, images in zip(labels.names, counts.pixels, counts.images, strict=True)
            },
        }
    return summary


def _share(part: int, whole: int) -> float:
    return round(part / whole, 8) if whole else 0.0


def choose_samples(samples: Sequence[Facts], number: int) -> list[int]:
    """Samples to look at: as few as show every class clearly, then others evenly from the whole split.

    Args:
        samples: of a split.
        number: how many to choose, of those that can be used.
    """
    usable = [index for index, sample in enumerate(samples) if not sample.troubles]
    chosen: list[int] = []
    missing = {index for sample in samples for index in sample.pixels or ()}
    while missing and len(chosen) < min(number, len(usable)):
        shown = {index: _clarity(samples[index], missing) for index in usable if index not in chosen}
        best = max(shown, key=lambda index: shown[index])
        if not shown[best]:
            break
        chosen.append(best)
        missing -= (samples[best].pixels or {}).keys()
    rest = [index for index in usable if index not in chosen]
    wanted = min(number - len(chosen), len(rest))
    chosen += [rest[(2 * i + 1) * len(rest) // (2 * wanted)] for i in range(wanted)]
    return sorted(chosen)


def _clarity(sample: Facts, classes: set[int]) -> float:
    """How well a sample shows these classes: from a hundredth of the picture on, more of one adds nothing."""
    return sum(min(1.0, 100 * pixels / sample.total) for c, pixels in (sample.pixels or {}).items() if c in classes)


def _at(facts: FactsBySplit, place: Place) -> Facts:
    return facts[place.split][place.index]


def _written(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
