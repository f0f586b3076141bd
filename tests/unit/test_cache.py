"""The cache of decoded samples: the same arrays as from the files, built once, and never out of date."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from seg_cli.data import cache
from seg_cli.data.augment import Augment
from seg_cli.data.cache import StoredSamples
from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.geometry import HorizontalFlip
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import LabelSpace
from seg_cli.data.loading import BatchShape, training_loader
from seg_cli.data.masks import read_index
from seg_cli.errors import RunFailed, UserError

LABELS = LabelSpace(names=("a", "b", "c"), colors=((0, 0, 0), (9, 9, 9), (99, 99, 99)), raw={0: 0, 7: 1, 8: 2, 9: 255})


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folders of both kinds of cache; shared memory is an ordinary folder."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SHARED_MEMORY", tmp_path / "shm")
    yield tmp_path
    cache.leave_others(())


def write_pairs(folder: Path, count: int = 5, *, start: int = 0) -> list[Pair]:
    """Pictures of different sizes."""
    folder.mkdir(exist_ok=True)
    pairs = []
    for index in range(start, start + count):
        rng = np.random.default_rng(index)
        size = (20 + 3 * index, 31)
        pair = Pair(folder / f"{index}.png", (folder / f"{index}_mask.png",), f"n{index}", f"g{index % 2}")
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(pair.image)
        Image.fromarray(rng.choice(np.array([0, 7, 8, 9], np.uint8), size)).save(pair.masks[0])
        pairs.append(pair)
    return pairs


def read_planes(pair: Pair) -> np.ndarray:
    raw = read_index(pair)
    return np.stack([raw == value for value in (0, 7, 8)]).astype(np.uint8)


def dataset(pairs: dict[str, list[Pair]], kind: str = "disk", **settings: Any) -> FileDataset:
    settings = {"labels": LABELS, "read_image": ImageReader(), "read_mask": read_index} | settings
    return FileDataset(pairs, cache=kind, **settings)


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def assert_same(found: FileDataset, expected: FileDataset, split: str = "train") -> None:
    for index in range(len(expected.splits[split])):
        one, other = found.splits[split][index], expected.splits[split][index]
        assert (one.name, one.group, one.image.dtype) == (other.name, other.group, other.image.dtype)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(found.splits[split].mask(index), other.mask)  # type: ignore[attr-defined]


# ---- what is in it


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk", "auto"])
def test_samples_are_those_of_the_files_which_are_read_no_more(tmp_path: Path, kind: str, workers: int) -> None:
    pairs = {"train": write_pairs(tmp_path / "data"), "val": write_pairs(tmp_path / "data", 2, start=5), "test": []}
    plain, cached = dataset(pairs, "none"), dataset(pairs, kind)
    seen: list[object] = []
    lines: list[str] = []

    def progress(items: Any) -> Iterator[Any]:
        for item in items:
            seen.append(item)
            yield item

    cached.prepare(workers=workers, progress=progress, say=lines.append)
    assert len(seen) == 7
    said = [line.partition(" ")[2].partition(",")[0] for line in lines]
    assert said == ([] if kind == "auto" else ["5 decoded samples of train", "2 decoded samples of val"])
    for split in ("train", "val"):
        assert_same(cached, plain, split)
    for path in files(tmp_path / "data"):
        path.unlink()
    assert cached.splits["train"][4].size == (32, 31)


def test_floats_and_overlapping_labels_keep_their_form(tmp_path: Path) -> None:
    pairs = {"train": write_pairs(tmp_path / "data")}
    labels = LabelSpace(names=LABELS.names, colors=LABELS.colors, overlapping=True)
    settings = {"labels": labels, "read_image": ImageReader(channels=1, value_range=(10, 90)), "channels": 1}
    plain = dataset(pairs, "none", read_mask=read_planes, **settings)
    cached = dataset(pairs, "disk", read_mask=read_planes, **settings)
    cached.prepare()
    assert_same(cached, plain)
    sample = cached.splits["train"][1]
    assert (sample.image.shape, sample.image.dtype, sample.mask.shape) == ((23, 31, 1), np.float32, (3, 23, 31))


def test_a_sample_is_a_view_that_cannot_be_written_to(tmp_path: Path) -> None:
    cached = dataset({"train": write_pairs(tmp_path / "data")})
    cached.prepare()
    one, again = cached.splits["train"][2], cached.splits["train"][2]
    assert np.shares_memory(one.image, again.image)
    assert np.shares_memory(one.mask, again.mask)
    with pytest.raises(ValueError, match="read-only"):
        one.image[0, 0] = 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without(tmp_path: Path, workers: int) -> None:
    pairs = {"train": write_pairs(tmp_path / "data", 8)}
    batches = []
    for kind in ("none", "ram"):
        data = dataset(pairs, kind)
        data.prepare()
        augment = Augment({"flip": HorizontalFlip()})
        loader = training_loader(
            data.splits["train"],
            augment=augment,
            shape_of=lambda epoch: BatchShape(4, (16, 16)),
            seed=0,
            workers=workers,
        )
        loader.batch_sampler.choose(0, range(2))  # type: ignore[union-attr]
        batches.append(list(loader))
    assert len(batches[0]) == 2
    for plain, cached in zip(*batches, strict=True):
        assert (plain.images == cached.images).all()
        assert (plain.masks == cached.masks).all()


def test_none_prepares_nothing_and_another_word_is_refused(tmp_path: Path, caches: Path) -> None:
    pairs = {"train": write_pairs(tmp_path / "data", 1)}
    dataset(pairs, "none").prepare()
    assert not files(caches, "*.samples")
    with pytest.raises(UserError, match=r"data\.cache=rom: there is no such cache\. Caches: auto, none, ram, disk"):
        dataset(pairs, "rom")


# ---- when it is built


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    original = ImageReader.__call__

    def counting(self: ImageReader, path: Path) -> np.ndarray:
        read.append(path)
        return original(self, path)

    monkeypatch.setattr(ImageReader, "__call__", counting)
    return read


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_it_is_built_once_and_a_changed_file_is_noticed(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pairs = {"train": write_pairs(tmp_path / "data")}
    read = count_reads(monkeypatch)
    dataset(pairs, kind).prepare()
    assert len(read) == 6  # the first also tells how large all will be
    read.clear()
    dataset(pairs, kind).prepare()
    assert not read
    for index, change in enumerate((relabel, touch, relabel)):
        change(pairs["train"][index].masks[0])
        cached = dataset(pairs, kind)
        cached.prepare()
        assert len(read) == 6
        assert_same(cached, dataset(pairs, "none"))
        read.clear()
        cache.leave_others(files(caches, "*.samples")[-1:])
    assert len(files(caches, "*.samples")) <= 2  # what is out of date goes, unless somebody uses it
    assert not files(caches, "*.tmp")
    assert not files(caches, "*.lock")


def relabel(path: Path) -> None:
    mask = np.array(Image.open(path))
    Image.fromarray(np.where(mask == 7, np.uint8(8), mask)).save(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def test_what_is_out_of_date_is_removed_and_other_settings_have_their_own(tmp_path: Path, caches: Path) -> None:
    pairs = {"train": write_pairs(tmp_path / "data")}
    dataset(pairs).prepare()
    dataset(pairs, classes={"ignore": ["b"]}).prepare()
    dataset(pairs, read_image=ImageReader(channels=1), channels=1).prepare()
    first = files(caches, "*.samples")
    assert len(first) == 3
    relabel(pairs["train"][0].masks[0])
    data = dataset(pairs)
    data.prepare()
    assert len(files(caches, "*.samples")) == 3
    assert len({*files(caches, "*.samples"), *first}) == 4


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-9],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: b"segrun\0\0" + data[8:],
    ],
    ids=["cut", "cut in the header", "empty", "damaged index", "older version"],
)
def test_a_broken_cache_is_built_anew(tmp_path: Path, caches: Path, harm: Callable[[bytes], bytes]) -> None:
    pairs = {"train": write_pairs(tmp_path / "data")}
    dataset(pairs).prepare()
    (file,) = files(caches, "*.samples")
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=r"samples: "):
        StoredSamples(file)
    cached = dataset(pairs)
    cached.prepare()
    assert_same(cached, dataset(pairs, "none"))
    assert files(caches, "*.samples") == [file]


def test_a_broken_sample_is_named_and_leaves_nothing_behind(tmp_path: Path, caches: Path) -> None:
    pairs = {"train": write_pairs(tmp_path / "data")}
    pairs["train"][3].image.write_bytes(pairs["train"][3].image.read_bytes()[:-30])
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"^\S*3\.png: the image is truncated"):
            dataset(pairs).prepare(workers=workers)
    pairs["train"][3].image.unlink()
    with pytest.raises(UserError, match=r"3\.png: the image is not there any more"):
        dataset(pairs).prepare()
    assert not [*files(caches / "cache"), *files(caches / "shm")]


# ---- several processes

SCRIPT = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
import test_cache
from seg_cli.data import cache
from seg_cli.data.images import ImageReader

cache.SHARED_MEMORY = Path({folder!r}) / "shm"
read = ImageReader.__call__

def slow(self, path):
    print("read", flush=True)
    time.sleep(0.1)
    return read(self, path)

ImageReader.__call__ = slow
pairs = [test_cache.Pair(path, (path.with_name(path.stem + "_mask.png"),), path.stem)
         for path in sorted(Path({folder!r}, "data").glob("?.png"))]
data = test_cache.dataset({{"train": pairs}}, sys.argv[1])
data.prepare(say=lambda line: print("said", line, flush=True))
print("ready", data.splits["train"][0].image.sum(), flush=True)
sys.stdin.readline()
"""


