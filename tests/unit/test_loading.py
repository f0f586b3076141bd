"""From splits to batches: what decides a sample, who gets which, and how samples become tensors."""

from collections.abc import Sequence
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
    BatchShape,
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


def loader(*, seed: int = 0, workers: int = 0, shapes: Sequence[BatchShape] = (BatchShape(4, (32, 40)),)) -> DataLoader:
    """Of an epoch for each shape; further ones are like the last."""
    steps = {
        "flip": HorizontalFlip(),
        "scale": RandomScale(low=0.5, high=2),
        "color": Albumentation(name="ColorJitter", args={"p": 1}),
    }
    return training_loader(
        SPLIT,
        augment=Augment(steps),
        shape_of=lambda epoch: shapes[min(epoch, len(shapes) - 1)],
        seed=seed,
        workers=workers,
    )


def choose(batches: DataLoader, epoch: int, numbers: range) -> list[Batch]:
    batches.batch_sampler.choose(epoch, numbers)  # type: ignore[union-attr]
    return list(batches)


def contents(batches: list[Batch]) -> dict[str, bytes]:
    """Name -> everything about the sample, in the order drawn."""
    return {
        name: image.numpy().tobytes() + mask.numpy().tobytes()
        for batch in batches
        for name, image, mask in zip(batch.names, batch.images, batch.masks, strict=True)
    }


def test_a_sample_is_a_function_of_seed_epoch_and_index_on_any_number_of_workers() -> None:
    shapes = [BatchShape(4, (32, 40)), BatchShape(6, (16, 24), 0.5), BatchShape(3)]  # 13 samples: 3, 2 and 4 batches
    alone, two = loader(shapes=shapes), loader(shapes=shapes, workers=2)
    epochs = [contents(choose(alone, number, range(count))) for number, count in enumerate((3, 2, 4))]
    assert [len(found) for found in epochs] == [12, 12, 12]
    for number, count in ((2, 4), (0, 3), (1, 2)):  # an epoch does not depend on those before it
        found = contents(choose(two, number, range(count)))
        assert found == epochs[number]
        assert list(found) == list(epochs[number])
    assert list(epochs[0]) != list(epochs[1])
    other = contents(choose(loader(seed=1), 0, range(3)))
    both = epochs[0].keys() & other.keys()
    assert both
    assert all(epochs[0][name] != other[name] for name in both)
    again = contents(choose(loader(), 1, range(3)))  # the same shape in another epoch
    assert all(epochs[0][name] != again[name] for name in epochs[0].keys() & again.keys())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_of_an_epoch_is_the_tail_of_the_whole_one(workers: int) -> None:
    shapes = [BatchShape(2, (16, 16)), BatchShape(5, (32, 32))]
    with_workers = loader(shapes=shapes, workers=workers)
    for epoch, count in ((0, 6), (1, 2)):
        whole = choose(loader(shapes=shapes), epoch, range(count))
        for done in range(count):
            rest = choose(with_workers, epoch, range(done, count))
            assert [batch.names for batch in rest] == [batch.names for batch in whole[done:]]
            assert contents(rest) == contents(whole[done:])


def test_a_draw_does_not_depend_on_the_batch_it_is_in() -> None:
    alone, together = (loader(shapes=[BatchShape(samples, (32, 40))]) for samples in (1, 13))
    assert contents(choose(alone, 2, range(13))) == contents(choose(together, 2, range(1)))


def draws(length: int, shape: BatchShape, *, rank: int, world_size: int, batches: range, skipped: int = 0) -> list:
    """Batches of epoch 3."""
    found = ShuffledBatches(length, shape_of=lambda epoch: shape, seed=3, rank=rank, world_size=world_size)
    found.choose(3, batches, skipped)
    drawn = list(found)
    assert len(drawn) == len(found) == len(batches)
    assert all(draw[1:] == (3, shape.crop, shape.zoom) for batch in drawn for draw in batch)
    return [[draw.sample for draw in batch] for batch in drawn]


SHAPES = st.builds(BatchShape, st.integers(1, 9), st.sampled_from([None, (16, 24)]), st.sampled_from([0.5, 1.0]))


