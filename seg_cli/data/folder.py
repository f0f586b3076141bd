"""``data=folder``: images and masks of your own in any tree of folders, paired by their names."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_cli.data.coco_json import CocoFile, read_coco
from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.images import ImageReader
from seg_cli.data.layout import Place, find_places
from seg_cli.data.mask_kinds import MaskSettings, understand, understand_coco
from seg_cli.data.matching import has_masks, match
from seg_cli.data.splitting import SPLITS, by_lists, complete_splits, find_lists, refuse_same_names, with_groups
from seg_cli.errors import UserError


class Folder(FileDataset):
    """Splits of what lies below a folder; see docs/data.md for all that it understands.

    Args:
        root: the folder.
        images, masks: names of the folders of images and masks, below root or below each split's folder, or ``auto``;
            ``masks`` may be the path of COCO annotations, with ``SPLIT`` in it for the name of the split.
        image_suffix, mask_suffix: what file names have behind the part that pairs them, or ``auto``.
        splits: ``folders``, ``lists`` (train.txt and so on, of names), ``fractions``, or ``auto``, the first of these
            that is there.
        fractions: shares of train, val and test; of two, test is val.
        seed: of the division by fractions.
        unpaired: ``refuse`` an image without a mask and a mask without an image, or ``leave_out``: note them, and pass
            over broken masks in finding out what masks are.
        group: a regular expression on the name; its first group, or all it matches, is the group, and groups are kept
            whole by fractions.
        masks_are, names, colors, ignore_value, multilabel: see ``MaskSettings``.
        channels, value_range: see ``ImageReader``.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Attributes:
        notes: what was found, and what was made of it, for people.
        unpaired: of each file left out, a sentence that begins with it.

    Raises:
        UserError: if something is missing or ambiguous; says what was looked for, and where.
    """

    def __init__(
        self,
        *,
        root: str,
        images: str = "auto",
        masks: str = "auto",
        image_suffix: str = "auto",
        mask_suffix: str = "auto",
        splits: str = "auto",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 0,
        unpaired: str = "refuse",
        group: str | None = None,
        masks_are: str = "auto",
        names: Sequence[str] | None = None,
        colors: Sequence[Sequence[int]] | None = None,
        ignore_value: int | None = 255,
        multilabel: bool = False,
        channels: int = 3,
        value_range: Sequence[float] | None = None,
        classes: Mapping | None = None,
        cache: str = "none",
    ) -> None:
        if splits not in ("auto", "folders", "lists", "fractions"):
            raise UserError(f"data.splits={splits}: it must be auto, folders, lists or fractions.")
        if unpaired not in ("refuse", "leave_out"):
            raise UserError(f"data.unpaired={unpaired}: it must be refuse or leave_out.")
        lenient = unpaired == "leave_out"
        settings = MaskSettings(masks_are, names, colors, ignore_value, multilabel)
        top = Path(root).expanduser()
        places = find_places(root, images=images, masks=masks)
        if splits == "folders" and "" in places:
            raise UserError(f"data.splits=folders: no folders train, val and test of images were found in {root}.")
        lists = find_lists(top) if splits == "lists" or (splits == "auto" and "" in places) else {}
        if splits == "lists" and not lists:
            raise UserError(
                f"data.splits=lists: no train.txt was found in {root}, nor in a folder splits or lists of it."
            )
        found, annotations, several, notes, alone = _find(
            places, image_suffix, mask_suffix, masks_are, strict=not lists and not lenient
        )
        self.unpaired = [] if lists else alone  # of what no list names, nothing was asked
        if self.unpaired:
            count = len(self.unpaired)
            are = "file without a partner is" if count == 1 else "files without a partner are"
            notes.append(f"{count} {are} left out, as {self.unpaired[0]}")
        if lists:
            found = by_lists(lists, found)
            notes.append(f"splits are the lists {', '.join(file.name for file in lists.values())}")
        elif splits == "fractions":
            found = {"": [pair for of in found.values() for pair in of]}
            refuse_same_names(found[""])
        found = {split: with_groups(pairs, group) for split, pairs in found.items()}
        complete, told_splits = complete_splits(found, fractions=fractions, seed=seed)

        every = list({pair.image: pair for split in SPLITS for pair in complete[split]}.values())
        if annotations:
            understood = understand_coco(annotations, settings)
        else:
            understood = understand(every, settings, table=top / "classes.txt", several=several, lenient=lenient)
        self.notes = [*notes, *told_splits, *understood.notes]
        self._annotations = annotations
        super().__init__(
            complete,
            understood.labels,
            classes=classes,
            cache=cache,
            channels=channels,
            read_image=ImageReader(channels=channels, value_range=value_range),
            read_mask=understood.read_mask,
        )

    def fingerprint(self) -> str:
        """A hash of what the files hold, whatever folder they lie in."""
        files = [file.path.read_bytes() for file in self._annotations]
        hashes = [super().fingerprint(), *(hashlib.sha256(content).hexdigest() for content in files)]
        return hashlib.sha256(repr(hashes).encode()).hexdigest() if files else hashes[0]


def _find(
    places: Mapping[str, Place], image_suffix: str, mask_suffix: str, masks_are: str, *, strict: bool
) -> tuple[dict[str, list[Pair]], list[CocoFile], bool, list[str], list[str]]:
    """The pairs of each place, COCO files, whether masks are several an image, notes, and files without a partner."""
    found: dict[str, list[Pair]] = {}
    annotations: list[CocoFile] = []
    kinds: set[bool] = set()
    notes: list[str] = []
    alone: list[str] = []
    for split, place in places.items():
        where = f"{split or 'images'}: {place.images}"
        if place.masks.is_file():
            if masks_are not in ("auto", "coco"):
                raise UserError(f"data.masks_are={masks_are}: {place.masks} is a file of COCO annotations.")
            annotations.append(read_coco(place.masks, place.images))
            found[split] = annotations[-1].pairs
            notes.append(f"{where}, {len(found[split])} images of {place.masks}")
            continue
        if masks_are == "coco":
            raise UserError(
                f"data.masks_are=coco: no file of annotations was found for {place.images}. data.masks takes its path "
                "below data.root, as data.masks=annotations.json."
            )
        if split == "test" and place.masks == place.images and len(places) > 1 and not has_masks(place):
            notes.append(f"{where} has no masks and is left out")
            continue
        several = {"auto": None, "files": True}.get(masks_are, False)
        matched = match(place, image_suffix=image_suffix, mask_suffix=mask_suffix, several=several, strict=strict)
        kinds.add(matched.several)
        found[split] = matched.pairs
        alone += matched.alone
        notes.append(f"{where}, {len(matched.pairs)} images; {place.masks}, {matched.how}")
    if (annotations and kinds) or len(kinds) > 1:
        raise UserError(
            "data.masks: the splits have different kinds of masks ("
            + "; ".join(f"{split}: {place.masks}" for split, place in places.items())
            + "). Say which: data.masks=NAME, data.masks_are=KIND"
        )
    return found, annotations, kinds == {True}, notes, alone
