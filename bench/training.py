"""Epochs of our training loop, beside a hand-written loop that does the same, and beside the stock way.

U-Net on ResNet-18, 224x224, batches of 8, drawn pictures as JPEG with PNG masks, 11 classes. On a GPU also DeepLabV3+
on ResNet-50 at 512x512.

- By hand: the same model, loader, loss, precision, optimiser and clipping in a loop of ten lines. Epochs are
  interleaved; the figure is the median over the rounds of the ratio within a round.
- Stock: what the documentation of the libraries shows: a LightningModule with SMP's U-Net, its dice loss and
  cross-entropy, torchmetrics in the training step, albumentations and ToTensorV2 in a DataLoader, AdamW, float32, in a
  process of its own. Ours is what ``segrun`` does by default with the same losses and augmentation; decoding each
  picture once is a part of that.

    python bench/training.py [ROUNDS]
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
import torchmetrics
from albumentations.pytorch import ToTensorV2
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seg_cli.data.augment import Augment
from seg_cli.data.datamodule import DataModule
from seg_cli.data.files import FileDataset, Pair
from seg_cli.data.geometry import HorizontalFlip
from seg_cli.data.images import ImageReader
from seg_cli.data.labels import LabelSpace
from seg_cli.data.loading import worker_count
from seg_cli.data.masks import read_index
from seg_cli.inference.evaluate import autocast
from seg_cli.inference.memory import keep_freed_memory
from seg_cli.losses import CrossEntropy, Dice, Sum
from seg_cli.models.blocks import Normalize
from seg_cli.models.deeplabv3plus import DeepLabV3Plus
from seg_cli.models.encoder import Encoder
from seg_cli.models.unet import UNet
from seg_cli.runs.run import Run
from seg_cli.training import precision
from seg_cli.training.finetune import Phases
from seg_cli.training.fit import set_backends
from seg_cli.training.loop import Loop
from seg_cli.training.progress import TrainingDisplay
from seg_cli.training.schedules import OneCycle
from seg_cli.training.signals import StopSignals
from seg_cli.training.stages import Plan, Stage
from seg_cli.training.task import SegmentationTask

CLASSES, BATCH = 11, 8
SETTINGS = {
    "early_stop": None,
    "validate_every": 10**6,
    "gradient_clip": 1.0,
    "checkpoint_minutes": None,
    "lr_batch": None,
}
LABELS = LabelSpace(
    names=[f"class {index}" for index in range(CLASSES)], colors=[(index, index, index) for index in range(CLASSES)]
)


def draw(folder: Path, side: int, samples: int) -> list[Pair]:
    """Pictures of some texture, with masks of a few regions."""
    pairs = []
    for index in range(samples):
        rng = np.random.default_rng(index)
        regions = rng.integers(0, CLASSES, (6, 6), np.uint8)
        mask = cv2.resize(regions, (side, side), interpolation=cv2.INTER_NEAREST)
        image = (mask[..., None] * np.array([20, 9, 15]) + rng.normal(60, 20, (side, side, 3))).clip(0, 255)
        pair = Pair(folder / f"{index}.jpg", (folder / f"{index}.png",), str(index))
        cv2.imwrite(str(pair.image), image.astype(np.uint8))
        cv2.imwrite(str(pair.masks[0]), mask)
        pairs.append(pair)
    return pairs


def ours(model: nn.Module, pairs: list[Pair], folder: Path, device: torch.device, epochs: int) -> Loop:
    """The loop that ``segrun`` runs, with flips, cross-entropy and dice, and without scoring."""
    few = {"train": pairs, "val": pairs[:2]}
    dataset = FileDataset(few, LABELS, read_image=ImageReader(), read_mask=read_index, cache="auto")
    dataset.prepare()
    augment = Augment({"flip": HorizontalFlip()})
    data = DataModule(dataset, augment=augment, eval_batch_size=BATCH, workers="auto", seed=0)
    task = SegmentationTask(
        model.to(memory_format=torch.channels_last),
        Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": 1.0}),
        class_names=LABELS.names,
        make_optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True),
        schedule=OneCycle(),
        encoder_lr_factor=1.0,
        finetune=Phases(),
    )
    keep_freed_memory()
    fabric = Fabric(accelerator=device.type, devices=1)
    fabric.launch()
    plan = Plan([Stage(0, epochs, None, 1.0, BATCH)], len(pairs))
    return Loop(
        task,
        data,
        Run.create(folder / "run", numbered=True),
        fabric=fabric,
        plan=plan,
        settings=SETTINGS,
        mode=precision.resolve("auto", device),
        average=None,
        loggers=[],
        display=TrainingDisplay(plan, image=(1, 1), validate_every=1, quiet=True),
        stop=StopSignals(),
        identity={},
    )


def our_epoch(loop: Loop) -> Callable[[], None]:
    def go() -> None:
        epoch = loop.at.epoch
        loop._begin(epoch)
        loop._train(epoch)
        loop._look_at_losses()
        loop.at.epoch, loop.at.seen = epoch + 1, 0
        wait(loop.device)

    return go


def epoch_by_hand(loop: Loop) -> Callable[[], None]:
    """The same work on the same objects, without the loop around it."""
    model, loss, optimizer = loop.task.model, loop.task.loss, loop.stepper.optimizer

    def go() -> None:
        model.train()
        for batch in loop.data.training_batches(0, range(loop.plan.batches(0))):
            images, masks = (
                batch.images.to(loop.device, non_blocking=True),
                batch.masks.to(loop.device, non_blocking=True),
            )
            optimizer.zero_grad(set_to_none=True)
            with autocast(loop.device, loop.dtype):
                value, _ = loss(model(images), masks)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        wait(loop.device)

    return go


class StockSamples(TorchDataset):
    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.transform = A.Compose([A.HorizontalFlip(p=0.5), A.Normalize(), ToTensorV2()])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = cv2.cvtColor(cv2.imread(str(self.pairs[index].image)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(self.pairs[index].masks[0]), cv2.IMREAD_UNCHANGED)
        made = self.transform(image=image, mask=mask)
        return made["image"], made["mask"].long()


class Stock(pl.LightningModule):
    """The module that tutorials show."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.dice = smp.losses.DiceLoss("multiclass")
        self.ce = nn.CrossEntropyLoss()
        self.iou = torchmetrics.JaccardIndex("multiclass", num_classes=CLASSES)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, masks = batch
        logits = self.model(images)
        loss: Tensor = self.ce(logits, masks) + self.dice(logits, masks)
        self.iou(logits.argmax(1), masks)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_iou", self.iou, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def stock_unet() -> nn.Module:
    return smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)


