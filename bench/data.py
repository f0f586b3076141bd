"""How fast samples are made, beside the least that is possible and beside the recipe that is common elsewhere.

Pictures are drawn into a temporary folder: JPEG of quality 90 with index masks as PNG, 1024x2048 and 360x480 (height x
width). Everything runs on one core and in interleaved rounds, so that what else the machine does falls on all alike;
each figure is the median over the rounds of a ratio within the round.

- Least: a loop of ``cv2.imdecode`` of image and mask, a random crop and a mirror; nothing else, and no batches. Ours
  does the same with ``augment=flip``, as batches, with and without ``data.cache``.
- Recipe: albumentations' RandomScale, PadIfNeeded, RandomCrop, HorizontalFlip, ColorJitter, Normalize and ToTensorV2
  in PyTorch's DataLoader. Ours is ``augment=geometry+color``, with the same ranges; the model normalises.

Then the loader with its workers, one a core or as many as are asked for, in crops a second. The decoded samples are in
the system's file cache by then, as those of ``data.cache=ram`` always are.

    python bench/data.py [ROUNDS] [WORKERS]
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seg_cli.data.albumentation import Albumentation
from seg_cli.data.augment import Augment
from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.geometry import HorizontalFlip, RandomRotation, RandomScale, Size
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.data.loading import BatchShape, ShuffledBatches, training_loader
from seg_cli.data.masks import read_index

CLASSES, BATCH = 19, 8
JITTER = {"brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "saturation": (0.7, 1.3), "hue": (-0.03, 0.03), "p": 0.8}
LABELS = LabelSpace(
    names=[f"class {index}" for index in range(CLASSES)], colors=[(index, index, index) for index in range(CLASSES)]
)


def draw(folder: Path, size: Size, samples: int) -> list[Pair]:
    """Pictures of some texture, with masks of some 80 regions."""
    folder.mkdir()
    height, width = size
    pairs = []
    for index in range(samples):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 6, (*size, 3))
        mask = cv2.resize(rng.integers(0, CLASSES, (8, 10), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for _ in range(60):
            center = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(mask, center, int(rng.integers(4, height // 5)), int(rng.integers(CLASSES)), -1)
        pair = Pair(folder / f"{index}.jpg", (folder / f"{index}.png",), str(index))
        cv2.imwrite(str(pair.image), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(pair.masks[0]), mask)
        pairs.append(pair)
    return pairs


def ours(pairs: list[Pair], crop: Size, steps: dict[str, object], cache: str, workers: int = 0) -> DataLoader:
    data = FileDataset({"train": pairs}, LABELS, read_image=ImageReader(), read_mask=read_index, cache=cache)
    data.prepare()
    shape = BatchShape(BATCH, crop)
    return training_loader(
        data.splits["train"], augment=Augment(steps), shape_of=lambda epoch: shape, seed=0, workers=workers
    )


def begin(loader: DataLoader, epoch: int) -> None:
    """Choose all batches of an epoch of our loader; others have nothing to choose."""
    sampler = loader.batch_sampler
    if isinstance(sampler, ShuffledBatches):
        sampler.choose(epoch, range(sampler.length // BATCH))


def flip() -> dict[str, object]:
    return {"flip": HorizontalFlip()}


def geometry_and_color() -> dict[str, object]:
    geometry = {"scale": RandomScale(low=0.5, high=2), "rotation": RandomRotation(degrees=5)}
    return flip() | geometry | {"color": Albumentation(name="ColorJitter", args=JITTER)}


def least(pairs: list[Pair], crop: Size) -> Callable[[], None]:
    rng = np.random.default_rng(0)

    def go() -> None:
        for pair in pairs:
            image = cv2.imdecode(np.fromfile(pair.image, np.uint8), cv2.IMREAD_COLOR)
            mask = cv2.imdecode(np.fromfile(pair.masks[0], np.uint8), cv2.IMREAD_UNCHANGED)
            y, x = rng.integers(mask.shape[0] - crop[0] + 1), rng.integers(mask.shape[1] - crop[1] + 1)
            image, mask = image[y : y + crop[0], x : x + crop[1]], mask[y : y + crop[0], x : x + crop[1]]
            if rng.random() < 0.5:
                image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)

    return go


class Recipe(TorchDataset):
    def __init__(self, pairs: list[Pair], crop: Size) -> None:
        self.pairs = pairs
        self.transform = A.Compose(
            [
                A.RandomScale(scale_limit=(-0.5, 1.0), p=1),
                A.PadIfNeeded(*crop, fill_mask=VOID),
                A.RandomCrop(*crop),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(**JITTER),
                A.Normalize(),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index]
        image = cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(pair.masks[0]), cv2.IMREAD_UNCHANGED)
        made = self.transform(image=image, mask=mask)
        return made["image"], made["mask"]


def epoch(loader: DataLoader) -> Callable[[], None]:
    numbers = count()

    def go() -> None:
        begin(loader, next(numbers))
        for _ in loader:
            pass

    return go


def compare(
    title: str, entries: dict[str, Callable[[], None]], samples: int, rounds: int, targets: dict[str, tuple[str, float]]
) -> list[str]:
    """Print a table; the targets, name -> (that is to be so much slower, times), met or not, a line each."""
    times: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(rounds + 1):
        for name, go in entries.items():
            started = time.perf_counter()
            go()
            if number:  # the first warms up
                times[name].append((time.perf_counter() - started) / samples)
    print(f"\n{title}, one core, median of {rounds} rounds")
    print(f"{'':<42}{'ms a sample':>12}{'a second':>10}")
    for name, found in times.items():
        print(f"{name:<42}{1e3 * statistics.median(found):>12.2f}{1 / statistics.median(found):>10.0f}")
    verdicts = []
    for name, (other, target) in targets.items():
        ratio = statistics.median(b / a for a, b in zip(times[name], times[other], strict=True))
        verdicts.append(
            f"{'met' if ratio >= target else 'NOT MET':<9}{f'{name}, times as fast as {other}':<62}{ratio:>6.2f}, "
            f"target >= {target:<4g}({title})"
        )
    return verdicts


def throughput(pairs: list[Pair], crop: Size, workers: int, rounds: int) -> list[str]:
    """Crops a second that a loader with workers gives, and what that is for 16 cores.

    On a machine of fewer cores it is reckoned from the processor time of all processes, the one that receives included,
    since wall time is what others leave; memory that 16 cores share is not in it.
    """
    loader = ours(pairs * 8, crop, geometry_and_color(), "disk", workers)
    began = sum(os.times()[:4])
    rates, crops = [], 0
    for number in range(rounds):
        begin(loader, number)
        started, before = time.perf_counter(), crops
        for batch in loader:
            crops += len(batch.names)
        rates.append((crops - before) / (time.perf_counter() - started))
    del loader  # its workers end, and are counted
    rate, cores = statistics.median(rates), min(workers, len(os.sched_getaffinity(0)))
    each = crops / (sum(os.times()[:4]) - began)
    title = f"{crop[0]}x{crop[1]}, geometry+color, cached"
    print(
        f"\n{title}, {workers} workers on {cores} cores: {rate:.0f} crops a second, "
        f"{each:.0f} a second of processor time"
    )
    found = rate if cores >= 16 else 16 * each
    what = "crops a second" + (f" with {cores} cores" if cores >= 16 else ", 16 times those of a core")
    return [f"{'met' if found >= 1500 else 'NOT MET':<9}{what:<62}{found:>6.0f}, target >= 1500 ({title})"]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        folder = Path(name)
        large, small = draw(folder / "large", (1024, 2048), 16), draw(folder / "small", (360, 480), 64)
        verdicts = []
        for pairs, size, crop, factor in ((large, (1024, 2048), (512, 512), 5), (small, (360, 480), (360, 480), 3)):
            title = f"{size[0]}x{size[1]} to {crop[0]}x{crop[1]}"
            verdicts += compare(
                title,
                {
                    "least": least(pairs, crop),
                    "flip": epoch(ours(pairs, crop, flip(), "none")),
                    "flip, cached": epoch(ours(pairs, crop, flip(), "disk")),
                },
                len(pairs),
                rounds,
                {"flip": ("least", 0.9), "flip, cached": ("least", factor)},
            )
        recipe = DataLoader(Recipe(large, (512, 512)), batch_size=BATCH, shuffle=True, drop_last=True)
        verdicts += compare(
            "1024x2048 to 512x512",
            {
                "recipe": epoch(recipe),
                "geometry+color": epoch(ours(large, (512, 512), geometry_and_color(), "none")),
                "geometry+color, cached": epoch(ours(large, (512, 512), geometry_and_color(), "disk")),
            },
            len(large),
            rounds,
            {"geometry+color": ("recipe", 1), "geometry+color, cached": ("recipe", 4)},
        )
        verdicts += throughput(large, (512, 512), workers, rounds)
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