def start(folder: Path, kind: str) -> subprocess.Popen[str]:
    script = SCRIPT.format(path=[str(Path(__file__).parent)], folder=str(folder))
    command = [sys.executable, "-c", script, kind]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})


def until_ready(process: subprocess.Popen[str]) -> list[str]:
    lines: list[str] = []
    while not lines or not lines[-1].startswith("ready"):
        line = process.stdout.readline()  # type: ignore[union-attr]
        assert line, lines
        lines.append(line.strip())
    return lines


def test_of_two_jobs_one_builds_and_the_other_waits_and_the_last_one_clears_shared_memory(
    tmp_path: Path, caches: Path
) -> None:
    write_pairs(tmp_path / "data")
    jobs = [start(tmp_path, "ram"), start(tmp_path, "ram")]
    first, second = sorted((until_ready(job) for job in jobs), key=lambda lines: -lines.count("read"))
    assert first.count("read") == 6
    assert second.count("read") == 0
    assert [line for line in second if line.startswith("said")] in (
        [],  # it came when the other was done
        ["said data.cache: another process is building this cache; waiting for it"],
    )
    assert first[-1] == second[-1]
    for job in jobs:
        assert len(files(caches / "shm", "*.samples")) == 1
        job.communicate("\n", timeout=60)
    assert not files(caches / "shm")


