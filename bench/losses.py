"""How long a loss takes forward and backward, and how much memory, beside PyTorch's cross-entropy, SMP and MONAI.

2x19x512x512 and 8x2x256x256 on the CPU, and 8x19x512x1024 where there is a GPU, in both memory orders of the logits
(segrun's models give channels_last). The rounds are interleaved, so that what else the machine does falls on all alike,
and ratios are those of medians. There is no void, since MONAI's losses cannot leave it out, and every class occurs.
SMP's FocalLoss of several classes is the sigmoid form, so it is compared with that form of ours; the usual form of ours
is compared with SMP's function for it, and with MONAI's, which divides by the number of classes too. That the values
agree is checked before anything is timed. Each gets the integer type of target that it takes without converting: uint8
for ours, int64 for theirs.

Memory is the most that is allocated at a time during forward and backward, in units of the logits' own size. The
logits, which are there before, are not in it; their gradient, which is left at the end, is. On the CPU it is counted
by PyTorch's profiler, which does not see what NumPy allocates (the distance maps of the boundary loss, one unit).

    python bench/losses.py [ROUNDS]
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from seg_cli.losses import CrossEntropy, Dice, Focal, Lovasz, Sum
from seg_cli.losses.boundary import Boundary
from seg_cli.losses.evidence import Term

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says on stderr that it starts and stops

Loss = Callable[[Tensor, Tensor], Tensor]

CE, OURS, OURS_SIGMOID = "torch cross-entropy", "dice+focal", "dice+focal, sigmoid form"
SMP, SMP_SIGMOID = "SMP, dice + softmax focal", "SMP, DiceLoss + FocalLoss"
MONAI = "MONAI, DiceLoss + FocalLoss"
PEERS = {SMP: OURS, SMP_SIGMOID: OURS_SIGMOID, MONAI: OURS, CE: "ce"}
"""What is the same loss as which of ours."""


@dataclass(frozen=True)
class Case:
    """A loss, and the kind of integers that it takes."""

    loss: Loss
    dtype: torch.dtype = torch.uint8


def sum_of(**terms: Term) -> Case:
    loss = Sum(terms, dict.fromkeys(terms, 1.0))
    return Case(lambda logits, target: loss(logits, target)[0])


def cases(classes: int) -> dict[str, Case]:
    """By name; SMP and MONAI only where they are installed."""
    found = {
        CE: Case(lambda logits, target: F.cross_entropy(logits, target, ignore_index=255), torch.int64),
        "ce": sum_of(ce=CrossEntropy()),
        OURS: sum_of(dice=Dice(), focal=Focal()),
        OURS_SIGMOID: sum_of(dice=Dice(), focal=Focal(form="sigmoid")),
        "ce+dice+lovasz": sum_of(ce=CrossEntropy(), dice=Dice(), lovasz=Lovasz()),
        "dice+boundary": sum_of(dice=Dice(), boundary=Boundary()),
    }
    try:
        from segmentation_models_pytorch import losses as smp
        from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits as smp_softmax

        smp_dice, smp_focal = smp.DiceLoss("multiclass", smooth=0.5), smp.FocalLoss("multiclass", gamma=2.0)
        found[SMP] = Case(lambda logits, target: smp_dice(logits, target) + smp_softmax(logits, target), torch.int64)
        found[SMP_SIGMOID] = Case(
            lambda logits, target: smp_dice(logits, target) + smp_focal(logits, target), torch.int64
        )
    except ImportError:
        print("SMP is not installed: pip install 'segrun[bench]'")
    try:
        from monai import losses as monai

        monai_dice = monai.DiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=1, smooth_dr=1)
        monai_focal = monai.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)

        def both(logits: Tensor, target: Tensor) -> Tensor:
            target = target.unsqueeze(1)
            return monai_dice(logits, target) + classes * monai_focal(logits, target)

        found[MONAI] = Case(both, torch.int64)
    except ImportError:
        print("MONAI is not installed: pip install 'segrun[bench]'")
    return found


def batch(shape: tuple[int, int, int, int], device: str, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Random logits, and a target of uint8 in which every class occurs, in patches of 16x16."""
    images, classes, height, width = shape
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(shape, generator=generator)
    patches = torch.randint(0, classes, (images, height // 16, width // 16), dtype=torch.uint8, generator=generator)
    target = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return logits.to(device, memory_format=memory_format), target.to(device)


def step(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    logits.grad = None
    value = loss(logits, target)
    value.backward()
    return value.detach()


def milliseconds(loss: Loss, logits: Tensor, target: Tensor) -> float:
    wait = torch.cuda.synchronize if logits.is_cuda else lambda: None
    logits.grad = None
    wait()
    start = time.perf_counter()
    step(loss, logits, target)
    wait()
    return 1e3 * (time.perf_counter() - start)


def peak_memory(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """The most that a step has allocated at a time, in units of the logits' size."""
    logits.grad = None
    size = logits.numel() * logits.element_size()
    if logits.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(loss, logits, target)
        return (torch.cuda.max_memory_allocated() - before) / size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        step(loss, logits, target)
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    peak = now = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak / size


def check_definitions(entries: dict[str, tuple[Loss, Tensor]], logits: Tensor) -> None:
    """In float64, since SMP's dice in float32 is off by some 1e-4; every eighth row and column is enough."""
    few = logits.detach()[..., ::8, ::8].double()
    for peer, ours in PEERS.items():
        if peer in entries:
            theirs, expected = (
                float(loss(few, target[..., ::8, ::8])) for loss, target in (entries[peer], entries[ours])
            )
            # MONAI computes its focal loss in float32 all the same.
            assert abs(theirs - expected) < 1e-5, f"{peer} is {theirs}, and ours {expected}: another definition"


def compare(shape: tuple[int, int, int, int], device: str, rounds: int) -> list[str]:
    """Print a table for each memory order; the targets that are met or not, a line each."""
    verdicts = []
    for channels_last in (False, True):
        order = "channels_last" if channels_last else "contiguous"
        logits, labels = batch(shape, device, channels_last)
        logits.requires_grad_()
        entries = {name: (case.loss, labels.to(case.dtype)) for name, case in cases(shape[1]).items()}
        check_definitions(entries, logits)
        memory = {name: peak_memory(loss, logits, target) for name, (loss, target) in entries.items()}
        times: dict[str, list[float]] = {name: [] for name in entries}
        for _ in range(rounds):
            for name, (loss, target) in entries.items():
                times[name].append(milliseconds(loss, logits, target))
        median = {name: statistics.median(measured) for name, measured in times.items()}

        where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        title = f"{'x'.join(map(str, shape))}, {order}, {where}"
        print(f"\n{title}, median of {rounds} rounds")
        print(f"{'forward and backward':<28}{'ms':>9}{'to cross-entropy':>18}{'peak memory':>13}")
        for name, value in median.items():
            print(f"{name:<28}{value:>9.1f}{value / median[CE]:>17.2f}x{memory[name]:>13.2f}")
        for peer, ours in PEERS.items():
            if peer in median:
                print(f"{peer} takes {median[peer] / median[ours]:.1f} times as long as our {ours}")
        found = [
            (f"{OURS} to cross-entropy", median[OURS] / median[CE], "<=", 1.2),
            (f"{OURS}, memory", memory[OURS], "<=", 2.5),
        ]
        for peer, target in ((SMP, 10), (SMP_SIGMOID, 10), (MONAI, 4)):
            if peer in median:
                found.append((f"{peer} to ours", median[peer] / median[PEERS[peer]], ">=", target))
        for what, figure, sign, target in found:
            met = figure <= target if sign == "<=" else figure >= target
            verdicts.append(
                f"{'met' if met else 'NOT MET':<9}{what:<35}{figure:>7.2f}, target {sign} {target:<4g} ({title})"
            )
    return verdicts


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    runs = [((2, 19, 512, 512), "cpu"), ((8, 2, 256, 256), "cpu")]
    if torch.cuda.is_available():
        runs.append(((8, 19, 512, 1024), "cuda"))
    verdicts = [line for shape, device in runs for line in compare(shape, device, rounds)]
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
