"""Finding image files, and reading, labelling and writing them side by side; one that is broken stops nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seg_cli.errors import RunFailed, UserError
from seg_cli.inference.labelling import Labelled, Source, find_images, label_files, thread_count

Read = Callable[[Path], np.ndarray]


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


def test_a_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "b.png", "a/c.JPG", "a/b/d.tif", "notes.txt", ".hidden.png", "out/masks/b.png")
    found = find_images(str(tmp_path), without=tmp_path / "out")
    assert names(found) == ["b", "a/c", "a/b/d"]
    assert found[1].path == tmp_path / "a" / "c.JPG"


def test_a_file_is_called_by_its_name(tmp_path: Path) -> None:
    make(tmp_path, "deep/photo.1.png")
    assert names(find_images(str(tmp_path / "deep" / "photo.1.png"))) == ["photo.1"]


def test_a_pattern_keeps_the_folders_that_it_goes_through(tmp_path: Path) -> None:
    make(tmp_path, "photos/x/1.png", "photos/y/1.png", "photos/y/2.txt", "photos/y/z/3.png", "photos/out/4.png")
    assert names(find_images(f"{tmp_path}/photos/*/*", without=tmp_path / "photos" / "out")) == ["x/1", "y/1"]
    assert names(find_images(f"{tmp_path}/photos/**/*.png", without=tmp_path / "photos" / "out")) == [
        *("x/1", "y/1", "y/z/3"),
    ]


def test_a_pattern_that_goes_up_again_gives_names_that_do_not(tmp_path: Path) -> None:
    make(tmp_path, "photos/x/1.png", "other/1.png", "other/deep/2.png")
    found = find_images(f"{tmp_path}/photos/*/../../other/**/*.png")
    assert names(found) == ["1", "deep/2"]
    assert [source.path.is_file() for source in found] == [True, True]


def test_files_that_differ_in_their_suffix_alone_keep_it(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "A.png", "b.png", "s/a.png")
    assert sorted(names(find_images(str(tmp_path)))) == ["A.png", "a.jpg", "b", "s/a"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nothing", "input={}/nothing: there is no such file or folder"),
        ("empty", "input={}/empty: the folder holds no images (.png, .jpg"),
        ("*.png", "input={}/*.png: no image file"),
    ],
)
def test_where_there_are_no_images_it_is_said(tmp_path: Path, place: str, said: str) -> None:
    make(tmp_path, "empty/readme.txt")
    with pytest.raises(UserError) as wrong:
        find_images(f"{tmp_path}/{place}")
    assert said.format(tmp_path) in str(wrong.value)


# ---- the work


class Desk:
    """Images by name, each filled with a number; what was labelled together, and what was written."""

    def __init__(self, images: dict[str, tuple[int, int]]) -> None:
        self.sources = [Source(Path(name), name) for name in images]
        self.sizes = images
        self.batches: list[tuple[int, ...]] = []
        self.written: dict[str, np.ndarray] = {}
        self.labelled_in: set[int] = set()

    def read(self, path: Path) -> np.ndarray:
        if path.name.startswith("bad"):
            raise UserError(f"{path}: the image is truncated.")
        if path.name.startswith("worse"):
            raise ValueError("what a library says")
        number = list(self.sizes).index(path.name)
        return np.full((*self.sizes[path.name], 3), number, np.uint8)

    def label(self, images: np.ndarray) -> Labelled:
        self.labelled_in.add(threading.get_ident())
        self.batches.append(images.shape)
        if images.shape[1:3] == (13, 13):
            raise UserError("the model does not take images of 13x13.")
        shares = np.repeat(images[..., 0][:, None], 2, 1).astype(np.float16)
        return Labelled(images[..., 0], shares)

    def write(self, name: str, image: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None) -> None:
        assert probabilities is not None
        assert (probabilities[0] == labels).all()
        assert (image[..., 0] == labels).all()
        self.written[name] = labels

    def run(self, *, batch_size: int = 4, threads: int = 2) -> dict[str, str | None]:
        done: Iterator[tuple[Source, str | None]] = label_files(
            self.sources, read=self.read, label=self.label, write=self.write, batch_size=batch_size, threads=threads
        )
        return {source.name: problem for source, problem in done}


def test_every_image_gets_its_own_labels() -> None:
    sizes = [(8, 8), (8, 10), (8, 8), (10, 8)]
    desk = Desk({f"{number:02}": sizes[number % 4] for number in range(30)})
    assert desk.run() == dict.fromkeys(desk.sizes)
    for number, (name, size) in enumerate(desk.sizes.items()):
        assert desk.written[name].shape == size
        assert (desk.written[name] == number).all()
    assert desk.labelled_in == {threading.get_ident()}, "the model stays in one thread"
    assert sum(shape[0] for shape in desk.batches) == 30
    assert max(shape[0] for shape in desk.batches) == 4
    assert len(desk.batches) <= 10


def test_bad_files_are_named_and_the_others_done() -> None:
    desk = Desk(dict.fromkeys(("a", "bad1", "b", "worse", "c"), (8, 8)) | {"odd": (13, 13)})
    done = desk.run()
    assert done["bad1"] == "bad1: the image is truncated."
    assert done["worse"] == "worse: the image cannot be read (ValueError: what a library says)."
    assert done["odd"] == "odd: the model does not take images of 13x13."
    assert sorted(desk.written) == ["a", "b", "c"]
    assert len(done) == 6


def test_large_images_come_in_smaller_batches() -> None:
    desk = Desk({str(number): (2048, 2048) for number in range(4)})
    desk.run(batch_size=8)
    assert [shape[0] for shape in desk.batches] == [2, 2]


def test_reading_goes_on_while_the_model_works() -> None:
    desk = Desk({str(number): (8, 8) for number in range(12)})
    begun: list[str] = []
    read, label = desk.read, desk.label

    def slow_label(images: np.ndarray) -> Labelled:
        seen = len(begun)
        deadline = time.monotonic() + 5
        while len(begun) == seen < 12 and time.monotonic() < deadline:
            time.sleep(0.001)
        overlapped.append(len(begun) > seen or seen == 12)
        return label(images)

    def noted(path: Path) -> np.ndarray:
        time.sleep(0.005)
        begun.append(path.name)
        return read(path)

    overlapped: list[bool] = []
    done = label_files(desk.sources, read=noted, label=slow_label, write=desk.write, batch_size=2, threads=1)
    assert len(list(done)) == 12
    assert all(overlapped)


def test_what_cannot_be_written_ends_it_all() -> None:
    desk = Desk({str(number): (8, 8) for number in range(50)})

    def full(name: str, image: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None) -> None:
        raise RunFailed("no space is left")

    with pytest.raises(RunFailed, match="no space is left"):
        list(label_files(desk.sources, read=desk.read, label=desk.label, write=full, batch_size=2, threads=2))
    assert len(desk.batches) < 25


def test_threads() -> None:
    assert thread_count(3) == 3
    assert thread_count(0) == 1, "something has to read"
    assert 2 <= thread_count("auto") <= 16
