"""Tables of images and masks: what they say is what there is, and a wrong row is named by its number."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from seg_cli.data.labels import VOID
from seg_cli.data.manifest import Manifest
from seg_cli.errors import UserError

MASK = np.kron(np.arange(4).reshape(2, 2), np.ones((3, 4))).astype(np.uint8)
ROWS = [
    *[{"image": f"raw/{i}.png", "mask": f"drawn/m{i}.png", "split": "train", "group": f"g{i % 2}"} for i in range(4)],
    *[{"image": f"raw/{i}.png", "mask": f"drawn/m{i}.png", "split": "Val", "group": "g2"} for i in range(4, 6)],
    {"image": "raw/6.png", "mask": "drawn/m6.png", "split": "test", "group": "g3"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven images and their masks, without a table."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "drawn").mkdir()
    for index in range(7):
        Image.new("RGB", (8, 6), (index, 0, 0)).save(tmp_path / "raw" / f"{index}.png")
        Image.fromarray(MASK).save(tmp_path / "drawn" / f"m{index}.png")
    return tmp_path


def write(root: Path, rows: list[dict[str, Any]], name: str = "manifest.csv") -> Path:
    separator = "\t" if name.endswith(".tsv") else ","
    lines = [separator.join(rows[0]), *(separator.join(str(value) for value in row.values()) for row in rows)]
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


def without(*columns: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in columns} for row in ROWS]


def check(data: Manifest) -> None:
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "val": 2, "test": 1}
    sample = data.splits["train"][1]
    assert (sample.name, sample.group) == ("raw/1", "g1")
    assert sample.image[0, 0].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(sample.mask, MASK)


@pytest.mark.parametrize("name", ["manifest.csv", "table.tsv"])
def test_rows_are_samples(root: Path, name: str) -> None:
    write(root, ROWS, name)
    data = Manifest(root=str(root), table=name)
    check(data)
    assert data.notes[0] == f"7 rows of {root}/{name}"


def test_a_table_elsewhere_names_absolute_paths(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    rows = [{**row, "image": root / row["image"], "mask": root / row["mask"]} for row in ROWS]
    data = Manifest(root=str(root), table=str(write(elsewhere, rows, "mine.csv")))
    assert [data.splits["val"][i].name for i in range(2)] == ["4", "5"]


def test_parquet_is_read_too(root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{**row, "group": None if index == 6 else row["group"]} for index, row in enumerate(ROWS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "manifest.parquet")
    data = Manifest(root=str(root), table="manifest.parquet")
    check(data)
    assert data.splits["test"][0].group == ""


def test_without_a_column_of_splits_there_are_fractions_and_groups_stay_whole(root: Path) -> None:
    write(root, without("split"))
    data = Manifest(root=str(root), fractions=[0.6, 0.2, 0.2])
    groups = [{split[i].group for i in range(len(split))} for split in data.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 4
    write(root, without("split", "group"))
    data = Manifest(root=str(root), group=r"raw/(\d)")
    assert data.splits["train"][0].group in "0123456"
    assert sum(map(len, data.splits.values())) == 7


def test_masks_are_understood_as_in_a_folder(root: Path) -> None:
    write(root, ROWS)
    (root / "classes.txt").write_text("sky\nroad\nvoid\ncar\n")
    data = Manifest(root=str(root), classes={"only": ["car"]})
    assert list(data.labels.names) == ["car"]
    np.testing.assert_array_equal(data.splits["train"][0].mask, np.where(MASK == 3, 0, VOID))


def test_several_files_are_classes(root: Path) -> None:
    rows = []
    for row in ROWS:
        stem = Path(row["image"]).stem
        for name, index in (("car", 1), ("road", 2)):
            Image.fromarray(np.uint8(255) * np.equal(MASK, index)).save(root / "drawn" / f"{stem}_{name}.png")
        rows.append({**row, "mask": f"drawn/{stem}_car.png; drawn/{stem}_road.png"})
    write(root, rows)
    data = Manifest(root=str(root))
    assert list(data.labels.names) == ["background", "car", "road"]
    np.testing.assert_array_equal(data.splits["val"][0].mask, np.where(MASK == 3, 0, MASK))
    data = Manifest(root=str(root), multilabel=True)
    np.testing.assert_array_equal(data.splits["val"][0].mask, np.stack([MASK == 1, MASK == 2]))


def test_the_fingerprint_changes_with_a_mask(root: Path) -> None:
    write(root, ROWS)
    before = Manifest(root=str(root)).fingerprint()
    Image.fromarray(MASK[::-1].copy()).save(root / "drawn" / "m3.png")
    assert Manifest(root=str(root)).fingerprint() != before


def test_it_is_what_the_config_makes(root: Path, compose_config: Callable[..., DictConfig]) -> None:
    write(root, ROWS)
    config = compose_config("data=manifest", f"data.root={root}")
    check(instantiate(config.data, _convert_="all"))
    assert set(config.data) == {"_target_", *Manifest.__init__.__kwdefaults__, "root"}


def changed(index: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if number == index else row for number, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (without("mask"), "the table has no column 'mask'; it has image, split, group. Columns: image, mask, split"),
        (
            [{"images": row["image"], "mask": row["mask"]} for row in ROWS],
            "the table has no column 'image'; it has images, mask. Did you mean 'images'?",
        ),
        (changed(2, image="raw/ghost.png"), "row 3: the image {root}/raw/ghost.png is not there."),
        (changed(2, mask="drawn/m2.png;drawn/x.png"), "row 3: the mask {root}/drawn/x.png is not there."),
        (changed(0, mask=""), "row 1: there is no mask."),
        (changed(0, image=""), "row 1: there is no image."),
        (
            changed(1, split="evaluation"),
            "row 2: 'evaluation' is no split. Splits: train, val, test, or nothing in all",
        ),
        (changed(1, split=""), "data: 1 samples are in no split, the first is 'raw/1', while train and val and test"),
        (changed(3, image="raw/0.png"), "row 4: the name 'raw/0' is that of row 1 already, in the same split."),
        (changed(3, mask="drawn/m3.jpg"), "m3.jpg: a mask cannot be a JPEG"),
    ],
)
def test_a_wrong_row_is_named(root: Path, rows: list[dict[str, Any]], said: str) -> None:
    Image.fromarray(MASK).save(root / "drawn" / "m3.jpg")
    write(root, rows)
    with pytest.raises(UserError) as refused:
        Manifest(root=str(root))
    assert said.format(root=root) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.csv", None, "data.table=manifest.csv: there is no such file in data.root="),
        ("manifest.csv", b"", "the table has no column 'image'; it has none."),
        ("manifest.csv", b"image,mask\n", "the table has no rows."),
        ("manifest.csv", b"image,mask\n\xff\xfe,b\n", "the table cannot be read ("),
        ("manifest.parquet", b"PAR1 but not", "the table is no Parquet file that can be read ("),
    ],
)
def test_what_is_no_table_is_refused(root: Path, name: str, content: bytes | None, said: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        Manifest(root=str(root), table=name)
    assert said in str(refused.value)


def test_without_pyarrow_it_is_said_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"Parquet needs pyarrow, which is not installed. Type: pip install 'segrun\[p"):
        Manifest(root=str(root), table="t.parquet")