def our_unet() -> nn.Module:
    return UNet(encoder=Encoder("resnet18"), num_classes=CLASSES, upsample="nearest")


def stock_deeplab() -> nn.Module:
    return smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=CLASSES)


def stock_seconds(make: Callable[[], nn.Module], pairs: list[Pair], device: torch.device, epochs: int) -> float:
    """Seconds an epoch, of all but the first."""
    warnings.filterwarnings("ignore")
    model = make()
    workers = worker_count("auto")
    loader = DataLoader(
        StockSamples(pairs),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        drop_last=True,
        pin_memory=device.type == "cuda",
    )
    ends: list[float] = []

    class Clock(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            wait(device)
            ends.append(time.perf_counter())

    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator=device.type,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    )
    trainer.fit(Stock(model), loader)
    return (ends[-1] - ends[0]) / (epochs - 1)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process that is like any that Python starts, whatever this one has set."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def trick_step(
    device: torch.device,
    *,
    last: bool,
    dtype: torch.dtype | None,
    fused: bool,
    our_losses: bool,
    scored: bool,
    our_model: bool,
) -> Callable[[], None]:
    """A training step of U-Net on a ready batch.

    Args:
        device: where.
        last: channels_last.
        dtype: of autocast; None computes in float32.
        fused: the optimiser.
        our_losses: they share a log-softmax; else SMP's dice and PyTorch's cross-entropy.
        scored: torchmetrics in the step.
        our_model: our U-Net, which upsamples and convolves at once; else SMP's, the same layers.
    """
    order = torch.channels_last if last else torch.contiguous_format
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8, device=device)
    masks = torch.randint(0, CLASSES, (BATCH, 224, 224), device=device)
    model = our_unet() if our_model else nn.Sequential(Normalize([0.5] * 3, [0.5] * 3), stock_unet())
    model = model.to(device).train().to(memory_format=order)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    x = images.contiguous(memory_format=order)
    smp_dice, torch_ce = smp.losses.DiceLoss("multiclass"), nn.CrossEntropyLoss()
    shared = Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": 1.0})
    iou = torchmetrics.JaccardIndex("multiclass", num_classes=CLASSES).to(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            logits = model(x)
            value = shared(logits, masks)[0] if our_losses else torch_ce(logits, masks) + smp_dice(logits, masks)
        if scored:
            iou(logits.detach().argmax(1), masks)
        value.backward()
        optimizer.step()
        wait(device)

    return step


def median_of(step: Callable[[], None], rounds: int) -> float:
    """Seconds; two steps warm up."""
    times = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def memory_kept(rounds: int, device: torch.device) -> tuple[float, float]:
    """Seconds of a step with all other tricks in a process that runs nothing else: without this one, and with it."""
    set_backends(deterministic=False)
    bf16 = precision.autocast_dtype(precision.resolve("auto", device))
    step = trick_step(device, last=True, dtype=bf16, fused=True, our_losses=True, scored=False, our_model=True)
    before = median_of(step, 3 * rounds)
    keep_freed_memory()
    return before, median_of(step, 3 * rounds)


def tricks(rounds: int, device: torch.device) -> None:
    """A step of the same U-Net on a ready batch, with one trick after the other."""
    set_backends(deterministic=False)
    bf16 = precision.autocast_dtype(precision.resolve("auto", device))
    settings: dict[str, Any] = {
        "last": False,
        "dtype": None,
        "fused": False,
        "our_losses": False,
        "scored": True,
        "our_model": False,
    }
    ladder = {"the stock way": trick_step(device, **settings)}
    for name, trick in (
        ("no score in the step", {"scored": False}),
        ("one log-softmax for both losses", {"our_losses": True}),
        ("channels_last", {"last": True}),
        ("bfloat16", {"dtype": bf16}),
        ("fused optimiser", {"fused": True}),
        ("upsampling and convolution at once", {"our_model": True}),
    ):
        settings |= trick
        ladder[name] = trick_step(device, **settings)
    times: dict[str, list[float]] = {name: [] for name in ladder}
    for _ in range(rounds + 1):
        for name, step in ladder.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    print(f"\na step of {BATCH} ready images of 224x224, {device.type}, each trick on top of those above it")
    first = statistics.median(times["the stock way"][1:])
    for name, values in times.items():
        own = statistics.median(values[1:])
        print(f"{name:<36}{1e3 * own:>8.0f} ms{first / own:>7.2f} times as fast")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(
    name: str,
    make: Callable[[], nn.Module],
    make_stock: Callable[[], nn.Module],
    side: int,
    samples: int,
    rounds: int,
    device: torch.device,
    targets: tuple[float, float],
) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = draw(Path(folder), side, samples)
        loop = ours(make(), pairs, Path(folder), device, epochs=10**6)
        entries = {"ours": our_epoch(loop), "by hand": epoch_by_hand(loop)}
        times: dict[str, list[float]] = {entry: [] for entry in entries}
        for number in range(rounds + 1):
            for entry in list(entries) if number % 2 else list(entries)[::-1]:
                started = time.perf_counter()
                entries[entry]()
                if number:  # the first warms up
                    times[entry].append(time.perf_counter() - started)
        del loop, entries
        stock = alone(stock_seconds, make_stock, pairs, device, 3)
    images = samples // BATCH * BATCH
    own = statistics.median(times["ours"])
    print(f"\n{name}, {side}x{side}, batches of {BATCH}, {device.type}, {torch.get_num_threads()} threads")
    print(f"{'':<12}{'s an epoch':>12}{'images/s':>10}")
    for entry, seconds in (("ours", own), ("by hand", statistics.median(times["by hand"])), ("stock", stock)):
        print(f"{entry:<12}{seconds:>12.3f}{images / seconds:>10.1f}")
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["by hand"], strict=True))
    return [
        f"{'met' if ratio <= targets[0] else 'MISSED':<8}{name}: time an epoch over the loop by hand {ratio:>6.3f}, "
        f"target <= {targets[0]:g}",
        f"{'met' if stock / own >= targets[1] else 'MISSED':<8}{name}: images a second over the stock way "
        f"{stock / own:>6.2f}, target >= {targets[1]:g}",
    ]


def main() -> None:
    warnings.filterwarnings("ignore")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    set_backends(deterministic=False)
    cpu: dict[str, Any] = {"side": 224, "samples": 160, "rounds": rounds, "device": torch.device("cpu")}
    lines = compare(
        "unet, resnet18",
        our_unet,
        stock_unet,
        **cpu,
        targets=(1.02, 2.5),
    )
    if torch.cuda.is_available():
        gpu: dict[str, Any] = {"side": 512, "samples": 512, "rounds": rounds, "device": torch.device("cuda")}
        lines += compare(
            "deeplabv3plus, resnet50",
            lambda: DeepLabV3Plus(encoder=Encoder("resnet50", output_stride=16), num_classes=CLASSES),
            stock_deeplab,
            **gpu,
            targets=(1.03, 2.0),
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone(tricks, rounds, device)
    before, after = alone(memory_kept, rounds, device)
    print(
        f"the last in a process without the others: {1e3 * before:.0f} ms; freed memory kept: {1e3 * after:.0f} ms, "
        f"{before / after:.2f} times as fast"
    )
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
