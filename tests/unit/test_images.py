"""Every kind of image file becomes the pixels that a model is to see, and what cannot is refused by name."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from seg_cli.data.images import ImageReader, is_turned, picture_size, read_plain
from seg_cli.errors import UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (20, 30), np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
RGBA = RNG.integers(0, 256, (20, 30, 4), np.uint8)
GRAY16 = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
RGB16 = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
SMOOTH = np.stack(np.meshgrid(np.arange(30) * 8, np.arange(20) * 12), -1)[..., [0, 1, 0]].astype(np.uint8)  # for JPEG


def save(path: Path, values: np.ndarray | Image.Image, **settings: object) -> Path:
    picture = values if isinstance(values, Image.Image) else Image.fromarray(values)
    picture.save(path, **settings)  # type: ignore[arg-type]
    return path


def save_16_bits(path: Path, values: np.ndarray) -> Path:
    """Pillow has no RGB of 16 bits."""
    path.write_bytes(cv2.imencode(path.suffix, values[..., ::-1])[1].tobytes())
    return path


# ---- colours and bits


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_rgb_is_itself_in_every_lossless_format(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(ImageReader()(save(tmp_path / f"a.{suffix}", RGB)), RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_is_repeated_and_alpha_dropped_for_three_channels(tmp_path: Path, suffix: str) -> None:
    gray = ImageReader()(save(tmp_path / f"g.{suffix}", GRAY))
    np.testing.assert_array_equal(gray, np.stack([GRAY] * 3, -1))
    path = save(tmp_path / f"a.{suffix}", RGBA)
    np.testing.assert_array_equal(ImageReader()(path), RGBA[..., :3])
    np.testing.assert_array_equal(ImageReader(channels=4)(path), RGBA)


def test_one_channel_is_gray_or_the_luma_of_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(ImageReader(channels=1)(save(tmp_path / "g.png", GRAY)), GRAY[..., None])
    luma = np.rint(RGB @ [0.299, 0.587, 0.114])
    for values, name in ((RGB, "c.png"), (np.dstack((RGB, GRAY)), "a.png")):
        found = ImageReader(channels=1)(save(tmp_path / name, values))
        assert found.shape == (20, 30, 1)
        np.testing.assert_allclose(found[..., 0], luma, atol=1)


def test_gray_with_alpha_is_its_gray(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())]))
    np.testing.assert_array_equal(ImageReader(channels=1)(path)[..., 0], GRAY)
    np.testing.assert_array_equal(ImageReader()(path)[..., 2], GRAY)
    np.testing.assert_array_equal(read_plain(path, "image")[..., 1], GRAY[::-1])


def test_a_palette_is_colours_in_an_image_and_indices_in_plain(tmp_path: Path) -> None:
    palette = RNG.integers(0, 256, (256, 3), np.uint8)
    picture = Image.fromarray(GRAY).convert("P")
    picture.putpalette(palette.tobytes())
    for suffix in ("png", "gif", "tif"):
        path = save(tmp_path / f"p.{suffix}", picture, **({"optimize": False} if suffix == "gif" else {}))
        np.testing.assert_array_equal(ImageReader()(path), palette[GRAY])
        np.testing.assert_array_equal(read_plain(path, "mask"), GRAY)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_the_stored_values_in_plain_and_white_is_255_in_an_image(tmp_path: Path, bits: int) -> None:
    values = (GRAY >> (8 - bits)).astype(np.uint8)
    path = tmp_path / "g.png"
    path.write_bytes(
        png(np.packbits(np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(20, -1), axis=1), bits)
    )
    np.testing.assert_array_equal(read_plain(path, "mask"), values)
    np.testing.assert_array_equal(ImageReader(channels=1)(path)[..., 0], values * (255 // (2**bits - 1)))


def png(rows: np.ndarray, bits: int) -> bytes:
    """A gray PNG of 30 columns, since Pillow writes none of 2 and 4 bits."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 30, len(rows), bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_jpeg_of_every_kind_is_what_pillow_reads(tmp_path: Path) -> None:
    for mode in ("RGB", "L", "CMYK"):
        path = save(tmp_path / f"{mode}.jpg", Image.fromarray(SMOOTH).convert(mode), quality=95)
        with Image.open(path) as picture:
            expected = np.asarray(picture.convert("RGB")).astype(int)
        found = ImageReader()(path)
        assert found.dtype == np.uint8
        assert np.abs(found - expected).max() <= (2 if mode == "RGB" else 0)  # OpenCV has libjpeg of another version
    gray = ImageReader(channels=1)(tmp_path / "RGB.jpg")
    np.testing.assert_allclose(gray[..., 0], SMOOTH @ [0.299, 0.587, 0.114], atol=6)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_lose_nothing(tmp_path: Path, suffix: str) -> None:
    path = save_16_bits(tmp_path / f"c{suffix}", RGB16)
    np.testing.assert_array_equal(read_plain(path, "image"), RGB16)
    found = ImageReader()(path)
    assert found.dtype == np.float32
    assert found.max() <= 255
    np.testing.assert_array_equal(np.rint(found.astype(float) * 257), RGB16)
    path = save(tmp_path / f"g{suffix}", GRAY16)
    np.testing.assert_array_equal(read_plain(path, "mask"), GRAY16)
    np.testing.assert_allclose(ImageReader(channels=1)(path)[..., 0], GRAY16 / 257, rtol=1e-6)


