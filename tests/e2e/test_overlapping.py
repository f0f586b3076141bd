"""Own datasets whose labels overlap, or whose images have four bands, from the command to the run directory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_cli.runs.run import Run
from tests.e2e.conftest import TINY, Outcome

Segrun = Callable[..., Outcome]

MODULE = '''
import numpy as np

from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.sample import Sample


class Split:
    """Disks of two kinds that may lie on one another, one in the first band and one in the second."""

    def __init__(self, seed, count, channels, overlapping):
        self.seed, self.count, self.channels, self.overlapping = seed, count, channels, overlapping

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        y, x = np.mgrid[:32, :48]
        centers = rng.uniform(8, 24, (2, 2))
        disks = np.stack([(y - b) ** 2 + (x - a) ** 2 < 80 for b, a in centers])
        image = rng.uniform(0, 90, (32, 48, self.channels)).astype(np.float32)
        image[..., 0] += 120 * disks[0]
        image[..., -1] += 120 * disks[1]
        mask = disks.astype(np.uint8)
        if self.overlapping:
            mask[0, :3] = VOID
        else:
            mask = np.where(mask[1], 1, 0).astype(np.uint8)
        if self.channels == 3:
            image = image.astype(np.uint8)
        return Sample(image, mask, f"image{index}", f"group{index % 2}")


class Disks:
    def __init__(self, *, channels=3, overlapping=True, claims=None):
        colors = ((200, 40, 40), (40, 40, 200))
        self.labels = LabelSpace(names=("Left", "Right"), colors=colors, overlapping=overlapping)
        self.channels = claims or channels
        counts = {"train": 6, "val": 3, "test": 4}
        self.splits = {name: Split(i, n, channels, overlapping) for i, (name, n) in enumerate(counts.items())}

    def fingerprint(self):
        return f"disks {self.channels} {self.labels.overlapping}"
'''
DATA = "# Two disks\n_target_: own_disks.Disks\nchannels: {channels}\noverlapping: {overlapping}\nclaims: null\n"


@pytest.fixture(autouse=True)
def _own_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``data=planes`` and ``data=bands``, in a folder of one's own."""
    (tmp_path / "own_disks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "planes.yaml").write_text(DATA.format(channels=3, overlapping=True))
    (tmp_path / "mine" / "data" / "bands.yaml").write_text(DATA.format(channels=4, overlapping=False))


def test_overlapping_labels_from_training_to_a_second_scoring(segrun: Segrun) -> None:
    own = ("--config-dir=mine", *TINY, "data=planes")
    done = segrun(*own, "loss=bce+dice", "augment=geometry", "loader.crop=[32,32]", "run_dir=r")
    assert done.status == 0, done.err
    run = Run.open("r")
    for split, of in run.results["splits"].items():
        assert of["labels"] == "overlapping"
        matrix = np.array(of["confusion"])
        assert matrix.shape == (2, 2, 2)
        images = {"val": 3, "test": 4}[split]
        assert matrix.sum((1, 2)).tolist() == [images * 29 * 48, images * 32 * 48]  # void in the first plane alone
        rows = [row for row in run.per_image if row["split"] == split]
        assert len(rows) == of["images"] == images
        right = matrix[:, 0, 0].sum() + matrix[:, 1, 1].sum()
        assert of["pixel_accuracy"] == pytest.approx(right / matrix.sum())
        for index, (name, scores) in enumerate(of["classes"].items()):
            (_, fp), (fn, tp) = matrix[index]
            assert sum(int(row[f"intersection/{name}"]) for row in rows) == tp
            assert sum(int(row[f"union/{name}"]) for row in rows) == tp + fp + fn
            assert scores["iou"] == pytest.approx(tp / (tp + fp + fn))
            assert scores["pixels"] == tp + fn > 0
        assert of["miou"] == pytest.approx(np.mean([scores["iou"] for scores in of["classes"].values()]))
    last = run.metrics[-1]
    assert last["val/miou"] == pytest.approx(run.results["splits"]["val"]["miou"], abs=1e-6)
    pictures = {"curves.png", "confusion.png", "predictions.png"}
    assert {path.name for path in run.figures.iterdir()} == pictures | {"examples"}
    for picture in run.figures.glob("*.png"):
        assert min(Image.open(picture).size) > 100

    again = segrun("eval", "run=r", "split=[val,test]", "accelerator=cpu", "loader.workers=0")
    assert again.status == 0, again.err
    (evaluation,) = Path("r/eval").iterdir()
    assert Run(evaluation).results["splits"] == run.results["splits"]
    assert Run(evaluation).per_image == run.per_image


def test_overlapping_labels_are_learned(segrun: Segrun) -> None:
    options = ("trainer.max_epochs=12", "optimizer.lr=5e-3", "loss=ce+dice", "augment=flip", "run_dir=r")
    assert segrun("--config-dir=mine", *TINY, "data=planes", *options).status == 0
    scores = Run.open("r").results["splits"]["test"]
    assert scores["miou"] > 0.6
    # A pixel that both disks cover can be right only if it is given both labels.
    assert scores["classes"]["Left"]["recall"] + scores["classes"]["Right"]["recall"] > 1.4


def test_images_of_four_bands_and_finer_steps_train_and_are_drawn(segrun: Segrun) -> None:
    options = ("loss=ce", "logger=tensorboard", "augment=none", "run_dir=r")
    done = segrun("--config-dir=mine", *TINY, "data=bands", *options)
    assert done.status == 0, done.err
    run = Run.open("r")
    assert run.config.model.encoder.in_channels == 4
    test = run.results["splits"]["test"]
    assert (test["labels"], np.array(test["confusion"]).shape) == ("exclusive", (2, 2))
    assert (run.figures / "predictions.png").is_file()
    assert segrun("eval", "run=r", "split=test", "accelerator=cpu", "loader.workers=0").status == 0


def test_a_dataset_that_does_not_give_what_it_says_is_told_before_training(segrun: Segrun) -> None:
    done = segrun("--config-dir=mine", *TINY, "data=bands", "data.claims=5", "run_dir=r")
    assert done.status == 2
    assert "data: the sample 'image0' has an image (32, 48, 4) of float32" in done.err
    assert "The dataset says 5 bands" in done.err
    done = segrun("--config-dir=mine", *TINY, "data=bands", "model.encoder.in_channels=3", "run_dir=r")
    assert done.status == 2
    assert "in_channels=3: the images have 4 channels" in done.err
    assert not Path("r").exists()