def test_what_a_killed_job_leaves_is_removed_by_the_next(tmp_path: Path, caches: Path) -> None:
    write_pairs(tmp_path / "data")
    job = start(tmp_path, "ram")
    until_ready(job)
    job.kill()
    job.wait()
    assert len(files(caches / "shm", "*.samples")) == 1
    folder = files(caches / "shm")[0].parent
    for name in ("old.tmp", "fresh.tmp"):
        (folder / name).write_bytes(b"half")
    os.utime(folder / "old.tmp", (time.time() - 100,) * 2)
    other = dataset({"train": write_pairs(tmp_path / "other")}, "ram")
    other.prepare()
    names = [path.name for path in files(folder)]
    assert len(names) == 2
    assert names[1] == "fresh.tmp"


def test_shared_memory_of_earlier_jobs_is_given_back_by_the_next_one_of_the_process(
    tmp_path: Path, caches: Path
) -> None:
    one = dataset({"train": write_pairs(tmp_path / "one")}, "ram")
    one.prepare()
    two = dataset({"train": write_pairs(tmp_path / "two", 2)}, "ram")
    two.prepare()
    assert len(files(caches / "shm", "*.samples")) == 1
    assert one.splits["train"][4].size == (32, 31)  # whoever still has it can go on
    dataset({"train": write_pairs(tmp_path / "three", 2)}, "none").prepare()
    assert not files(caches / "shm", "*.samples"), "nor does one that keeps nothing leave them"


