"""Trees of images and masks as people have them: found, paired, split and understood; and each mistake is named."""

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from seg_cli.data.folder import Folder
from seg_cli.data.labels import VOID
from seg_cli.data.loading import scoring_loader
from seg_cli.errors import UserError

STEMS = [f"v{i // 3}_{i:03d}" for i in range(12)]  # frames of four videos
COLORS = [(0, 0, 0), (255, 0, 0), (0, 128, 0)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def draw(stem: str) -> np.ndarray:
    """Labels of an image: 0, 1 and 2 in every one, of places that follow from the name."""
    shift = sum(map(ord, stem)) % 5
    mask = np.zeros((6, 9), np.uint8)
    mask[1:3, shift : shift + 4] = 1
    mask[4:5, 2:7] = 2
    return mask


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


def tree(
    root: Path,
    images: str = "images/{}.jpg",
    masks: str = "masks/{}.png",
    *,
    stems: Iterable[str] = STEMS,
    encode: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
) -> Path:
    for stem in stems:
        mask = draw(stem)
        save(root / images.format(stem), np.stack([mask * 100] * 3, -1))
        save(root / masks.format(stem), encode(mask))
    return root


def painted(mask: np.ndarray) -> np.ndarray:
    return np.array(COLORS, np.uint8)[mask]


def binary(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 1, 255, 0).astype(np.uint8)


def sizes(data: Folder) -> tuple[int, ...]:
    assert list(data.splits) == ["train", "val", "test"]
    return tuple(len(split) for split in data.splits.values())


def check_masks(data: Folder, expected: Callable[[str], np.ndarray] = draw) -> None:
    for split in data.splits.values():
        for index in range(len(split)):
            sample = split[index]
            stem = Path(sample.name).name
            np.testing.assert_array_equal(sample.mask, expected(stem), err_msg=sample.name)


def refusal(**settings: Any) -> str:
    with pytest.raises(UserError) as refused:
        Folder(**settings)
    return str(refused.value)


# ---- where things are

LAYOUTS = [
    ("images/{}.jpg", "masks/{}.png"),
    ("Images/{}.tif", "Ground_Truth/{}.png"),
    ("img/{}.png", "labels/{}_L.png"),
    ("imgs/{}_image.png", "annotations/{}_mask.png"),
    ("{}.jpg", "{}.png"),
    ("{}.png", "{}_mask.png"),
    ("{}_sat.jpg", "{}_mask.png"),
    ("{}.jpg", "masks/{}.gif"),
    ("images/day 1/{}.jpg", "masks/day 1/{}.png"),
    ("images/north/{}.jpg", "masks/{}.png"),
    ("leftImg8bit/x/{}_leftImg8bit.png", "gtFine/x/{}_gtFine_labelIds.png"),
    ("images/{}.jpg", "masks/{}.annotated.by.me.png"),
]


@pytest.mark.parametrize(("images", "masks"), LAYOUTS)
def test_images_and_masks_are_found_and_paired(tmp_path: Path, images: str, masks: str) -> None:
    data = Folder(root=str(tree(tmp_path, images, masks)))
    assert sum(sizes(data)) == 12
    check_masks(data)


SPLIT_LAYOUTS = [
    ("{split}/images/{}.jpg", "{split}/masks/{}.png"),
    ("images/{split}/{}.jpg", "masks/{split}/{}.png"),
    ("{split}/{}.jpg", "{split}annot/{}.png"),
    ("{split}/{}.jpg", "{split}_masks/{}.png"),
    ("{split}_images/{}.jpg", "{split}_labels/{}.png"),
    ("{split}/{}.jpg", "{split}/{}.png"),
    ("img/{split}/{}.jpg", "gt/{split}/{}_gt.png"),
]


@pytest.mark.parametrize(("images", "masks"), SPLIT_LAYOUTS)
@pytest.mark.parametrize("spelling", [("train", "val", "test"), ("Training", "validation", "testing")])
def test_folders_of_splits_are_found(tmp_path: Path, images: str, masks: str, spelling: tuple[str, str, str]) -> None:
    stems = {spelling[0]: STEMS[:6], spelling[1]: STEMS[6:8], spelling[2]: STEMS[8:]}
    for split, of in stems.items():
        tree(tmp_path, images.replace("{split}", split), masks.replace("{split}", split), stems=of)
    data = Folder(root=str(tmp_path))
    assert sizes(data) == (6, 2, 4)
    assert [data.splits["val"][i].name for i in range(2)] == STEMS[6:8]
    check_masks(data)
    assert sum(sizes(Folder(root=str(tmp_path), splits="fractions"))) == 12


def test_names_that_nobody_would_guess_are_taken_from_the_settings(tmp_path: Path) -> None:
    tree(tmp_path, "rgb_left/{}.png", "final/{}.png")
    tree(tmp_path, "thermal/{}.png", "draft/{}.png")
    check_masks(Folder(root=str(tmp_path), images="rgb_left", masks="final"))
    tree(tmp_path / "b", "photo/{}-a.png", "photo/{}-b.png")
    check_masks(Folder(root=str(tmp_path / "b"), images="photo", masks="photo", image_suffix="-a", mask_suffix="-b"))


def test_masks_of_several_kinds_beside_one_another_want_a_suffix(tmp_path: Path) -> None:
    tree(tmp_path, "images/{}.png", "masks/{}_final.png")
    tree(tmp_path, "images/{}.png", "masks/{}_gt.png")
    check_masks(Folder(root=str(tmp_path), mask_suffix="_final"))
    check_masks(Folder(root=str(tmp_path)))  # _gt is a usual one
    tree(tmp_path, "images/{}.png", "masks/{}_seg.png")
    said = refusal(root=str(tmp_path))
    assert "have several suffixes: '_final' (12 masks), '_gt' (12 masks), '_seg' (12 masks). Say which: data." in said


def test_a_name_that_begins_like_another_is_not_taken_for_it(tmp_path: Path) -> None:
    check_masks(Folder(root=str(tree(tmp_path, masks="masks/{}_drawn.png", stems=["1", "10", "100", "2"]))))


def test_images_beside_a_folder_of_test_are_what_is_learned_from(tmp_path: Path) -> None:
    tree(tmp_path, stems=STEMS[:8])
    tree(tmp_path, "test/images/{}.jpg", "test/masks/{}.png", stems=STEMS[8:])
    data = Folder(root=str(tmp_path), fractions=[0.6, 0.2, 0.2])
    assert sizes(data) == (6, 2, 4)
    assert [data.splits["test"][i].name for i in range(4)] == STEMS[8:]


def test_only_train_is_divided_and_a_test_without_masks_is_left_out(tmp_path: Path) -> None:
    tree(tmp_path, "train/{}.jpg", "train_masks/{}.png")
    save(tmp_path / "test" / "z.jpg", np.zeros((6, 9, 3), np.uint8))
    data = Folder(root=str(tmp_path), fractions=[0.5, 0.25, 0.25])
    assert sizes(data) == (6, 3, 3)
    assert f"test: {tmp_path}/test has no masks and is left out" in data.notes
    assert any(note.startswith("12 samples of train, the only split to learn from,") for note in data.notes)


def test_without_a_test_split_it_is_val_and_that_is_said(tmp_path: Path) -> None:
    for split, of in (("train", STEMS[:9]), ("val", STEMS[9:])):
        tree(tmp_path, f"{split}/images/{{}}.png", f"{split}/masks/{{}}.png", stems=of)
    data = Folder(root=str(tmp_path))
    assert sizes(data) == (9, 3, 3)
    assert "there is no test split: test is val, so its scores are not those of unseen images" in data.notes


def test_lists_are_obeyed_and_images_without_a_mask_may_be_there(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "masks" / f"{STEMS[11]}.png").unlink()
    (tmp_path / "splits").mkdir()
    for split, of in (("train", STEMS[:5]), ("val", STEMS[5:7]), ("test", STEMS[7:9])):
        (tmp_path / "splits" / f"{split}.txt").write_text("\n".join(of))
    data = Folder(root=str(tmp_path))
    assert sizes(data) == (5, 2, 2)
    (tmp_path / "splits" / "val.txt").write_text(f"{STEMS[11]}\n")
    assert refusal(root=str(tmp_path)).startswith(f"{tmp_path}/splits/val.txt: 1 of the 1 names are of no image with")


def test_groups_are_on_the_samples_and_stay_whole(tmp_path: Path) -> None:
    data = Folder(root=str(tree(tmp_path)), group="^(v[0-9])_", fractions=[0.5, 0.25, 0.25])
    groups = {name: {split[i].group for i in range(len(split))} for name, split in data.splits.items()}
    assert sorted(map(len, groups.values())) == [1, 1, 2]
    assert set.union(*groups.values()) == {"v0", "v1", "v2", "v3"}


def test_the_fingerprint_follows_the_data_and_not_its_place(tmp_path: Path) -> None:
    before = Folder(root=str(tree(tmp_path / "a"))).fingerprint()
    assert Folder(root=str(tree(tmp_path / "b"))).fingerprint() == before
    assert Folder(root=str(tmp_path / "b"), seed=1).fingerprint() != before
    save(tmp_path / "b" / "masks" / f"{STEMS[0]}.png", draw(STEMS[0])[::-1].copy())
    assert Folder(root=str(tmp_path / "b")).fingerprint() != before


# ---- what masks are


def test_values_found_are_classes_and_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, encode=lambda mask: np.where(mask == 2, 255, mask * 7).astype(np.uint8))
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["class 0", "class 7"]
    assert "2 classes, the values found in the masks: 0, 7; classes.txt would name them" in data.notes
    check_masks(data, lambda stem: np.where(draw(stem) == 2, VOID, draw(stem)))

    monkeypatch.setattr("seg_cli.data.mask_scan.ThreadPoolExecutor.map", only_hash)
    assert list(Folder(root=str(tmp_path)).labels.names) == ["class 0", "class 7"]
    save(tmp_path / "masks" / f"{STEMS[0]}.png", draw(STEMS[0]) * 9)
    with pytest.raises(AssertionError, match="masks are read again"):
        Folder(root=str(tmp_path))


