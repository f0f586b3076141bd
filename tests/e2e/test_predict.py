"""``segrun predict`` from the command to the files: what it makes of all kinds of images, and of broken ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli import cli
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "r"
    assert cli.run([*TINY, *SHAPES, f"run_dir={folder}"]) == 0
    return folder


def draw(path: Path, size: tuple[int, int] = (32, 40), mode: str = "RGB", seed: int = 0, **settings: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 255, (*size, *bands), dtype=np.uint8)
    Image.fromarray(values).save(path, **settings)  # type: ignore[arg-type]


def mask(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def test_images_of_all_kinds(segrun: Segrun, trained: Path) -> None:
    photos = Path("photos")
    draw(photos / "plain.jpg")
    draw(photos / "more" / "gray.png", (50, 41), "L")
    draw(photos / "more" / "alpha.png", mode="RGBA")
    exif = Image.Exif()
    exif[274] = 6  # it is to be turned by a quarter
    draw(photos / "turned.jpg", (30, 44), exif=exif)
    deep = np.random.default_rng(0).integers(0, 65535, (33, 35)).astype(np.uint16)
    Image.fromarray(deep).save(photos / "deep.png")
    draw(photos / "same.png")
    draw(photos / "same.jpg")
    done = segrun("predict", f"run={trained}", "input=photos", "out=p", "workers=2", "batch_size=2", "accelerator=cpu")
    assert done.status == 0, done.err
    assert done.err == ""
    assert "predicting 7/7" in done.out
    assert "predictions: p" in done.out
    sizes = {path.relative_to("p/masks").as_posix(): mask(str(path)).shape for path in Path("p/masks").rglob("*.png")}
    assert sizes == {
        "plain.png": (32, 40),
        "more/gray.png": (50, 41),
        "more/alpha.png": (32, 40),
        "turned.png": (44, 30),
        "deep.png": (33, 35),
        "same.png.png": (32, 40),
        "same.jpg.png": (32, 40),
    }
    assert len(list(Path("p/overlays").rglob("*.jpg"))) == 7
    about = json.loads(Path("p/labels.json").read_text())
    assert [entry["name"] for entry in about["classes"]][:2] == ["Ground", "Disk"]
    assert (about["checkpoint"], about["precision"]) == ("best", "fp32")
    assert Path("p/legend.png").is_file()

    # What a file is called, or which others come with it, changes nothing.
    alone = segrun("predict", f"run={trained}", "input=photos/more/alpha.png", "out=one", "save=[mask]")
    assert alone.status == 0, alone.err
    assert [path.as_posix() for path in Path("one/masks").rglob("*")] == ["one/masks/alpha.png"]
    assert np.array_equal(mask("one/masks/alpha.png"), mask("p/masks/more/alpha.png"))
    assert not Path("one/overlays").exists()


def test_settings_of_inference(segrun: Segrun, trained: Path) -> None:
    draw(Path("photos/a.png"), (64, 64))
    run = ("predict", f"run={trained}", "input=photos/*.png", "save=[mask,probabilities]")
    around = ("tta=flip+scale", "inference=sliding", "inference.window=32", "postprocess=components")
    assert segrun(*run, "out=plain").status == 0
    done = segrun(*run, *around, "out=more")
    assert done.status == 0, done.err
    shares = [np.load(f"{folder}/probabilities/a.npz")["probabilities"] for folder in ("plain", "more")]
    assert shares[0].shape == shares[1].shape == (7, 64, 64)
    assert np.abs(shares[0].astype(float) - shares[1]).max() > 1e-3


def test_a_broken_file_is_named_and_the_others_are_done(segrun: Segrun, trained: Path) -> None:
    for number in range(4):
        draw(Path(f"photos/{number}.png"), seed=number)
    whole = Path("photos/1.png").read_bytes()
    Path("photos/1.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/9.jpg").write_text("no picture")
    done = segrun("predict", f"run={trained}", "input=photos", "out=p", "save=[mask]", "workers=1")
    assert done.status == 1
    assert "photos/1.png: the image is truncated." in done.err
    assert "photos/9.jpg: this image is not an image file that can be read." in done.err
    assert "error: 2 of 5 images could not be predicted, and are named above. The others are in p." in done.err
    assert "Traceback" not in done.err
    assert sorted(path.name for path in Path("p/masks").iterdir()) == ["0.png", "2.png", "3.png"]


def test_wrong_requests_write_nothing(segrun: Segrun, trained: Path) -> None:
    draw(Path("photos/a.png"))
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    Path("unfinished").mkdir()
    Path("unfinished/config.yaml").write_text((trained / "config.yaml").read_text())
    run = f"run={trained}"
    for options, said in (
        ([run, "input=photos", "out=photos"], "out=photos: this is the folder of the images."),
        ([run, "input=empty", "out=p"], "input=empty: the folder holds no images"),
        ([run, "input=nowhere", "out=p"], "input=nowhere: there is no such file or folder"),
        ([run, "input=photos", "out=full"], "out=full: there is something in this folder"),
        ([run, "input=photos", "out=full", "overwrite=true"], "out=full: there is something in this folder"),
        (["run=unfinished", "input=photos", "out=p"], "run=unfinished: unfinished/checkpoints/best.ckpt is not there"),
        (["input=photos", "out=p"], "predict: a model is needed, and one alone: type run=RUN, or model=FILE.onnx."),
        (["model=m.onnx", "input=photos", "out=p"], "model=m.onnx: there is no such file."),
        ([run, "input=photos", "out=p", "threshold=0.4"], "threshold=0.4: the classes of this model exclude each"),
        ([run, "input=photos", "out=p", "save=[masks]"], "save=[masks]: it must be some of [mask,overlay,"),
        ([run, "input=photos"], "out: it has no value yet."),
        ([run, "input=photos", "out=p", "tta=flop"], "Did you mean 'flip'?"),
    ):
        done = segrun("predict", *options)
        assert (done.status, said in done.err) == (2, True), done.err
        assert not Path("p").exists()
    assert [path.name for path in Path("full").iterdir()] == ["thesis.txt"]


def test_predictions_inside_the_folder_of_the_images_and_over_earlier_ones(segrun: Segrun, trained: Path) -> None:
    draw(Path("photos/a.png"))
    run = ("predict", f"run={trained}", "input=photos", "out=photos/p")
    assert segrun(*run).status == 0
    again = segrun(*run)
    assert again.status == 2
    assert "type overwrite=true" in again.err
    assert segrun(*run, "overwrite=true").status == 0
    assert [path.name for path in Path("photos/p/masks").iterdir()] == ["a.png"]
