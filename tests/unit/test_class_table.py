"""classes.txt is read in each of its forms, and a line that is none is named."""

from pathlib import Path

import numpy as np
import pytest

from seg_cli.data.class_table import ClassRow, class_colors, distinct_colors, read_class_table
from seg_cli.errors import UserError


def table(folder: Path, text: str) -> list[ClassRow]:
    (folder / "classes.txt").write_text(text)
    return read_class_table(folder / "classes.txt")


def test_each_form_of_line(tmp_path: Path) -> None:
    assert table(tmp_path, "road\ntraffic light\n") == [ClassRow("road"), ClassRow("traffic light")]
    assert table(tmp_path, "\ufeff7 road\n\n# a remark\n11: car") == [ClassRow("road", 7), ClassRow("car", 11)]
    assert table(tmp_path, "128 64 128\troad\n0,0,142, car 2 \n") == [
        ClassRow("road", None, (128, 64, 128)),
        ClassRow("car 2", None, (0, 0, 142)),
    ]
    assert table(tmp_path, "7 128 64 128 road") == [ClassRow("road", 7, (128, 64, 128))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("road\n12 13 car\n", "line 2: '12 13 car' is no class. A line is NAME, VALUE NAME, R G B NAME or"),
        ("128 64 128\n", "line 1: '128 64 128' is no class."),
        ("road\n3 car\n", "line 2: '3 car' has 1 numbers before the name, and the lines above have 0."),
        ("1 2 300 road\n", "line 1: '1 2 300 road': the parts of a colour are 0 to 255."),
        ("road\nroad\n", "line 2: 'road': the name is that of a line above."),
        ("1 road\n1 car\n", "line 2: '1 car': the value is that of a line above."),
        ("1 2 3 road\n1 2 3 car\n", "line 2: '1 2 3 car': the colour is that of a line above."),
        ("# nothing\n", "the table names no class"),
        ("255 void\n", "the table names no class"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        table(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path}/classes.txt")
    assert said in str(refused.value)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match=r"classes\.txt: the table of classes cannot be read"):
        read_class_table(tmp_path / "classes.txt")


def test_colours_are_told_apart() -> None:
    colors = np.array(distinct_colors(20), int)
    distances = np.abs(colors[:, None] - colors[None]).sum(-1)[~np.eye(20, dtype=bool)]
    assert distances.min() > 40
    assert len(set(distinct_colors(250))) == 250


def test_colours_that_are_given_are_kept_and_the_others_differ_from_them() -> None:
    fresh = distinct_colors(1)[0]
    colors = class_colors([ClassRow("background"), ClassRow("a", None, fresh), ClassRow("b"), ClassRow("c")])
    assert colors[0] == (96, 96, 96)
    assert colors[1] == fresh
    assert len(set(colors)) == 4
