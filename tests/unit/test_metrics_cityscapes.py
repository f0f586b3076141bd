"""Category IoU and iIoU: by hand, and against cityscapesScripts on the same files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import check_that_only_the_images_matter, refilled, regions, run
from PIL import Image

from seg_cli.data.labels import VOID
from seg_cli.errors import UserError
from seg_cli.metrics.cityscapes import CATEGORIES, INSTANCE_SIZES, CategoryIou, InstanceIou, iiou

GROUPS = {"left": ["a", "b"], "right": ["c", "d"]}
NAMES = ["a", "c", "b", "d"]
SCORED = [index for members in CATEGORIES.values() for index in members.values()]
Images = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def random_images(seed: int, *, everything: bool) -> Images:
    """Predictions, label ids and instance ids of three images; with all label ids, or those that are scored alone."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(3):
        ids = np.arange(34) if everything else rng.choice(SCORED, 4)
        number, label = rng.integers(0, 3, (6, 8)), rng.choice(ids, (6, 8))
        with_instance = (label >= 24) & (rng.random(label.shape) < 0.8)  # the others are groups
        instances = np.where(with_instance, label * 1000 + number, label).repeat(4, 0).repeat(4, 1)
        truth = label.repeat(4, 0).repeat(4, 1)
        wrong = rng.random(truth.shape) < 0.4
        prediction = np.where(wrong, rng.choice(ids, truth.shape), truth)
        images.append((prediction.astype(np.uint8), truth.astype(np.uint8), instances.astype(np.uint16)))
    return images


def scores_of_cityscapes_scripts(images: Images, folder: Path) -> dict[str, Any]:
    theirs = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    paths: tuple[list[str], list[str]] = ([], [])
    for i, arrays in enumerate(images):
        names = (f"{i}_prediction.png", f"{i}_gtFine_labelIds.png", f"{i}_gtFine_instanceIds.png")
        for name, array in zip(names, arrays, strict=True):
            Image.fromarray(array).save(folder / name)
        paths[0].append(str(folder / names[0]))
        paths[1].append(str(folder / names[1]))
    theirs.args.quiet, theirs.args.JSONOutput = True, False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "in1d", np.isin, raising=False)  # which version 2.3.0 uses and NumPy 2.4 has no more
        return theirs.evaluateImgLists(*paths, theirs.args)


def as_json(value: float) -> object:
    return None if np.isnan(value) else pytest.approx(value, rel=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=12, deadline=None)
def test_all_scores_are_those_of_cityscapes_scripts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, everything: bool
) -> None:
    images = random_images(seed, everything=everything)
    expected = scores_of_cityscapes_scripts(images, tmp_path_factory.mktemp("cityscapes"))
    found = iiou(iter(images))
    for name, scores in found["classes"].items():
        assert scores["iou"] == as_json(expected["classScores"][name])
        assert scores["iiou"] == as_json(expected["classInstScores"][name])
    for name, scores in found["categories"].items():
        assert scores["iou"] == as_json(expected["categoryScores"][name])
        assert scores["iiou"] == as_json(expected["categoryInstScores"][name])
    assert found["miou"] == as_json(expected["averageScoreClasses"])
    assert found["miiou"] == as_json(expected["averageScoreInstClasses"])
    assert found["category_miou"] == as_json(expected["averageScoreCategories"])
    assert found["category_miiou"] == as_json(expected["averageScoreInstCategories"])


def test_the_table_of_classes_is_that_of_cityscapes_scripts() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    scored = [label for label in labels if not label.ignoreInEval]
    assert {(label.category, label.name, label.id) for label in scored} == {
        (category, name, index) for category, members in CATEGORIES.items() for name, index in members.items()
    }
    assert set(INSTANCE_SIZES) == {label.name for label in scored if label.hasInstances}


def test_small_instances_weigh_as_much_as_large_ones() -> None:
    truth = np.full((10, 10), 7)
    truth[:9], instances = 26, np.full((10, 10), 7)
    instances[:8], instances[8] = 26001, 26002  # cars of 80 and of 10 pixels
    prediction = np.where(instances == 26002, 7, truth)  # the small one is not found
    found = iiou([(prediction, truth, instances)])
    assert found["classes"]["car"] == {"iou": pytest.approx(80 / 90), "iiou": pytest.approx(1 / 2)}
    assert found["categories"]["vehicle"]["iiou"] == pytest.approx(1 / 2)
    assert found["classes"]["road"] == {"iou": pytest.approx(10 / 20), "iiou": None}
    assert found["classes"]["bus"] == {"iou": None, "iiou": None}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_arrays_that_are_no_label_ids_are_refused() -> None:
    ids = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="prediction has 0 to 255"):
        iiou([(np.array([[0, 255], [0, 0]]), ids, ids)])
    with pytest.raises(ValueError, match="shapes differ"):
        iiou([(np.zeros((3, 2), int), ids, ids)])


# ---- category IoU


