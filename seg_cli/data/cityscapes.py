"""``data=cityscapes``: Cityscapes street scenes of 50 cities, 19 classes at 2048x1024.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding (2016), arXiv:1604.01685.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.masks import read_index
from seg_cli.data.public import Source, check_choice, find

_CLASSES = {  # in the order of the train ids: the label id, and the colour
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
TRAIN_IDS = LabelSpace(names=tuple(_CLASSES), colors=tuple(color for _, color in _CLASSES.values()))
LABEL_IDS = replace(
    TRAIN_IDS,
    # Of the 34 label ids, 0..33, 15 are scored by nobody. License plates are -1, which a byte holds as 255.
    raw=dict.fromkeys((*range(34), 255), VOID)
    | {label_id: index for index, (label_id, _) in enumerate(_CLASSES.values())},
)
_MASKS = {"label_ids": ("labelIds", LABEL_IDS), "train_ids": ("labelTrainIds", TRAIN_IDS)}

SOURCE = Source(
    name="cityscapes",
    title="Cityscapes",
    address="https://www.cityscapes-dataset.com/downloads",
    size="11 GB (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
    terms="after registration, for non-commercial use",
    tree=(
        "leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelIds.png",
        "leftImg8bit/train_extra/..., gtCoarse/train_extra/...   for data.coarse=true, 45 GB more "
        "(leftImg8bit_trainextra.zip, gtCoarse.zip)",
    ),
)


class Cityscapes(FileDataset):
    """2,975 frames to train and 500 to validate; with ``coarse``, 19,998 more to train, roughly annotated.

    The masks of the test set are not public, so ``test`` is ``val``, the same split under a second name. The group of
    a frame is its city and sequence.

    Args:
        root: the folder that holds leftImg8bit and gtFine.
        masks: ``label_ids`` reads the files as they are downloaded; ``train_ids`` reads those that cityscapesscripts
            makes of them.
        coarse: whether ``train_extra`` is appended to ``train``.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Raises:
        UserError: if a folder, an image or a mask is missing.
    """

    def __init__(
        self,
        *,
        root: str,
        masks: str = "label_ids",
        coarse: bool = False,
        classes: Mapping | None = None,
        cache: str = "none",
    ) -> None:
        check_choice("data.masks", masks, _MASKS)
        kind, labels = _MASKS[masks]
        folder = SOURCE.open(root)
        pairs = {split: _find_pairs(root, folder, split, "gtFine", kind) for split in ("train", "val")}
        if coarse:
            pairs["train"] += _find_pairs(root, folder, "train_extra", "gtCoarse", kind)
        super().__init__(pairs, labels, classes=classes, cache=cache, read_image=ImageReader(), read_mask=read_index)
        self.splits["test"] = self.splits["val"]


def _find_pairs(root: str, folder: Path, split: str, annotation: str, kind: str) -> list[Pair]:
    images = find(SOURCE.folder(root, folder / "leftImg8bit" / split), "_leftImg8bit.png", deep=True)
    masks = find(SOURCE.folder(root, folder / annotation / split), f"_{annotation}_{kind}.png", deep=True)
    hint = ""
    if kind == "labelTrainIds":
        hint = (
            "csCreateTrainIdLabelImgs of the package cityscapesscripts makes them; data.masks=label_ids needs none of "
            "them, and gives the same classes."
        )
    return SOURCE.pair(root, split, images, masks, group=_sequence, hint=hint)


def _sequence(name: str) -> str:
    """``aachen_000000_000019`` -> ``aachen_000000``"""
    return name.rpartition("_")[0]
