"""How long a confusion matrix and its mIoU take, beside torchmetrics' MeanIoU and MulticlassJaccardIndex.

A batch of 4 images of 512x1024 with 19 classes, as Cityscapes has, is counted and scored: from label maps, and from
logits in both memory orders. The rounds are interleaved, so that what else the machine does falls on all alike, and
each median is given as a ratio to ours. There is no void, since MeanIoU cannot leave it out; each gets the integer
type that it takes without converting, so uint8 masks for ours and int64 for theirs.

    python bench/metrics.py [ROUNDS]
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from seg_cli.metrics.confusion import count, predict_labels, score

IMAGES, HEIGHT, WIDTH, CLASSES = 4, 512, 1024, 19


def ours(predictions: Tensor, masks: Tensor) -> float:
    return score(count(predictions, masks, CLASSES).sum(0).numpy()).miou


def mean_iou(predictions: Tensor, masks: Tensor) -> float:
    metric = MeanIoU(num_classes=CLASSES, input_format="index")
    metric.update(predictions, masks)
    return float(metric.compute())


def jaccard(predictions: Tensor, masks: Tensor) -> float:
    """It takes labels (N, H, W), or logits (N, C, H, W) and does the argmax itself."""
    metric = MulticlassJaccardIndex(num_classes=CLASSES)
    metric.update(predictions, masks)
    return float(metric.compute())


def seconds(function: Callable[[], float]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, CLASSES, HEIGHT, WIDTH, generator=generator)
    masks = torch.randint(0, CLASSES, (IMAGES, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
    masks_int64, labels = masks.long(), logits.argmax(1)
    channels_last = logits.contiguous(memory_format=torch.channels_last)

    cases: dict[str, tuple[Callable[[], float], ...]] = {
        "label maps": (
            lambda: ours(labels, masks),
            lambda: mean_iou(labels, masks_int64),
            lambda: jaccard(labels, masks_int64),
        ),
        "logits, channels_last": (
            lambda: ours(predict_labels(channels_last), masks),
            lambda: mean_iou(channels_last.argmax(1), masks_int64),
            lambda: jaccard(channels_last, masks_int64),
        ),
        "logits, NCHW": (
            lambda: ours(predict_labels(logits), masks),
            lambda: mean_iou(logits.argmax(1), masks_int64),
            lambda: jaccard(logits, masks_int64),
        ),
    }
    times: dict[str, list[list[float]]] = {case: [] for case in cases}
    for _ in range(rounds + 1):
        for case, functions in cases.items():
            times[case].append([seconds(function) for function in functions])

    print(f"{IMAGES}x{HEIGHT}x{WIDTH}, {CLASSES} classes, {torch.get_num_threads()} threads, median of {rounds} rounds")
    print(f"{'from':<24}{'ours':>9}{'MeanIoU':>12}{'ratio':>8}{'Jaccard':>12}{'ratio':>8}")
    for case, rows in times.items():
        own, first, second = (statistics.median(column) for column in zip(*rows[1:], strict=True))  # the first warms up
        print(
            f"{case:<24}{own * 1e3:>6.1f} ms{first * 1e3:>9.1f} ms{first / own:>7.1f}x"
            f"{second * 1e3:>9.1f} ms{second / own:>7.1f}x"
        )


if __name__ == "__main__":
    main()
