"""Every sample of a dataset, read once: what it holds, and what is wrong where it cannot be used.

Nothing stops at the first broken file, as training does: troubles are facts here, and ``findings`` judges all of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seg_cli.data.class_counts import ClassCounts
from seg_cli.data.files import FilePairs
from seg_cli.data.images import read_plain
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.loading import start_worker
from seg_cli.data.sample import Dataset, Split
from seg_cli.data.workers import start_method
from seg_cli.errors import SegrunError

_JPEG = b"\xff\xd8\xff"
_LISTED = 20  # undefined values of one mask


@dataclass(frozen=True)
class Trouble:
    """Why a sample cannot be used.

    Attributes:
        kind: ``unreadable``, ``mismatch``, ``undefined_label``, ``jpeg_mask`` or ``wrong_form``.
        message: one sentence that begins with the file, or with the sample's name where it has none.
        details: ``values``, raw value -> pixels, of an undefined label.
    """

    kind: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What a sample holds, as far as it can be read.

    Attributes:
        name, group: as in ``Sample``.
        files: the image's and the mask's; empty where the sample is not read from files.
        size: (height, width) of the image, None where it cannot be read.
        content, truth: hashes of the decoded image and mask, empty where they cannot be read.
        look: dHash of the image, 64 bits, None where it has no contrast that could be told from another's.
        is_blank: whether all pixels of the image are equal.
        peak: the highest value, 255 being white, of an image of 16 bits or floats; None of 8 bits.
        pixels: class index -> its pixels in the mask, of the classes that occur; None where there is no usable mask.
        counted: class index -> pixels of the mask that are not void, of the same classes. They differ only where
            labels overlap.
        void, total: pixels of the mask that are void, and all; where labels overlap, of all its planes.
        troubles: why it cannot be used; empty for a good sample.
    """

    name: str
    group: str = ""
    files: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    content: bytes = b""
    truth: bytes = b""
    look: int | None = None
    is_blank: bool = False
    peak: float | None = None
    pixels: Mapping[int, int] | None = None
    counted: Mapping[int, int] = field(default_factory=dict)
    void: int = 0
    total: int = 0
    troubles: tuple[Trouble, ...] = ()


def inspect(
    dataset: Dataset, *, workers: int, progress: Callable[[Iterable[Facts]], Iterable[Facts]] = iter
) -> dict[str, list[Facts]]:
    """Read every sample of every split. A split that is another one by a second name is read once.

    Args:
        dataset: whatever it raises when a sample is read becomes a ``Trouble`` of the sample.
        workers: processes that read; 0 reads in this one.
        progress: is given an iterable of the facts of one sample each, and yields them while it shows how far it is.

    Returns:
        split -> facts, in the order of its samples; the same list for splits that are the same.
    """
    same_as = {name: _first_like(name, dataset.splits) for name in dataset.splits}
    places = [
        (name, index) for name, same in same_as.items() if name == same for index in range(len(dataset.splits[name]))
    ]
    loader = DataLoader(
        _Inspected(dataset, places),
        batch_size=None,
        collate_fn=_as_it_is,  # type: ignore[arg-type] # without batches it is given single items
        num_workers=workers,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method(workers),
    )
    facts: dict[str, list[Facts]] = {name: [] for name, same in same_as.items() if name == same}
    for (name, _), found in zip(places, progress(loader), strict=True):
        facts[name].append(found)
    return {name: facts[same] for name, same in same_as.items()}


def inspect_sample(split: Split, index: int, labels: LabelSpace, channels: int) -> Facts:
    """The facts of one sample.

    Args:
        split, index: which.
        labels, channels: of the dataset, which image and mask must fit.
    """
    if isinstance(split, FilePairs):
        return _inspect_files(split, index, labels, channels)
    try:
        sample = split[index]
        facts = {"name": sample.name, "group": sample.group}
        return _inspect_arrays(sample.image, sample.mask, sample.name, facts, (), labels, channels)
    except Exception as error:  # of a dataset of the user's own, which may raise anything
        name = f"sample {index}"
        return Facts(name, troubles=(Trouble("unreadable", f"{name}: {_reason(error)}"),))


