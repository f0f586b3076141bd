"""``segrun check`` from the command to what it says, writes and draws."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg_cli.data.findings import KINDS
from tests.e2e.conftest import SHAPES, Outcome

Segrun = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / "check.json").read_text(encoding="utf-8"))


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        return np.asarray(picture).std() > 5


def kinds(report: dict[str, Any], level: str) -> list[str]:
    return [finding["kind"] for finding in report["findings"] if finding["level"] == level]


def spoil(root: Path) -> dict[str, Path]:
    """One of each mistake in a small CamVid; kind -> the file that is to be named."""
    train, val, test = ((root / f"{split}.txt").read_text().split() for split in ("train", "val", "test"))
    copied = root / "test" / f"{test[0]}.png"
    copied.write_bytes((root / "train" / f"{train[0]}.png").read_bytes())
    jpeg = root / "trainannot" / f"{train[1]}.png"
    Image.open(jpeg).save(jpeg, format="JPEG")
    void = root / "valannot" / f"{val[0]}.png"
    Image.fromarray(np.full((48, 64), 11, np.uint8)).save(void)
    truncated = root / "train" / f"{train[2]}.png"
    truncated.write_bytes(truncated.read_bytes()[:200])
    undefined = root / "testannot" / f"{test[1]}.png"
    mask = np.array(Image.open(undefined))
    mask[:2, :5] = 77
    Image.fromarray(mask).save(undefined)
    return {
        "same_picture": copied,
        "jpeg_mask": jpeg,
        "all_void": void,
        "unreadable": truncated,
        "undefined_label": undefined,
    }


def test_every_mistake_in_a_folder_is_found_and_named(segrun: Segrun, camvid_root: Path) -> None:
    spoilt = spoil(camvid_root)
    done = segrun("check", "data=camvid", f"data.root={camvid_root}", "loader.workers=2", "out=c", "samples=3")
    assert done.status == 1
    assert "Traceback" not in done.err
    assert done.err.startswith("error: data=camvid: 4 errors and ")
    assert "All of them: c/check.json" in done.err
    report = read("c")
    found = {finding["kind"]: finding for finding in report["findings"]}
    for kind, path in spoilt.items():
        assert str(path) in found[kind]["message"]
        assert found[kind]["message"] in done.out
    assert sorted(kinds(report, "error")) == ["jpeg_mask", "same_picture", "undefined_label", "unreadable"]
    assert report["errors"] == 4
    assert report["warnings"] == len(kinds(report, "warning"))
    assert "group_leak" in kinds(report, "warning")
    assert found["undefined_label"]["details"] == {"values": {"77": 10}}
    assert found["same_picture"]["samples"][1] == {
        "split": "test",
        "name": spoilt["same_picture"].stem,
        "files": [str(spoilt["same_picture"]), str(camvid_root / "testannot" / spoilt["same_picture"].name)],
    }
    assert report["splits"]["train"]["images"] == 4
    assert report["splits"]["train"]["usable"] == 2
    assert is_picture(Path("c/sheet.png"))


def test_a_sound_dataset_is_said_to_be_sound(segrun: Segrun) -> None:
    done = segrun("check", *SHAPES, "data.train=24", "data.val=12", "data.test=12", "samples=1")
    assert done.status == 0, done.err
    assert done.err == ""
    assert "reading shapes" in done.out
    assert "sound, with " in done.out
    (folder,) = Path("outputs/checks/shapes").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["check.json", "sheet.png"]
    assert str(folder / "sheet.png") in done.out
    report = read(folder)
    assert (report["schema"], report["errors"]) == (1, 0)
    assert report["data"]["choice"] == "shapes"
    assert report["labels"]["classes"][:2] == ["Ground", "Disk"]
    train = report["splits"]["train"]
    shares = [of["share"] for of in (*train["classes"].values(), train["void"])]
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    # Every class then adds the same to a mean over the pixels of training.
    balanced = report["weights"]["schemes"]["balanced"]
    products = [balanced[name] * of["pixels"] for name, of in train["classes"].items()]
    assert products == pytest.approx([products[0]] * 7, rel=1e-5)
    again = segrun("check", *SHAPES, "data.train=24", "data.val=12", "data.test=12", "samples=1")
    assert again.status == 0
    assert len(list(Path("outputs/checks/shapes").iterdir())) == 2


def test_augmented_samples_are_drawn_as_the_first_epochs_see_them(segrun: Segrun) -> None:
    options = ("check", *SHAPES, "augment=geometry", "loader.crop=[24,24]", "samples=1", "draws=2")
    for name, switch in (("a", "--sheet"), ("b", "sheet=true")):
        done = segrun(*options, switch, f"out={name}")
        assert done.status == 0, done.err
        assert f"{name}/augmented.png" in done.out
        assert is_picture(Path(name) / "augmented.png")
    assert Path("a/augmented.png").read_bytes() == Path("b/augmented.png").read_bytes()
    assert segrun(*options, "--sheet", "seed=1", "out=c").status == 0
    assert Path("a/augmented.png").read_bytes() != Path("c/augmented.png").read_bytes()
    assert Path("a/sheet.png").read_bytes() == Path("c/sheet.png").read_bytes()


def test_crops_that_need_to_know_the_masks(segrun: Segrun) -> None:
    done = segrun("check", *SHAPES, "crop=class_aware", "loader.crop=[24,24]", "samples=1", "--sheet", "out=a")
    assert done.status == 0, done.err
    assert is_picture(Path("a/augmented.png"))


def test_broken_masks_are_told_even_if_crops_need_to_know_them(segrun: Segrun, camvid_root: Path) -> None:
    path = next((camvid_root / "trainannot").iterdir())
    path.write_bytes(path.read_bytes()[:60])
    drawing = ("--sheet", "crop=class_aware", "loader.crop=[32,32]", "samples=1", "loader.workers=0")
    done = segrun("check", "data=camvid", f"data.root={camvid_root}", "out=c", *drawing)
    assert done.status == 1
    assert f"No augmented samples are drawn: {path}: the mask " in done.out
    assert kinds(read("c"), "error") == ["unreadable"]
    assert not Path("c/augmented.png").exists()


def test_of_many_findings_of_a_kind_ten_are_printed(segrun: Segrun, camvid_root: Path) -> None:
    for split in ("train", "val", "test"):
        for path in (camvid_root / f"{split}annot").iterdir():
            Image.fromarray(np.full((48, 64), 11, np.uint8)).save(path)
        images, masks = camvid_root / split, camvid_root / f"{split}annot"
        for i in range(5):
            image = next(images.iterdir())
            picture = np.random.default_rng(i + len(split) * 100).integers(0, 256, (48, 64, 3)).astype(np.uint8)
            Image.fromarray(picture).save(images / f"more_{split}{i}{image.suffix}")
            Image.fromarray(np.full((48, 64), 11, np.uint8)).save(masks / f"more_{split}{i}.png")
        (camvid_root / f"{split}.txt").unlink()
    done = segrun("check", "data=camvid", f"data.root={camvid_root}", "out=c", "loader.workers=0", "samples=1")
    assert done.status == 1  # no class has a pixel
    assert done.out.count("the mask is all void") == 10
    assert "and 14 more in c/check.json" in done.out
    assert kinds(read("c"), "warning").count("all_void") == 24
    assert read("c")["weights"]["schemes"] == {"balanced": None, "median_frequency": None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data=camvid"], "data.root=data/camvid: there is no such folder"),
        (["data=camvit"], "there is no dataset 'camvit'. Did you mean 'camvid'?"),
        (["drawz=3"], "there is no key 'drawz'. Did you mean 'draws'?"),
        (["samples=0"], "samples=0: it must be a whole number >= 1."),
        (["--sheat"], "--sheat: there is no such flag. Did you mean '--sheet'?"),
        ([*SHAPES, "--sheet", "augment.steps.flip.p=2"], "p=2"),
        ([*SHAPES, "--sheet", "crop=resized"], "loader.crop=null"),
    ],
)
def test_wrong_requests(segrun: Segrun, options: list[str], said: str) -> None:
    done = segrun("check", *options)
    assert (done.status, said in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


def test_the_flag_belongs_to_the_verb(segrun: Segrun) -> None:
    done = segrun("train", "--sheet")
    assert done.status == 2
    assert "--sheet: there is no such flag." in done.err


def test_a_file_in_the_place_of_the_folder(segrun: Segrun) -> None:
    Path("c").write_text("mine")
    done = segrun("check", *SHAPES, "out=c")
    assert done.status == 2
    assert "out=c: this is a file, and a folder is needed." in done.err
    assert Path("c").read_text() == "mine"


def test_several_datasets_are_checked_one_after_another(segrun: Segrun) -> None:
    done = segrun("check", "-m", *SHAPES, "data.seed=0,1", "samples=1", "out=c")
    assert done.status == 0, done.err
    assert done.out.count("sound, with") == 2
    assert [read(f"c_{job}")["data"]["settings"]["seed"] for job in (0, 1)] == [0, 1]


def test_real_camvid_passes_with_warnings(segrun: Segrun, shared: Path) -> None:
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"no CamVid: {root} is not there")
    done = segrun("check", "data=camvid", f"data.root={root}", "samples=1", "out=c")
    assert done.status == 0, done.err
    report = read("c")
    assert [split["images"] for split in report["splits"].values()] == [367, 101, 233]
    train = report["splits"]["train"]
    assert train["sizes"] == {"360x480": 367}
    known = [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3, 4.0]  # shared/DATA.md, the last is void
    shares = [100 * of["share"] for of in (*train["classes"].values(), train["void"])]
    assert shares == pytest.approx(known, abs=0.06)
    leaks = {found["details"]["group"] for found in report["findings"] if found["kind"] == "group_leak"}
    assert leaks == {"0001TP", "0016E5"}
    assert report["errors"] == 0
    assert report["weights"]["schemes"]["balanced"]["Bicyclist"] == pytest.approx(29.9, abs=0.1)


def test_every_kind_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    if not page.is_file():
        pytest.skip("docs/data.md is not there")
    text = page.read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


def test_a_folder_is_read_on_after_files_without_a_partner_and_broken_masks(segrun: Segrun, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for index in range(12):
        image = rng.integers(0, 255, (40, 48)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "mine/images" / f"{index}.png")
        Image.fromarray((image > 100).astype(np.uint8) * 255).save(tmp_path / "mine/masks" / f"{index}.png")
    masks = tmp_path / "mine/masks"
    (masks / "0.png").unlink()
    Image.open(masks / "1.png").save(masks / "1.jpg")
    (masks / "1.png").unlink()
    (masks / "2.png").write_bytes(b"")
    dark = (np.array(Image.open(tmp_path / "mine/images/3.png")).astype(np.uint16)) * 16
    Image.fromarray(dark).save(tmp_path / "mine/images/3.png")
    done = segrun("check", "data=folder", f"data.root={tmp_path / 'mine'}", "out=c", "loader.workers=0")
    assert done.status == 1
    found = {
        (of["kind"], Path(of["message"].split(": ")[0]).name) for of in read("c")["findings"] if of["level"] == "error"
    }
    assert found == {("unpaired", "0.png"), ("jpeg_mask", "1.jpg"), ("unreadable", "2.png")}
    assert [of["kind"] for of in read("c")["findings"] if of["level"] == "warning"] == ["depth"]
    assert "masks of two values: 0 is background" in done.out
