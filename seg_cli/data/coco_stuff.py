"""``data=coco_stuff``: COCO 2017 with every pixel labelled: 171 classes of COCO-Stuff, or the 133 of COCO panoptic.

Caesar, Uijlings, Ferrari: COCO-Stuff: Thing and Stuff Classes in Context (2016), arXiv:1612.03716; Kirillov et al.:
Panoptic Segmentation (2018), arXiv:1801.00868.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.images import ImageReader, read_plain
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.masks import read_index
from seg_cli.data.public import Files, Source, bit_color, check_choice, find
from seg_cli.errors import UserError

# The categories 1 to 182: 91 things, of which 11 were never annotated ("-" here), then 91 kinds of stuff.
_CATEGORIES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -, -,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, -,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill,
house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other,
skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree,
vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
window-blind, window-other, wood
"""
_STUFF = {
    number: name
    for number, name in enumerate((" ".join(name.split()) for name in _CATEGORIES.split(",")), 1)
    if name != "-"
}
# Panoptic COCO keeps 36 kinds of stuff as they are, and merges most others into 17 new ones, 184 to 200.
_KEPT = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151),
    *(154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
)
_MERGED = """
tree, fence, ceiling, sky-other, cabinet, table, floor-other, pavement, mountain, grass, dirt, paper, food-other,
building-other, rock, wall-other, rug
"""
_PANOPTIC = (
    {number: name for number, name in _STUFF.items() if number <= 90 or number in _KEPT}
    | {number: f"{name.strip()}-merged" for number, name in enumerate(_MERGED.split(","), 184)}
)  # fmt: skip


def _space(categories: Mapping[int, str], raw: Mapping[int, int]) -> LabelSpace:
    """A class a category, coloured by its number, so that both label spaces draw a person alike."""
    return LabelSpace(tuple(categories.values()), tuple(bit_color(number) for number in categories), raw)


# A stuffthingmap holds the category less one, and 255 for void; a panoptic mask read here the category, and 0.
STUFF_LABELS = _space(_STUFF, {255: VOID} | {number - 1: index for index, number in enumerate(_STUFF)})
PANOPTIC_LABELS = _space(_PANOPTIC, {0: VOID} | {number: index for index, number in enumerate(_PANOPTIC)})

_IMAGES_TREE = "images/{train,val}2017/000000000139.jpg   (or {train,val}2017/...)"
_TERMS = "annotations CC BY 4.0, images under the terms of Flickr"
STUFF_SOURCE = Source(
    name="coco_stuff",
    title="COCO-Stuff",
    address="https://github.com/nightrome/cocostuff",
    size="20 GB (train2017.zip, val2017.zip, stuffthingmaps_trainval2017.zip)",
    terms=_TERMS,
    tree=(_IMAGES_TREE, "annotations/{train,val}2017/000000000139.png   (or stuffthingmaps/{train,val}2017/...)"),
)
PANOPTIC_SOURCE = Source(
    name="coco_stuff",
    title="COCO panoptic",
    address="https://cocodataset.org/#download",
    size="20 GB (train2017.zip, val2017.zip, panoptic_annotations_trainval2017.zip)",
    terms=_TERMS,
    tree=(
        _IMAGES_TREE,
        "annotations/panoptic_{train,val}2017.json",
        "annotations/panoptic_{train,val}2017/000000000139.png   (from the zip files inside the zip file)",
    ),
)
_MASKS = ("stuffthingmaps", "panoptic")


class COCOStuff(FileDataset):
    """118,287 images to train and 5,000 to validate.

    The masks of the test set are not public, so ``test`` is ``val``, the same split under a second name. Regions that
    COCO calls crowds belong to their class.

    Args:
        root: the folder that holds images and annotations.
        masks: ``stuffthingmaps`` for 80 things and 91 kinds of stuff; ``panoptic`` for 80 things and 53.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Raises:
        UserError: if a folder, an image, a mask or a JSON file is missing or broken.
    """

    def __init__(
        self, *, root: str, masks: str = "stuffthingmaps", classes: Mapping | None = None, cache: str = "none"
    ) -> None:
        check_choice("data.masks", masks, _MASKS)
        panoptic = masks == "panoptic"
        folder = (PANOPTIC_SOURCE if panoptic else STUFF_SOURCE).open(root)
        pairs, segments = {}, {}
        for split in ("train", "val"):
            if panoptic:
                pairs[split], found = _panoptic_pairs(root, folder, split)
                segments.update(found)
            else:
                pairs[split] = _stuff_pairs(root, folder, split)
        self._segments = PanopticMasks(segments) if panoptic else None
        super().__init__(
            pairs,
            PANOPTIC_LABELS if panoptic else STUFF_LABELS,
            classes=classes,
            cache=cache,
            read_image=ImageReader(),
            read_mask=self._segments or read_index,
        )
        self.splits["test"] = self.splits["val"]

    def fingerprint(self) -> str:
        """A hash of what the files hold, and of the JSON files that say what the panoptic ones mean."""
        files = super().fingerprint()
        if self._segments is None:
            return files
        return hashlib.sha256(f"{files} {self._segments.fingerprint()}".encode()).hexdigest()