def test_taking_one_class_of_a_category_for_another_is_no_error() -> None:
    masks = torch.tensor([[[0, 2, 1, 3, VOID]]], dtype=torch.uint8)
    predictions = torch.tensor([[[2, 0, 0, 3, 3]]])
    found = run(CategoryIou(categories=GROUPS), predictions, masks, classes=4, names=NAMES).results()
    assert found == {"category_miou": (2 / 3 + 1 / 2) / 2, "categories": {"left": 2 / 3, "right": 1 / 2}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_category_iou_is_that_of_cityscapes_scripts(tmp_path: Path) -> None:
    images = random_images(7, everything=False)
    expected = scores_of_cityscapes_scripts(images, tmp_path)
    names = [name for members in CATEGORIES.values() for name in members]
    to_class = np.full(34, VOID)
    to_class[SCORED] = range(len(SCORED))
    predictions, masks = (torch.from_numpy(to_class[np.stack([image[i] for image in images])]) for i in (0, 1))
    metric = CategoryIou(categories={category: list(members) for category, members in CATEGORIES.items()})
    found = run(metric, predictions, masks.to(torch.uint8), classes=19, names=names).results()
    assert found["category_miou"] == as_json(expected["averageScoreCategories"])
    assert found["categories"] == {name: as_json(expected["categoryScores"][name]) for name in CATEGORIES}


def test_only_the_images_matter_and_what_is_right_is_perfect() -> None:
    class Named(CategoryIou):
        def start(self, num_classes: int, names: Any, device: torch.device) -> None:
            super().start(num_classes, NAMES, device)

    check_that_only_the_images_matter(Named(categories=GROUPS), regions(0, 4, 0.2), 4)
    _, masks = regions(1, 4, 0.2)
    found = run(Named(categories=GROUPS), refilled(masks.long(), masks), masks, classes=4).results()
    assert found["category_miou"] == 1


@pytest.mark.parametrize(
    ("categories", "named"),
    [
        ({"left": ["a", "b"], "right": ["c"]}, "stand in none: d"),
        ({"left": ["a", "b", "c"], "right": ["c", "d"]}, "twice"),
        ({"left": ["a", "b"], "right": ["c", "e"]}, r"categories.right: there is no class 'e'"),
    ],
)
def test_every_class_stands_in_one_category(categories: dict[str, list[str]], named: str) -> None:
    with pytest.raises(UserError, match=named):
        CategoryIou(categories=categories).start(4, NAMES, torch.device("cpu"))


def test_labels_that_overlap_are_refused() -> None:
    with pytest.raises(UserError, match="overlap"):
        run(CategoryIou(categories=GROUPS), *regions(0, 4, 0, overlapping=True), classes=4, names=NAMES)


def test_the_metric_of_a_pass_is_that_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "val" / "ulm"
    folder.mkdir(parents=True)
    names = [name for members in CATEGORIES.values() for name in members]
    index_of = np.full(34, VOID, np.uint8)
    index_of[SCORED] = range(len(SCORED))
    images = random_images(3, everything=False)
    for number, (_, _, instances) in enumerate(images):
        Image.fromarray(instances).save(folder / f"ulm_{number}_gtFine_instanceIds.png")
    predictions, masks = (torch.from_numpy(np.stack([index_of[image[i]] for image in images])) for i in (0, 1))
    samples = [f"ulm_{number}" for number in range(3)]
    metric = InstanceIou(instances=str(tmp_path))
    found = run(metric, predictions, masks, classes=19, names=names, images=samples, batch=2).results()
    expected = iiou(images)
    for kind in ("classes", "categories"):
        for name, scores in expected[kind].items():
            for key, value in scores.items():
                assert found[kind][name][key] == (None if value is None else pytest.approx(value, rel=1e-6))
    for key in ("miou", "miiou", "category_miou", "category_miiou"):
        assert found[key] == pytest.approx(expected[key], rel=1e-6)


def test_instances_that_are_missing_are_said(tmp_path: Path) -> None:
    sky = torch.zeros(1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="there are no files"):
        run(InstanceIou(instances=str(tmp_path)), sky, sky, classes=1, names=["sky"])
    with pytest.raises(UserError, match="where are the instances"):
        run(InstanceIou(instances=None), sky, sky, classes=1, names=["sky"])
    Image.fromarray(np.zeros((4, 8), np.uint16)).save(tmp_path / "a_gtFine_instanceIds.png")
    with pytest.raises(UserError, match="no file b_gtFine_instanceIds"):
        run(InstanceIou(instances=str(tmp_path)), sky, sky, classes=1, names=["sky"], images=["b"])
    with pytest.raises(UserError, match=r"instances are \(4, 8\)"):
        run(InstanceIou(instances=str(tmp_path)), sky, sky, classes=1, names=["sky"], images=["a"])
    with pytest.raises(UserError, match="has 'grass'"):
        run(InstanceIou(instances=str(tmp_path)), sky, sky, classes=1, names=["grass"])
