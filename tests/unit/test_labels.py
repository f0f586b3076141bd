"""The label space: raw values to classes and back, and refusals that name file, value and pixels."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
THREE = LabelSpace(("a", "b", "c"), (RED, GREEN, BLUE))
MAPPED = LabelSpace(("a", "b"), (RED, GREEN), raw={10: 0, 20: 1, 21: 1, 0: VOID})


def test_without_raw_values_the_labels_are_the_classes_and_255_is_void() -> None:
    raw = np.array([[0, 1, 2, 255]], np.uint8)
    np.testing.assert_array_equal(THREE.encode(raw, "m.png"), [[0, 1, 2, VOID]])


def test_every_defined_raw_value_is_encoded() -> None:
    raw = np.array([[10, 20, 21, 0]], np.uint8)
    encoded = MAPPED.encode(raw, "m.png")
    np.testing.assert_array_equal(encoded, [[0, 1, 1, VOID]])
    assert encoded.dtype == np.uint8


def test_undefined_values_are_refused_with_file_values_and_pixels() -> None:
    raw = np.array([[10, 99, 99], [7, 20, 99]], np.uint8)
    with pytest.raises(UserError) as refusal:
        MAPPED.encode(raw, "some/mask.png")
    message = str(refusal.value)
    assert message.startswith("some/mask.png: ")
    assert "7 (1 pixels), 99 (3 pixels)" in message
    assert "Defined are: 0, 10, 20, 21." in message


@given(st.data(), st.permutations(range(254)), st.integers(1, 250))
def test_what_is_encoded_can_be_told_apart_again(data: st.DataObject, values: list[int], classes: int) -> None:
    raw_values = {value: index for index, value in enumerate(values[:classes])}
    labels = LabelSpace([str(i) for i in range(classes)], [RED] * classes, raw=raw_values)
    indices = data.draw(arrays(np.uint8, (3, 4), elements=st.integers(0, classes - 1)))
    raw = np.array(values, np.uint8)[indices]
    np.testing.assert_array_equal(labels.encode(raw, "m.png"), indices)


def test_paint_uses_the_colours_and_draws_void_black() -> None:
    painted = THREE.paint(np.array([[1, VOID]], np.uint8))
    np.testing.assert_array_equal(painted, [[GREEN, (0, 0, 0)]])
    assert painted.dtype == np.uint8


@pytest.mark.parametrize(
    ("names", "colors", "raw", "said"),
    [
        ((), (), {}, "1 to 250 classes, not 0"),
        ([str(i) for i in range(251)], [RED] * 251, {}, "not 251"),
        (("a", "b"), (RED,), {}, "2 class names and 1 colours"),
        (("a", "a"), (RED, RED), {}, "class names repeat: a, a"),
        (("a", "b"), (RED, RED), {5: 2}, "raw value 5 means class 2"),
        (("a", "b"), (RED, RED), {256: 0}, "raw value 256"),
    ],
)
def test_label_spaces_that_make_no_sense_are_refused(
    names: list[str], colors: list[tuple[int, int, int]], raw: dict[int, int], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        LabelSpace(names, colors, raw=raw)
