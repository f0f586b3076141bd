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
        (("a", "b"), (RED, RED), {65536: 0}, "raw value 65536"),
    ],
)
def test_label_spaces_that_make_no_sense_are_refused(
    names: list[str], colors: list[tuple[int, int, int]], raw: dict[int, int], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        LabelSpace(names, colors, raw=raw)


def test_values_of_16_bits_are_encoded() -> None:
    labels = LabelSpace(("a", "b"), (RED, GREEN), raw={300: 0, 40000: 1})
    np.testing.assert_array_equal(labels.encode(np.array([[300, 40000]], np.uint16), "m.png"), [[0, 1]])
    with pytest.raises(UserError, match=r"301 \(1 pixels\)"):
        labels.encode(np.array([[300, 301]], np.uint16), "m.png")


def test_many_defined_values_are_told_as_ranges() -> None:
    labels = LabelSpace([str(i) for i in range(20)], [RED] * 20)
    with pytest.raises(UserError, match=r"Defined are: 0 to 19, 255\."):
        labels.encode(np.array([[77]], np.uint8), "m.png")


# data.classes

STREET = LabelSpace(
    ("Sky", "Car", "Truck", "Road"), (RED, GREEN, BLUE, (1, 2, 3)), raw={7: 0, 26: 1, 27: 2, 8: 3, 0: VOID}
)
RAW_STREET = np.array([[7, 26, 27, 8, 0]], np.uint8)


def test_merged_classes_stand_where_the_first_stood_in_its_colour() -> None:
    chosen = STREET.choose(merge={"Vehicle": ["Car", "Truck"]})
    assert chosen.names == ("Sky", "Vehicle", "Road")
    assert chosen.colors == (RED, GREEN, (1, 2, 3))
    np.testing.assert_array_equal(chosen.encode(RAW_STREET, "m.png"), [[0, 1, 1, 2, VOID]])


def test_ignored_classes_and_those_outside_only_are_void() -> None:
    ignored = STREET.choose(ignore=["Sky"])
    np.testing.assert_array_equal(ignored.encode(RAW_STREET, "m.png"), [[VOID, 0, 1, 2, VOID]])
    kept = STREET.choose(merge={"Vehicle": ["Car", "Truck"]}, only=["Vehicle", "Road"])
    assert kept.names == ("Vehicle", "Road")
    np.testing.assert_array_equal(kept.encode(RAW_STREET, "m.png"), [[VOID, 0, 0, 1, VOID]])


def test_nothing_chosen_changes_nothing() -> None:
    assert STREET.choose().names == STREET.names
    np.testing.assert_array_equal(STREET.choose().encode(RAW_STREET, "m"), STREET.encode(RAW_STREET, "m"))


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"ignore": ["sky"]}, "data.classes.ignore: there is no class 'sky'. Did you mean 'Sky'?"),
        ({"merge": {"V": ["Car", "Bus"]}}, "data.classes.merge.V: there is no class 'Bus'"),
        ({"merge": {"V": ["Car"], "W": ["Car"]}}, "data.classes.merge.W: 'Car' is already merged into 'V'"),
        ({"merge": {"V": ["Car", "Truck"]}, "only": ["Car"]}, "data.classes.only: there is no class 'Car'"),
        ({"only": ["Sky"], "ignore": ["Sky"]}, "leave no class at all"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice: dict, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        STREET.choose(**choice)


# Overlapping labels

PLANES = np.array([[[1, 1, 0, 0]], [[0, 1, VOID, 0]], [[0, 0, 1, VOID]]], np.uint8)  # (3, 1, 4)
ORGANS = LabelSpace(("a", "b", "c"), (RED, GREEN, BLUE), overlapping=True)


def test_planes_of_overlapping_labels_stay_as_they_are() -> None:
    np.testing.assert_array_equal(ORGANS.encode(PLANES, "m"), PLANES)


def test_planes_that_mean_one_class_are_united_and_void_gives_way_to_truth() -> None:
    united = ORGANS.choose(merge={"ab": ["a", "b"]})
    np.testing.assert_array_equal(united.encode(PLANES, "m"), [[[1, 1, VOID, 0]], [[0, 0, 1, VOID]]])
    np.testing.assert_array_equal(ORGANS.choose(ignore=["b"]).encode(PLANES, "m"), PLANES[[0, 2]])


def test_the_last_of_overlapping_classes_is_painted_on_top() -> None:
    np.testing.assert_array_equal(ORGANS.paint(PLANES)[0], [RED, GREEN, BLUE, (0, 0, 0)])
