"""Sliding windows: equal to the whole image where they have to be, without seams, in little memory."""

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seg_cli.inference.sliding import BLENDS, PLACES, Sliding, Whole, grid

IMAGES = torch.randint(0, 256, (2, 3, 37, 61), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def pointwise(images: Tensor) -> Tensor:
    x = images.float() / 40
    return torch.cat((x - 2, x[:, :1] * x[:, 1:2]), 1)


class Convolutions(nn.Sequential):
    """A pixel sees 3 pixels to each side."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float() / 128 - 1)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(
    ("length", "side", "overlap"), [(100, 30, 0.5), (64, 64, 0.5), (50, 64, 0.3), (65, 64, 0), (9, 1, 0)]
)
def test_windows_cover_an_axis_and_their_weights_sum_to_one(length: int, side: int, overlap: float, blend: str) -> None:
    firsts, weights = grid(length, side, overlap=overlap, blend=blend)
    side = min(side, length)
    total = torch.zeros(length)
    for first, weight in zip(firsts, weights, strict=True):
        assert weight.shape == (side,)
        total[first : first + side] += weight
    torch.testing.assert_close(total, torch.ones(length))
    assert (firsts[0], firsts[-1]) == (0, length - side)
    steps = np.diff(firsts)
    assert (steps <= max(1, side * (1 - overlap))).all()
    assert steps.size == 0 or steps.max() - steps.min() <= 1


def test_gaussian_weights_fall_to_both_sides_of_a_window_by_the_given_width() -> None:
    _, (first, second) = grid(96, 64, overlap=0.5, blend="gaussian")
    assert (first[:32] == 1).all()  # it is alone there
    ratio = first[32:] / second[:32]  # of exp(-0.5 ((x - c) / 8)^2) about 31.5 and 63.5
    places = torch.arange(32, 64)
    torch.testing.assert_close(
        ratio.log(), (-0.5 * ((places - 31.5) ** 2 - (places - 63.5) ** 2) / 64), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("scores", PLACES)
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("window", "overlap"), [(16, 0.5), ([10, 64], 0.25), ([64, 7], 0), (100, 0.5), (5, 0.9)])
def test_a_pointwise_model_says_the_same(window: int | list[int], overlap: float, blend: str, scores: str) -> None:
    sliding = Sliding(window=window, overlap=overlap, blend=blend, batch_size=3, scores=scores)
    found = sliding(pointwise, IMAGES)
    torch.testing.assert_close(found, pointwise(IMAGES), atol=1e-4, rtol=1e-5)
    assert torch.equal(found.max(1).indices, pointwise(IMAGES).max(1).indices)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_the_memory_order_is_that_of_the_model(order: torch.memory_format) -> None:
    found = Sliding(window=16)(lambda images: pointwise(images).contiguous(memory_format=order), IMAGES)
    assert found.is_contiguous(memory_format=order)
    torch.testing.assert_close(found, pointwise(IMAGES), atol=1e-4, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("blend", BLENDS)
def test_what_no_window_edge_reaches_is_as_in_the_whole_image(blend: str) -> None:
    net, reach = Convolutions(), 3
    sliding = Sliding(window=20, overlap=0.5, blend=blend)
    found, whole = sliding(net, IMAGES), net(IMAGES)
    near = torch.zeros(37, 61, dtype=torch.bool)  # an edge, inside the image, of a window that shows the pixel
    for top, left in sliding.windows((37, 61)):
        reached = torch.zeros(20, 20, dtype=torch.bool)
        for edge, part in ((top > 0, reached[:reach]), (top + 20 < 37, reached[-reach:])):
            part |= edge
        for edge, part in ((left > 0, reached[:, :reach]), (left + 20 < 61, reached[:, -reach:])):
            part |= edge
        near[top : top + 20, left : left + 20] |= reached
    assert 0.2 < near.float().mean() < 0.8
    difference = (found - whole).abs().amax((0, 1))
    assert difference[~near].max() < 1e-5
    assert difference[near].max() > 1e-5  # of windows that lack context


@torch.inference_mode()
def test_gaussian_weights_leave_no_seams() -> None:
    """An edge changes the logits of its window by up to half of their spread; of that, a hundredth is left."""
    net = Convolutions()
    images = torch.nn.functional.interpolate(IMAGES.float(), size=(128, 128), mode="bicubic").clamp(0, 255)
    whole = net(images)

    def error(blend: str, overlap: float) -> float:
        found = Sliding(window=64, overlap=overlap, blend=blend)(net, images)
        return float((found - whole).abs().max() / whole.std())

    assert error("gaussian", 0.5) < 0.01
    assert error("uniform", 0.5) > 0.1
    assert error("uniform", 0) > 0.2


def test_windows_go_through_the_model_in_batches_over_images_too() -> None:
    sizes: list[int] = []

    def model(images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 20, 20)
        sizes.append(len(images))
        return pointwise(images)

    sliding = Sliding(window=20, overlap=0.25, batch_size=5)
    sliding(model, IMAGES)
    assert len(sliding.windows((37, 61))) == 3 * 4
    assert sizes == [5, 3] * 3  # four windows of each of two images, three rows of them
    sizes.clear()

    def small(images: Tensor) -> Tensor:
        if len(images) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return model(images)

    torch.testing.assert_close(sliding(small, IMAGES), pointwise(IMAGES), atol=1e-4, rtol=1e-5)
    assert sizes == [2] * 12


def test_bands_come_from_top_to_bottom_and_are_the_rows_of_the_image() -> None:
    sliding = Sliding(window=[16, 30], overlap=0.5)
    below = 0
    for top, band in sliding.bands(pointwise, lambda i, rows, columns: IMAGES[:1, :, rows, columns], (37, 61)):
        assert top == below
        below = top + band.shape[2]
        torch.testing.assert_close(band, pointwise(IMAGES[:1, :, top:below]), atol=1e-4, rtol=1e-5)
    assert below == 37


def test_half_precision_is_summed_in_float32_and_the_whole_image_is_left_alone() -> None:
    assert Sliding(window=16)(lambda images: pointwise(images).bfloat16(), IMAGES).dtype == torch.float32
    logits = pointwise(IMAGES)
    assert Whole()(lambda images: logits, IMAGES) is logits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sliding(window=[3]), r"window=\[3\]: \[height,width\] in pixels"),
        (lambda: Sliding(window=0), r"window=0: "),
        (lambda: Sliding(window=8, overlap=1), r"overlap=1: a share of the window"),
        (lambda: Sliding(window=8, blend="sharp"), r"blend=sharp: uniform and gaussian"),
        (lambda: Sliding(window=8, batch_size=0), r"batch_size=0: 1 or more"),
        (lambda: Sliding(window=8, scores="tape"), r"scores=tape: device, cpu, disk"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


HUGE = """\
import sys
import numpy as np
import torch
from torch import nn
from seg_cli.inference.predictor import Predictor
from seg_cli.inference.large_images import open_large
from seg_cli.inference.sliding import Sliding
from seg_cli.metrics.counting import Counting
from pathlib import Path

class Brightest(nn.Module):
    def forward(self, images):
        return images.float()

source, out = (Path(name) for name in sys.argv[1:])
image = open_large(source)
labels = np.lib.format.open_memmap(out, "w+", np.uint8, image.shape[:2])
predictor = Predictor(Brightest(), counting=Counting(3), inference=Sliding(window=512, overlap=0.25, batch_size=8))
predictor.label_large(image, labels, device=torch.device("cpu"))
labels.flush()
# Not by getrusage, which gives a process that was begun by a larger one the other's size.
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_an_image_of_20000_by_20000_takes_less_than_4_gib(tmp_path: Path) -> None:
    side = 20_000
    image = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", np.uint8, (side, side, 3))
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (side, 100, 3), np.uint8)
    for left in range(0, side, 100):
        image[:, left : left + 100] = np.roll(tile, left, 0)
    image.flush()
    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(tmp_path / "image.npy"), str(tmp_path / "labels.npy")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(f"peak of resident memory: {float(done.stdout):.2f} GiB")
    assert float(done.stdout) < 4
    labels = np.load(tmp_path / "labels.npy", mmap_mode="r")
    for top, left in product((0, 7000, side - 1000), repeat=2):
        part = slice(top, top + 1000), slice(left, left + 1000)
        np.testing.assert_array_equal(labels[part], image[part].argmax(2))
