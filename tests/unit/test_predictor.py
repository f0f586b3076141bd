"""The predictor: settings of inference around a model; and large images, read and labelled by windows."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor, nn

from seg_cli.data.loading import scoring_loader
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError
from seg_cli.inference.evaluate import evaluate
from seg_cli.inference.large_images import LargeTiff, open_large
from seg_cli.inference.postprocess import Components, Postprocess
from seg_cli.inference.predictor import Predictor
from seg_cli.inference.sliding import Sliding
from seg_cli.inference.tta import Tta
from seg_cli.inference.views import Flip, Scale
from seg_cli.metrics.counting import Counting

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (45, 70, 3), np.uint8)


class Brightest(nn.Module):
    """Predicts the brightest channel; it has a parameter, to be found."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.float() * self.scale


class Split:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        size = (20 + index % 2, 30)
        return Sample(rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 3, size, np.uint8), f"image{index}")


def test_without_settings_it_is_the_model() -> None:
    model = Brightest().eval()
    images = torch.from_numpy(IMAGE.transpose(2, 0, 1)[None])
    predictor = Predictor(model, counting=Counting(3)).eval()
    assert torch.equal(predictor(images), model(images))
    assert [*predictor.parameters()] == [*model.parameters()]


def test_it_is_scored_like_a_model_and_settings_that_change_nothing_change_no_count() -> None:
    def matrix(model: nn.Module) -> np.ndarray:
        batches = scoring_loader(Split(), batch_size=2, workers=0)
        return evaluate(model, batches, counting=Counting(3), device=CPU, dtype=None).matrix

    predictor = Predictor(
        Brightest(),
        counting=Counting(3),
        inference=Sliding(window=12),
        tta=Tta(transforms={"flip": Flip(vertical=True)}),
    )
    np.testing.assert_array_equal(matrix(predictor), matrix(Brightest()))


def test_every_view_goes_by_windows_and_post_processing_comes_last() -> None:
    seen: list[tuple[int, ...]] = []

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape[-2:]))
            return images.float()

    class Last:
        def __call__(self, scores: Tensor, images: Tensor, counting: Counting) -> Tensor:
            assert scores.shape == (1, 3, 20, 30)
            assert images.shape == (1, 3, 20, 30)
            return scores + 1000

    predictor = Predictor(
        Model(),
        counting=Counting(3),
        inference=Sliding(window=20, overlap=0, batch_size=1),
        tta=Tta(transforms={"scale": Scale(factors=[1, 2])}, average="logits"),
        postprocess=Postprocess(steps={"last": Last()}),
    )
    scores = predictor(torch.full((1, 3, 20, 30), 7, dtype=torch.uint8))
    assert seen == [(20, 20)] * (2 + 6)
    torch.testing.assert_close(scores, torch.full((1, 3, 20, 30), 1007.0))


# ---- large images


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_large_image_is_labelled_as_a_small_one(overlapping: bool) -> None:
    counting = Counting(3, overlapping, threshold=0.999)
    model, seen = Brightest(), []
    model.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    predictor = Predictor(
        model,
        counting=counting,
        inference=Sliding(window=16, overlap=0.3),
        tta=Tta(transforms={"flip": Flip()}, average="logits"),
    )
    out = np.full((3, 45, 70) if overlapping else (45, 70), 77, np.uint8)
    done: list[int] = []
    predictor.label_large(IMAGE, out, device=CPU, progress=done.append)
    expected = counting.predict(Brightest().eval()(torch.from_numpy(IMAGE.transpose(2, 0, 1)[None])))[0]
    np.testing.assert_array_equal(out, expected)
    assert sum(seen) == 2 * len(Sliding(window=16, overlap=0.3).windows((45, 70)))  # each window in both views
    assert done == sorted(done)
    assert done[-1] == 45


def test_values_are_converted_window_by_window() -> None:
    out = np.zeros((45, 70), np.uint8)
    predictor = Predictor(Brightest(), counting=Counting(3), inference=Sliding(window=16))
    stored = IMAGE.astype(np.uint16) * 257
    predictor.label_large(stored, out, device=CPU, convert=lambda values: values.astype(np.float32) / 257)
    np.testing.assert_array_equal(out, IMAGE.argmax(2))


