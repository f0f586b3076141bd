"""Where the images and masks of a tree of folders are: by the names that people give to such folders."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_cli.data.splitting import SPLITS, split_of
from seg_cli.data.trees import IMAGE_TYPES, MASK_TYPES, walk
from seg_cli.errors import UserError

_IMAGES = ("images", "image", "imgs", "img", "jpegimages", "inputs", "input", "leftimg8bit", "frames", "photos", "x")
_MASKS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "groundtruth", "gt"),
    *("gtfine", "segmentations", "segmentation", "segmentationclass", "seg", "targets", "target", "y"),
)


@dataclass(frozen=True)
class Place:
    """A folder of images and where their masks are: a folder, perhaps the same one, or a COCO file of annotations."""

    images: Path
    masks: Path


def find_places(root: str, *, images: str = "auto", masks: str = "auto") -> dict[str, Place]:
    """The folders of each split, or under '' of images that are in none.

    Looks for ``root/SPLIT/IMAGES``, ``root/IMAGES/SPLIT``, ``root/SPLIT_IMAGES``, ``root/SPLIT`` and ``root/IMAGES``,
    and for masks in the same ways.

    Args:
        root: ``data.root``.
        images, masks: ``data.images`` and ``data.masks``, names of folders, or ``auto``: what such folders are often
            called. ``masks`` may be the path of a COCO file below root or below a split's folder; ``SPLIT`` in it is
            the name of the split.

    Raises:
        UserError: if there is no root, nothing is found, or more than one thing is.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise UserError(
            f"data.root={root}: there is no such folder ({top.absolute()}). Type data.root=DIR, the folder that holds "
            "the images and the masks."
        )
    search = _Search(top, images, masks)
    places = {split: place for split in SPLITS if (place := search.split(split))}
    if not places or ("train" not in places and search.top["images"]):
        places[""] = search.whole()
    return places


class _Search:
    def __init__(self, root: Path, images: str, masks: str) -> None:
        self.root = root
        self.wanted = {"images": images, "masks": masks}
        self.top = {what: self._named(root, what) for what in ("images", "masks")}

    def split(self, split: str) -> Place | None:
        here = _split_folder(self.root, split)
        images = self._folder(here, split, "images") or (here if here and _holds(here, IMAGE_TYPES) else None)
        if images is None:
            return None
        masks = self._folder(here, split, "masks") or self._annotations((here, images), split)
        return Place(images, masks or self._same_folder(images, split))

    def whole(self) -> Place:
        images = self.top["images"] or self.root
        if self.wanted["images"] != "auto" and images == self.root:
            raise UserError(
                f"data.images={self.wanted['images']}: there is no such folder in {self.root} or in a split of it. "
                f"{_contents(self.root)}"
            )
        masks = self.top["masks"] or self._annotations((images,), "")
        if not _holds(images, IMAGE_TYPES, without=masks):
            raise UserError(
                f"data.root={self.root}: no images are here. Expected images/ beside masks/, or train/ and val/ with "
                f"images/ and masks/ in each; data.images and data.masks take other names. {_contents(self.root)}"
            )
        return Place(images, masks or self._same_folder(images, ""))

    def _folder(self, here: Path | None, split: str, what: str) -> Path | None:
        top = self.top[what]
        within = _split_folder(top, split) if top else None
        return within or (self._named(here, what) if here else None) or self._joined(split, what)

    def _named(self, folder: Path, what: str) -> Path | None:
        """The folder of images or masks right below another; a COCO file is not one."""
        wanted = self.wanted[what]
        if wanted != "auto":
            path = folder / wanted
            return path if path.is_dir() else None
        words, types = (_IMAGES, IMAGE_TYPES) if what == "images" else (_MASKS, MASK_TYPES)
        found = [child for child in _folders(folder) if _plain(child.name) in words and _holds(child, types)]
        if len(found) > 1:
            raise UserError(
                f"data.{what}: several folders in {folder} may hold the {what}: "
                f"{', '.join(child.name for child in found)}. Say which: data.{what}={found[0].name}"
            )
        return found[0] if found else None

    def _joined(self, split: str, what: str) -> Path | None:
        """``train_masks``, ``masks_train`` and ``trainannot``."""
        wanted = self.wanted[what]
        words = (_IMAGES if what == "images" else _MASKS) if wanted == "auto" else (_plain(wanted),)
        for child in _folders(self.root):
            name = _plain(child.name)
            for word in words:
                rest = name.removesuffix(word) if name.endswith(word) else name.removeprefix(word)
                if rest != name and split_of(rest) == split:
                    return child
        return None

    def _annotations(self, folders: Sequence[Path | None], split: str) -> Path | None:
        """The COCO file of a split."""
        wanted, own = self.wanted["masks"], [folder for folder in folders if folder and folder != self.root]
        if wanted != "auto":
            names = [wanted.replace("SPLIT", name) for name in (split, *(folder.name for folder in own))]
            tried = [folder / name for folder in (*own, self.root) for name in names]
            return next((path for path in tried if path.is_file()), None)
        for folder in (*own, self.root / "annotations", self.root):
            found = sorted(folder.glob("*.json"))
            if split and folder not in own:
                found = [path for path in found if any(split_of(w) == split for w in re.split("[_.-]", path.stem))]
            found = [path for path in found if path.stem.startswith("instances")] or found
            if len(found) > 1:
                raise UserError(
                    f"data.masks: several files in {folder} may hold the annotations: "
                    f"{', '.join(path.name for path in found[:5])}. Say which: "
                    f"data.masks={found[0].relative_to(self.root)}"
                )
            if found:
                return found[0]
        return None

    def _same_folder(self, images: Path, split: str) -> Path:
        """Masks between the images, unless masks were asked for somewhere else."""
        wanted = self.wanted["masks"]
        if wanted != "auto":
            where = f"{self.root} or in the folder of the split '{split}'" if split else f"{self.root}"
            raise UserError(
                f"data.masks={wanted}: the masks of {images} are not there: no folder or file of that name in {where}. "
                f"{_contents(self.root)}"
            )
        return images


def _holds(folder: Path, types: Sequence[str], *, without: Path | None = None) -> bool:
    return next(walk(folder, types, without=without), None) is not None


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _split_folder(folder: Path, split: str) -> Path | None:
    return next((child for child in _folders(folder) if split_of(child.name) == split), None)


def _plain(name: str) -> str:
    return re.sub(r"[_\- ]", "", name.lower())


def _contents(folder: Path) -> str:
    names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir())
    return f"It holds: {', '.join(names[:12]) or 'nothing'}{' ...' if len(names) > 12 else ''}."