def count(facts: Sequence[Facts], labels: LabelSpace) -> ClassCounts:
    """The class counts of a split, as ``class_counts.count_classes`` makes them, of the masks that can be used."""
    usable = [found for found in facts if found.pixels is not None]
    pixels, images, counted = np.zeros((3, labels.num_classes), np.int64)
    for found in usable:
        for index, number in (found.pixels or {}).items():
            pixels[index] += number
            images[index] += 1
            counted[index] += found.counted[index]
    return ClassCounts(len(usable), *(tuple(row.tolist()) for row in (pixels, images, counted)))


class _Inspected(TorchDataset):
    def __init__(self, dataset: Dataset, places: Sequence[tuple[str, int]]) -> None:
        self.splits, self.labels, self.channels = dataset.splits, dataset.labels, dataset.channels
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Facts:
        name, index = self.places[position]
        return inspect_sample(self.splits[name], index, self.labels, self.channels)


def _as_it_is(facts: Facts) -> Facts:
    return facts


def _first_like(name: str, splits: Mapping[str, Split]) -> str:
    """The first split that is this one: the same object, or the same pairs of files in the same order."""
    split = splits[name]
    for other, found in splits.items():
        if found is split:
            return other
        if isinstance(found, FilePairs) and isinstance(split, FilePairs) and found.pairs == split.pairs and len(split):
            return other
    return name


def _inspect_files(split: FilePairs, index: int, labels: LabelSpace, channels: int) -> Facts:
    """Image and mask are read apart, so that one that is broken does not hide the other."""
    pair = split.pairs[index]
    troubles = []
    image = mask = None
    try:
        image = split.read_image(pair.image)
    except Exception as error:
        troubles.append(Trouble("unreadable", _with_file(pair.image, error)))
    try:
        mask = split.mask(index)
    except Exception as error:
        troubles.append(_mask_trouble(split, index, error))
    smeared = [path for path in pair.masks if _starts_with(path, _JPEG)]
    if smeared:  # which is why its values are undefined, where they are
        troubles = [trouble for trouble in troubles if trouble.kind != "undefined_label"]
        troubles += [
            Trouble(
                "jpeg_mask",
                f"{path}: the mask is a JPEG, which smears the labels along every edge. Save it again as PNG, from "
                "where it was drawn.",
            )
            for path in smeared
        ]
    if image is not None and mask is not None and mask.shape[-2:] != image.shape[:2]:
        troubles.append(Trouble("mismatch", _mismatch(split, index)))
    facts: dict[str, Any] = {"name": pair.name, "group": pair.group, "files": tuple(map(str, pair.files))}
    return _inspect_arrays(image, mask, str(pair.image), facts, tuple(troubles), labels, channels)


def _mask_trouble(split: FilePairs, index: int, error: Exception) -> Trouble:
    """Whether the mask's file is broken, or what it holds is not defined."""
    pair = split.pairs[index]
    message = _with_file(pair.masks[0] if pair.masks else pair.image, error)
    try:
        raw = split.read_mask(pair)
    except Exception:
        kind = "undefined_label" if pair.masks and all(map(_is_picture, pair.masks)) else "unreadable"
        return Trouble(kind, message)
    values, numbers = np.unique(raw, return_counts=True)
    undefined = [
        (int(value), int(number))
        for value, number in zip(values, numbers, strict=True)
        if int(value) not in split.labels.meanings
    ]
    return Trouble("undefined_label", message, {"values": {str(value): number for value, number in undefined}})


def _mismatch(split: FilePairs, index: int) -> str:
    try:
        split[index]
    except SegrunError as error:
        return str(error)
    return f"{split.pairs[index].image}: the mask has another size than its image."