def test_a_worker_that_is_not_forked_opens_the_file_again(tmp_path: Path, caches: Path) -> None:
    cached = dataset({"train": write_pairs(tmp_path / "data")})
    cached.prepare()
    assert_same(pickle.loads(pickle.dumps(cached)), cached)
    pickled = pickle.dumps(cached)
    files(caches, "*.samples")[0].unlink()
    with pytest.raises(RunFailed, match=r"data\.cache: .*samples was removed or damaged while the run used it"):
        pickle.loads(pickled)


# ---- room


def test_a_cache_for_which_there_is_no_room_is_refused(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {"train": write_pairs(tmp_path / "data")}
    exact = sum(4 * 31 * (20 + 3 * index) for index in range(5))
    usage = SimpleNamespace(free=exact - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    for kind, instead in (("disk", "none, or set XDG_CACHE_HOME"), ("ram", "disk, or none")):
        said = rf"data\.cache={kind}: the decoded samples of train take 0\.02 MB, and .* has 0\.02 MB free.*={instead}"
        with pytest.raises(UserError, match=said):
            dataset(pairs, kind).prepare()
    assert not files(caches, "*.samples")
    usage.free = exact + 2000
    dataset(pairs).prepare()


@pytest.mark.parametrize("reason", ["large", "no shared memory", "not writable", "no names", "room ran out"])
def test_what_auto_cannot_keep_is_read_from_its_files(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    pairs = {"train": write_pairs(tmp_path / "data"), "val": write_pairs(tmp_path / "more", start=7)}
    settings: dict[str, Any] = {}
    if reason == "large":
        monkeypatch.setattr(cache, "_SMALL", 10_000)
    elif reason == "no shared memory":
        monkeypatch.setattr(cache, "SHARED_MEMORY", tmp_path / "none")
    elif reason == "not writable":
        monkeypatch.setattr(cache, "SHARED_MEMORY", tmp_path / "data")
        (tmp_path / "data" / f"segrun-{os.getuid()}").write_text("")
    elif reason == "no names":
        settings["read_mask"] = lambda pair: read_index(pair)
    else:
        monkeypatch.setattr(cache, "_build", lambda *_: _full())
    found = dataset(pairs, "auto", **settings)
    lines: list[str] = []
    found.prepare(say=lines.append)
    assert not [*files(caches, "*.samples"), *files(caches, "*.tmp"), *lines]
    assert_same(found, dataset(pairs, "none"))
    os.unlink(pairs["train"][0].image)
    with pytest.raises(UserError, match="not there"):
        found.splits["train"][0]


def _full() -> None:
    with cache._full_is_said(Path("a")):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_room_that_runs_out_and_a_system_without_shared_memory_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunFailed, match=r"no room is left in"), cache._full_is_said(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    pairs = {"train": write_pairs(tmp_path / "data", 1)}
    monkeypatch.setattr(cache, "SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(UserError, match=r"data\.cache=ram: this system has no .*none\. Type data\.cache=disk"):
        dataset(pairs, "ram").prepare()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache=disk: .* cannot be written \(.*\)\. Set XDG_CACHE_HOME"):
        dataset(pairs).prepare()


def test_readers_that_cannot_be_named_are_refused(tmp_path: Path) -> None:
    pairs = {"train": write_pairs(tmp_path / "data", 1)}
    with pytest.raises(UserError, match=r"data\.cache=disk: the readers of this dataset cannot be pickled"):
        dataset(pairs, read_mask=lambda pair: read_index(pair)).prepare()


def test_images_in_a_format_of_the_datasets_own_are_taken_to_be_as_large_as_the_first(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "data", 3)
    for pair in pairs:
        np.save(pair.image.with_suffix(".npy"), cv2.imread(str(pair.image)))
    own = [Pair(pair.image.with_suffix(".npy"), pair.masks, pair.name) for pair in pairs]
    lines: list[str] = []
    dataset({"train": own}, read_image=np.load).prepare(say=lines.append)
    assert "3 decoded samples of train, 0.01 MB" in lines[0]


# ---- a hint


def test_a_mask_of_the_picture_before_it_was_turned_is_explained(tmp_path: Path) -> None:
    (pair,) = write_pairs(tmp_path / "data", 1)
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(pair.image) as picture:
        picture.save(pair.image, exif=exif)
    with pytest.raises(UserError, match=r"0_mask\.png: the mask is 31x20 .* 20x31 .* EXIF data of the image turn it"):
        dataset({"train": [pair]}, "none").splits["train"][0]
