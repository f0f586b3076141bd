"""Distance maps: by hand, and as scipy computes them class by class."""

import math
import os

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from seg_cli.data.labels import VOID
from seg_cli.losses.distances import boundary_distances, occurring, signed_distances

BLOCK = torch.zeros(1, 5, 5, dtype=torch.uint8)
BLOCK[0, 1:4, 1:4] = 1


def random_target(seed: int, classes: int, void: float, height: int = 9, width: int = 13) -> Tensor:
    """(3, height, width): patches of 3x3 pixels of one class, so that there are inner pixels too; void pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (3, -(-height // 3), -(-width // 3)))
    target = coarse.repeat(3, 1).repeat(3, 2)[:, :height, :width].astype(np.uint8)
    target[rng.random(target.shape) < void] = VOID
    return torch.from_numpy(target)


def both_sides(region: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """scipy's distances to the region, 0 in it, and to what is not the region, 0 there; 0 without a boundary."""
    if not region.any() or region.all():
        return np.zeros(region.shape), np.zeros(region.shape)
    return distance_transform_edt(~region), distance_transform_edt(region)


def signed_by_scipy(target: Tensor, classes: int) -> NDArray[np.float64]:
    maps = np.zeros((len(target), classes, *target.shape[-2:]))
    for image, index in np.ndindex(*maps.shape[:2]):
        labels = target[image, index] if target.ndim == 4 else target[image]
        region = labels.numpy() == (1 if target.ndim == 4 else index)
        outside, inside = both_sides(region)
        maps[image, index] = (outside - (inside - 1) * region * inside.any()) * (labels.numpy() != VOID)
    return maps


# ---- by hand


def test_a_block_and_the_ring_around_it() -> None:
    root = math.sqrt(2)
    block = [
        [root, 1, 1, 1, root],
        [1, 0, 0, 0, 1],
        [1, 0, -1, 0, 1],
        [1, 0, 0, 0, 1],
        [root, 1, 1, 1, root],
    ]
    ring = [
        [1 - root, 0, 0, 0, 1 - root],
        [0, 1, 1, 1, 0],
        [0, 1, 2, 1, 0],
        [0, 1, 1, 1, 0],
        [1 - root, 0, 0, 0, 1 - root],
    ]
    torch.testing.assert_close(signed_distances(BLOCK, 2), torch.tensor([[ring, block]]))
    both = boundary_distances(BLOCK, torch.ones(1, 2, dtype=torch.bool))
    # Without a sign two classes have the same map: inside 1 more than the signed one is below 0, outside the same.
    expected = torch.tensor(block)
    torch.testing.assert_close(both, torch.where(expected > 0, expected, 1 - expected).expand(1, 2, 5, 5))


def test_a_region_ends_where_void_begins_and_void_itself_is_0() -> None:
    row = torch.tensor([[[1, 1, VOID, 0, 0]]])
    expected = torch.tensor([[[[3.0, 2, 0, 0, -1]], [[-1.0, 0, 0, 2, 3]]]])
    torch.testing.assert_close(signed_distances(row, 2), expected)


def test_a_class_that_is_absent_or_fills_the_image_has_no_boundary() -> None:
    target = torch.zeros(2, 3, 4, dtype=torch.int64)
    target[1, 0, 0] = VOID
    maps = signed_distances(target, 3)
    assert maps.shape == (2, 3, 3, 4)
    assert not maps[0].any()
    assert not maps[1, 1:].any()
    assert maps[1, 0, 2, 0] == -1, "beside void the class does not fill the image"


def test_all_void_is_0() -> None:
    target = torch.full((2, 3, 4), VOID)
    assert not signed_distances(target, 2).any()
    assert not signed_distances(target.unsqueeze(1), 1).any()


