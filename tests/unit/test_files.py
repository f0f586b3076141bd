"""Reading images and masks, and refusing the broken ones by name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seg_cli.data.files import Pair, hash_files
from seg_cli.data.images import ImageReader
from seg_cli.data.masks import read_index
from seg_cli.errors import UserError

PICTURE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
read_image = ImageReader()
MASK = np.kron(np.arange(6).reshape(2, 3), np.ones((10, 10))).astype(np.uint8)


def read_mask(path: Path) -> np.ndarray:
    return read_index(Pair(path, (path,), "m"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_every_mode_of_image_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(PICTURE).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8


def test_a_palette_mask_is_its_indices_and_not_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK).convert("P")
    picture.putpalette([200, 100, 50] * 256)
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), MASK)


def test_a_mask_of_one_bit_is_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(MASK > 2).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    np.testing.assert_array_equal(mask, MASK > 2)
    assert mask.dtype == np.uint8


def test_a_mask_that_is_no_index_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: expected a mask of one label value \(8 or 16 bits\) a pixel, found "):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 0.95))
def test_a_file_cut_short_anywhere_is_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(PICTURE).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: "):
        read_image(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), value=st.integers(0, 255), suffix=st.sampled_from(["jpg", "png"]))
def test_a_damaged_byte_never_ends_in_a_traceback(tmp_path: Path, place: float, value: int, suffix: str) -> None:
    path = tmp_path / f"damaged.{suffix}"
    Image.fromarray(PICTURE).save(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = value
    path.write_bytes(data)
    refusal = path.name
    try:
        read_image(path)
    except UserError as error:
        refusal = str(error)
    assert path.name in refusal


def test_what_is_no_image_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(UserError, match=r"notes\.png: this image is not an image file that can be read"):
        read_image(tmp_path / "notes.png")
    with pytest.raises(UserError, match=r"gone\.png: the mask is not there any more"):
        read_mask(tmp_path / "gone.png")


def test_the_hash_is_of_what_files_hold_and_not_of_where_they_lie(tmp_path: Path) -> None:
    def write(folder: str, picture: np.ndarray, name: str = "a") -> list[Pair]:
        (tmp_path / folder).mkdir()
        pair = Pair(tmp_path / folder / "image.png", (tmp_path / folder / "mask.png",), name)
        Image.fromarray(picture).save(pair.image)
        Image.fromarray(MASK).save(pair.masks[0])
        return [pair]

    here = hash_files(write("here", PICTURE))
    assert hash_files(write("there", PICTURE)) == here
    assert hash_files(write("other", PICTURE // 2)) != here
    assert hash_files(write("renamed", PICTURE, name="b")) != here