def test_a_large_image_needs_windows_and_takes_no_post_processing() -> None:
    whole = Predictor(Brightest(), counting=Counting(3))
    with pytest.raises(UserError, match="Type inference=sliding"):
        whole.label_large(IMAGE, np.zeros((45, 70), np.uint8), device=CPU)
    steps = Postprocess(steps={"components": Components(min_pixels=3)})
    cleaning = Predictor(Brightest(), counting=Counting(3), inference=Sliding(window=16), postprocess=steps)
    with pytest.raises(UserError, match="Type postprocess=none"):
        cleaning.label_large(IMAGE, np.zeros((45, 70), np.uint8), device=CPU)


TIFFS = {
    "strips": {"compression": "zlib", "rowsperstrip": 7},
    "one strip": {"compression": "zlib"},
    "tiles": {"compression": "zlib", "tile": (16, 32)},
    "plain tiles": {"tile": (16, 32)},
    "plain strips": {"rowsperstrip": 7},
    "big": {"bigtiff": True, "compression": "zlib", "rowsperstrip": 4},
}


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize(
    "array", [IMAGE, IMAGE[..., 0], IMAGE.astype(np.uint16) * 200], ids=["colour", "gray", "16 bit"]
)
def test_tiff_files_are_read_by_windows(tmp_path: Path, kind: str, array: np.ndarray) -> None:
    path = tmp_path / "image.tif"
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, photometric=photometric, **TIFFS[kind])
    check_windows(open_large(path), array.reshape(45, 70, -1))
    assert isinstance(open_large(path), LargeTiff) == (kind != "plain strips")


@pytest.mark.parametrize("settings", [{"rowsperstrip": 7}, {"tile": (16, 32)}, {}], ids=["strips", "tiles", "plain"])
def test_tiff_files_of_one_plane_after_another_are_too(tmp_path: Path, settings: dict) -> None:
    path = tmp_path / "image.tif"
    compression = {"compression": "zlib"} if settings else {}
    planes = IMAGE.transpose(2, 0, 1)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **compression, **settings)
    check_windows(open_large(path), IMAGE)


def check_windows(image: object, expected: np.ndarray) -> None:
    assert image.shape == expected.shape  # type: ignore[attr-defined]
    for top, left in product((0, 5, 20, 33), (0, 31, 60)):
        rows, columns = slice(top, top + 12), slice(left, left + 20)
        window = image[rows, columns]  # type: ignore[index]
        np.testing.assert_array_equal(window, expected[rows, columns])
        assert window.dtype == expected.dtype


def test_strips_above_are_forgotten(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", IMAGE, photometric="rgb", compression="zlib", rowsperstrip=5)
    image = open_large(tmp_path / "image.tif")
    assert isinstance(image, LargeTiff)
    for top in range(0, 40, 5):
        image[top : top + 10, 0:70]
        assert len(image._kept) <= 2


def test_a_numpy_file_that_would_execute_something_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{"a": 1}]], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"objects\.npy: the image cannot be read"):
        open_large(tmp_path / "objects.npy")


def test_numpy_files_are_mapped_and_other_pictures_read(tmp_path: Path) -> None:
    np.save(tmp_path / "colour.npy", IMAGE)
    np.save(tmp_path / "gray.npy", IMAGE[..., 0])
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    assert isinstance(open_large(tmp_path / "colour.npy"), np.memmap)
    check_windows(open_large(tmp_path / "colour.npy"), IMAGE)
    check_windows(open_large(tmp_path / "gray.npy"), IMAGE[..., :1])
    check_windows(open_large(tmp_path / "image.png"), IMAGE)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "line.npy", IMAGE[0, 0])
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    for name, message in (
        ("line.npy", r"line.npy: the array is \(3,\)"),
        ("broken.npy", "broken.npy: the image"),
        ("broken.tif", "broken.tif: the image cannot be read"),
        ("missing.tif", "missing.tif: the image is not there"),
        ("missing.npy", "missing.npy: the image is not there"),
    ):
        with pytest.raises(UserError, match=message):
            open_large(tmp_path / name)
