"""What is wrong with a dataset: each kind of finding, on data that have it, with numbers made by hand."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from seg_cli.data.camvid import CamVid
from seg_cli.data.class_counts import count_classes
from seg_cli.data.findings import KINDS, Finding, choose_samples, find, summarize
from seg_cli.data.inspect import Facts, count, dhash, inspect
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.lookalikes import MAX_DISTANCE, hamming, nearest
from seg_cli.data.sample import Sample
from seg_cli.data.shapes import Shapes

LABELS = LabelSpace(names=("a", "b", "c"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
OVERLAPPING = LabelSpace(names=("a", "b"), colors=((0, 0, 0), (1, 1, 1)), overlapping=True)


class Splits:
    """A dataset of given samples; an exception in the place of one is raised when it is read."""

    channels = 3

    def __init__(self, labels: LabelSpace = LABELS, **splits: Sequence[Sample | Exception]) -> None:
        self.labels = labels
        self.splits = {name: Listed(samples) for name, samples in splits.items()}

    def fingerprint(self) -> str:
        return ""


class Listed:
    def __init__(self, samples: Sequence[Sample | Exception]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if isinstance(sample, Exception):
            raise sample
        return sample


def sample(seed: int, mask: np.ndarray | None = None, *, size: tuple[int, int] = (40, 50), group: str = "") -> Sample:
    """An image like no other, and a mask of all classes unless one is given."""
    rng = np.random.default_rng(seed)
    if mask is None:
        mask = np.resize(np.array([0, 1, 2, VOID], np.uint8), size)
    return Sample(rng.integers(0, 256, (*mask.shape[-2:], 3)).astype(np.uint8), mask, f"image{seed}", group)


def findings_of(dataset: Splits) -> list[Finding]:
    return find(inspect(dataset, workers=0), dataset.labels)


def one_finding(dataset: Splits) -> Finding:
    (finding,) = findings_of(dataset)
    assert finding.kind in KINDS
    return finding


# ---- reading


def test_a_good_dataset_has_no_findings() -> None:
    dataset = Shapes(train=6, val=4, test=4, size=(48, 64), seed=0, noise=8.0)
    found = [finding for finding in find(inspect(dataset, workers=0), dataset.labels) if finding.kind != "absent_class"]
    assert found == []


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_those_that_class_weights_are_made_of(workers: int) -> None:
    dataset = Shapes(train=5, val=3, test=2, size=(48, 64), seed=0, noise=8.0)
    facts = inspect(dataset, workers=workers)
    assert {split: len(found) for split, found in facts.items()} == {"train": 5, "val": 3, "test": 2}
    assert facts["train"][3].name == "scene00003"
    for split, found in facts.items():
        assert count(found, dataset.labels) == count_classes(dataset.splits[split], dataset.labels, workers=0)


def test_where_labels_overlap_planes_are_counted_apart() -> None:
    mask = np.zeros((2, 40, 50), np.uint8)
    mask[0, :10], mask[1, :20], mask[1, 20:] = 1, 1, VOID
    dataset = Splits(OVERLAPPING, train=[sample(0, mask), sample(1, np.zeros_like(mask))])
    facts = inspect(dataset, workers=0)
    assert count(facts["train"], OVERLAPPING) == count_classes(dataset.splits["train"], OVERLAPPING, workers=0)
    assert facts["train"][0].pixels == {0: 500, 1: 1000}
    summary = summarize(facts, OVERLAPPING)["train"]
    assert summary["void"] == {"pixels": 1000, "share": 0.125}
    assert summary["classes"]["b"] == {"pixels": 1000, "share": 0.25, "images": 1}
    assert one_finding(dataset).message == "train/image1: the mask holds no class"


def test_shares_are_of_all_pixels() -> None:
    summary = summarize(inspect(Splits(train=[sample(0, group="g")]), workers=0), LABELS)["train"]
    assert summary["void"] == {"pixels": 500, "share": 0.25}
    assert summary["classes"]["c"] == {"pixels": 500, "share": 0.25, "images": 1}
    assert (summary["images"], summary["usable"], summary["pixels"]) == (1, 1, 2000)
    assert (summary["sizes"], summary["groups"]) == ({"40x50": 1}, {"g": 1})


def test_progress_sees_every_sample_once_and_a_split_of_two_names_is_read_once() -> None:
    dataset = Splits(train=[sample(0), sample(1)], val=[sample(2)])
    dataset.splits["test"] = dataset.splits["val"]
    seen: list[Facts] = []

    def progress(facts):  # type: ignore[no-untyped-def]
        assert len(facts) == 3
        for found in facts:
            seen.append(found)
            yield found

    facts = inspect(dataset, workers=0, progress=progress)
    assert [found.name for found in seen] == ["image0", "image1", "image2"]
    assert facts["test"] is facts["val"]
    (finding,) = find(facts, LABELS)
    assert (finding.level, finding.kind) == ("warning", "same_split")
    assert finding.message.startswith("test holds the same 1 samples as val")


# ---- findings


def test_what_a_dataset_raises_is_a_finding_and_the_rest_is_read() -> None:
    dataset = Splits(train=[sample(0), ZeroDivisionError("half a pixel"), sample(1)])
    finding = one_finding(dataset)
    assert (finding.level, finding.kind) == ("error", "unreadable")
    assert finding.message == "sample 1: ZeroDivisionError: half a pixel"
    assert summarize(inspect(dataset, workers=0), LABELS)["train"]["usable"] == 2


@pytest.mark.parametrize(
    ("broken", "kind", "said"),
    [
        (
            Sample(np.zeros((40, 50), np.uint8), sample(0).mask, "x"),
            "wrong_form",
            "x: the image is uint8 of shape (40, 50)",
        ),
        (Sample(np.zeros((40, 50, 4), np.uint8), sample(0).mask, "x"), "wrong_form", "the dataset's channels=3"),
        (
            Sample(sample(0).image / 255, sample(0).mask, "x"),
            "wrong_form",
            "x: the image is float64 of shape (40, 50, 3)",
        ),
        (sample(9, sample(0).mask[None]), "wrong_form", "the mask is uint8 of shape (1, 40, 50), and must be uint8 of"),
        (
            Sample(sample(0).image, sample(0).mask.astype(int), "x"),
            "wrong_form",
            "x: the mask is int64 of shape (40, 50)",
        ),
        (
            Sample(sample(0).image, sample(0).mask[:30], "x"),
            "mismatch",
            "x: the mask is 50x30 pixels and its image 50x40",
        ),
        (
            sample(9, np.resize(np.array([0, 3, 7, 3], np.uint8), (40, 50))),
            "undefined_label",
            "image9: the mask holds class indices that the dataset does not define: 3 (1000 pixels), 7 (500 pixels).",
        ),
    ],
)
def test_samples_that_are_not_what_they_must_be(broken: Sample, kind: str, said: str) -> None:
    finding = one_finding(Splits(train=[broken, sample(1)]))
    assert (finding.level, finding.kind) == ("error", kind)
    assert said in finding.message


def test_masks_that_teach_nothing() -> None:
    void, one = np.full((40, 50), VOID, np.uint8), np.full((40, 50), 1, np.uint8)
    one[:5] = VOID
    found = findings_of(Splits(train=[sample(0), sample(1, void), sample(2, one)]))
    assert [(finding.level, finding.kind, finding.message) for finding in found] == [
        ("warning", "all_void", "train/image1: the mask is all void"),
        ("warning", "one_class", "train/image2: the mask is all b"),
    ]


def test_odd_images() -> None:
    blank = Sample(np.full((40, 50, 3), 7, np.uint8), sample(0).mask, "blank")
    dataset = Splits(train=[blank, sample(1), sample(2, size=(31, 60)), sample(3, size=(40, 200))])
    found = {finding.kind: finding for finding in findings_of(dataset)}
    assert list(found) == ["blank_image", "odd_size", "several_sizes"]
    assert found["blank_image"].message == "train/blank: the image is all of one colour"
    assert [f.message for f in findings_of(dataset) if f.kind == "odd_size"] == [
        "train/image2: the image is 31x60 pixels (height x width)",
        "train/image3: the image is 40x200 pixels (height x width)",
    ]
    assert "3 sizes (height x width): 40x50 (2), 31x60 (1), 40x200 (1)" in found["several_sizes"].message


def test_classes_that_a_split_lacks() -> None:
    only_ab = np.resize(np.array([0, 1], np.uint8), (40, 50))
    finding = one_finding(Splits(train=[sample(0)], val=[sample(1, only_ab)]))
    assert (finding.level, finding.kind, finding.message) == ("warning", "absent_class", "val has no pixel of c")
    assert finding.details == {"split": "val", "classes": ["c"]}
    found = findings_of(Splits(train=[sample(0)], val=[sample(1, np.full((40, 50), VOID, np.uint8))], test=[]))
    assert [(f.level, f.message) for f in found][:2] == [
        ("error", "test has no samples"),
        ("error", "val has no pixel of any class"),
    ]


def test_the_same_picture_twice() -> None:
    twin = Sample(sample(0).image, np.roll(sample(0).mask, 1), "twin")
    found = findings_of(Splits(train=[sample(0), sample(1), sample(1)], val=[sample(2)], test=[twin, sample(2)]))
    assert [(f.level, f.kind, f.message) for f in found] == [
        ("error", "same_picture", "train/image0 and test/twin are the same picture, with different masks"),
        ("warning", "same_picture", "val/image2 and test/image2 are the same picture"),
        ("warning", "repeated", "image1: the same picture stands 2 times in train, also as image1"),
    ]


def test_groups_that_are_spread_over_splits() -> None:
    dataset = Splits(
        train=[sample(0, group="g"), sample(1, group="h"), sample(2)], test=[sample(3, group="g"), sample(4)]
    )
    finding = one_finding(dataset)
    assert (finding.level, finding.kind) == ("warning", "group_leak")
    assert finding.message == "the group g is spread over splits: 1 in train, 1 in test"
    assert finding.details == {"group": "g", "images": {"train": 1, "test": 1}}


def photograph(seed: int) -> np.ndarray:
    """Something smooth, as photographs are; no two are alike."""
    small = np.random.default_rng(seed).uniform(0, 255, (9, 12, 3)).astype(np.float32)
    return np.clip(cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def of(image: np.ndarray, name: str) -> Sample:
    return Sample(image, np.resize(np.array([0, 1, 2], np.uint8), image.shape[:2]), name)


def test_copies_that_were_changed_a_little_are_found() -> None:
    train = [of(photograph(seed), f"train{seed}") for seed in range(30)]
    smeared = cv2.imdecode(cv2.imencode(".jpg", photograph(5), [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    darker = (photograph(9) * 0.7).astype(np.uint8)
    smaller = cv2.resize(photograph(20), (160, 120), interpolation=cv2.INTER_AREA)
    test = [of(smeared, "smeared"), of(darker, "darker"), of(smaller, "smaller"), of(photograph(99), "other")]
    found = [f for f in findings_of(Splits(train=train, test=test)) if f.kind != "several_sizes"]
    (finding,) = found
    assert (finding.level, finding.kind) == ("warning", "near_duplicate")
    assert finding.message.startswith("3 of the 4 pictures of test look like one of train, as ")
    assert {(ours, theirs) for ours, theirs, _ in finding.details["pairs"]} == {
        ("train5", "smeared"),
        ("train9", "darker"),
        ("train20", "smaller"),
    }


def test_pictures_without_contrast_are_not_alike() -> None:
    assert dhash(np.full((40, 50, 3), 90, np.uint8)) is None
    assert dhash(photograph(0)[..., :1]) is not None
    many_bands = np.repeat(photograph(0)[..., :1], 12, axis=2)
    assert dhash(many_bands.astype(np.float32)) == dhash(np.ascontiguousarray(many_bands[..., :1]))


# ---- lookalikes


def test_the_nearest_hash_is_found_as_if_all_were_compared() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 2**64, 300, dtype=np.uint64)
    right = np.concatenate((left[:200], rng.integers(0, 2**64, 50, dtype=np.uint64)))
    for i in range(200):  # 0 to 9 bits of each are turned over
        for bit in rng.choice(64, i % 10, replace=False):
            right[i] ^= np.uint64(1) << np.uint64(bit)
    found, distances, is_whole = nearest(left, right)
    apart = hamming(right[:, None], left[None])
    assert is_whole
    for i in range(len(right)):
        if apart[i].min() <= MAX_DISTANCE:
            assert distances[i] == apart[i].min() == apart[i, found[i]]
        else:
            assert found[i] == -1
    assert (found >= 0).sum() == 120  # those with 0 to 5 bits


def test_a_search_that_would_take_too_long_ends_and_says_so() -> None:
    hashes = np.arange(4000, dtype=np.uint64)  # their upper bands all agree
    found, _, is_whole = nearest(hashes, hashes + np.uint64(1 << 60), budget=100_000)
    assert not is_whole
    assert len(found) == 4000
    assert nearest(np.array([], np.uint64), hashes)[0].max() == -1


# ---- what is shown


def test_samples_are_chosen_to_show_every_class() -> None:
    masks = [np.zeros((40, 50), np.uint8) for _ in range(20)]
    masks[7][:, :25], masks[13][:10], masks[16][:1, :1] = 1, 2, 2
    samples = [sample(seed, mask) for seed, mask in enumerate(masks)]
    facts = inspect(Splits(train=[*samples, ValueError("broken")]), workers=0)["train"]
    assert choose_samples(facts, 2) == [7, 13]
    chosen = choose_samples(facts, 6)
    assert len(chosen) == 6
    assert {7, 13} <= set(chosen)
    assert chosen == sorted(chosen)
    assert max(chosen) > 15
    assert min(chosen) < 5
    assert choose_samples(facts, 100) == list(range(20))
    assert choose_samples([], 3) == []


# ---- files


def stems(root: Path, split: str) -> list[str]:
    return (root / f"{split}.txt").read_text().split()


def test_broken_files_are_all_found_and_named(camvid_root: Path) -> None:
    first, second, third, fourth = (camvid_root / "trainannot" / f"{stem}.png" for stem in stems(camvid_root, "train"))
    mask = np.array(Image.open(first))
    mask[:2, :5], mask[4, 4] = 77, 99
    Image.fromarray(mask).save(first)
    Image.open(second).crop((0, 0, 20, 10)).save(second)
    Image.open(third).save(third, format="JPEG")
    fourth.write_bytes(fourth.read_bytes()[:60])
    image = camvid_root / "test" / f"{stems(camvid_root, 'test')[0]}.png"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    dataset = CamVid(root=str(camvid_root))
    found = [f for f in find(inspect(dataset, workers=2), dataset.labels) if f.level == "error"]
    assert [f.kind for f in found] == ["unreadable", "unreadable", "mismatch", "undefined_label", "jpeg_mask"]
    messages = [f.message for f in found]
    assert messages[0].startswith(f"{fourth}: the mask ")
    assert messages[1].startswith(f"{image}: the image ")
    assert messages[2].startswith(f"{second}: the mask is 20x10 pixels and its image ")
    assert messages[3].startswith(
        f"{first}: the mask holds label values that the dataset does not define: 77 (10 pixels)"
    )
    assert found[3].details == {"values": {"77": 10, "99": 1}}
    assert messages[4].startswith(f"{third}: the mask is a JPEG, which smears the labels")
    assert found[4].places[0].split == "train"


def test_an_image_of_two_splits_and_one_listed_twice(camvid_root: Path) -> None:
    train, test = stems(camvid_root, "train"), stems(camvid_root, "test")
    listed = camvid_root / "train" / f"{train[0]}.png"
    copied = camvid_root / "test" / f"{test[1]}.png"
    copied.write_bytes(listed.read_bytes())
    (camvid_root / "train.txt").write_text("\n".join([*train, train[2]]))
    dataset = CamVid(root=str(camvid_root))
    found = {f.kind: f for f in find(inspect(dataset, workers=0), dataset.labels)}
    same, twice = found["same_picture"], found["repeated"]
    assert same.level == "error"
    assert same.message == f"{listed} and {copied} are the same picture, in train and in test, with different masks"
    assert twice.message == f"{camvid_root / 'train' / train[2]}.png: the image stands 2 times in train"


def test_splits_of_the_same_files_are_one(camvid_root: Path) -> None:
    dataset = CamVid(root=str(camvid_root))
    dataset.splits["test"] = CamVid(root=str(camvid_root)).splits["val"]
    kinds = [f.kind for f in find(inspect(dataset, workers=0), dataset.labels)]
    assert "same_split" in kinds
    assert "same_picture" not in kinds
