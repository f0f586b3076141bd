"""From splits to batches: what decides a sample, who gets which, and how samples become tensors."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from seg_cli.data import loading
from seg_cli.data.albumentation import Albumentation
from seg_cli.data.augment import Augment
from seg_cli.data.geometry import HorizontalFlip, RandomScale
from seg_cli.data.labels import VOID
from seg_cli.data.loading import (
    Batch,
    Draw,
    ShuffledBatches,
    collate_by_size,
    collate_padded,
    scoring_loader,
    training_loader,
    worker_count,
)
from seg_cli.data.sample import Sample
from seg_cli.data.shapes import Shapes

SPLIT = Shapes(size=(48, 48), train=13).splits["train"]


def loader(*, seed: int = 0, workers: int = 0, batch_size: int = 4) -> DataLoader:
    steps = {
        "flip": HorizontalFlip(),
        "scale": RandomScale(low=0.5, high=2),
        "color": Albumentation(name="ColorJitter", args={"p": 1}),
    }
    return training_loader(
        SPLIT, augment=Augment(steps), crop=(32, 40), batch_size=batch_size, seed=seed, workers=workers
    )


def epoch(batches: DataLoader, number: int) -> dict[str, bytes]:
    """Name -> everything about the sample, in the order drawn."""
    batches.batch_sampler.set_epoch(number)  # type: ignore[union-attr]
    return {
        name: image.numpy().tobytes() + mask.numpy().tobytes()
        for batch in batches
        for name, image, mask in zip(batch.names, batch.images, batch.masks, strict=True)
    }


def test_a_sample_is_a_function_of_seed_epoch_and_index_on_any_number_of_workers() -> None:
    alone, two = loader(), loader(workers=2)
    epochs = [epoch(alone, number) for number in (0, 1)]
    for number in (1, 0):  # an epoch does not depend on those before it
        found = epoch(two, number)
        assert found == epochs[number]
        assert list(found) == list(epochs[number])
    assert list(epochs[0]) != list(epochs[1])
    both = epochs[0].keys() & epochs[1].keys()
    assert all(epochs[0][name] != epochs[1][name] for name in both)
    other = epoch(loader(seed=1), 0)
    assert all(epochs[0][name] != other[name] for name in epochs[0].keys() & other.keys())


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_process_gets_as_many_batches_and_none_the_samples_of_another(
    length: int, batch_size: int, world_size: int, number: int
) -> None:
    ranks = []
    for rank in range(world_size):
        batches = ShuffledBatches(length, batch_size=batch_size, seed=3, rank=rank, world_size=world_size)
        batches.set_epoch(number)
        drawn = list(batches)
        assert len(drawn) == len(batches) >= 1
        assert all(draw.epoch == number for batch in drawn for draw in batch)
        assert all(batch for batch in drawn)
        ranks.append(drawn)
    assert len({len(drawn) for drawn in ranks}) == 1
    seen = [draw.sample for drawn in ranks for batch in drawn for draw in batch]
    step = batch_size * world_size
    if length >= step:
        assert len(set(seen)) == len(seen) == length // step * step  # only the last, incomplete step is left out
        assert {len(batch) for drawn in ranks for batch in drawn} == {batch_size}
    else:
        assert set(seen) == set(range(length))  # a split smaller than one step is one step


def test_over_the_epochs_every_sample_has_its_turn() -> None:
    batches = ShuffledBatches(10, batch_size=4, seed=0)
    seen = set()
    for number in range(6):
        batches.set_epoch(number)
        seen |= {draw.sample for batch in batches for draw in batch}
    assert seen == set(range(10))


def test_a_draw_does_not_depend_on_the_batch_it_is_in() -> None:
    alone, together = epoch(loader(batch_size=1), 2), epoch(loader(batch_size=13), 2)
    assert alone == together


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_scoring_sees_each_sample_exactly_once(world_size: int) -> None:
    names = [
        [
            name
            for sizes in scoring_loader(SPLIT, batch_size=2, workers=0, rank=rank, world_size=world_size)
            for batch in sizes
            for name in batch.names
        ]
        for rank in range(world_size)
    ]
    assert sorted(name for rank in names for name in rank) == [SPLIT[i].name for i in range(len(SPLIT))]
    assert all(earlier < later for rank in names for earlier, later in pairwise(rank))


def sample(height: int, width: int, value: int) -> Sample:
    image = np.full((height, width, 3), value, np.uint8)
    return Sample(image, np.full((height, width), value % 7, np.uint8), f"s{value}", "g")


def test_scoring_pads_nothing_and_keeps_sizes_apart() -> None:
    batches = collate_by_size([sample(8, 9, 1), sample(5, 5, 2), sample(8, 9, 3)])
    assert [batch.names for batch in batches] == [["s1", "s3"], ["s2"]]
    assert [tuple(batch.masks.shape) for batch in batches] == [(2, 8, 9), (1, 5, 5)]
    assert not any((batch.masks == VOID).any() for batch in batches)


def test_training_pads_with_void_at_the_right_and_bottom() -> None:
    batch = collate_padded([sample(8, 6, 1), sample(5, 9, 2)])
    assert batch.masks.shape == (2, 8, 9)
    assert (batch.masks[0, :8, :6] == 1).all()
    assert (batch.masks[0, :, 6:] == VOID).all()
    assert (batch.masks[1, 5:] == VOID).all()
    assert not batch.images[1, :, 5:].any()
    assert (batch.images[1, :, :5, :9] == 2).all()


def test_bytes_become_floats_where_others_of_the_batch_are() -> None:
    fine = sample(4, 4, 3)
    fine.image = np.full((4, 4, 3), 0.5, np.float32)
    batch = collate_padded([sample(4, 4, 7), fine])
    assert batch.images.dtype == torch.float32
    assert [float(image.mean()) for image in batch.images] == [7, 0.5]


def test_planes_of_overlapping_labels_are_padded_with_void() -> None:
    planes = [Sample(np.ones((h, 4, 12), np.uint8), np.ones((2, h, 4), np.uint8), "a") for h in (3, 5)]
    batch = collate_padded(planes)
    assert batch.images.shape == (2, 12, 5, 4)
    assert batch.masks.shape == (2, 2, 5, 4)
    assert (batch.masks[0, :, :3] == 1).all()
    assert (batch.masks[0, :, 3:] == VOID).all()


def test_what_a_worker_collates_is_in_shared_memory_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = collate_padded([sample(4, 5, 7), sample(3, 5, 9)])
    assert not alone.images.is_shared()
    monkeypatch.setattr(loading, "get_worker_info", lambda: "a worker")
    shared = collate_padded([sample(4, 5, 7), sample(3, 5, 9)])
    assert shared.images.is_shared()
    assert shared.masks.is_shared()
    assert (shared.images == alone.images).all()
    assert (shared.masks == alone.masks).all()
    assert shared.images.stride() == alone.images.stride()


def test_images_travel_as_bytes_in_channels_last_order() -> None:
    batch = next(iter(loader()))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (4, 3, 32, 40)
    assert batch.masks.shape == (4, 32, 40)
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    moved = batch.to(torch.device("meta"))
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert (moved.images.device.type, moved.masks.device.type) == ("meta", "meta")
    assert (moved.names, moved.groups) == (batch.names, batch.groups)


def test_a_draw_is_a_pair() -> None:
    assert Draw(sample=3, epoch=1) == (3, 1)


def test_worker_count() -> None:
    assert worker_count(0) == 0
    assert worker_count(5) == 5
    assert 1 <= worker_count("auto") <= 8
