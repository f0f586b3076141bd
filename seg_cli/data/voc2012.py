"""``data=voc2012``: Pascal VOC 2012 segmentation, 20 kinds of object and the background.

Everingham, Van Gool, Williams, Winn, Zisserman: The Pascal Visual Object Classes Challenge (2010); Hariharan et al.:
Semantic contours from inverse detectors (2011), for the masks of ``train_set=train_aug``.
"""

from collections.abc import Mapping
from pathlib import Path

from seg_cli.data.files import FileDataset
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import LabelSpace
from seg_cli.data.masks import read_index
from seg_cli.data.public import Files, Source, bit_color, check_choice, find, read_list
from seg_cli.errors import UserError

LABELS = LabelSpace(
    names=(
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ),
    colors=tuple(bit_color(index) for index in range(21)),
)

SOURCE = Source(
    name="voc2012",
    title="Pascal VOC 2012",
    address="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    size="2 GB (VOCtrainval_11-May-2012.tar)",
    terms="images under the terms of Flickr",
    tree=(
        "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt",
        "VOCdevkit/VOC2012/SegmentationClassAug/2008_000002.png   for data.train_set=train_aug",
    ),
)


class VOC2012(FileDataset):
    """1,464 images to train and 1,449 to validate; objects have a border of void.

    The masks of the test set are not public, so ``test`` is ``val``, the same split under a second name.

    Args:
        root: the folder that holds VOCdevkit, or VOC2012, or is VOC2012.
        train_set: ``train``, or ``train_aug``: the 10,582 images that are left of all that VOC and SBD annotated when
            ``val`` is taken out. They are read from ``SegmentationClassAug``, and listed in ``train_aug.txt`` or
            ``trainaug.txt``; without a list they are all masks of that folder that are not in ``val``.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Raises:
        UserError: if a folder, a list, an image or a mask is missing, or a list to train on names images of ``val``.
    """

    def __init__(
        self, *, root: str, train_set: str = "train", classes: Mapping | None = None, cache: str = "none"
    ) -> None:
        check_choice("data.train_set", train_set, ("train", "train_aug"))
        folder = SOURCE.open(root, "VOCdevkit/VOC2012", "VOC2012")
        images = find(SOURCE.folder(root, folder / "JPEGImages"), ".jpg")
        masks = find(SOURCE.folder(root, folder / "SegmentationClass"), ".png")
        lists = SOURCE.folder(root, folder / "ImageSets" / "Segmentation")
        val_list = SOURCE.file(root, lists / "val.txt")
        val = read_list(val_list)
        train_list: Path | None = None
        if train_set == "train":
            train_list, train_masks = SOURCE.file(root, lists / "train.txt"), masks
        else:
            added = find(SOURCE.folder(root, folder / "SegmentationClassAug"), ".png")
            train_masks = Files(added.folder, {**masks.by_name, **added.by_name})
            train_list = next((lists / name for name in _TRAIN_AUG if (lists / name).is_file()), None)
        train = read_list(train_list) if train_list else sorted(added.by_name.keys() - set(val))
        if leaked := set(train) & set(val):
            raise UserError(
                f"data.root={root}: {train_list} lists {len(leaked)} images of {val_list}, the first is "
                f"'{min(leaked)}'. What is validated on must not be trained on: take them out of one of the lists."
            )
        pairs = {
            "train": SOURCE.pair(root, train_set, images, train_masks, names=train, listing=train_list),
            "val": SOURCE.pair(root, "val", images, masks, names=val, listing=val_list),
        }
        super().__init__(pairs, LABELS, classes=classes, cache=cache, read_image=ImageReader(), read_mask=read_index)
        self.splits["test"] = self.splits["val"]


_TRAIN_AUG = ("train_aug.txt", "trainaug.txt")