def only_hash(_: object, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    """In place of a pool's map: hashing masks is allowed, decoding them is not."""
    assert function.__name__ == "_hash", "masks are read again"
    return [function(item) for item in items]


def test_16_bit_masks_and_another_ignore_value(tmp_path: Path) -> None:
    tree(tmp_path, encode=lambda mask: mask.astype(np.uint16) * 1000)
    data = Folder(root=str(tmp_path), ignore_value=2000)
    assert list(data.labels.names) == ["class 0", "class 1000"]
    check_masks(data, lambda stem: np.where(draw(stem) == 2, VOID, draw(stem)))


@pytest.mark.parametrize(
    "table",
    [
        "ground\nroad\ncar\n",
        "0 ground\n1 road\n2 car\n",
        "9 9 9 ground\n8 8 8 road\n7 7 7 car\n",
        "0 9 9 9 ground\n1 8 8 8 road\n2 7 7 7 car\n",
    ],
)
def test_classes_txt_names_the_values(tmp_path: Path, table: str) -> None:
    tree(tmp_path)
    (tmp_path / "classes.txt").write_text(table)
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["ground", "road", "car"]
    if "9 9 9" in table:
        assert list(data.labels.colors) == [(9, 9, 9), (8, 8, 8), (7, 7, 7)]
    check_masks(data)


def test_void_in_the_table_is_no_class(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "classes.txt").write_text("ground\nvoid\ncar\n")
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["ground", "car"]
    check_masks(data, lambda stem: np.array([0, VOID, 1], np.uint8)[draw(stem)])


def test_names_in_the_settings_go_before_the_table_and_choose_works_on_them(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    settings = {"names": ["ground", "road", "car"], "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    data = Folder(root=str(tmp_path), **settings, classes={"merge": {"thing": ["road", "car"]}})
    assert list(data.labels.names) == ["ground", "thing"]
    assert list(data.labels.colors) == [(1, 2, 3), (4, 5, 6)]
    check_masks(data, lambda stem: np.minimum(draw(stem), 1))


def test_an_undefined_value_is_named_with_its_file(tmp_path: Path) -> None:
    tree(tmp_path)
    data = Folder(root=str(tmp_path), names=["ground", "road"])
    with pytest.raises(UserError, match=r"masks/v\d_\d+\.png: the mask holds label values .* 2 \(5 pixels\)"):
        data.splits["train"][0]


@pytest.mark.parametrize("yes", [1, 255])
def test_masks_of_two_values_are_binary(tmp_path: Path, yes: int) -> None:
    tree(tmp_path, encode=lambda mask: (mask == 1).astype(np.uint8) * np.uint8(yes))
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["background", "foreground"]
    check_masks(data, lambda stem: (draw(stem) == 1).astype(np.uint8))
    assert list(Folder(root=str(tmp_path), names=["sky", "cell"]).labels.names) == ["sky", "cell"]
    overlapping = Folder(root=str(tmp_path), multilabel=True)
    assert overlapping.labels.overlapping
    assert list(overlapping.labels.names) == ["foreground"]
    check_masks(overlapping, lambda stem: (draw(stem) == 1).astype(np.uint8)[None])


def test_0_and_255_with_a_1_in_one_mask_alone_is_no_binary_dataset(tmp_path: Path) -> None:
    tree(tmp_path, encode=binary)
    save(tmp_path / "masks" / f"{STEMS[5]}.png", np.minimum(draw(STEMS[5]), 1))
    assert list(Folder(root=str(tmp_path)).labels.names) == ["class 0", "class 1"]


def test_colours_are_looked_up_in_the_table(tmp_path: Path) -> None:
    tree(tmp_path, encode=painted)
    (tmp_path / "classes.txt").write_text("0 128 0 road\n0 0 0 void\n255 0 0 car\n")
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["road", "car"]
    check_masks(data, lambda stem: np.array([VOID, 1, 0], np.uint8)[draw(stem)])


def test_colours_without_a_table_are_listed_to_be_pasted(tmp_path: Path) -> None:
    tree(tmp_path, encode=painted)
    said = refusal(root=str(tmp_path))
    assert said.startswith("data.masks: the masks are colours, and nothing says what they mean. Save these lines")
    lines = said.splitlines()[1:]
    assert lines == ["0 0 0 background", "255 0 0 class_1", "0 128 0 class_2"]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    check_masks(Folder(root=str(tmp_path)))


def test_a_palette_is_matched_by_colour_with_a_table_of_colours_and_by_index_without(tmp_path: Path) -> None:
    tree(tmp_path)
    for stem in STEMS:
        picture = Image.fromarray(draw(stem)).convert("P")
        picture.putdata(draw(stem).ravel().tolist())
        picture.putpalette([band for color in COLORS for band in color])
        picture.save(tmp_path / "masks" / f"{stem}.png")
    data = Folder(root=str(tmp_path))
    assert list(data.labels.colors) == COLORS  # the palette's
    check_masks(data)
    (tmp_path / "classes.txt").write_text("0 128 0 road\n255 0 0 car\n0 0 0 ground\n")
    check_masks(Folder(root=str(tmp_path)), lambda stem: 2 - np.array([0, 1, 2], np.uint8)[draw(stem)])


def test_arrays_are_masks(tmp_path: Path) -> None:
    tree(tmp_path, masks="masks/{}.npy", encode=lambda mask: mask.astype(np.int64) - 1)
    data = Folder(root=str(tmp_path), ignore_value=-1)
    assert list(data.labels.names) == ["class 0", "class 1"]
    check_masks(data, lambda stem: np.array([VOID, 0, 1], np.uint8)[draw(stem)])


def test_planes_of_arrays_overlap(tmp_path: Path) -> None:
    tree(tmp_path, masks="masks/{}.npy", encode=lambda mask: np.stack([mask > 0, mask == 2]))
    said = refusal(root=str(tmp_path))
    assert "the array has the shape (2, 6, 9), planes of overlapping labels. Type data.multilabel=true" in said
    data = Folder(root=str(tmp_path), multilabel=True, names=["thing", "car"])
    assert data.labels.overlapping
    check_masks(data, lambda stem: np.stack([draw(stem) > 0, draw(stem) == 2]).astype(np.uint8))


@pytest.mark.parametrize("masks", ["masks/{}_{name}.png", "masks/{}/{name}.png", "masks/{name}/{}.png"])
def test_a_file_for_each_class(tmp_path: Path, masks: str) -> None:
    for index, name in ((1, "road"), (2, "car")):
        encode = lambda mask, index=index: np.where(mask == index, 255, 0).astype(np.uint8)  # noqa: E731
        tree(tmp_path, masks=masks.replace("{name}", name), encode=encode)
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["background", "car", "road"]
    check_masks(data, lambda stem: np.array([0, 2, 1], np.uint8)[draw(stem)])
    data = Folder(root=str(tmp_path), multilabel=True, names=["road", "car"])
    check_masks(data, lambda stem: np.stack([draw(stem) == 1, draw(stem) == 2]).astype(np.uint8))
    assert "Classes: bike, car." in refusal(root=str(tmp_path), names=["bike", "car"])


def test_a_file_for_each_object_of_one_class(tmp_path: Path) -> None:
    for index in (1, 2):
        encode = lambda mask, index=index: (mask == index).astype(np.uint8)  # noqa: E731
        tree(tmp_path, masks=f"masks/{{}}/{index}b9{index}.png", encode=encode)
    (tmp_path / "masks" / STEMS[0] / "1b91.png").unlink()
    (tmp_path / "masks" / STEMS[0] / "2b92.png").unlink()
    data = Folder(root=str(tmp_path), names=["cell"])
    assert list(data.labels.names) == ["background", "cell"]
    assert any("1 images have none and are background" in note for note in data.notes)
    check_masks(data, lambda stem: (draw(stem) > 0).astype(np.uint8) * (stem != STEMS[0]))


# ---- COCO


def coco(stems: Iterable[str], path: Path) -> None:
    """The box of class 1 of each image as a polygon of the category ``road``."""
    images, annotations = [], []
    for number, stem in enumerate(stems):
        x = sum(map(ord, stem)) % 5
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": 6, "width": 9})
        corners = [x, 1, x + 4, 1, x + 4, 3, x, 3]
        annotations.append({"id": number, "image_id": number, "category_id": 5, "segmentation": [corners], "area": 8})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "road"}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("place", ["annotations.json", "annotations/instances.json", "labels.coco.json"])
def test_coco_annotations_beside_a_folder_of_images(tmp_path: Path, place: str) -> None:
    pytest.importorskip("pycocotools")
    tree(tmp_path, masks="elsewhere/{}.png")
    coco(STEMS, tmp_path / place)
    data = Folder(root=str(tmp_path))
    assert list(data.labels.names) == ["background", "road"]
    assert f"images: {tmp_path}/images, 12 images of {tmp_path}/{place}" in data.notes
    check_masks(data, lambda stem: (draw(stem) == 1).astype(np.uint8))
    check_masks(Folder(root=str(tmp_path), masks=place, multilabel=True), lambda stem: (draw(stem) == 1)[None])

    before = data.fingerprint()
    (tmp_path / place).write_text((tmp_path / place).read_text().replace("[[", "[ ["))  # as many bytes but one
    assert Folder(root=str(tmp_path)).fingerprint() != before


@pytest.mark.parametrize(
    ("images", "annotations", "masks"),
    [
        ("{split}2017/{}.jpg", "annotations/instances_{split}2017.json", "auto"),
        ("{split}2017/{}.jpg", "annotations/my_{split}.json", "annotations/my_SPLIT.json"),
        ("{split}/{}.jpg", "{split}/_annotations.coco.json", "auto"),
        ("images/{split}/{}.jpg", "annotations/{split}.json", "auto"),
    ],
)
def test_coco_annotations_of_each_split(tmp_path: Path, images: str, annotations: str, masks: str) -> None:
    pytest.importorskip("pycocotools")
    for split, of in (("train", STEMS[:8]), ("val", STEMS[8:])):
        tree(tmp_path, images.replace("{split}", split), "elsewhere/{}.png", stems=of)
        coco(of, tmp_path / annotations.replace("{split}", split))
    data = Folder(root=str(tmp_path), masks=masks)
    assert sizes(data) == (8, 4, 4)
    check_masks(data, lambda stem: (draw(stem) == 1).astype(np.uint8))


def test_names_and_kinds_do_not_go_with_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    tree(tmp_path, masks="elsewhere/{}.png")
    said = refusal(root=str(tmp_path), masks_are="coco")
    assert f"data.masks_are=coco: no file of annotations was found for {tmp_path}/images." in said
    coco(STEMS, tmp_path / "annotations.json")
    assert "COCO annotations name their categories" in refusal(root=str(tmp_path), names=["a"])
    said = refusal(root=str(tmp_path), masks_are="index")
    assert said == f"data.masks_are=index: {tmp_path}/annotations.json is a file of COCO annotations."
    coco(STEMS, tmp_path / "more.json")
    assert "data.masks: several files in" in refusal(root=str(tmp_path))


# ---- mistakes


def a_file(root: Path) -> None:
    """Only a file where a dataset should be."""
    (root / "notes.md").write_text("x")


def no_masks(root: Path) -> None:
    tree(root, masks="images/{}.jpg")


def empty_masks(root: Path) -> None:
    tree(root, masks="elsewhere/{}.png")


def image_alone(root: Path) -> None:
    (tree(root) / "masks" / f"{STEMS[3]}.png").unlink()


def mask_alone(root: Path) -> None:
    (tree(root) / "images" / f"{STEMS[3]}.jpg").unlink()


def same_stem(root: Path) -> None:
    (tree(root) / "images" / f"{STEMS[3]}.png").write_bytes((root / "images" / f"{STEMS[3]}.jpg").read_bytes())


def other_names(root: Path) -> None:
    tree(root, masks="masks/mask of {}.png")


def jpeg_masks(root: Path) -> None:
    tree(root, masks="masks/{}.jpg")


def two_mask_folders(root: Path) -> None:
    tree(tree(root), masks="labels/{}.png")


def floats(root: Path) -> None:
    tree(root, masks="masks/{}.npy", encode=lambda mask: mask / 2)


def noise(root: Path) -> None:
    rng = np.random.default_rng(0)
    tree(root, encode=lambda mask: rng.integers(0, 65000, mask.shape, np.uint16))


def photographs(root: Path) -> None:
    rng = np.random.default_rng(0)
    tree(root, encode=lambda mask: rng.integers(0, 255, (*mask.shape, 3), np.uint8))


def only_void(root: Path) -> None:
    tree(root, encode=lambda mask: np.full_like(mask, 254))


def two_images(root: Path) -> None:
    tree(root, stems=STEMS[:2])


def good(root: Path) -> None:
    tree(root)


def broken_mask(root: Path) -> None:
    (tree(root) / "masks" / f"{STEMS[3]}.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (lambda root: root.rmdir(), {}, "data.root={root}: there is no such folder ({root})"),
        (lambda root: None, {}, "no images are here. Expected images/ beside masks/"),
        (
            a_file,
            {},
            "with images/ and masks/ in each; data.images and data.masks take other names. It holds: notes.md.",
        ),
        (no_masks, {}, "data.masks: no masks are in {root}/images"),
        (empty_masks, {}, "data.masks: no masks are in {root}/images"),
        (
            image_alone,
            {},
            "data.images: 1 of 12 images have no mask, the first is {root}/images/v1_003.jpg: no mask is",
        ),
        (mask_alone, {}, "data.masks: 1 of 12 masks have no image, the first is {root}/masks/v1_003.png: no image is"),
        (
            same_stem,
            {},
            "data.images: two images are called 'v1_003': {root}/images/v1_003.jpg and {root}/images/v1_003.p",
        ),
        (
            other_names,
            {},
            "data.masks: no mask is called as an image is. The images in {root}/images are v0_000, v0_001,",
        ),
        (jpeg_masks, {}, "{root}/masks/v0_000.jpg: a mask cannot be a JPEG"),
        (
            two_mask_folders,
            {},
            "data.masks: several folders in {root} may hold the masks: labels, masks. Say which: data.",
        ),
        (floats, {}, "{root}/masks/v0_000.npy: expected label values, found float64 numbers. Probabilities and scores"),
        (noise, {}, "at most 250 classes. Are these numbers of objects, or probabilities?"),
        (photographs, {}, "different colours. These are photographs, or masks with smoothed edges"),
        (only_void, {"ignore_value": 254}, "data.masks: every pixel of every mask is void (254)"),
        (two_images, {}, "data.fractions: 2 samples cannot be divided into train, val, test."),
        (broken_mask, {}, "{root}/masks/v1_003.png: "),
        (
            good,
            {"images": "photos"},
            "data.images=photos: there is no such folder in {root} or in a split of it. It hol",
        ),
        (
            good,
            {"masks": "truth"},
            "data.masks=truth: the masks of {root}/images are not there: no folder or file of th",
        ),
        (good, {"masks_are": "indices"}, "data.masks_are=indices: there is no such kind. Did you mean 'index'?"),
        (good, {"masks_are": "binary"}, "expected a mask of 0 and 1, no and yes, and found 2 (5 pixels)"),
        (
            good,
            {"masks_are": "binary", "names": ["a", "b", "c"]},
            "such masks are of two classes, and data.names has 3.",
        ),
        (
            good,
            {"masks_are": "color", "names": ["a"]},
            "data.masks: the masks are colours, and data.names gives no col",
        ),
        (good, {"multilabel": True}, "data.multilabel=true: index masks have one label a pixel."),
        (good, {"splits": "random"}, "data.splits=random: it must be auto, folders, lists or fractions."),
        (good, {"splits": "folders"}, "data.splits=folders: no folders train, val and test of images were found"),
        (good, {"splits": "lists"}, "data.splits=lists: no train.txt was found in {root}"),
        (good, {"fractions": [0.5, 0.6]}, "data.fractions=[0.5, 0.6]: they sum to 1.1, and must sum to 1."),
        (good, {"group": "(v"}, "data.group=(v: this is no regular expression ("),
        (good, {"group": "^x"}, "data.group=^x: the expression finds no group in the name 'v0_000'"),
        (good, {"mask_suffix": "_x"}, "data.masks: no mask is called as an image is."),
        (good, {"names": ["a", "a"]}, "data.names: 'a' is there twice"),
        (good, {"colors": [[1, 2, 3]]}, "data.colors: there must be as many as data.names."),
        (good, {"names": ["a"], "colors": [[1, 2, 300]]}, "data.colors: [1, 2, 300] is no colour."),
        (good, {"ignore_value": 70000}, "data.ignore_value=70000: label values are 0 to 65535"),
        (good, {"classes": {"only": ["class 9"]}}, "data.classes.only: there is no class 'class 9'."),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, make: Callable[[Path], None], settings: dict[str, Any], said: str) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    make(root)
    try:
        told = ""
        data = Folder(root=str(root), **settings)
        data.splits["train"][0]
    except UserError as refused:
        told = str(refused)
    assert said.replace("{root}", str(root)) in told


def test_a_split_without_masks_is_named(tmp_path: Path) -> None:
    tree(tmp_path, "train/images/{}.jpg", "train/masks/{}.png")
    tree(tmp_path, "val/images/{}.jpg", "elsewhere/{}.png")
    said = refusal(root=str(tmp_path))
    assert said.startswith(f"data.masks: no masks are in {tmp_path}/val/images")


# ---- through the config, in workers, and on real data


def test_it_is_what_the_config_makes(compose_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    tree(tmp_path, encode=painted)
    (tmp_path / "classes.txt").write_text("0 0 0 ground\n255 0 0 car\n0 128 0 road\n")
    config = compose_config(
        *("data=folder", f"data.root={tmp_path}", 'data.group="^(v[0-9])_"', "data.classes.ignore=[ground]"),
        "data.fractions=[0.5,0.25,0.25]",
    )
    data = instantiate(config.data, _convert_="all")
    assert list(data.labels.names) == ["car", "road"]
    assert set(config.data) == {"_target_", *Folder.__init__.__kwdefaults__, "root"}
    pickle.dumps(data.splits["train"])
    names = [
        name for batches in scoring_loader(data.splits["train"], batch_size=2, workers=1) for name in batches[0].names
    ]
    assert names == sorted(names)


def test_bands_are_handed_to_the_reader(tmp_path: Path) -> None:
    tree(tmp_path, "images/{}.png")
    for stem in STEMS:
        save(tmp_path / "images" / f"{stem}.png", draw(stem).astype(np.uint16) * 2000)
    data = Folder(root=str(tmp_path), channels=1, value_range=[0, 4000])
    sample = data.splits["train"][0]
    assert data.channels == 1
    assert sample.image.shape == (6, 9, 1)
    np.testing.assert_allclose(sample.image[..., 0], draw(sample.name) * 127.5)


def test_real_membranes(shared: Path) -> None:
    root = shared / "data" / "isbi"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    data = Folder(root=str(root))
    assert sizes(data) == (21, 4, 5)
    assert list(data.labels.names) == ["background", "foreground"]
    masks = [data.splits[name].mask(i) for name in data.splits for i in range(len(data.splits[name]))]  # type: ignore[attr-defined]
    assert np.mean(masks) == pytest.approx(0.78, abs=0.01)


def test_real_camvid_as_a_folder_is_camvid(shared: Path) -> None:
    from seg_cli.data.camvid import LABELS, CamVid

    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    data = Folder(root=str(root), names=list(LABELS.names), ignore_value=11, group="^([^_]+)")
    assert sizes(data) == (367, 101, 233)
    sample, same = data.splits["val"][5], CamVid(root=str(root)).splits["val"][5]
    assert (sample.name, sample.group) == (same.name, same.group)
    np.testing.assert_array_equal(sample.mask, same.mask)


def yes_no(root: Path, count: int = 12) -> None:
    for index in range(count):
        save(root / "images" / f"{index}.png", np.full((64, 64), index, np.uint8))
        mask = np.zeros((64, 64), np.uint8)
        mask[8:] = 255
        save(root / "masks" / f"{index}.png", mask)


@pytest.mark.parametrize("place", [0, 5], ids=["looked at first", "not"])
def test_a_stray_value_does_not_make_the_foreground_void(tmp_path: Path, place: int) -> None:
    yes_no(tmp_path)
    path = tmp_path / "masks" / f"{place}.png"
    mask = np.array(Image.open(path))
    mask[20, 3:9] = 7
    save(path, mask)
    with pytest.raises(UserError, match=rf"{place}.png: expected a mask of 0 and 255.*7 .6 pixels.*masks_are=index"):
        Folder(root=str(tmp_path))
    found = Folder(root=str(tmp_path), unpaired="leave_out")  # as segrun check does, which reads on
    assert found.labels.names == ("background", "foreground")
    named = Folder(root=str(tmp_path), masks_are="index")
    assert named.labels.names == ("class 0", "class 7")


def test_smoothed_masks_are_no_labels(tmp_path: Path) -> None:
    yes_no(tmp_path)
    mask = np.array(Image.open(tmp_path / "masks" / "3.png"))
    mask[7, :] = np.arange(60, 124)
    save(tmp_path / "masks" / "3.png", mask)
    with pytest.raises(UserError, match=r"3.png: expected a mask of 0 and 255.*smooth"):
        Folder(root=str(tmp_path))


def test_labels_with_much_void_stay_labels(tmp_path: Path) -> None:
    yes_no(tmp_path)
    for index in range(12):
        mask = np.array(Image.open(tmp_path / "masks" / f"{index}.png"))
        mask[30, :4] = 3
        save(tmp_path / "masks" / f"{index}.png", mask)
    assert Folder(root=str(tmp_path)).labels.names == ("class 0", "class 3")


def test_files_without_a_partner_may_be_left_out(tmp_path: Path) -> None:
    yes_no(tmp_path)
    (tmp_path / "masks" / "2.png").unlink()
    save(tmp_path / "masks" / "nobody.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(UserError, match="unpaired=leave_out"):
        Folder(root=str(tmp_path))
    found = Folder(root=str(tmp_path), unpaired="leave_out")
    assert [Path(line.split(": ")[0]).name for line in found.unpaired] == ["2.png", "nobody.png"]
    assert sum(len(split) for split in found.splits.values()) == 11
    with pytest.raises(UserError, match="refuse or leave_out"):
        Folder(root=str(tmp_path), unpaired="keep")
