"""What public datasets have in common: where they come from, how files are found and paired, and colours."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.files import Pair
from seg_cli.errors import UserError

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Files:
    """The files of a folder, by what samples are called: the file's name without the ending that all of them share."""

    folder: Path
    by_name: Mapping[str, Path]


@dataclass(frozen=True)
class Source:
    """Where a public dataset comes from. Nobody but the user downloads it, since its terms have to be accepted.

    Attributes:
        name: of ``conf/data/<name>.yaml``.
        title: what it is called.
        address: where to download it.
        size: of the download, and the files that it consists of.
        terms: under which it may be used.
        tree: what is expected below ``data.root``, a line a kind of file.
    """

    name: str
    title: str
    address: str
    size: str
    terms: str
    tree: tuple[str, ...]

    def missing(self, root: str, what: str) -> UserError:
        """The error to raise where a part is not there.

        Args:
            root: ``data.root`` as the user gave it.
            what: a sentence that names the part.
        """
        tree = "\n".join(f"  {line}" for line in self.tree)
        return UserError(
            f"data.root={root}: {what}\n"
            f"{self.title} comes from {self.address}: {self.size}, {self.terms}.\n"
            f"Type data.root=DIR, or set SEGRUN_DATA to the folder that holds {self.name}/. Expected in DIR:\n{tree}"
        )

    def open(self, root: str, *inside: str) -> Path:
        """The folder that holds the dataset: ``root``, or the first of the folders ``inside`` it that is there.

        Raises:
            UserError: if ``root`` is no folder.
        """
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise self.missing(root, f"there is no such folder ({folder.absolute()}).")
        return next((folder / name for name in inside if (folder / name).is_dir()), folder)

    def folder(self, root: str, *choices: Path) -> Path:
        """The first of these folders that is there; UserError if none is."""
        for folder in choices:
            if folder.is_dir():
                return folder
        raise self.missing(root, f"there is no folder {' or '.join(map(str, choices))}. {_contents(choices[0])}")

    def file(self, root: str, *choices: Path) -> Path:
        """The first of these files that is there; UserError if none is."""
        for file in choices:
            if file.is_file():
                return file
        raise self.missing(root, f"there is no file {' or '.join(map(str, choices))}. {_contents(choices[0])}")

    def pair(
        self,
        root: str,
        split: str,
        images: Files,
        masks: Files,
        *,
        names: Iterable[str] | None = None,
        listing: Path | None = None,
        group: Callable[[str], str] = lambda _: "",
        hint: str = "",
    ) -> list[Pair]:
        """Pair the images of a split with their masks.

        Args:
            root: ``data.root`` as the user gave it.
            split: what messages call the split.
            images, masks: what there is.
            names: the samples, in order; without them, whatever has an image or a mask.
            listing: the file that ``names`` come from.
            group: name -> what the sample is correlated with.
            hint: what else to say where masks are missing.

        Raises:
            UserError: if the split is empty, or samples lack their image or mask.
        """
        wanted = sorted(images.by_name.keys() | masks.by_name.keys()) if names is None else list(names)
        if not wanted:
            raise self.missing(root, f"the split '{split}' is empty: nothing in {listing or images.folder}.")
        for what, files in (("image", images), ("mask", masks)):
            lacking = [name for name in wanted if name not in files.by_name]
            if lacking:
                lack = (
                    f"{len(lacking)} of the {len(wanted)} samples of '{split}' have no {what} in {files.folder}, the "
                    f"first is '{lacking[0]}'{f' (listed in {listing})' if listing else ''}."
                )
                if what == "mask" and hint:
                    lack += f" {hint}"
                if len(lacking) == len(wanted):
                    raise self.missing(root, lack)
                raise UserError(f"data.root={root}: {lack} Copy or unpack the files again.")
        return [Pair(images.by_name[name], (masks.by_name[name],), name, group(name)) for name in wanted]


def find(folder: Path, ending: str, *, deep: bool = False) -> Files:
    """The files of a folder whose names end so; with ``deep`` those of its subfolders."""
    found = folder.glob(f"*/*{ending}" if deep else f"*{ending}")
    return Files(folder, {path.name.removesuffix(ending): path for path in found})


def _contents(lacking: Path) -> str:
    """What the nearest folder above a path holds that is not there."""
    above = next(folder for folder in lacking.parents if folder.is_dir())
    entries = sorted(entry.name for entry in above.iterdir())
    return f"{above} holds: {', '.join(entries[:12]) or 'nothing'}{', ...' if len(entries) > 12 else ''}."


def read_list(file: Path) -> list[str]:
    """The samples that a list names, one a line: a name or a path, whatever follows it.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the list cannot be read ({error}).") from None
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise UserError if the setting ``key`` has none of the values that are allowed."""
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(
            f"{key}={value}: there is no such choice.{did_you_mean(str(value), allowed)} Choices: {', '.join(allowed)}."
        )


def bit_color(index: int) -> Color:
    """A colour for each index of 0..255, no two alike; 0 is black. The rule by which VOC colours its classes.

    The lowest three bits of the index become the highest bits of red, green and blue, the next three the next, and so
    on.
    """
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (index & 1) << place
        green |= (index >> 1 & 1) << place
        blue |= (index >> 2 & 1) << place
        index >>= 3
    return red, green, blue
