"""Pictures of chosen images in ``figures/examples/``, apart from each other, so that reports can lay them side by side.

Each image is a small JPEG; its truth, its prediction and what is wrong are PNGs with a palette, whose values are the
class indices. ``index.json`` says what they are.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from seg_cli.runs.atomic import write_bytes, write_json

if TYPE_CHECKING:  # reports read these pictures without PyTorch
    from seg_cli.inference.evaluate import Example

SCHEMA = 1
KINDS = ("best", "median", "worst", "fixed")
LARGEST = 640
"""Pixels of the longer side."""
NO_CLASS = 254
"""In a picture of labels that overlap: a pixel of no class, which is transparent."""
RIGHT, WRONG = 0, 1
"""In a picture of errors, beside ``VOID``."""

_VOID_COLORS = ((255, 255, 255), (0, 0, 0), (128, 128, 128), (255, 0, 255), (0, 255, 255))
_FAR = 100  # of 765, the sum over red, green and blue
_WRONG_COLOR = (230, 0, 90)


@dataclass(frozen=True)
class Picture:
    """An image of the gallery.

    Attributes:
        name: of the sample.
        kinds: why it was chosen: some of ``KINDS``.
        miou: of this image alone; None where it has no pixel that counts.
        wrong: share of its pixels that are wrong; of decisions where labels overlap.
        files: ``image``, ``truth``, ``prediction`` and ``errors`` -> path.
    """

    name: str
    kinds: tuple[str, ...]
    miou: float | None
    wrong: float | None
    files: dict[str, Path]


@dataclass(frozen=True)
class Gallery:
    """What is in ``figures/examples/``.

    Attributes:
        split: which the images are of.
        classes: name and colour (``#rrggbb``) of each class.
        void: colour of void.
        pictures: best first, the fixed ones last.
    """

    split: str
    classes: tuple[tuple[str, str], ...]
    void: str
    pictures: tuple[Picture, ...]


def fixed_images(count: int, number: int = 4) -> list[int]:
    """Indices of ``number`` images that are spread evenly over a split of ``count``: the same ones in every run."""
    return sorted({(2 * i + 1) * count // (2 * number) for i in range(number)}) if count else []


def choose_examples(ranked: Sequence[int], count: int) -> dict[int, tuple[str, ...]]:
    """Which images of a split to show, and why.

    Args:
        ranked: as of ``best_median_worst``.
        count: images of the split.

    Returns:
        Index -> kinds, in the order in which to show them.
    """
    each = max(1, len(ranked) // 3)
    kinds = {
        index: ("best" if place < each else "worst" if place >= len(ranked) - each else "median",)
        for place, index in enumerate(ranked)
    }
    return kinds | {index: (*kinds.get(index, ()), "fixed") for index in fixed_images(count)}


def save_examples(
    examples: Sequence["Example"],
    labels: LabelSpace,
    folder: Path,
    kinds: Sequence[Sequence[str]],
    *,
    split: str = "test",
) -> None:
    """Write the pictures of a gallery; index.json comes last, so that what it names is there.

    Args:
        examples: best first.
        labels: of the dataset.
        folder: is made where it is not there.
        kinds: for each example why it was chosen, of ``KINDS``.
        split: which the images are of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    void = _void_color(labels)
    palette = labels.palette.copy()
    palette[VOID] = void
    errors = np.zeros((256, 3), np.uint8)
    errors[WRONG], errors[VOID] = _WRONG_COLOR, void
    entries = []
    for number, (example, chosen) in enumerate(zip(examples, kinds, strict=True)):
        height, width = _small(example.image.shape[:2])
        image = cv2.resize(example.image, (width, height), interpolation=cv2.INTER_AREA)
        pictures = {
            "image": ("jpg", _jpeg(image)),
            "truth": ("png", _png(_shrink(_flat(example.truth), height, width), palette, clear=NO_CLASS)),
            "prediction": ("png", _png(_shrink(_flat(example.prediction), height, width), palette, clear=NO_CLASS)),
            "errors": ("png", _png(_shrink(_errors(example), height, width), errors, clear=RIGHT)),
        }
        names = {what: f"{number:02d}_{what}.{suffix}" for what, (suffix, _) in pictures.items()}
        for what, (_, data) in pictures.items():
            write_bytes(folder / names[what], data)
        entries.append(
            {
                "name": example.name,
                "kinds": list(chosen),
                "miou": example.miou,
                "wrong": _share_wrong(example),
                "files": names,
            }
        )
    colors = [{"name": name, "color": _hex(color)} for name, color in zip(labels.names, labels.colors, strict=True)]
    index = {"schema": SCHEMA, "split": split, "classes": colors, "void": _hex(void), "examples": entries}
    write_json(folder / "index.json", index)


def read_examples(folder: Path) -> Gallery | None:
    """The pictures that a run has kept; None where it has none.

    Raises:
        UserError: if index.json or a picture is damaged or missing.
    """
    path = folder / "index.json"
    if not path.is_file():
        return None
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if index["schema"] != SCHEMA:
            raise UserError(
                f"{path}: written with schema {index['schema']}, and this version of segrun reads {SCHEMA}."
            )
        return Gallery(
            split=str(index["split"]),
            classes=tuple((str(of["name"]), _checked_color(of["color"])) for of in index["classes"]),
            void=_checked_color(index["void"]),
            pictures=tuple(_read_picture(entry, folder) for entry in index["examples"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the file is damaged ({type(error).__name__}: {error}).") from None


def _read_picture(entry: dict[str, Any], folder: Path) -> Picture:
    files = {what: folder / Path(entry["files"][what]).name for what in ("image", "truth", "prediction", "errors")}
    for file in files.values():
        if not file.is_file():
            raise UserError(f"{file}: this picture of the gallery is missing.")
    miou, wrong = (None if entry[key] is None else float(entry[key]) for key in ("miou", "wrong"))
    return Picture(str(entry["name"]), tuple(map(str, entry["kinds"])), miou, wrong, files)


def _small(size: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) with a longer side of at most ``LARGEST``."""
    factor = min(1, LARGEST / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _shrink(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = np.arange(height)[:, None], np.arange(width)
    return mask[rows * mask.shape[0] // height, columns * mask.shape[1] // width]  # the nearest


def _flat(mask: np.ndarray) -> np.ndarray:
    """(H, W) classes of a mask; of labels that overlap the last class on top, with the outlines of those below it."""
    if mask.ndim == 2:
        return mask
    flat = np.full(mask.shape[1:], NO_CLASS, np.uint8)
    flat[(mask == VOID).all(0)] = VOID
    for index, plane in enumerate(mask):
        flat[plane == 1] = index
    for index, plane in enumerate(mask):
        outlines, _ = cv2.findContours((plane == 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(flat, outlines, -1, (index,), 2)
    return flat


def _errors(example: "Example") -> np.ndarray:
    """(H, W) of ``RIGHT``, ``WRONG`` and ``VOID``; wrong is wrong for one class or more."""
    void = example.truth == VOID
    wrong = (example.prediction != example.truth) & ~void
    if example.truth.ndim == 3:
        void, wrong = void.all(0), wrong.any(0)
    return np.where(void, VOID, np.where(wrong, WRONG, RIGHT)).astype(np.uint8)


def _share_wrong(example: "Example") -> float | None:
    counted = example.truth != VOID
    return float((example.prediction != example.truth)[counted].mean()) if counted.any() else None


def _void_color(labels: LabelSpace) -> tuple[int, int, int]:
    """The first colour that is far from those of all classes, or else the farthest."""
    colors = np.array(labels.colors, int)
    distance = {color: int(np.abs(colors - color).sum(1).min()) for color in _VOID_COLORS}
    return next((color for color in _VOID_COLORS if distance[color] >= _FAR), max(distance, key=distance.__getitem__))


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=86, optimize=True)
    return buffer.getvalue()


def _png(mask: np.ndarray, palette: np.ndarray, *, clear: int) -> bytes:
    """A PNG of class indices with their colours; the index ``clear`` is transparent."""
    picture = Image.fromarray(mask, "L")
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=clear)
    return buffer.getvalue()


def _hex(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _checked_color(text: str) -> str:
    """A colour of a file, which will stand in a style sheet."""
    if len(text) != 7 or text[0] != "#" or not all(letter in "0123456789abcdef" for letter in text[1:]):
        raise ValueError(f"{text!r} is no colour")
    return text
