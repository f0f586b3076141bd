"""Predictions as files: masks with a palette, overlays, probabilities, a mask a class, and what the classes are."""

import errno
import io
import json
import os
import re
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import to_rgb
from seg_cli.errors import RunFailed, UserError
from seg_cli.inference.labelling import Source
from seg_cli.runs.atomic import write_json

LEGEND = "labels.json"
_MARK = "segrun predict"
_LOOKED_AT = 8192  # pixels a side of the largest overlay
_TINT = 0.5  # of a class's colour in an overlay


class PredictionFolder:
    """The folder that predictions go to; each form has one of its own in it, with the subfolders of the input.

    ``masks/NAME.png`` holds class indices with the colours of the classes as palette, ``overlays/NAME.jpg`` the colours
    over the picture (of more than 8192 pixels a side, over every second, third, ... of its pixels),
    ``probabilities/NAME.npz`` the array ``probabilities`` (C, H, W) of float16, and ``classes/CLASS/NAME.png`` 255
    where the class is, and else 0. Where labels overlap there is no one index a pixel, and ``mask`` means ``classes``.

    Args:
        folder: where; made by ``open``.
        labels: names and colours.
        forms: some of ``mask``, ``overlay``, ``probabilities`` and ``classes``.
    """

    def __init__(self, folder: Path, labels: LabelSpace, forms: Collection[str]) -> None:
        self.folder, self.labels = folder, labels
        self.forms = [*dict.fromkeys("classes" if form == "mask" and labels.overlapping else form for form in forms)]
        words = [re.sub(r"[^\w.-]+", "_", name) for name in labels.names]
        self._planes = [f"{index:02}_{word}" for index, word in enumerate(words)]

    def files(self, name: str) -> list[Path]:
        """Where the predictions for an image go."""
        places = {
            "mask": [f"masks/{name}.png"],
            "overlay": [f"overlays/{name}.jpg"],
            "probabilities": [f"probabilities/{name}.npz"],
            "classes": [f"classes/{plane}/{name}.png" for plane in self._planes],
        }
        return [self.folder / place for form in self.forms for place in places[form]]

    def open(self, sources: Iterable[Source], *, about: dict[str, Any], overwrite: bool) -> None:
        """Make the folder, and write ``labels.json`` into it: the classes, their colours, and what ``about`` says.

        Args:
            sources: what will be predicted.
            about: plain values.
            overwrite: whether it may be a folder of earlier predictions, which are then written over.

        Raises:
            UserError: if there is something in it that must not be written over.
        """
        check_folder(self.folder, overwrite=overwrite)
        sources = list(sources)
        out = next(
            (each.name for each in sources if Path(each.name).is_absolute() or ".." in Path(each.name).parts), None
        )
        if out is not None:
            raise UserError(f"out={self.folder}: predictions called '{out}' would lie outside of it.")
        images = {source.path.resolve() for source in sources}
        hit = next((file for each in sources for file in self.files(each.name) if file.resolve() in images), None)
        if hit is not None:
            raise UserError(f"out={self.folder}: {hit} is one of the images, and would be written over.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"out={self.folder}: the folder cannot be made ({error.strerror}).") from None
        classes = [
            {"index": index, "name": name, "color": [int(part) for part in color]}
            for index, (name, color) in enumerate(zip(self.labels.names, self.labels.colors, strict=True))
        ]
        if "classes" in self.forms:
            for entry, plane in zip(classes, self._planes, strict=True):
                entry["folder"] = f"classes/{plane}"
        write_json(
            self.folder / LEGEND,
            {"made_by": _MARK, "classes": classes, "overlapping": self.labels.overlapping, **about},
        )

    def write(self, name: str, image: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None) -> None:
        """Write what was found in an image, as ``labelling.Write`` has it; from any thread.

        Raises:
            RunFailed: if it cannot be written.
        """
        encoded: list[bytes] = []
        for form in self.forms:
            if form == "mask":
                encoded.append(palette_png(labels, self.labels.palette))
            elif form == "overlay":
                encoded.append(_encode(overlay(*_to_be_looked_at(image, labels), self.labels)))
            elif form == "probabilities":
                assert probabilities is not None
                buffer = io.BytesIO()
                np.savez(buffer, probabilities=probabilities)
                encoded.append(buffer.getvalue())
            else:
                each = range(self.labels.num_classes)
                planes = labels if labels.ndim == 3 else (labels == index for index in each)
                encoded += [_encode(plane.astype(np.uint8) * np.uint8(255), ".png") for plane in planes]
        for path, data in zip(self.files(name), encoded, strict=True):
            _write(path, data)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Whether predictions may go there: it is new, empty, or with ``overwrite`` one of earlier predictions.

    Raises UserError if not.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={folder}: this is a file, and a folder is needed.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not _is_ours(folder):
        raise UserError(
            f"out={folder}: there is something in this folder that segrun predict did not write. Choose a new folder."
        )
    if not overwrite:
        raise UserError(
            f"out={folder}: earlier predictions are in this folder. Choose a new one, or type overwrite=true to write "
            "over them."
        )


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / LEGEND).read_text(encoding="utf-8")).get("made_by") == _MARK
    except (OSError, ValueError, AttributeError):
        return False


def palette_png(labels: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG file of (H, W) uint8 indices that shows the colours of a (256, 3) palette."""
    picture = Image.fromarray(labels)
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def overlay(image: np.ndarray, labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    """(H, W, 3) uint8: the colours of the classes over an image (H, W, B); a pixel of no class is left as it is."""
    picture = np.ascontiguousarray(to_rgb(image))
    top = labels
    if labels.ndim == 3:
        top = np.full(labels.shape[1:], VOID, np.uint8)
        for index, plane in enumerate(labels):
            top[plane > 0] = index
    colors = cv2.merge([cv2.LUT(top, np.ascontiguousarray(band)) for band in space.palette.T])
    mixed = cv2.addWeighted(picture, 1 - _TINT, colors, _TINT, 0)
    none = top == VOID
    mixed[none] = picture[none]
    return mixed


def _to_be_looked_at(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image and its labels, of a very large one only every so many pixels: no viewer shows all, and a few copies of
    it would not fit into memory."""
    step = -(-max(image.shape[:2]) // _LOOKED_AT)
    return image[::step, ::step], np.ascontiguousarray(labels[..., ::step, ::step])


def _encode(picture: np.ndarray, suffix: str = ".jpg") -> bytes:
    """A picture as the bytes of a file."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    return cv2.imencode(suffix, picture, settings)[1].tobytes()


def _write(path: Path, data: bytes) -> None:
    """Under another name first, so that an interruption leaves no half file."""
    unfinished = path.with_name(f".{path.name}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(data)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space is left on the disk" if full else error.strerror or str(error)
        raise RunFailed(
            f"{path}: the prediction cannot be written ({reason}). What was written before it is whole."
        ) from None