def test_labels_that_overlap_have_a_map_each() -> None:
    target = torch.stack((BLOCK, 1 - BLOCK, torch.ones_like(BLOCK)), 1)
    target[0, 1, 0, 0] = VOID
    maps = signed_distances(target, 3)
    alone = signed_distances(BLOCK, 2)
    torch.testing.assert_close(maps[:, 0], alone[:, 1])
    assert maps[0, 1, 0, 0] == 0, "void of this label"
    assert maps[0, 1, 0, 1] == 0, "its neighbour is now at the boundary on two sides"
    torch.testing.assert_close(maps[0, 1, 1:, 1:], alone[0, 0, 1:, 1:])
    assert not maps[0, 2].any(), "fills its image"


def test_which_classes_occur() -> None:
    target = torch.tensor([[[0, 2, VOID]], [[VOID, VOID, VOID]]])
    assert occurring(target, 4).tolist() == [[True, False, True, False], [False] * 4]
    overlapping = torch.tensor([[[[0, 1]], [[0, VOID]]]])
    assert occurring(overlapping, 2).tolist() == [[True, False]]


def test_a_class_that_is_not_wanted_is_no_class() -> None:
    row = torch.tensor([[[0, 1, 2, 2]]])
    maps = boundary_distances(row, torch.tensor([[True, False, False, True]]))
    assert maps.tolist() == [[[[1, 1, 2, 3]], [[0] * 4], [[0] * 4], [[0] * 4]]]


# ---- as scipy has it


@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0, 0.1, 0.7]), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_signed_distances_are_scipys(seed: int, classes: int, void: float, height: int, width: int) -> None:
    target = random_target(seed, classes, void, height, width)
    expected = signed_by_scipy(target, classes)
    np.testing.assert_allclose(signed_distances(target, classes), expected, atol=1e-4)


@given(st.integers(0, 1000), st.sampled_from([0, 0.2]))
@settings(max_examples=20, deadline=None)
def test_signed_distances_are_scipys_where_labels_overlap(seed: int, void: float) -> None:
    target = torch.stack([random_target(seed + index, 2, void) for index in range(4)], 1)
    np.testing.assert_allclose(signed_distances(target, 4), signed_by_scipy(target, 4), atol=1e-4)


@given(st.integers(0, 1000), st.sampled_from([0, 0.2]))
@settings(max_examples=20, deadline=None)
def test_boundary_distances_are_scipys(seed: int, void: float) -> None:
    labels = random_target(seed, 4, void)
    maps = boundary_distances(labels, torch.ones(3, 4, dtype=torch.bool))
    for image, index in np.ndindex(3, 4):
        expected = sum(both_sides(labels[image].numpy() == index))
        np.testing.assert_allclose(maps[image, index], expected, atol=1e-4)


@pytest.mark.parametrize("share", [1e-5, 1e-3, 0.3])
def test_long_distances_are_as_exact_as_short_ones(share: float) -> None:
    rng = np.random.default_rng(0)
    target = torch.from_numpy((rng.random((1, 256, 1024)) < share).astype(np.uint8))
    target[0, 3, 5] = 1
    np.testing.assert_allclose(signed_distances(target, 2), signed_by_scipy(target, 2), atol=1e-4)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs to choose its cores")
def test_it_is_the_same_each_time_on_any_number_of_cores() -> None:
    """To the last bit, and OpenCV stays as it was for everybody else."""
    target, cores, with_ipp = random_target(0, 5, 0.1, 60, 90), os.sched_getaffinity(0), cv2.ipp.useIPP()
    expected = signed_distances(target, 5)
    for _ in range(20):
        assert torch.equal(signed_distances(target, 5), expected)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert torch.equal(signed_distances(target, 5), expected)
    finally:
        os.sched_setaffinity(0, cores)
    assert cv2.ipp.useIPP() == with_ipp


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_type_does(dtype: torch.dtype) -> None:
    maps = signed_distances(BLOCK.to(dtype), 2)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, signed_distances(BLOCK, 2))
