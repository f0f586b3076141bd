"""Which mask belongs to which image: by their names, with or without something behind them, or by class and object."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_cli.data.files import Pair
from seg_cli.data.layout import IMAGE_TYPES, MASK_TYPES, Place, walk
from seg_cli.errors import UserError

_IMAGE_SUFFIXES = ("_image", "_img", "_im", "_rgb", "_sat", "_leftImg8bit", "-image", "-img")
_MASK_SUFFIXES = (
    *("_mask", "_masks", "_label", "_labels", "_labelIds", "_gtFine_labelIds", "_gt", "_seg", "_segmentation"),
    *("_annotation", "_annot", "_groundtruth", "_L", "_m", "-mask", "-label", ".mask", "_manual1"),
)


@dataclass(frozen=True)
class Matched:
    """Pairs of a place, and how they were found.

    Attributes:
        pairs: sorted by name.
        several: whether each class or object has a mask file of its own.
        how: in words.
        alone: of each image without a mask and mask without an image, a sentence that begins with the file.
    """

    pairs: list[Pair]
    several: bool
    how: str
    alone: Sequence[str] = ()


def match(
    place: Place,
    *,
    image_suffix: str = "auto",
    mask_suffix: str = "auto",
    several: bool | None = None,
    strict: bool = True,
) -> Matched:
    """Pair the images and masks of a place by their names.

    The name of a pair is the image's path below its folder, without ``image_suffix`` and the file's ending; a mask has
    the same one with ``mask_suffix`` behind it. Where the folders inside the two differ, the file's name alone counts.

    Args:
        place: its ``masks`` is a folder.
        image_suffix, mask_suffix: what stands behind the name; ``auto``: whatever fits.
        several: whether each class or object has a mask file of its own, ``STEM/car.png``, ``car/STEM.png`` or
            ``STEM_car.png``; None: whether it looks like that.
        strict: refuse an image without a mask and a mask without an image, and do not leave them out.

    Raises:
        UserError: if two files have the same name, an image has no mask or a mask no image, or no or several suffixes
            fit.
    """
    images, masks = _list(place, mask_suffix)
    if not masks:
        raise UserError(
            f"data.masks: no masks are in {place.masks} (looked for {', '.join(MASK_TYPES)}). Expected a folder of "
            "masks called as their images are; data.masks takes its name, or that of a COCO file."
        )
    if several is not False:
        grouped = _by_folder(place, images, masks, certain=bool(several))
        if grouped:
            return grouped
    found = _Names(place, images, masks)
    image_suffix, mask_suffix = _suffixes(found, image_suffix, mask_suffix, several)
    if mask_suffix == _EACH:
        return _by_class_behind(found, image_suffix)
    of_image = found.keyed(images, place.images, image_suffix, "images")
    of_mask = found.keyed(masks, place.masks, mask_suffix, "masks")
    if strict:
        _refuse_lonely(of_image, of_mask, place, mask_suffix)
    alone = [
        f"{having[name]}: the {what} has no {other}: none is called '{Path(name).name}{behind}' in {folder}"
        for what, other, having, lacking, folder, behind in (
            ("image", "mask", of_image, of_mask, place.masks, mask_suffix),
            ("mask", "image", of_mask, of_image, place.images, image_suffix),
        )
        for name in sorted(having.keys() - lacking.keys())
    ]
    both = sorted(of_image.keys() & of_mask.keys())
    pairs = [Pair(of_image[name], (of_mask[name],), name) for name in both]
    return Matched(pairs, False, f"masks of the same name{f' with {mask_suffix}' if mask_suffix else ''}", alone)


def has_masks(place: Place) -> bool:
    """Whether there are any masks in a place whose images and masks lie in one folder."""
    return bool(_list(place, "auto")[1])


_EACH = "*"  # in place of a suffix: a class, or an object


def _list(place: Place, mask_suffix: str) -> tuple[list[Path], list[Path]]:
    """The image files and the mask files; those that lie in one folder are told apart by suffix, else by type."""
    if place.images != place.masks:
        return list(walk(place.images, IMAGE_TYPES, without=place.masks)), list(walk(place.masks, MASK_TYPES))
    files = list(walk(place.images, MASK_TYPES))
    suffixes = _MASK_SUFFIXES if mask_suffix == "auto" else (mask_suffix,)
    masks = [path for path in files if path.stem.lower().endswith(tuple(map(str.lower, suffixes)))]
    if not masks or mask_suffix == "":
        photos = {path.with_suffix("") for path in files if path.suffix.lower() in (".jpg", ".jpeg", ".tif", ".tiff")}
        masks = [
            path
            for path in files
            if path.suffix.lower() in (".png", ".npy", ".gif", ".bmp") and path.with_suffix("") in photos
        ]
    chosen = set(masks)
    return [path for path in files if path not in chosen and path.suffix.lower() in IMAGE_TYPES], masks


class _Names:
    """What files are called below their folder; by the last part alone if the two trees are not alike."""

    def __init__(self, place: Place, images: Sequence[Path], masks: Sequence[Path]) -> None:
        self.place, self.images, self.masks = place, images, masks
        parents = {path.parent.relative_to(place.images) for path in images}
        self.whole = {path.parent.relative_to(place.masks) for path in masks} <= parents

    def name(self, path: Path, folder: Path) -> str:
        return path.relative_to(folder).with_suffix("").as_posix() if self.whole else path.stem

    def keyed(self, files: Iterable[Path], folder: Path, suffix: str, what: str) -> dict[str, Path]:
        """Name without the suffix -> file; of masks, those without the suffix are left out."""
        found: dict[str, Path] = {}
        for path in files:
            name = self.name(path, folder)
            if not _ends(name, suffix):
                if what == "masks":
                    continue
            elif suffix:
                name = name[: -len(suffix)]
            if name in found:
                raise UserError(
                    f"data.{what}: two {what} are called '{name}': {found[name]} and {path}. A name pairs an image "
                    "with its mask, so there can be one of each."
                )
            found[name] = path
        return found


def _suffixes(found: _Names, image_suffix: str, mask_suffix: str, several: bool | None) -> tuple[str, str]:
    """The suffixes of images and masks; that of masks is ``_EACH`` where they are classes."""
    masks = [found.name(path, found.place.masks) for path in found.masks]
    images = [found.name(path, found.place.images) for path in found.images]
    if mask_suffix != "auto" and image_suffix != "auto":
        return image_suffix, mask_suffix
    if not several and image_suffix in ("auto", "") and mask_suffix == "auto" and not {*images}.isdisjoint(masks):
        return "", ""
    tried = [image_suffix] if image_suffix != "auto" else ["", *_IMAGE_SUFFIXES]
    for suffix in tried:
        stems = {name[: len(name) - len(suffix)] for name in images if _ends(name, suffix)}
        behind = _what_is_behind(masks, stems)
        if mask_suffix != "auto":
            if any(_ends(rest, mask_suffix) and len(rest) == len(mask_suffix) for rest in behind):
                return suffix, mask_suffix
        elif behind:
            return suffix, _mask_suffix(found.place, behind, several)
    raise UserError(
        f"data.masks: no mask is called as an image is. The images in {found.place.images} are "
        f"{_some(images)}; the masks in {found.place.masks} are {_some(masks)}. data.image_suffix and data.mask_suffix "
        "take what stands behind the common part; if there is none, list the pairs in a table: data=manifest"
    )


def _mask_suffix(place: Place, behind: Counter[str], several: bool | None) -> str:
    """The suffix that is meant, of those that masks have behind the names of images; ``_EACH`` where they are classes.

    Raises UserError if there are several, and none of them is a usual one.
    """
    if several:
        return _EACH
    if len(behind) == 1:
        return next(iter(behind))
    common = [rest for rest in behind if rest.lower() in map(str.lower, _MASK_SUFFIXES)]
    if len(common) == 1:
        return common[0]
    if several is None and not common and all(re.match("[_-].", rest) for rest in behind):
        return _EACH
    listed = ", ".join(f"'{rest}' ({count} masks)" for rest, count in behind.most_common(5))
    raise UserError(
        f"data.mask_suffix: behind the names of the images in {place.images}, the masks in {place.masks} have several "
        f"suffixes: {listed}. Say which: data.mask_suffix={behind.most_common(1)[0][0]}"
    )


def _what_is_behind(masks: Iterable[str], stems: set[str]) -> Counter[str]:
    """What masks have behind the longest name of an image that they begin with."""
    behind: Counter[str] = Counter()
    for mask in masks:
        cut = next((cut for cut in range(len(mask), 0, -1) if mask[:cut] in stems), None)
        if cut is not None:
            behind[mask[cut:]] += 1
    return behind


def _by_folder(place: Place, images: list[Path], masks: list[Path], *, certain: bool) -> Matched | None:
    """``STEM/car.png`` or ``car/STEM.png``, if the masks lie like that."""
    if place.images == place.masks:
        return None
    stems = {path.stem: path for path in images}
    parents = {path.parent.name for path in masks}
    folders = {path.parent.relative_to(place.masks) for path in masks}
    alike = folders == {path.parent.relative_to(place.images) for path in images}
    if len(stems) < len(images) or Path() in folders or (alike and not certain):
        return None
    files: dict[str, list[Path]] = {stem: [] for stem in stems}
    if parents <= stems.keys():
        for path in masks:
            files[path.parent.name].append(path)
        return _grouped(stems, files, "a folder of masks for each image")
    counted = Counter(path.stem for path in masks)
    if certain or max(counted.values()) > 1:
        lonely = []
        for path in masks:
            stem = path.stem if path.stem in files else re.sub(r"[_-]\d+$", "", path.stem)
            files[stem].append(path) if stem in files else lonely.append(path)
        if len(lonely) == len(masks):
            return None
        _refuse_strays(lonely, place)
        return _grouped(stems, files, "a folder of masks for each class")
    return None


def _by_class_behind(found: _Names, image_suffix: str) -> Matched:
    """``STEM_car.png``."""
    images = found.keyed(found.images, found.place.images, image_suffix, "images")
    files: dict[str, list[Path]] = {name: [] for name in images}
    lonely = []
    for path in found.masks:
        name = found.name(path, found.place.masks)
        cut = next((cut for cut in range(len(name), 0, -1) if name[:cut] in files), None)
        files[name[:cut]].append(path) if cut else lonely.append(path)
    _refuse_strays(lonely, found.place)
    return _grouped(images, files, "a mask for each class, with its name behind the image's")


def _grouped(images: dict[str, Path], files: dict[str, list[Path]], how: str) -> Matched:
    pairs = [Pair(images[name], tuple(sorted(files[name])), name) for name in sorted(images)]
    empty = sum(not pair.masks for pair in pairs)
    return Matched(pairs, True, how + (f"; {empty} images have none and are background" if empty else ""))


def _refuse_strays(lonely: Sequence[Path], place: Place) -> None:
    if lonely:
        raise UserError(
            f"data.masks: {len(lonely)} masks in {place.masks} belong to no image in {place.images}, the first is "
            f"{lonely[0]}."
        )


def _refuse_lonely(images: dict[str, Path], masks: dict[str, Path], place: Place, mask_suffix: str) -> None:
    for what, other, having, lacking, folder in (
        ("images", "mask", images, masks, place.masks),
        ("masks", "image", masks, images, place.images),
    ):
        alone = sorted(having.keys() - lacking.keys())
        if alone:
            called = f"'{Path(alone[0]).name}{mask_suffix if what == 'images' else ''}'"
            raise UserError(
                f"data.{what}: {len(alone)} of {len(having)} {what} have no {other}, the first is {having[alone[0]]}: "
                f"no {other} is called {called} in {folder}. Add what is missing (segrun check names all), type "
                "data.unpaired=leave_out to go on without, or list the pairs in a table: data=manifest"
            )


def _ends(name: str, suffix: str) -> bool:
    return name.lower().endswith(suffix.lower())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" ... ({len(names)})" if len(names) > 3 else "")
