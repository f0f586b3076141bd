"""A dataset with the classes of a model that was trained on another."""

import numpy as np
import pytest

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.mapped import MappedDataset
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError

RGB = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Street:
    labels = LabelSpace(("sky", "tram", "sign"), RGB)
    channels = 3

    def __init__(self) -> None:
        mask = np.array([[0, 1], [2, VOID]], np.uint8)
        self.splits = {"test": [Sample(np.zeros((2, 2, 3), np.uint8), mask, "a")]}

    def fingerprint(self) -> str:
        return "street"


def test_classes_of_the_same_name_are_the_same_and_others_are_as_said() -> None:
    mapped = MappedDataset(Street(), ("bus", "sky"), {"tram": "bus", "sign": None})
    sample = mapped.splits["test"][0]
    np.testing.assert_array_equal(sample.mask, [[1, 0], [VOID, VOID]])
    assert mapped.labels.names == ("bus", "sky")
    assert mapped.labels.colors == ((0, 255, 0), (255, 0, 0))
    assert len(mapped.splits["test"]) == 1
    assert mapped.fingerprint() != Street().fingerprint()


def test_overlapping_planes_are_put_where_the_model_has_them() -> None:
    class Planes(Street):
        labels = LabelSpace(("a", "b", "c"), RGB, overlapping=True)

        def __init__(self) -> None:
            planes = np.array([[[1, 0, 0]], [[0, 1, VOID]], [[1, 0, 1]]], np.uint8)
            self.splits = {"test": [Sample(np.zeros((1, 3, 3), np.uint8), planes, "a")]}

    mapped = MappedDataset(Planes(), ("x", "c"), {"a": "x", "b": "x"})
    np.testing.assert_array_equal(mapped.splits["test"][0].mask, [[[1, 1, VOID]], [[1, 0, 1]]])


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({}, r"classes that the model does not know: tram, sign\. The model's classes: bus, sky\."),
        ({"trem": "bus"}, r"classes\.map\.trem: the dataset has no class 'trem'\. Did you mean 'tram'\?"),
        ({"tram": "buss"}, r"classes\.map\.tram: the model has no class 'buss'\. Did you mean 'bus'\?"),
    ],
)
def test_classes_that_nobody_knows_are_refused(mapping: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        MappedDataset(Street(), ("bus", "sky"), mapping)
