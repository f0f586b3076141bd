"""Splits by fractions are stable and keep groups whole; splits by lists are those of the lists."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_cli.data.files import Pair
from seg_cli.data.splitting import by_lists, complete_splits, find_lists, split_of, with_groups
from seg_cli.errors import UserError

FRACTIONS = [0.7, 0.15, 0.15]


def pairs(names: list[str]) -> list[Pair]:
    return [Pair(Path(f"images/{name}.png"), (Path(f"masks/{name}.png"),), name) for name in names]


def divided(of: list[Pair], fractions: list[float] = FRACTIONS, seed: int = 0) -> dict[str, set[str]]:
    splits, _ = complete_splits({"": of}, fractions=fractions, seed=seed)
    return {split: {pair.name for pair in found} for split, found in splits.items()}


def test_the_spellings_of_splits() -> None:
    assert [split_of(name) for name in ("Training", "valid", "val2017", "dev", "testing", "train_2012")] == [
        *("train", "val", "val", "val", "test", "train"),
    ]
    assert split_of("trainannot") is None
    assert split_of("images") is None


@settings(deadline=None, max_examples=60)
@given(count=st.integers(3, 200), seed=st.integers(0, 99))
def test_every_sample_is_in_one_split_and_splits_have_their_shares(count: int, seed: int) -> None:
    found = divided(pairs([f"n{i}" for i in range(count)]), seed=seed)
    assert sum(map(len, found.values())) == count
    assert set().union(*found.values()) == {f"n{i}" for i in range(count)}
    assert all(found.values())
    for split, share in zip(found, FRACTIONS, strict=True):
        assert abs(len(found[split]) - share * count) <= 2


def test_the_division_depends_on_the_seed_and_not_on_the_order() -> None:
    names = [f"n{i}" for i in range(100)]
    assert divided(pairs(names)) == divided(pairs(names[::-1]))
    assert divided(pairs(names), seed=1) != divided(pairs(names))


def test_a_new_file_moves_hardly_any_other() -> None:
    names = [f"n{i}" for i in range(200)]
    before, after = divided(pairs(names)), divided(pairs([*names, "new"]))
    moved = [name for name in names for split in before if name in before[split] and name not in after[split]]
    assert len(moved) <= 2


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 30), min_size=3, max_size=12), seed=st.integers(0, 99))
def test_groups_stay_whole_and_no_split_is_empty(sizes: list[int], seed: int) -> None:
    names = [f"v{video}_{frame}" for video, size in enumerate(sizes) for frame in range(size)]
    found = divided(with_groups(pairs(names), "^(v[0-9]+)_"), seed=seed)
    videos = {split: {name.partition("_")[0] for name in of} for split, of in found.items()}
    assert all(videos.values())
    assert sum(map(len, videos.values())) == len(sizes)
    assert sum(map(len, found.values())) == len(names)


def test_a_group_is_the_first_group_of_the_expression_or_all_of_its_match() -> None:
    frames = pairs(["day1/cam2_003"])
    assert with_groups(frames, r"cam(\d)")[0].group == "2"
    assert with_groups(frames, r"cam\d")[0].group == "cam2"
    assert with_groups(frames, None)[0].group == ""


@pytest.mark.parametrize(
    ("found", "sizes", "note"),
    [
        ({"train": 20, "val": 5, "test": 4}, (20, 5, 4), None),
        ({"train": 20, "val": 5}, (20, 5, 5), "there is no test split: test is val"),
        ({"train": 20, "test": 4}, (16, 4, 4), "20 samples of train, the only split to learn from, were divided"),
        ({"train": 20}, (14, 3, 3), "14 train, 3 val, 3 test"),
        ({"": 20}, (14, 3, 3), "20 samples were divided by data.fractions and data.seed=0: 14 train"),
        ({"": 20, "test": 4}, (16, 4, 4), "16 train, 4 val"),
    ],
)
def test_missing_splits_are_made_and_said(found: dict[str, int], sizes: tuple[int, int, int], note: str | None) -> None:
    given_pairs = {split: pairs([f"{split}{i}" for i in range(count)]) for split, count in found.items()}
    splits, notes = complete_splits(given_pairs, fractions=FRACTIONS, seed=0)
    assert list(splits) == ["train", "val", "test"]
    assert abs(len(splits["train"]) - sizes[0]) <= 1
    assert sum(map(len, splits.values())) == sum(sizes)
    assert any(note in told for told in notes) if note else notes == []


def test_two_fractions_leave_test_to_val() -> None:
    splits, notes = complete_splits({"": pairs([f"n{i}" for i in range(10)])}, fractions=[0.8, 0.2], seed=0)
    assert (len(splits["train"]), splits["val"]) == (8, splits["test"])
    assert "there is no test split: test is val, so its scores are not those of unseen images" in notes


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ([0.7, 0.2, 0.2], "data.fractions=[0.7, 0.2, 0.2]: they sum to 1.1, and must sum to 1."),
        ([1.0, 0.0, 0.0], "expected the shares of train, val and test, as [0.7,0.15,0.15]"),
        ([1.2, -0.2], "expected the shares of train, val and test"),
        ([0.5, 0.2, 0.2, 0.1], "expected the shares of train, val and test"),
        (0.7, "data.fractions=0.7: expected the shares of train, val and test"),
    ],
)
def test_wrong_fractions_are_refused(fractions: object, said: str) -> None:
    with pytest.raises(UserError) as refused:
        complete_splits({"": pairs(["a", "b", "c"])}, fractions=fractions, seed=0)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_too_little_to_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.fractions: 2 samples cannot be divided into train, val, test"):
        divided(pairs(["a", "b"]))
    with pytest.raises(UserError, match=r"data\.fractions: 2 groups cannot be divided"):
        divided(with_groups(pairs(["a1", "a2", "a3", "b1"]), "^[a-z]"))
    with pytest.raises(UserError, match=r"there is nothing to train on. Found: val\."):
        complete_splits({"val": pairs(["a"])}, fractions=FRACTIONS, seed=0)
    with pytest.raises(UserError, match=r"1 samples are in no split, the first is 'b', while train are given"):
        complete_splits({"train": pairs(["a"]), "": pairs(["b"])}, fractions=FRACTIONS, seed=0)


@pytest.mark.parametrize(
    ("group", "said"),
    [("(", "this is no regular expression ("), ("^(x+)_", "finds no group in the name 'a_1' (images/a_1.png)")],
)
def test_wrong_groups_are_refused(group: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        with_groups(pairs(["a_1"]), group)
    assert str(refused.value).startswith(f"data.group={group}: ")
    assert said in str(refused.value)


def lists(folder: Path, **text: str) -> dict[str, Path]:
    for name, lines in text.items():
        (folder / f"{name}.txt").write_text(lines)
    return find_lists(folder)


def test_lists_name_samples_in_several_ways(tmp_path: Path) -> None:
    found = {"": pairs(["a", "b", "c.1", "day/d", "my e"])}
    files = lists(tmp_path, train="a\nb.png\n\n", valid="images/c.1.jpg masks/c.1.png\nd\n", notes="x")
    files |= lists(tmp_path, test="my e\n")
    splits = by_lists(files, found)
    assert {split: [pair.name for pair in of] for split, of in splits.items()} == {
        **{"train": ["a", "b"], "val": ["c.1", "day/d"], "test": ["my e"]},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nghost\nphantom\n", "2 of the 3 names are of no image with a mask, the first is 'ghost'."),
        ("\n", "the list is empty."),
        ("a\nb\na\n", "1 names are listed twice, the first is 'a'."),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        by_lists(lists(tmp_path, train=text), {"": pairs(["a", "b"])})
    assert str(refused.value) == f"{tmp_path}/train.txt: {said}"


def test_names_that_are_not_unique_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.splits: two images are called 'a': images/a\.png and images/a\.png"):
        by_lists(lists(tmp_path, train="a"), {"train": pairs(["a"]), "val": pairs(["a"])})
