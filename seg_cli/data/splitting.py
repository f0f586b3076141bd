"""Which sample is in which split: by name, or by fractions that keep groups whole."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from seg_cli.data.files import Pair
from seg_cli.errors import UserError

SPLITS = ("train", "val", "test")
_SPELLINGS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def split_of(name: str) -> str | None:
    """The split that a folder, a list or a cell of a table means: ``Validation``, ``val2017`` -> ``val``."""
    return _SPELLINGS.get(re.sub(r"\d{4}$", "", name.strip().lower()).rstrip("_-"))


def with_groups(pairs: Sequence[Pair], group: str | None) -> list[Pair]:
    """Pairs with the group that a regular expression finds in their names.

    Args:
        pairs: samples.
        group: ``data.group``. Its first group, or all that it matches, is the group; None leaves pairs as they are.

    Raises:
        UserError: if the expression is none, or a name does not match it.
    """
    if group is None:
        return list(pairs)
    try:
        expression = re.compile(group)
    except (re.error, TypeError) as error:
        raise UserError(
            f"data.group={group}: this is no regular expression ({error}). An example that takes the name up to the "
            "first underscore: 'data.group=\"^([^_]+)\"'"
        ) from None
    found = []
    for pair in pairs:
        match = expression.search(pair.name)
        text = match and (match[1] if expression.groups else match[0])
        if not text:
            raise UserError(
                f"data.group={group}: the expression finds no group in the name '{pair.name}' ({pair.image})."
            )
        found.append(replace(pair, group=text))
    return found


def find_lists(root: Path) -> dict[str, Path]:
    """Split -> the file that lists its samples, ``train.txt`` and so on in root, ``splits`` or ``lists``."""
    for folder in (root, root / "splits", root / "lists"):
        files = {split: path for path in sorted(folder.glob("*.txt")) if (split := split_of(path.stem))}
        if "train" in files:
            return {split: files[split] for split in SPLITS if split in files}
    return {}


def by_lists(lists: Mapping[str, Path], found: Mapping[str, Sequence[Pair]]) -> dict[str, list[Pair]]:
    """The pairs that files list, a name a line: with or without its folders and its ending.

    Raises:
        UserError: if a name is not there or is listed twice in a file; names the file.
    """
    pairs = [pair for of in found.values() for pair in of]
    refuse_same_names(pairs)
    last_parts = Counter(PurePath(pair.name).name for pair in pairs)
    known = {last: pair for pair in pairs if last_parts[last := PurePath(pair.name).name] == 1}
    known |= {pair.name: pair for pair in pairs}
    splits = {}
    for split, file in lists.items():
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: the list cannot be read ({error}).") from None
        chosen = [_listed(line, known) for line in lines]
        missing = [line for line, pair in zip(lines, chosen, strict=True) if pair is None]
        if not lines:
            raise UserError(f"{file}: the list is empty.")
        if missing:
            raise UserError(
                f"{file}: {len(missing)} of the {len(lines)} names are of no image with a mask, the first is "
                f"'{missing[0]}'."
            )
        splits[split] = [pair for pair in chosen if pair]
        twice = [name for name, count in Counter(pair.name for pair in splits[split]).items() if count > 1]
        if twice:
            raise UserError(f"{file}: {len(twice)} names are listed twice, the first is '{twice[0]}'.")
    return splits


def refuse_same_names(pairs: Sequence[Pair]) -> None:
    """Raises UserError if two pairs have the same name."""
    seen: dict[str, Pair] = {}
    for pair in pairs:
        if pair.name in seen:
            raise UserError(
                f"data.splits: two images are called '{pair.name}': {seen[pair.name].image} and {pair.image}. Splits "
                "other than folders need names that differ."
            )
        seen[pair.name] = pair


def _listed(line: str, known: Mapping[str, Pair]) -> Pair | None:
    """What a line names: all of it, or its first word; with folders and ending, or without."""
    for name in (line, line.split()[0]):
        path = PurePath(name)
        for spelling in (name, path.with_suffix("").as_posix(), path.name, path.stem):
            if spelling in known:
                return known[spelling]
    return None


def complete_splits(
    found: Mapping[str, Sequence[Pair]], *, fractions: Sequence[float], seed: int
) -> tuple[dict[str, list[Pair]], list[str]]:
    """``train``, ``val`` and ``test`` of what was found, and notes about what was made of it.

    Args:
        found: split -> pairs; '' are those that nobody put into a split.
        fractions: of train, val and test, by which pairs without a split are divided. If test has none, it is val.
        seed: of the division.

    Raises:
        UserError: if the fractions are none, there is nothing to train on, or too few samples or groups to divide.
    """
    shares = _checked(fractions)
    pairs = {split: list(of) for split, of in found.items() if of}
    loose = pairs.pop("", [])
    notes = []
    if loose and "train" not in pairs and pairs:
        pairs["train"], loose = loose, []
    if loose and pairs:
        raise UserError(
            f"data: {len(loose)} samples are in no split, the first is '{loose[0].name}', while "
            f"{' and '.join(pairs)} are given. Give every sample a split, or none."
        )
    if not loose and "train" not in pairs:
        raise UserError(f"data: there is nothing to train on. Found: {', '.join(pairs) or 'no split'}.")
    if loose or "val" not in pairs:
        given = pairs.keys() - {"train"}
        wanted = {split: share for split, share in zip(SPLITS, shares, strict=True) if share and split not in given}
        divided = _divide(loose or pairs["train"], wanted, seed)
        what = "samples" if loose else "samples of train, the only split to learn from,"
        notes.append(
            f"{len(loose or pairs['train'])} {what} were divided by data.fractions and data.seed={seed}: "
            + ", ".join(f"{len(of)} {split}" for split, of in divided.items())
        )
        pairs |= divided
    if "test" not in pairs:
        pairs["test"] = pairs["val"]
        notes.append("there is no test split: test is val, so its scores are not those of unseen images")
    return {split: pairs[split] for split in SPLITS}, notes


def _checked(fractions: Sequence[float]) -> list[float]:
    good = isinstance(fractions, list | tuple) and all(isinstance(f, int | float) for f in fractions)
    if not good or len(fractions) not in (2, 3) or min(fractions) < 0 or not all(fractions[:2]):
        raise UserError(
            f"data.fractions={fractions}: expected the shares of train, val and test, as [0.7,0.15,0.15]; that of test "
            "may be 0 or left out, those of train and val may not."
        )
    if abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"data.fractions={list(fractions)}: they sum to {sum(fractions):.6g}, and must sum to 1.")
    return [*fractions, 0.0][:3]


def _divide(pairs: Sequence[Pair], shares: Mapping[str, float], seed: int) -> dict[str, list[Pair]]:
    """Divide by the order of hashes: a new sample takes a place of its own and moves at most those at the borders.

    Groups, where there are any, stay whole; each goes where the middle of its samples falls.
    """
    units: dict[str, list[Pair]] = {}
    for pair in pairs:
        units.setdefault(pair.group or pair.name, []).append(pair)
    if len(units) < len(shares):
        what = "groups" if any(pair.group for pair in pairs) else "samples"
        raise UserError(
            f"data.fractions: {len(units)} {what} cannot be divided into {', '.join(shares)}. Have more of them, or "
            "fewer splits, as in data.fractions=[0.8,0.2]."
        )
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}/{unit}".encode()).digest())
    bounds, total = [], 0.0
    for share in shares.values():
        total += share * len(pairs) / sum(shares.values())
        bounds.append(total)
    splits = list(shares)
    divided: dict[str, list[Pair]] = {split: [] for split in splits}
    before, last = 0, -1
    for place, unit in enumerate(order):
        middle = before + len(units[unit]) / 2
        before += len(units[unit])
        nearest = next((index for index, bound in enumerate(bounds) if middle < bound), len(splits) - 1)
        # No split stays empty: none is skipped, and enough units are left for those to come.
        last = max(min(nearest, last + 1), len(splits) - (len(order) - place))
        divided[splits[last]] += units[unit]
    return {split: sorted(of, key=lambda pair: pair.name) for split, of in divided.items()}
