"""``data=camvid``: CamVid street scenes in the split of the SegNet paper, 11 classes at 480x360.

Brostow, Fauqueur, Cipolla: Semantic object classes in video (2009); Badrinarayanan, Kendall, Cipolla (2015),
arXiv:1511.00561, for the split and the 11 classes.
"""

from collections.abc import Mapping
from pathlib import Path

from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.masks import read_index
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


class CamVid(FileDataset):
    """The three splits, each a folder of images beside a folder of masks.

    ``root/train/*.jpg|png`` with ``root/trainannot/*.png``, and ``val`` and ``test`` alike; where ``root/train.txt``
    exists, it lists the stems of the split. The group of a frame is its video, the file name up to the underscore.

    Args:
        root: the folder that holds the splits.
        classes: see ``LabelSpace.choose``.

    Raises:
        UserError: if the folder, a split, an image or a mask is missing; says what was looked for, and where.
    """

    def __init__(self, *, root: str, classes: Mapping | None = None) -> None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"data.root={root}: there is no such folder ({folder.absolute()}). CamVid is expected as "
                f"{folder}/train, {folder}/trainannot and so on for val and test. Type data.root=DIR, or set "
                "SEGRUN_DATA to the folder that holds camvid/."
            )
        pairs = {split: _find_pairs(folder, split) for split in ("train", "val", "test")}
        super().__init__(pairs, LABELS, classes=classes, read_image=ImageReader(), read_mask=read_index)


def _find_pairs(root: Path, split: str) -> list[Pair]:
    images_folder, masks_folder, listing = root / split, root / f"{split}annot", root / f"{split}.txt"
    for folder in (images_folder, masks_folder):
        if not folder.is_dir():
            found = ", ".join(sorted(entry.name for entry in root.iterdir())[:12]) or "nothing"
            raise UserError(
                f"data.root={root}: the split '{split}' lacks its folder {folder}. The root holds: {found}."
            )
    images = {path.stem: path for path in images_folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
    masks = {path.stem: path for path in masks_folder.glob("*.png")}
    stems = listing.read_text().split() if listing.is_file() else sorted(images.keys() | masks.keys())
    if not stems:
        raise UserError(f"data.root={root}: the split '{split}' is empty: no .jpg or .png in {images_folder}.")
    for what, files, folder in (("image", images, images_folder), ("mask", masks, masks_folder)):
        missing = [stem for stem in stems if stem not in files]
        if missing:
            raise UserError(
                f"{folder}: {len(missing)} of the {len(stems)} samples of '{split}' have no {what} here, "
                f"the first is '{missing[0]}'" + (f" (listed in {listing})." if listing.is_file() else ".")
            )
    return [Pair(images[stem], (masks[stem],), stem, stem.partition("_")[0]) for stem in stems]
