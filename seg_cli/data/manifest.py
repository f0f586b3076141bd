"""``data=manifest``: images and masks that a table lists, CSV or Parquet."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from seg_cli.config.suggest import did_you_mean
from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.images import ImageReader
from seg_cli.data.mask_kinds import MaskSettings, understand
from seg_cli.data.splitting import SPLITS, complete_splits, split_of, with_groups
from seg_cli.errors import UserError

_COLUMNS = ("image", "mask", "split", "group")


class Manifest(FileDataset):
    """Splits of a table with the columns ``image`` and ``mask``, and perhaps ``split`` and ``group``.

    Paths are those below the table's folder, or absolute. A mask may be several files with ; between them, one a class
    or an object, whose names or folders say the class. Without splits, the samples are divided by fractions.

    Args:
        root: the folder of the table.
        table: its name below root, or its own path: .csv, .tsv or .parquet.
        fractions: shares of train, val and test; of two, test is val.
        seed: of the division by fractions.
        group: a regular expression on the name that gives groups, in place of the column.
        masks_are, names, colors, ignore_value, multilabel: see ``MaskSettings``.
        channels, value_range: see ``ImageReader``.
        classes: see ``LabelSpace.choose``.
        cache: see ``FileDataset``.

    Attributes:
        notes: what was found, and what was made of it, for people.

    Raises:
        UserError: if the table or a column is missing, or a row names what is not there; says the row.
    """

    def __init__(
        self,
        *,
        root: str,
        table: str = "manifest.csv",
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int = 0,
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
        settings = MaskSettings(masks_are, names, colors, ignore_value, multilabel)
        path = Path(root).expanduser() / table
        if not path.is_file():
            raise UserError(
                f"data.table={table}: there is no such file in data.root={root} ({path.absolute()}). Expected a CSV "
                "whose first line is image,mask,split,group (the last two may be left out)."
            )
        found = _pairs(_read(path), path)
        pairs = [pair for of in found.values() for pair in of]
        several = masks_are == "files" or any(len(pair.masks) > 1 for pair in pairs)
        found = {split: with_groups(of, group) for split, of in found.items()}
        complete, told = complete_splits(found, fractions=fractions, seed=seed)
        understood = understand(pairs, settings, table=path.parent / "classes.txt", several=several)
        self.notes = [f"{len(pairs)} rows of {path}", *told, *understood.notes]
        super().__init__(
            {split: complete[split] for split in SPLITS},
            understood.labels,
            classes=classes,
            cache=cache,
            channels=channels,
            read_image=ImageReader(channels=channels, value_range=value_range),
            read_mask=understood.read_mask,
        )


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a table as text, by column; what is empty is ''."""
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise UserError(
                f"data.table={path}: Parquet needs pyarrow, which is not installed. Type: pip install 'segrun[parquet]'"
            ) from None
        try:
            rows = parquet.read_table(path).to_pylist()
        except (OSError, ArrowException) as error:
            raise UserError(f"{path}: the table is no Parquet file that can be read ({error}).") from None
        names = list(rows[0]) if rows else []
        rows = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    else:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
                names = [name.strip() for name in reader.fieldnames or ()]
                reader.fieldnames = names
                rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: the table cannot be read ({error}).") from None
    for needed in ("image", "mask"):
        if needed not in names:
            raise UserError(
                f"{path}: the table has no column '{needed}'; it has {', '.join(names) or 'none'}."
                f"{did_you_mean(needed, names)} Columns: {', '.join(_COLUMNS)}; the last two may be left out."
            )
    if not rows:
        raise UserError(f"{path}: the table has no rows.")
    return rows


def _pairs(rows: Sequence[Mapping[str, str]], path: Path) -> dict[str, list[Pair]]:
    """Split, '' where none is said, -> the pairs of its rows."""
    found: dict[str, list[Pair]] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        files = [path.parent / name.strip() for name in (row["image"], *row["mask"].split(";")) if name.strip()]
        if not row["image"] or len(files) < 2:
            raise UserError(f"{where}: there is no {'mask' if row['image'] else 'image'}.")
        for what, file in zip(("image", *["mask"] * len(files)), files, strict=False):
            if not file.is_file():
                raise UserError(f"{where}: the {what} {file} is not there.")
        said = row.get("split", "")
        split = split_of(said) if said else ""
        if split is None:
            raise UserError(f"{where}: '{said}' is no split. Splits: {', '.join(SPLITS)}, or nothing in all rows.")
        image = Path(row["image"])
        name = (image if not image.is_absolute() else Path(image.name)).with_suffix("").as_posix()
        if (split, name) in seen:
            raise UserError(
                f"{where}: the name '{name}' is that of row {seen[split, name]} already, in the same split. Names are "
                "the paths of images below the table's folder."
            )
        seen[split, name] = number
        found.setdefault(split, []).append(Pair(files[0], tuple(files[1:]), name, row.get("group", "")))
    return found