@given(st.integers(1, 60), SHAPES, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_over_all_processes_every_sample_is_seen_once_but_for_the_tail(
    length: int, shape: BatchShape, world_size: int
) -> None:
    step = shape.samples * world_size
    count = max(1, length // step)  # as Plan.batches counts
    ranks = [draws(length, shape, rank=rank, world_size=world_size, batches=range(count)) for rank in range(world_size)]
    assert all(batch for batches in ranks for batch in batches)
    seen = [sample for batches in ranks for batch in batches for sample in batch]
    if length >= step:
        assert len(set(seen)) == len(seen) == count * step
        assert {len(batch) for batches in ranks for batch in batches} == {shape.samples}
    else:
        assert set(seen) == set(range(length))  # a split smaller than one step is one step


@given(st.integers(1, 60), SHAPES, st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_an_epoch_goes_on_from_any_batch(length: int, shape: BatchShape, world_size: int, data: st.DataObject) -> None:
    count = max(1, length // (shape.samples * world_size))
    done = data.draw(st.integers(0, count - 1))
    rank = data.draw(st.integers(0, world_size - 1))
    whole = draws(length, shape, rank=rank, world_size=world_size, batches=range(count))
    assert draws(length, shape, rank=rank, world_size=world_size, batches=range(done, count)) == whole[done:]


@given(st.integers(8, 80), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_on_another_number_of_processes_an_epoch_goes_on_without_a_gap_or_a_repetition(
    length: int, samples: int, before: int, after: int, data: st.DataObject
) -> None:
    shape = BatchShape(samples)
    done = data.draw(st.integers(0, length // (samples * before)))
    skipped = done * samples * before
    rest = (length - skipped) // (samples * after)

    def seen(world_size: int, count: int, skipped: int) -> list[int]:
        ranks = [
            draws(length, shape, rank=rank, world_size=world_size, batches=range(count), skipped=skipped)
            for rank in range(world_size)
        ]
        return [sample for batches in ranks for batch in batches for sample in batch]

    all_seen = seen(before, done, 0) + seen(after, rest, skipped)
    assert len(all_seen) == len(set(all_seen)) > length - samples * after  # only a last, incomplete step is left out


def test_over_the_epochs_every_sample_has_its_turn() -> None:
    batches = ShuffledBatches(10, shape_of=lambda epoch: BatchShape(4), seed=0)
    seen = set()
    for number in range(6):
        batches.choose(number, range(2))
        seen |= {draw.sample for batch in batches for draw in batch}
    assert seen == set(range(10))


class Always:
    """Batches of one shape in every epoch."""

    def __init__(self, shape: BatchShape) -> None:
        self.shape = shape

    def __call__(self, epoch: int) -> BatchShape:
        return self.shape


class Checkerboard:
    """One image of squares, black of class 0 and white of class 1."""

    def __init__(self, square: int, side: int = 64) -> None:
        tiles = np.indices((side // square, side // square)).sum(0) % 2
        self.mask = np.kron(tiles, np.ones((square, square))).astype(np.uint8)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.repeat(self.mask[..., None] * 255, 3, axis=2), self.mask.copy(), "board", "g")


@pytest.mark.parametrize("crop", [None, (32, 32)])
def test_a_zoom_makes_things_smaller_in_image_and_mask_alike(crop: tuple[int, int] | None) -> None:
    for zoom, size in ((0.5, (32, 32)), (0.25, (16, 16)), (1.0, (64, 64))):
        shape = BatchShape(1, crop and size, zoom)
        batches = training_loader(Checkerboard(8), augment=Augment({}), shape_of=Always(shape), seed=0, workers=0)
        (batch,) = choose(batches, 0, range(1))
        expected = torch.from_numpy(Checkerboard(round(8 * zoom), size[0]).mask)
        assert batch.images.shape == (1, 3, *size)
        assert torch.equal(batch.masks[0], expected)
        # the inside of each square is the same pixel for pixel; between two of them there may be a gray one
        assert ((batch.images[0].float() / 255 - expected).abs() < 0.51).all()


def test_a_crop_at_a_zoom_shows_more_of_the_image() -> None:
    shape = BatchShape(1, (32, 32), 0.5)
    batches = training_loader(Checkerboard(16, 128), augment=Augment({}), shape_of=lambda _: shape, seed=0, workers=0)
    for epoch in range(5):
        (batch,) = choose(batches, epoch, range(1))
        edges = (batch.masks[0].diff(dim=0) != 0).all(1).nonzero().flatten()
        assert set(edges.diff().tolist()) == {8}  # squares of 16 pixels, at half their size
        assert not (batch.masks == VOID).any()


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
    (batch,) = choose(loader(), 0, range(1))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (4, 3, 32, 40)
    assert batch.masks.shape == (4, 32, 40)
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    moved = batch.to(torch.device("meta"))
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert (moved.images.device.type, moved.masks.device.type) == ("meta", "meta")
    assert (moved.names, moved.groups) == (batch.names, batch.groups)


def test_a_draw_is_of_a_whole_image_unless_it_says_more() -> None:
    assert Draw(sample=3, epoch=1) == (3, 1, None, 1.0)


@pytest.mark.parametrize(("parts", "sizes"), [(1, [5]), (2, [2, 3]), (3, [2, 1, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_a_batch_is_split_into_views(parts: int, sizes: list[int]) -> None:
    batch = collate_padded([sample(4, 4, number) for number in range(5)])
    found = batch.split(parts)
    assert [len(part.names) for part in found] == sizes
    assert [name for part in found for name in part.names] == batch.names
    assert torch.equal(torch.cat([part.images for part in found]), batch.images)
    assert torch.equal(torch.cat([part.masks for part in found]), batch.masks)
    assert found[0].images.data_ptr() == batch.images.data_ptr()


def test_worker_count() -> None:
    assert worker_count(0) == 0
    assert worker_count(5) == 5
    assert 1 <= worker_count("auto") <= 8
