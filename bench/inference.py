"""What scoring and settings of inference cost beside the forward passes that they are made of.

- Evaluation: a pass over a split of ready images, counted and read off, over the forward passes of the same batches.
- Sliding windows over an image, over the forward passes of the same windows in the same batches.
- Test-time augmentation, over as many forward passes as there are views (a size counts by its area).
- From logits to counts: labels by the indices of ``max``, as ours, beside ``argmax``, and the counting after it, in
  both memory orders.

The rounds are interleaved and alternate in order; the ratio is that of the medians, with the quartiles of the ratios of
single rounds. On a machine that does something else at the same time the numbers mean little. With OMP_NUM_THREADS=1
on the CPU it is processor time that is measured, to which other processes matter less.

    python bench/inference.py [--repeats N] [--model unet|deeplabv3plus]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seg_cli.data.loading import Batch
from seg_cli.inference.evaluate import autocast, evaluate
from seg_cli.inference.predictor import Predictor
from seg_cli.inference.sliding import Sliding
from seg_cli.inference.tta import Tta
from seg_cli.inference.views import Flip, Rotate, Rotate90, Scale, Shift, Transform
from seg_cli.metrics.confusion import count, predict_labels
from seg_cli.metrics.counting import Counting
from seg_cli.models.deeplabv3plus import DeepLabV3Plus
from seg_cli.models.encoder import Encoder
from seg_cli.models.unet import UNet
from seg_cli.training.precision import has_bf16

EVALUATION, SLIDING = 1.1, 1.15
MODELS = {"unet": UNet, "deeplabv3plus": DeepLabV3Plus}

TTA: dict[str, tuple[list[Transform], float]] = {
    "flip": ([Flip()], 2),
    "flip, vertical too": ([Flip(vertical=True)], 4),
    "rotate90": ([Rotate90()], 4),
    "flip+scale": ([Flip(), Scale(factors=[0.75, 1.0, 1.25])], 2 * (0.75**2 + 1 + 1.25**2)),
    "rotate": ([Rotate(degrees=[-5, 5])], 3),
    "shift": ([Shift(pixels=8)], 5),
}


class Stand:
    """A model on a device, with a batch of images and the masks of it."""

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype | None) -> None:
        torch.manual_seed(0)
        large = device.type == "cuda"
        self.classes = 19 if large else 11
        encoder = Encoder("resnet50" if large else "resnet18")
        net = MODELS[model](encoder=encoder, num_classes=self.classes)
        self.net = net.to(memory_format=torch.channels_last).to(device).eval()
        self.device, self.dtype = device, dtype
        self.batch = (8, 512, 1024) if large else (4, 360, 480)
        self.large = (1, 2048, 2048) if large else (1, 720, 960)
        self.window = 512 if large else 256

    def images(self, shape: tuple[int, int, int]) -> Tensor:
        images = torch.randint(0, 256, (shape[0], 3, *shape[1:]), dtype=torch.uint8)
        return images.contiguous(memory_format=torch.channels_last)

    def compute(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(self.device, self.dtype):
            return model(images)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def compare(
    what: str,
    ours: Callable[[], object],
    bare: Callable[[], object],
    device: torch.device,
    repeats: int,
    share: float = 1,
) -> float:
    """Print a line. Returns the ratio of the medians, of ours to ``share`` times the bare forward passes."""
    times: list[list[float]] = [[], []]
    for number in range(repeats + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            times[which].append(seconds((ours, bare)[which], device) * (share if which else 1))
    own, other = (statistics.median(column[1:]) for column in times)  # the first round warms up
    single = sorted(a / b for a, b in zip(times[0][1:], times[1][1:], strict=True))
    low, high = single[len(single) // 4], single[-1 - len(single) // 4]
    print(f"{what:<36}{1e3 * own:>10.1f}{1e3 * other:>10.1f}{own / other:>8.3f}{low:>8.3f} ..{high:>6.3f}", flush=True)
    return own / other


def bench_evaluation(stand: Stand, repeats: int) -> float:
    shape, batches = stand.batch, 3
    images = [stand.images(shape) for _ in range(batches)]
    masks = [torch.randint(0, stand.classes, shape, dtype=torch.uint8) for _ in range(batches)]
    names = [f"image{i}" for i in range(shape[0])]
    split = [[Batch(x, y, names, names)] for x, y in zip(images, masks, strict=True)]
    counting = Counting(stand.classes)

    def ours() -> None:
        evaluate(stand.net, split, counting=counting, device=stand.device, dtype=stand.dtype)

    def bare() -> None:
        for x in images:
            stand.compute(stand.net, x.to(stand.device, non_blocking=True))

    what = f"evaluation, {batches} x {'x'.join(map(str, shape))}"
    return compare(what, ours, bare, stand.device, repeats)


def bench_sliding(stand: Stand, overlap: float, repeats: int) -> float:
    images = stand.images(stand.large).to(stand.device)
    sliding = Sliding(window=stand.window, overlap=overlap)
    predictor = Predictor(stand.net, counting=Counting(stand.classes), inference=sliding).eval()
    seen: list[Tensor] = []
    sliding(lambda windows: seen.append(windows.clone()) or stand.compute(stand.net, windows), images)  # type: ignore[func-returns-value]

    def bare() -> None:
        for windows in seen:
            stand.compute(stand.net, windows)

    what = f"{len(sliding.windows(stand.large[1:]))} windows of {stand.window}, overlap {overlap:g}"
    return compare(what, lambda: stand.compute(predictor, images), bare, stand.device, repeats)


def bench_tta(stand: Stand, name: str, repeats: int) -> float:
    transforms, passes = TTA[name]
    images = stand.images((1, *stand.batch[1:])).to(stand.device)
    tta = Tta(transforms={str(i): transform for i, transform in enumerate(transforms)})
    predictor = Predictor(stand.net, counting=Counting(stand.classes), tta=tta).eval()
    what = f"tta, {name}: {len(tta.views)} views"
    ours, bare = (lambda model=model: stand.compute(model, images) for model in (predictor, stand.net))
    return compare(what, ours, bare, stand.device, repeats, share=passes)


def bench_labels(stand: Stand, repeats: int) -> None:
    shape = (stand.batch[0], stand.classes, *stand.batch[1:])
    masks = torch.randint(0, stand.classes, stand.batch, dtype=torch.uint8, device=stand.device)
    for order in (torch.channels_last, torch.contiguous_format):
        logits = torch.randn(shape, device=stand.device).contiguous(memory_format=order)
        labels = predict_labels(logits)
        name = "channels_last" if order == torch.channels_last else "NCHW"
        counted = lambda labels=labels: count(labels, masks, stand.classes)  # noqa: E731
        found = lambda logits=logits: predict_labels(logits)  # noqa: E731
        compare(f"labels over argmax, {name}", found, lambda logits=logits: logits.argmax(1), stand.device, repeats)
        compare(f"labels over counting, {name}", found, counted, stand.device, repeats)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--model", choices=[*MODELS], default="unet")
    options = parser.parse_args()
    verdicts = []
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        device = torch.device(kind)
        dtype = torch.bfloat16 if has_bf16(device) else None
        stand = Stand(options.model, device, dtype)
        where = torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        print(f"\n{options.model}, {where}, {'bf16' if dtype else 'fp32'}, median of {options.repeats} rounds")
        print(f"{'':<36}{'ours ms':>10}{'bare ms':>10}{'ratio':>8}{'quartiles':>17}")
        targets = [("evaluation", EVALUATION, bench_evaluation(stand, options.repeats))]
        targets += [
            (f"sliding windows, overlap {overlap:g}", SLIDING, bench_sliding(stand, overlap, options.repeats))
            for overlap in (0.25, 0.5)
        ]
        for name in TTA:
            bench_tta(stand, name, options.repeats)
        bench_labels(stand, options.repeats)
        for what, target, ratio in targets:
            met = "met" if round(ratio, 2) <= target else "MISSED"
            verdicts.append(f"{met:<8}{what:<32}{ratio:>6.2f}, target <= {target:g} ({kind})")
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
