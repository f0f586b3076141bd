"""COCO annotations, polygons and run lengths in a JSON file, as masks. Needs pycocotools (the extra ``coco``).

Lin et al.: Microsoft COCO: Common objects in context (2014), arXiv:1405.0312.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seg_cli.data.files import Pair
from seg_cli.data.images import picture_size
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError


@dataclass(frozen=True)
class CocoFile:
    """What a file of annotations holds.

    Attributes:
        path: the file.
        categories: their names by id, in the order of the ids.
        pairs: one an image of the file; its mask file is the file of annotations.
        annotations: path of an image -> what ``CocoMasks`` draws, as JSON: parsed, all of COCO would not fit in the
            memory of many workers.
        notes: what was left out.
    """

    path: Path
    categories: Mapping[int, str]
    pairs: list[Pair]
    annotations: Mapping[str, bytes]
    notes: list[str]


def read_coco(path: Path, images: Path) -> CocoFile:
    """Read a file of annotations.

    Args:
        path: JSON with ``images``, ``annotations`` and ``categories``.
        images: the folder below which ``file_name`` is found.

    Raises:
        UserError: if pycocotools is not installed, the file is no COCO JSON, an image is not there, or an annotation
            is of an image or category that is not there, or draws nothing.
    """
    try:
        import pycocotools.mask  # noqa: F401 - said here, and not in the middle of training
    except ImportError:
        raise UserError(
            f"data.masks={path}: COCO annotations need pycocotools, which is not installed. Type: "
            "pip install 'segrun[coco]'"
        ) from None
    content = _load(path)
    try:
        categories = {int(item["id"]): str(item["name"]) for item in content["categories"]}
        files = {item["id"]: _find(images, str(item["file_name"])) for item in content["images"]}
        sizes = {item["id"]: (item.get("height"), item.get("width")) for item in content["images"]}
        drawn, hollow = _drawn(content["annotations"], files, sorted(categories), path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: this is no COCO file: {type(error).__name__} {error} in its entries.") from None
    missing = [found for found in files.values() if not found.is_file()]
    if missing or not files:
        what = f"{len(missing)} of the {len(files)} images that it lists are" if files else "it lists no image that is"
        first = f"; the first is {missing[0]}" if missing else ""
        raise UserError(f"{path}: {what} not in {images}{first}. data.images takes the name of their folder.")
    if hollow and hollow == len(content["annotations"]):
        raise UserError(f"{path}: no annotation has a segmentation. Boxes alone are not masks.")
    twice = len(files) - len(set(files.values()))
    if twice:
        raise UserError(f"{path}: {twice} images are listed more than once.")

    annotations = {}
    for image, found in files.items():
        size = sizes[image] if all(sizes[image]) else picture_size(found)
        annotations[str(found)] = json.dumps([size, drawn[image]], separators=(",", ":")).encode()
    pairs = [Pair(found, (path,), _name(found, images)) for found in files.values()]
    notes = [f"{path.name}: {hollow} annotations enclose nothing and were left out"] if hollow else []
    return CocoFile(
        path, dict(sorted(categories.items())), sorted(pairs, key=lambda pair: pair.name), annotations, notes
    )


def _drawn(
    annotations: Sequence[Mapping[str, Any]], files: Mapping[Any, Path], categories: Sequence[int], path: Path
) -> tuple[dict[Any, list], int]:
    """Image -> class, crowd, area and shape of each thing on it; and how many annotations enclose nothing."""
    drawn: dict[Any, list] = {image: [] for image in files}
    classes = {category: index for index, category in enumerate(categories)}
    hollow = 0
    for item in annotations:
        where = f"{path}: annotation {item.get('id')}"
        if item["image_id"] not in files or item["category_id"] not in classes:
            what = "image" if item["image_id"] not in files else "category"
            raise UserError(f"{where} is of the {what} {item[what + '_id']}, which the file does not list.")
        shape = _checked(item.get("segmentation"), where)
        if shape:
            crowd, area = bool(item.get("iscrowd", 0)), float(item.get("area") or 0)
            drawn[item["image_id"]].append([classes[item["category_id"]], crowd, area, shape])
        hollow += not shape
    return drawn, hollow


@dataclass(frozen=True)
class CocoMasks:
    """Draws the annotations of an image.

    Args:
        annotations: as in ``CocoFile``.
        classes: how many there are.
        overlapping: give (classes, H, W) of 0, 1 and ``VOID``. Else (H, W): 0 is the background, 1 the first class
            and so on, and of objects that overlap the one of the smaller area is on top.
    """

    annotations: Mapping[str, bytes] = field(repr=False)
    classes: int
    overlapping: bool = False

    def __call__(self, pair: Pair) -> np.ndarray:
        """uint8. A crowd (``iscrowd``) is void where no object is. Raises UserError if run lengths do not fit."""
        (height, width), drawn = json.loads(self.annotations[str(pair.image)])
        mask = np.zeros((self.classes, height, width) if self.overlapping else (height, width), np.uint8)
        # Crowds first, then from large to small.
        for index, crowd, _, shape in sorted(drawn, key=lambda item: (not item[1], -item[2])):
            where = self._draw(shape, height, width, pair)
            if self.overlapping:
                mask[index][where] = VOID if crowd else 1
            else:
                mask[where] = VOID if crowd else index + 1
        return mask

    @staticmethod
    def _draw(shape: Any, height: int, width: int, pair: Pair) -> np.ndarray:
        from pycocotools import mask as coco

        if isinstance(shape, dict):
            if list(shape["size"]) != [height, width]:
                raise UserError(
                    f"{pair.masks[0]}: run lengths of {pair.image} are of {shape['size']} pixels (height, width), and "
                    f"the image is of {[height, width]}."
                )
            run_lengths = coco.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
        else:
            run_lengths = coco.merge(coco.frPyObjects(shape, height, width))
        return coco.decode(run_lengths).astype(bool)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: the file of annotations cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{path}: the file of annotations is no JSON, or is cut short ({error}).") from None
    parts = ("images", "annotations", "categories")
    lacking = [part for part in parts if not isinstance(content, dict) or not isinstance(content.get(part), list)]
    if lacking:
        raise UserError(
            f"{path}: this is no COCO file: it has no list '{lacking[0]}'. Expected are the lists {', '.join(parts)}."
        )
    return content


def _checked(shape: Any, where: str) -> Any:
    """A segmentation that encloses something; None of one that does not."""
    if isinstance(shape, dict):
        if not isinstance(shape.get("counts"), list | str) or len(shape.get("size", ())) != 2:
            raise UserError(f"{where}: its run lengths have no 'counts' or no 'size' of height and width.")
        return shape
    if not shape:
        return None
    if not all(isinstance(part, list) and len(part) % 2 == 0 for part in shape):
        raise UserError(f"{where}: a polygon is a list of x, y, x, y, ..., and this one is not.")
    # Less than three corners enclose nothing, and pycocotools takes two of them for a box.
    return [part for part in shape if len(part) >= 6] or None


def _find(images: Path, name: str) -> Path:
    path = images / name
    return path if path.is_file() else images / Path(name).name if (images / Path(name).name).is_file() else path


def _name(path: Path, images: Path) -> str:
    """Its path below the folder of images; of an image that lies elsewhere its own name, which leads nowhere."""
    inside = path.is_relative_to(images) and ".." not in path.relative_to(images).parts
    return (path.relative_to(images) if inside else Path(path.name)).with_suffix("").as_posix()