def test_a_range_of_values_becomes_0_to_255_and_what_lies_outside_is_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2500, 4000, 65535]], np.uint16)
    found = ImageReader(channels=1, value_range=[1000, 4000])(save(tmp_path / "a.png", values))
    np.testing.assert_allclose(found[0, :, 0], [0, 0, 127.5, 255, 255])
    floats = np.array([[-0.5, 0.25, np.nan, 7]], np.float32)
    found = ImageReader(channels=1, value_range=(-1, 1))(save(tmp_path / "f.tif", floats))
    np.testing.assert_allclose(found[0, :, 0], [63.75, 159.375, 0, 255])
    assert found.dtype == np.float32


def test_float_files_need_a_range(tmp_path: Path) -> None:
    path = save(tmp_path / "f.tif", np.array([[-0.5, 0.25]], np.float32))
    with pytest.raises(UserError, match=r"f\.tif: .* float32 values, here -0\.5 to 0\.25.* type data\.value_range="):
        ImageReader(channels=1)(path)


@pytest.mark.parametrize("wrong", [[1], [3, 3], [5, 2]])
def test_a_range_that_is_none_is_refused(wrong: list[float]) -> None:
    with pytest.raises(UserError, match=r"data\.value_range=\[.*\]: expected \[low, high\] with low < high"):
        ImageReader(value_range=wrong)


# ---- bands


@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planes"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_many_bands(tmp_path: Path, dtype: type, planar: bool) -> None:
    tifffile = pytest.importorskip("tifffile")
    for bands in (2, 3, 4, 12):
        values = RNG.integers(0, np.iinfo(dtype).max, (20, 30, bands)).astype(dtype)
        path = tmp_path / f"{bands}.tif"
        stored = np.moveaxis(values, -1, 0) if planar else values
        config = "separate" if planar else "contig"
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=config, compression="zlib")
        np.testing.assert_array_equal(read_plain(path, "image"), values)
        found = ImageReader(channels=bands)(path)
        np.testing.assert_allclose(found, values / (257 if dtype is np.uint16 else 1), rtol=1e-6)
        assert picture_size(path) == (20, 30)


def test_another_number_of_bands_is_an_error_that_names_both(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    with pytest.raises(UserError, match=r"a\.png: the image has 3 bands and data\.channels=4 asks for 4"):
        ImageReader(channels=4)(path)
    with pytest.raises(UserError, match=r"g\.png: the image has 1 band and data\.channels=12 asks"):
        ImageReader(channels=12)(save(tmp_path / "g.png", GRAY))
    with pytest.raises(UserError, match=r"data\.channels=0"):
        ImageReader(channels=0)


def test_where_tifffile_is_missing_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(UserError, match=r"6 bands and 8 bits .*pip install 'segrun\[tiff\]'"):
        ImageReader(channels=6)(tmp_path / "a.tif")


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"a.{suffix}", SMOOTH, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture)).astype(int)
    found = ImageReader()(path)
    assert np.abs(found - expected).max() <= (2 if suffix == "jpg" else 0)
    assert picture_size(path) == found.shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))
    if suffix != "tif":
        assert is_turned(path) == (orientation >= 5)
        assert read_plain(path, "image").shape == (20, 30, 3)


def test_16_bits_are_kept_when_a_picture_is_turned(tmp_path: Path) -> None:
    """Pillow, which reads PNG of RGB with 16 bits, gives 8 of them."""
    exif = Image.Exif()
    exif[274] = 6
    whole = io.BytesIO()
    Image.fromarray(RGB).save(whole, "PNG", exif=exif)
    chunk = whole.getvalue()[(place := whole.getvalue().index(b"eXIf") - 4) : place + 12 + len(exif.tobytes()) - 6]
    path = save_16_bits(tmp_path / "a.png", RGB16)
    path.write_bytes(path.read_bytes()[:33] + chunk + path.read_bytes()[33:])
    np.testing.assert_allclose(ImageReader()(path), np.rot90(RGB16, -1) / 257, rtol=1e-6)


# ---- broken files


@pytest.mark.parametrize("tail", [b"", b"\0" * 40], ids=["", "zeros"])
@pytest.mark.parametrize("progressive", [False, True])
def test_half_a_jpeg_is_not_half_a_picture(tmp_path: Path, progressive: bool, tail: bytes) -> None:
    picture = RNG.integers(0, 256, (200, 200, 3), np.uint8)
    path = save(tmp_path / "a.jpg", picture, quality=90, progressive=progressive)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert ImageReader()(path).shape == (200, 200, 3)
    for channels in (1, 3):
        for share in (0.3, 0.6, 0.999):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(UserError, match=r"a\.jpg: the image is truncated"):
                ImageReader(channels=channels)(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bands", [3, 5])
def test_a_tiff_cut_short_or_damaged_never_ends_in_a_traceback(tmp_path: Path, bands: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = RNG.integers(0, 256, (20, 30, bands), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", compression="zlib")
    whole = path.read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        data[RNG.integers(len(data))] = RNG.integers(256)
        path.write_bytes(data if RNG.random() < 0.7 else data[: RNG.integers(len(data))])
        try:
            ImageReader(channels=bands)(path)
        except UserError as error:
            assert "a.tif" in str(error) or "data.channels" in str(error)  # noqa: PT017