def _inspect_arrays(
    image: np.ndarray | None,
    mask: np.ndarray | None,
    where: str,
    facts: dict[str, Any],
    troubles: tuple[Trouble, ...],
    labels: LabelSpace,
    channels: int,
) -> Facts:
    """Facts of what could be read.

    Args:
        image, mask: of the sample; None where they cannot be read.
        where: what messages begin with.
        facts: what is known already.
        troubles: what went wrong before.
        labels, channels: of the dataset.
    """
    found = list(troubles)
    if image is not None:
        fits = image.ndim == 3 and image.shape[2] == channels and image.dtype in (np.uint8, np.float32)
        if fits and image.size:
            facts["size"] = (image.shape[0], image.shape[1])
            facts["content"] = _hash(image)
            facts["look"] = dhash(image)
            facts["peak"] = float(image.max()) if image.dtype == np.float32 else None
            facts["is_blank"] = bool((image == image[:1, :1]).all())
        else:
            message = (
                f"{where}: the image is {image.dtype} of shape {image.shape}, and must be uint8 or float32 of shape "
                f"(height, width, {channels}), with the dataset's channels={channels}."
            )
            found.append(Trouble("wrong_form", message))
    if mask is not None:
        planes = (labels.num_classes,) if labels.overlapping else ()
        if mask.ndim != 2 + len(planes) or mask.shape[:-2] != planes or mask.dtype != np.uint8 or not mask.size:
            shape = f"({labels.num_classes}, height, width)" if labels.overlapping else "(height, width)"
            message = f"{where}: the mask is {mask.dtype} of shape {mask.shape}, and must be uint8 of shape {shape}."
            found.append(Trouble("wrong_form", message))
        elif trouble := _undefined_classes(mask, labels, where):
            found.append(trouble)
        else:
            size_differs = "size" in facts and facts["size"] != mask.shape[-2:]
            if size_differs and all(trouble.kind != "mismatch" for trouble in found):
                message = (
                    f"{where}: the mask is {mask.shape[-1]}x{mask.shape[-2]} pixels and its image {image.shape[1]}x"  # type: ignore[union-attr]
                    f"{image.shape[0]} (width x height). A mask must have the size of its image."  # type: ignore[union-attr]
                )
                found.append(Trouble("mismatch", message))
            facts |= _count_mask(mask, labels) | {"truth": _hash(mask)}
    return Facts(**facts, troubles=tuple(found))


def _undefined_classes(mask: np.ndarray, labels: LabelSpace, where: str) -> Trouble | None:
    """Indices that are no class; the masks of files have been encoded, so only other datasets can give them."""
    numbers = np.bincount(mask.ravel(), minlength=VOID + 1)
    defined = 2 if labels.overlapping else labels.num_classes
    values = {str(value): int(numbers[value]) for value in range(defined, VOID) if numbers[value]}
    if not values:
        return None
    listed = ", ".join(f"{value} ({number} pixels)" for value, number in list(values.items())[:_LISTED])
    message = (
        f"{where}: the mask holds class indices that the dataset does not define: {listed}. Defined are 0 to "
        f"{defined - 1}, and {VOID} for void."
    )
    return Trouble("undefined_label", message, {"values": values})


def _count_mask(mask: np.ndarray, labels: LabelSpace) -> dict[str, Any]:
    if labels.overlapping:
        ones, void = (mask == 1).sum((1, 2)), (mask == VOID).sum((1, 2))
        occurring = np.flatnonzero(ones).tolist()
        area = mask[0].size
        pixels = {index: int(ones[index]) for index in occurring}
        counted = {index: area - int(void[index]) for index in occurring}
        return {"pixels": pixels, "counted": counted, "void": int(void.sum()), "total": mask.size}
    numbers = np.bincount(mask.ravel(), minlength=VOID + 1)
    pixels = {index: int(numbers[index]) for index in np.flatnonzero(numbers[: labels.num_classes]).tolist()}
    not_void = sum(pixels.values())
    return {
        "pixels": pixels,
        "counted": dict.fromkeys(pixels, not_void),
        "void": int(numbers[VOID]),
        "total": mask.size,
    }


def dhash(image: np.ndarray) -> int | None:
    """A 64-bit hash of what an image looks like, by which copies of another size, compression or brightness agree.

    The image is shrunk to 9x8 grey values; a bit says whether a value is larger than the one to its left. None where
    they hardly differ, for the bits are noise there.

    Args:
        image: (H, W, B) uint8 or float32.
    """
    bands = np.ascontiguousarray(image[..., :3]) if image.shape[2] > 4 else image
    small = cv2.resize(bands, (9, 8), interpolation=cv2.INTER_AREA).reshape(8, 9, -1).astype(np.float32).mean(2)
    if float(small.std()) < 1:
        return None
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _hash(array: np.ndarray) -> bytes:
    digest = hashlib.blake2b(f"{array.shape}{array.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def _is_picture(path: Path) -> bool:
    try:
        read_plain(path, "mask")
    except Exception:
        return False
    return True


def _with_file(path: Path, error: Exception) -> str:
    return str(error) if isinstance(error, SegrunError) else f"{path}: {_reason(error)}"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SegrunError) else f"{type(error).__name__}: {error}".rstrip(": ")
