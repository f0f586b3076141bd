"""Every kind of mask file gives the raw values that were drawn, and what is no mask is refused by name."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.files import Pair
from seg_cli.data.labels import VOID
from seg_cli.data.masks import (
    BinaryMasks,
    ClassFiles,
    ColorMasks,
    MaskReader,
    NpyMasks,
    class_in_name,
    read_gray,
    read_index,
)
from seg_cli.errors import UserError

INDICES = np.kron(np.arange(6).reshape(2, 3), np.ones((5, 4))).astype(np.uint8)  # 10 x 12
COLORS = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2, (0, 0, 255): 3, (255, 255, 0): 4, (12, 34, 56): 5}
PAINTED = np.array([*COLORS], np.uint8)[INDICES]


def saved(folder: Path, mask: np.ndarray | Image.Image, name: str = "m.png") -> Pair:
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, mask)
    else:
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    return Pair(folder / "image.png", (path,), "image")


def palette_image(indices: np.ndarray) -> Image.Image:
    picture = Image.fromarray(indices).convert("P")
    picture.putdata(indices.ravel().tolist())
    picture.putpalette([band for color in COLORS for band in color])
    return picture


def refusal(read: MaskReader, pair: Pair) -> str:
    with pytest.raises(UserError) as refused:
        read(pair)
    return str(refused.value)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_8_bit_indices_are_read_from_every_type_of_file(tmp_path: Path, suffix: str) -> None:
    mask = read_index(saved(tmp_path, INDICES, f"m.{suffix}"))
    np.testing.assert_array_equal(mask, INDICES)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_indices_keep_all_their_bits(tmp_path: Path, suffix: str) -> None:
    wide = INDICES.astype(np.uint16) * 1000
    mask = read_index(saved(tmp_path, wide, f"m.{suffix}"))
    np.testing.assert_array_equal(mask, wide)
    assert mask.dtype == np.uint16


def test_a_palette_is_its_indices_or_its_colours_as_asked_for(tmp_path: Path) -> None:
    pair = saved(tmp_path, palette_image(INDICES[::-1].copy()))
    np.testing.assert_array_equal(read_index(pair), INDICES[::-1])
    np.testing.assert_array_equal(ColorMasks(COLORS)(pair), INDICES[::-1])


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    mask = read_index(saved(tmp_path, INDICES > 2))
    np.testing.assert_array_equal(mask, INDICES > 2)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_gray_saved_as_several_equal_bands_is_gray_where_that_is_allowed(tmp_path: Path, bands: int) -> None:
    stacked = np.stack([INDICES] * bands, -1)
    if bands in (2, 4):
        stacked[..., -1] = 255  # opaque
    pair = saved(tmp_path, stacked)
    np.testing.assert_array_equal(read_gray(pair), INDICES)
    assert "expected a mask of one label value (8 or 16 bits) a pixel, found uint8 with" in refusal(read_index, pair)


def test_what_is_no_index_mask_is_refused(tmp_path: Path) -> None:
    assert f"found uint8 with shape {PAINTED.shape}" in refusal(read_gray, saved(tmp_path, PAINTED))
    said = refusal(read_index, saved(tmp_path, INDICES / np.float32(6), "p.tif"))
    assert said.startswith(f"{tmp_path}/p.tif: expected label values, found float32 numbers. Probabilities")


@pytest.mark.parametrize("read", [read_index, read_gray, BinaryMasks(), ColorMasks(COLORS), ClassFiles(("a",))])
def test_a_jpeg_is_no_mask(tmp_path: Path, read: MaskReader) -> None:
    said = refusal(read, saved(tmp_path, INDICES, "m.JPG"))
    assert said.startswith(f"{tmp_path}/m.JPG: a mask cannot be a JPEG: its compression smears label values")


# ---- colours


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_are_their_values(tmp_path: Path, alpha: bool) -> None:
    painted = np.dstack((PAINTED, np.full(INDICES.shape, 7, np.uint8))) if alpha else PAINTED
    mask = ColorMasks(COLORS)(saved(tmp_path, painted))
    np.testing.assert_array_equal(mask, INDICES)
    assert mask.dtype == np.uint8


def test_values_of_colours_may_be_void_or_wide(tmp_path: Path) -> None:
    pair = saved(tmp_path, PAINTED)
    assert set(np.unique(ColorMasks(COLORS | {(0, 0, 0): VOID})(pair))) == {VOID, 1, 2, 3, 4, 5}
    assert ColorMasks(COLORS | {(0, 0, 0): 300})(pair).max() == 300


def test_a_reader_of_colours_is_small_in_a_worker_and_works_there(tmp_path: Path) -> None:
    reader, pair = ColorMasks(COLORS), saved(tmp_path, PAINTED)
    reader(pair)
    sent = pickle.dumps(reader)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)(pair), INDICES)


def test_a_colour_that_is_not_defined_is_named_with_its_pixels_and_place(tmp_path: Path) -> None:
    painted = PAINTED.copy()
    painted[3, 7] = painted[9, 2] = (12, 34, 57)
    painted[8, 1] = (200, 250, 1)
    said = refusal(ColorMasks(COLORS), saved(tmp_path, painted))
    assert said.startswith(f"{tmp_path}/m.png: the mask holds colours that the dataset does not define: ")
    assert "12 34 57 (2 pixels, the first at x=7, y=3; the nearest defined colour is 12 34 56)" in said
    assert "200 250 1 (1 pixels, the first at x=1, y=8; the nearest defined colour is 255 255 0)" in said
    assert said.endswith("Defined are 6 colours.")


def test_many_unknown_colours_are_counted_and_not_listed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 255, (20, 20, 3), np.uint8)
    assert len(refusal(ColorMasks(COLORS), saved(tmp_path, noise))) < 800


def test_16_bit_colours_are_refused(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "m.png"), PAINTED.astype(np.uint16))
    pair = Pair(tmp_path / "i.png", (tmp_path / "m.png",), "i")
    assert "expected a mask of 8-bit colours, found uint16" in refusal(ColorMasks(COLORS), pair)


def test_colours_are_looked_up_at_once(tmp_path: Path) -> None:
    """Not one pass over the picture for each of its colours: 200 colours cost hardly more than two."""
    rng = np.random.default_rng(0)
    table = {
        (int(r), int(g), int(b)): i for i, (r, g, b) in enumerate(np.unique(rng.integers(0, 255, (200, 3)), axis=0))
    }
    few = dict(list(table.items())[:2])
    seconds = {}
    for name, colors in (("many", table), ("few", few)):
        pair = saved(tmp_path, np.array([*colors], np.uint8)[rng.integers(0, len(colors), (300, 400))], f"{name}.bmp")
        reader = ColorMasks(colors)
        reader(pair)
        times = []
        for _ in range(5):
            start = time.process_time()
            reader(pair)
            times.append(time.process_time() - start)
        seconds[name] = min(times)
    assert seconds["many"] < 10 * seconds["few"]


# ---- no and yes


@pytest.mark.parametrize("yes", [1, 255])
def test_binary_masks_are_0_and_1(tmp_path: Path, yes: int) -> None:
    pair = saved(tmp_path, (INDICES > 2).astype(np.uint8) * np.uint8(yes))
    np.testing.assert_array_equal(BinaryMasks()(pair), INDICES > 2)
    np.testing.assert_array_equal(BinaryMasks(plane=True)(pair), (INDICES > 2)[None])


def test_a_binary_mask_may_have_void(tmp_path: Path) -> None:
    mask = np.where(INDICES > 2, 255, 0).astype(np.uint8)
    mask[0, 0] = 128
    read = BinaryMasks(void=128)(saved(tmp_path, mask))
    assert read[0, 0] == VOID
    assert set(np.unique(read)) == {0, 1, VOID}
    said = refusal(BinaryMasks(), saved(tmp_path, mask))
    assert "expected a mask of 0 and 255, no and yes, and found 128 (1 pixels), the first at x=0, y=0" in said


def test_a_binary_mask_with_1_and_255_is_ambiguous(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 255]], np.uint8)
    assert "found 1 (1 pixels), the first at x=1, y=0" in refusal(BinaryMasks(), saved(tmp_path, mask))


# ---- NumPy


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.bool_])
def test_arrays_of_whole_numbers_are_label_values(tmp_path: Path, dtype: type) -> None:
    pair = saved(tmp_path, INDICES.astype(dtype), "m.npy")
    mask = NpyMasks()(pair)
    np.testing.assert_array_equal(mask, INDICES.astype(dtype))
    assert mask.dtype in (np.uint8, np.uint16)
    np.testing.assert_array_equal(read_index(pair), mask)


def test_minus_one_is_65535_as_in_16_bits(tmp_path: Path) -> None:
    mask = NpyMasks()(saved(tmp_path, INDICES.astype(np.int64) - 1, "m.npy"))
    assert mask[0, 0] == 65535


def test_planes_of_arrays_are_kept(tmp_path: Path) -> None:
    planes = np.stack([INDICES > 2, INDICES % 2 == 0]).astype(np.uint8)
    planes[1, 0, 0] = VOID
    np.testing.assert_array_equal(NpyMasks(planes=2)(saved(tmp_path, planes, "m.npy")), planes)


@pytest.mark.parametrize(
    ("array", "planes", "said"),
    [
        (INDICES / 6.0, None, "expected label values, found float64 numbers. Probabilities and scores are not masks"),
        (np.zeros((2, 3, 4), np.uint8), None, "(2, 3, 4). Type data.multilabel=true if these are planes"),
        (np.zeros((2, 3, 4), np.uint8), 3, "with 3 planes, one for each class, found the shape (2, 3, 4)"),
        (np.full((2, 3, 4), 9, np.uint8), 2, "hold 0, 1 and 255 (void), and this one holds 9 (24 pixels)"),
        (INDICES.astype(int) * 30000, None, "whole numbers from 0 to 65535, found 90000 (20 pixels), 120000 (20"),
        (np.array([{}, {}]), None, "the mask cannot be read (Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_no_masks_are_refused(tmp_path: Path, array: np.ndarray, planes: int | None, said: str) -> None:
    told = refusal(NpyMasks(planes), saved(tmp_path, array, "m.npy"))
    assert told.startswith(f"{tmp_path}/m.npy: ")
    assert said in told


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def archived(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=INDICES)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, emptied, archived, removed])
def test_broken_arrays_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    pair = saved(tmp_path, INDICES, "m.npy")
    damage(pair.masks[0])
    assert refusal(NpyMasks(), pair).startswith(f"{tmp_path}/m.npy: the mask ")


# ---- a file for each class or object


def class_files(folder: Path) -> Pair:
    (folder / "car").mkdir()
    (folder / "road").mkdir()
    drawn = {"car/a.png": (slice(0, 2), 255), "car/a_2.png": (slice(4, 5), 1), "road/a.png": (slice(1, 3), 255)}
    for name, (rows, yes) in drawn.items():
        mask = np.zeros((6, 4), np.uint8)
        mask[rows] = yes
        Image.fromarray(mask).save(folder / name)
    return Pair(folder / "a.jpg", tuple(folder / name for name in drawn), "a")


def test_files_of_classes_are_planes_or_drawn_over_a_background(tmp_path: Path) -> None:
    pair = class_files(tmp_path)
    planes = ClassFiles(("car", "road", "tree"), overlapping=True)(pair)
    np.testing.assert_array_equal(planes[:, :, 0], [[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0], [0] * 6])
    np.testing.assert_array_equal(ClassFiles(("car", "road"))(pair)[:, 0], [1, 2, 2, 0, 1, 0])
    np.testing.assert_array_equal(ClassFiles(("road", "car"))(pair)[:, 0], [2, 2, 1, 0, 2, 0])  # the last is on top
    np.testing.assert_array_equal(ClassFiles(("thing",))(pair)[:, 0], [1, 1, 1, 0, 1, 0])


def test_an_image_without_any_file_is_background(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "a.png")
    assert ClassFiles(("car",))(Pair(tmp_path / "a.png", (), "a")).tolist() == [[0] * 5] * 3
    assert ClassFiles(("car", "road"), overlapping=True)(Pair(tmp_path / "a.png", (), "a")).shape == (2, 3, 5)


def test_files_of_no_class_or_of_different_sizes_are_refused(tmp_path: Path) -> None:
    pair = class_files(tmp_path)
    said = refusal(ClassFiles(("car", "tree")), pair)
    assert said == (
        f"{tmp_path}/road/a.png: neither the name of the mask nor its folder names a class. Classes: car, tree."
    )
    Image.new("L", (9, 6)).save(pair.masks[1])
    said = refusal(ClassFiles(("car", "road")), pair)
    assert f"{pair.masks[1]}: the mask is 9x6 pixels (width x height) and {pair.masks[0]}, of the same image" in said


@pytest.mark.parametrize(
    ("path", "known", "name"),
    [
        ("masks/a_car.png", (), "car"),
        ("masks/a_car_12.png", (), "car"),
        ("masks/a-traffic_light.png", (), "traffic_light"),
        ("masks/a_class_1.png", (), "class"),
        ("masks/a_class_1.png", ("class_1",), "class_1"),
        ("masks/a/car.png", (), "car"),
        ("masks/a/car3.png", (), "car"),
        ("masks/car/a.png", (), "car"),
        ("masks/car/a_3.png", (), "car"),
    ],
)
def test_the_class_is_found_in_the_name_or_the_folder(path: str, known: tuple[str, ...], name: str) -> None:
    assert class_in_name(Path(path), "a", known) == name