@dataclass(frozen=True)
class PanopticMasks:
    """Reads panoptic PNG files as categories: (H, W) uint16, 0 where nothing is labelled.

    A file holds the number of a segment a pixel, red + 256 green + 65536 blue; 0 is none.

    Args:
        segments: folder/name of a file -> (2, segments) uint32: their numbers, ascending, and their categories.
    """

    segments: Mapping[str, np.ndarray]

    def __call__(self, pair: Pair) -> np.ndarray:
        """Raises UserError if the file cannot be read, is not RGB, or holds a segment that the JSON file lacks."""
        (path,) = pair.masks
        colors = read_plain(path, "mask")
        if colors.ndim != 3 or colors.shape[2] != 3 or colors.dtype != np.uint8:
            raise UserError(
                f"{path}: expected a panoptic mask, which is an RGB picture of 8 bits, found {colors.dtype} with shape "
                f"{colors.shape}."
            )
        red, green, blue = np.moveaxis(colors.astype(np.uint32), 2, 0)
        packed = red | green << 8 | blue << 16
        numbers, categories = self.segments[_key(path)]
        place = np.searchsorted(numbers, packed).clip(max=len(numbers) - 1)
        unknown = numbers[place] != packed
        if unknown.any():
            found, counts = np.unique(packed[unknown], return_counts=True)
            named = ", ".join(f"{number} ({count} pixels)" for number, count in zip(found[:10], counts, strict=False))
            raise UserError(
                f"{path}: the mask holds segments that {path.parent.name}.json does not list for it: {named}"
                f"{' and more' if len(found) > 10 else ''}. Download both again; they belong together."
            )
        return categories[place].astype(np.uint16)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.segments):
            digest.update(name.encode() + self.segments[name].tobytes())
        return digest.hexdigest()


def _key(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _images(source: Source, root: str, folder: Path, split: str) -> Files:
    name = f"{split}2017"
    return find(source.folder(root, folder / "images" / name, folder / name), ".jpg")


def _stuff_pairs(root: str, folder: Path, split: str) -> list[Pair]:
    name = f"{split}2017"
    masks = STUFF_SOURCE.folder(
        root, *(folder / above / name for above in ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017"))
    )
    return STUFF_SOURCE.pair(root, split, _images(STUFF_SOURCE, root, folder, split), find(masks, ".png"))


def _panoptic_pairs(root: str, folder: Path, split: str) -> tuple[list[Pair], dict[str, np.ndarray]]:
    name = f"panoptic_{split}2017"
    listing = PANOPTIC_SOURCE.file(root, folder / "annotations" / f"{name}.json", folder / f"{name}.json")
    masks = find(PANOPTIC_SOURCE.folder(root, folder / "annotations" / name, folder / name), ".png")
    segments = _read_segments(listing)
    pairs = PANOPTIC_SOURCE.pair(
        root, split, _images(PANOPTIC_SOURCE, root, folder, split), masks, names=segments, listing=listing
    )
    return pairs, {_key(masks.by_name[stem]): found for stem, found in segments.items()}


def _read_segments(file: Path) -> dict[str, np.ndarray]:
    """Stem of a mask -> its segments, as ``PanopticMasks`` takes them; "nothing" is always among them."""
    try:
        annotations = json.loads(file.read_bytes())["annotations"]
        return {Path(entry["file_name"]).stem: _table(entry["segments_info"]) for entry in annotations}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{file}: this is not a panoptic JSON file of COCO ({type(error).__name__}: {error}). It has "
            "'annotations', each with a 'file_name' and 'segments_info' of 'id' and 'category_id'. Download it again."
        ) from None


def _table(segments: Sequence[Mapping[str, int]]) -> np.ndarray:
    rows = sorted([(0, 0), *((segment["id"], segment["category_id"]) for segment in segments)])
    return np.array(rows, np.uint32).T.copy()
