"""What holds for every public dataset: its layout is found through conf/, and a part that is missing is named."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from seg_cli.commands.build import build
from seg_cli.commands.experiment import resolve
from seg_cli.config.explain import explain
from seg_cli.data.files import FileDataset, FilePairs
from seg_cli.data.labels import VOID
from seg_cli.data.public import bit_color, check_choice, read_list
from seg_cli.errors import UserError
from tests.layouts import LAYOUTS, SIZE, save_mask

Open = Callable[..., FileDataset]
WITH_MASKS = [*LAYOUTS, "cityscapes masks=train_ids", "coco_stuff masks=panoptic", "voc2012 train_set=train_aug"]
WAY = {  # a piece of the address, the size, the terms, a piece of the tree
    "voc2012": ("host.robots.ox.ac.uk", "2 GB", "Flickr", "ImageSets/Segmentation"),
    "cityscapes": ("www.cityscapes-dataset.com", "11 GB", "non-commercial", "gtFine/{train,val}/aachen"),
    "coco_stuff": ("nightrome/cocostuff", "20 GB", "CC BY 4.0", "annotations/{train,val}2017"),
    "ade20k": ("sceneparsing.csail.mit.edu", "0.9 GB", "non-commercial", "annotations/{training,validation}"),
    "camvid32": ("mi.eng.cam.ac.uk", "0.6 GB", "research", "LabeledApproved_full"),
}


@pytest.fixture
def open_data(compose_config: Callable[..., DictConfig], tmp_path: Path) -> Open:
    """A function: "name setting=value ..." and more overrides -> the dataset that segrun would make of its layout."""

    def opened(choice: str, *overrides: str, root: Path | None = None) -> FileDataset:
        name, *settings = choice.split()
        if not (tmp_path / name).exists():
            LAYOUTS[name](tmp_path / name)
        options = (f"data={name}", *(f"data.{setting}" for setting in settings), *overrides)
        if options not in COMPOSED:
            COMPOSED[options] = resolve(compose_config(*options))
        config = {**COMPOSED[options], "data": {**COMPOSED[options]["data"], "root": str(root or tmp_path / name)}}
        try:
            return build(config, "data")
        except Exception as error:
            raise explain(error) or error from None

    return opened


COMPOSED: dict[tuple[str, ...], dict[str, Any]] = {}


@pytest.mark.parametrize("choice", WITH_MASKS)
def test_every_sample_is_read(open_data: Open, choice: str) -> None:
    data = open_data(choice)
    assert list(data.splits) == ["train", "val", "test"]
    for split in data.splits.values():
        assert len({split[index].name for index in range(len(split))}) == len(split) > 0
        for index in range(len(split)):
            sample = split[index]
            assert (sample.image.shape, sample.image.dtype) == ((*SIZE, 3), np.uint8)
            assert (sample.mask.shape, sample.mask.dtype) == (SIZE, np.uint8)
            assert set(np.unique(sample.mask)) <= {*range(data.labels.num_classes), VOID}
            assert VOID in sample.mask


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "camvid32"])
def test_without_public_test_masks_test_is_val(open_data: Open, name: str) -> None:
    data = open_data(name)
    assert data.splits["test"] is data.splits["val"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_root_is_found_through_the_environment(
    compose_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    LAYOUTS[name](tmp_path / name)
    monkeypatch.setenv("SEGRUN_DATA", str(tmp_path))
    assert len(build(resolve(compose_config(f"data={name}")), "data").splits["train"]) > 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_dataset_says_how_to_come_by_it(tmp_path: Path, open_data: Open, name: str) -> None:
    with pytest.raises(UserError) as refusal:
        open_data(name, root=tmp_path / "nowhere")
    said = str(refusal.value)
    assert said.startswith(f"data.root={tmp_path}/nowhere: there is no such folder ({tmp_path}/nowhere).\n")
    for part in (*WAY[name], "Type data.root=DIR", f"SEGRUN_DATA to the folder that holds {name}/"):
        assert part in said
    assert said.count("\n") <= 7


@pytest.mark.parametrize("choice", WITH_MASKS)
def test_every_folder_and_list_that_goes_missing_is_named(tmp_path: Path, open_data: Open, choice: str) -> None:
    data = open_data(choice)
    root = tmp_path / choice.split()[0]
    folders = {path.parent for split in data.splits.values() for pair in split.pairs for path in pair.files}  # type: ignore[attr-defined]
    if choice.startswith("cityscapes"):
        folders = {folder.parent for folder in folders}
    needed = [*folders, *root.rglob("*.json")] if "panoptic" in choice else [*folders]
    for path in needed:
        path.rename(tmp_path / "aside")
        with pytest.raises(UserError, match=re.escape(str(path))) as refusal:
            open_data(choice)
        assert "Expected in DIR:" in str(refusal.value)
        (tmp_path / "aside").rename(path)
    assert open_data(choice).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("choice", [choice for choice in WITH_MASKS if "train_aug" not in choice])
def test_a_single_image_or_mask_that_is_missing_is_named(open_data: Open, choice: str) -> None:
    pairs = open_data(choice).splits["train"].pairs  # type: ignore[attr-defined]
    for path, what in ((pairs[0].image, "image"), (pairs[0].masks[0], "mask")):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match=rf"1 of the {len(pairs)} .*have no {what} in .*'{pairs[0].name}'"):
            open_data(choice)
        path.write_bytes(content)


@pytest.mark.parametrize("choice", WITH_MASKS)
def test_the_fingerprint_is_of_the_data_and_not_of_its_place(tmp_path: Path, open_data: Open, choice: str) -> None:
    name = choice.split()[0]
    before = open_data(choice).fingerprint()
    shutil.copytree(tmp_path / name, tmp_path / "elsewhere")
    copy = open_data(choice, root=tmp_path / "elsewhere")
    assert copy.fingerprint() == before
    save_mask(copy.splits["train"].pairs[0].masks[0], (1, 2, 3))  # type: ignore[attr-defined]
    assert open_data(choice, root=tmp_path / "elsewhere").fingerprint() != before


@pytest.mark.parametrize("choice", WITH_MASKS)
def test_classes_are_merged_and_chosen_by_the_config(open_data: Open, choice: str) -> None:
    names = open_data(choice).labels.names
    merged = open_data(choice, f'data.classes.merge={{both: ["{names[0]}", "{names[1]}"]}}')
    assert merged.labels.names[0] == "both"
    assert merged.labels.num_classes == len(names) - 1
    one = open_data(choice, f'data.classes.only=["{names[-1]}"]')
    assert list(one.labels.names) == [names[-1]]
    assert set(np.unique(one.splits["train"][0].mask)) <= {0, VOID}
    with pytest.raises(UserError, match=r"data\.classes\.ignore: there is no class 'nonsense'"):
        open_data(choice, "data.classes.ignore=[nonsense]")


@pytest.mark.parametrize("choice", WITH_MASKS)
def test_a_split_travels_to_a_worker(open_data: Open, choice: str) -> None:
    split = open_data(choice).splits["train"]
    copy: FilePairs = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(copy[1].mask, split[1].mask)


def test_the_rule_of_colours_gives_each_index_its_own() -> None:
    assert len({bit_color(index) for index in range(256)}) == 256
    assert [bit_color(index) for index in (0, 1, 2, 3, 8)] == [
        *((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0))
    ]


def test_a_list_holds_names_or_paths(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("2007_000032\n\n/JPEGImages/2007_000039.jpg /SegmentationClassAug/x.png\r\n")
    assert read_list(tmp_path / "list.txt") == ["2007_000032", "2007_000039"]
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"list\.txt: the list cannot be read"):
        read_list(tmp_path / "list.txt")


def test_a_wrong_choice_is_named() -> None:
    check_choice("data.masks", "panoptic", ("stuffthingmaps", "panoptic"))
    with pytest.raises(UserError, match=r"data\.masks=panoptics: there is no such choice\. Did you mean 'panoptic'\?"):
        check_choice("data.masks", "panoptics", ("stuffthingmaps", "panoptic"))
