"""How long a training step and a prediction of our networks take, and how much memory, beside SMP's same networks.

Both are the same network on the same timm encoder: settings are made equal, and where SMP's network differs from the
paper it is changed to what ours is, or ours to what SMP's is; the notes say how. That parameters and operations agree
within 1% is checked before anything is timed. What differs still, and is not counted there, is said in a note as well.

Both get the same batch of uint8 images and normalise them alike. A training step is forward, cross-entropy, backward
and a fused AdamW. The rounds are interleaved and change their order, so that what else the machine does falls on both
alike; a ratio is one of medians, with the quartiles of the ratios of the single rounds behind it. A ratio meets its
target if it does so when rounded to two decimals, since two equal networks differ by as much. With one thread on the
CPU, as with OMP_NUM_THREADS=1, it is processor time that is measured, to which other processes matter less.

Memory is the most that is allocated at a time during a training step, over what is there before it: parameters, the
optimiser's state and the batch. On the CPU it is counted by PyTorch's profiler, which does not see the scratch memory
inside oneDNN. The encoder takes the greater part of time and memory, and is the same code on both sides.

    python bench/models.py [--repeats N] [--models unet,fpn]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from seg_cli.inference.cost import count_flops, count_parameters
from seg_cli.models.blocks import Normalize
from seg_cli.models.deeplabv3 import DeepLabV3
from seg_cli.models.deeplabv3plus import DeepLabV3Plus
from seg_cli.models.encoder import Encoder
from seg_cli.models.fpn import FPN
from seg_cli.models.output_strides import last_blocks
from seg_cli.models.pspnet import PSPNet
from seg_cli.models.unet import UNet
from seg_cli.models.unetpp import UNetPlusPlus
from seg_cli.training.precision import has_bf16

try:
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import SeparableConv2d
except ImportError:
    smp = None

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says on stderr that it starts and stops

CLASSES = 11
TARGET = 1.0


class Normalized(nn.Module):
    """A network of SMP behind the normalisation that ours have inside."""

    def __init__(self, net: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.normalize, self.net = normalize, net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.normalize(images))


# SMP's networks, made the same as ours. The argument is the name of timm's encoder.


def smp_unet(encoder: str) -> nn.Module:
    return smp.Unet(f"tu-{encoder}", encoder_weights=None, classes=CLASSES, decoder_interpolation="bilinear")


def smp_unetpp(encoder: str) -> nn.Module:
    return smp.UnetPlusPlus(f"tu-{encoder}", encoder_weights=None, classes=CLASSES, decoder_interpolation="bilinear")


def smp_fpn(encoder: str) -> nn.Module:
    return smp.FPN(f"tu-{encoder}", encoder_weights=None, classes=CLASSES, decoder_dropout=0.0)


def smp_pspnet(encoder: str) -> nn.Module:
    net = smp.PSPNet(
        f"tu-{encoder}", encoder_weights=None, classes=CLASSES, encoder_depth=5, output_stride=8, psp_dropout=0.1
    )
    merge = net.decoder.conv[0]
    net.decoder.conv[0] = nn.Conv2d(merge.in_channels, merge.out_channels, 3, padding=1, bias=False)
    net.segmentation_head[0] = nn.Conv2d(merge.out_channels, CLASSES, 1)
    return net


def smp_deeplabv3(encoder: str) -> nn.Module:
    net = smp.DeepLabV3(
        f"tu-{encoder}",
        encoder_weights=None,
        classes=CLASSES,
        encoder_output_stride=16,
        decoder_atrous_rates=(6, 12, 18),
        decoder_aspp_dropout=0.1,
    )
    net.decoder.conv, net.decoder.bn, net.decoder.relu = nn.Identity(), nn.Identity(), nn.Identity()
    return net


def smp_deeplabv3plus(encoder: str) -> nn.Module:
    net = smp.DeepLabV3Plus(
        f"tu-{encoder}",
        encoder_weights=None,
        classes=CLASSES,
        encoder_output_stride=16,
        decoder_atrous_rates=(6, 12, 18),
        decoder_aspp_dropout=0.1,
    )
    decoder = net.decoder
    decoder.aspp = decoder.aspp[0]
    channels = decoder.block2[1].num_features
    second = SeparableConv2d(channels, channels, 3, padding=1, bias=False)
    decoder.block2.extend([second, nn.BatchNorm2d(channels), nn.ReLU()])
    for conv in list(decoder.modules()):
        if isinstance(conv, SeparableConv2d):
            conv.insert(1, nn.BatchNorm2d(conv[0].out_channels))
            conv.insert(2, nn.ReLU())
    return net


# Ours, with what SMP's networks have.


def our_deeplabv3(name: str) -> nn.Module:
    encoder = Encoder(name, output_stride=16)
    return DeepLabV3(encoder=encoder, num_classes=CLASSES, multi_grid=[1] * len(last_blocks(encoder)))


@dataclass(frozen=True)
class Pair:
    """One network, twice.

    Attributes:
        ours, theirs: made of the name of an encoder.
        shipped: SMP's class, with its own settings.
        note: how the two were made equal, and what differs.
    """

    ours: Callable[[str], nn.Module]
    theirs: Callable[[str], nn.Module]
    shipped: str
    note: str


PAIRS = {
    "unet": Pair(
        lambda name: UNet(encoder=Encoder(name), num_classes=CLASSES),
        smp_unet,
        "Unet",
        "SMP's with our bilinear steps up",
    ),
    "unetpp": Pair(
        lambda name: UNetPlusPlus(encoder=Encoder(name), num_classes=CLASSES, aux_weight=0.0),
        smp_unetpp,
        "UnetPlusPlus",
        "SMP's with our bilinear steps up; ours without deep supervision",
    ),
    "fpn": Pair(
        lambda name: FPN(encoder=Encoder(name), num_classes=CLASSES, smooth=False),
        smp_fpn,
        "FPN",
        "ours without Lin's 3x3 on each map, SMP's without dropout",
    ),
    "pspnet": Pair(
        lambda name: PSPNet(encoder=Encoder(name, output_stride=8), num_classes=CLASSES, aux_weight=0.0),
        smp_pspnet,
        "PSPNet",
        "SMP's with the paper's whole, dilated encoder, 3x3 merge and 1x1 head; ours without its second head",
    ),
    "deeplabv3": Pair(
        our_deeplabv3,
        smp_deeplabv3,
        "DeepLabV3",
        "stride 16, rates 6, 12, 18; SMP's without its 3x3 behind the ASPP, ours without multi-grid",
    ),
    "deeplabv3plus": Pair(
        lambda name: DeepLabV3Plus(encoder=Encoder(name, output_stride=16), num_classes=CLASSES),
        smp_deeplabv3plus,
        "DeepLabV3Plus",
        "rates 6, 12, 18; SMP's with the paper's two convolutions in the decoder, and norm and ReLU behind each "
        "depthwise one, without its convolution behind the ASPP",
    ),
}


@dataclass(frozen=True)
class Case:
    """A batch on a device, and the encoder of it; dtype is what autocast computes in, None for float32 throughout."""

    encoder: str
    shape: tuple[int, int, int, int]
    device: str
    dtype: torch.dtype | None

    def __str__(self) -> str:
        where = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{self.encoder}, {'x'.join(map(str, self.shape))}, {'bf16' if self.dtype else 'fp32'}, {where}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not None)


class Stand:
    """A network with what its training takes."""

    def __init__(self, net: nn.Module, case: Case, images: Tensor, target: Tensor) -> None:
        self.net = net.to(case.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, fused=True)
        self.case, self.images, self.target = case, images, target

    def train(self) -> None:
        with self.case.autocast():
            loss = F.cross_entropy(self.net(self.images), self.target)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def predict(self) -> None:
        with self.case.autocast():
            self.net(self.images)


def seconds(function: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def peak_memory(function: Callable[[], None], device: str) -> float:
    """MiB at the peak of what the function allocates."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        function()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    peak = now = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak / 2**20


def interleaved(ours: Callable[[], None], theirs: Callable[[], None], device: str, repeats: int) -> list[list[float]]:
    """Seconds of each, ours and theirs, in rounds of either order; a first round warms up."""
    times: list[list[float]] = [[], []]
    for number in range(repeats + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            times[which].append(seconds((ours, theirs)[which], device))
    return [column[1:] for column in times]


def print_times(what: str, times: list[list[float]], memory: tuple[float, float] | None = None) -> float:
    """Print a line. Returns the ratio of the medians."""
    own, other = (statistics.median(column) for column in times)
    single = sorted(a / b for a, b in zip(*times, strict=True))
    low, high = single[len(single) // 4], single[-1 - len(single) // 4]
    line = f"{what:<24}{1e3 * own:>9.1f}{1e3 * other:>9.1f}{own / other:>8.3f}{low:>8.3f} ..{high:>6.3f}"
    if memory:
        line += f"{memory[0]:>10.1f}{memory[1]:>9.1f}{memory[0] / memory[1]:>8.3f}"
    print(line, flush=True)
    return own / other


def compare(names: list[str], case: Case, repeats: int) -> list[str]:
    """Print a table; the targets that are met or not, a line each."""
    torch.manual_seed(0)  # also of the weights
    images = torch.randint(0, 256, case.shape, dtype=torch.uint8).to(case.device)
    target = torch.randint(0, CLASSES, (case.shape[0], *case.shape[2:])).to(case.device)
    print(f"\n{case}, median of {repeats} rounds")
    print(f"{'':<24}{'ours ms':>9}{'SMP ms':>9}{'ratio':>8}{'quartiles':>17}", end="")
    print(f"{'ours MiB':>11}{'SMP MiB':>9}{'ratio':>8}")
    verdicts = []
    for name in names:
        ours, theirs = (Stand(net, case, images, target) for net in build(name, case.encoder))
        times = interleaved(ours.train, theirs.train, case.device, repeats)
        memory = (peak_memory(ours.train, case.device), peak_memory(theirs.train, case.device))
        found = {"step": print_times(f"{name}, step", times, memory), "memory": memory[0] / memory[1]}
        ours.net.eval()
        theirs.net.eval()
        print_times(f"{name}, prediction", interleaved(ours.predict, theirs.predict, case.device, repeats))
        for what, ratio in found.items():
            met = round(ratio, 2) <= TARGET
            verdicts.append(
                f"{'met' if met else 'MISSED':<8}{f'{name}, {what}':<22}{ratio:>6.2f}, target <= {TARGET:g} ({case})"
            )
    return verdicts


def build(name: str, encoder: str) -> tuple[nn.Module, Normalized]:
    """Ours and SMP's, on the same normalisation."""
    normalize = Encoder(encoder).normalize
    return PAIRS[name].ours(encoder), Normalized(PAIRS[name].theirs(encoder), normalize)


def check_and_print_costs(names: list[str], encoder: str, size: tuple[int, int]) -> None:
    """Parameters and operations of both, which have to agree."""
    print(f"\n{encoder}, one image of {size[0]}x{size[1]}, {CLASSES} classes; SMP's own is what its defaults give")
    heads = ("ours M", "SMP M", "SMP's own", "ours GFLOPs", "SMP GFLOPs", "SMP's own")
    print(f"{'':<15}{heads[0]:>8}{heads[1]:>8}{heads[2]:>11}{heads[3]:>13}{heads[4]:>12}{heads[5]:>11}  note")
    for name in names:
        ours, theirs = build(name, encoder)
        own = getattr(smp, PAIRS[name].shipped)(f"tu-{encoder}", encoder_weights=None, classes=CLASSES)
        shipped = Normalized(own, theirs.normalize)
        parameters = [count_parameters(net) / 1e6 for net in (ours, theirs, shipped)]
        flops = [count_flops(net, size) / 1e9 for net in (ours, theirs, shipped)]
        for what, (a, b, _) in (("parameters", parameters), ("operations", flops)):
            assert abs(a / b - 1) < 0.01, f"{name} has {a} {what} and SMP's {b}: not the same network"
        print(f"{name:<15}{parameters[0]:>8.2f}{parameters[1]:>8.2f}{parameters[2]:>11.2f}", end="")
        print(f"{flops[0]:>13.2f}{flops[1]:>12.2f}{flops[2]:>11.2f}  {PAIRS[name].note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", default=",".join(PAIRS), help="names with commas between them")
    options = parser.parse_args()
    names = options.models.split(",")
    if unknown := [name for name in names if name not in PAIRS]:
        parser.error(f"--models {unknown[0]}: allowed are {', '.join(PAIRS)}")
    if smp is None:
        print("SMP is not installed: pip install 'segrun[bench]'")
        return

    runs: list[tuple[str, tuple[int, int, int, int], str]] = [("resnet18", (2, 3, 224, 224), "cpu")]
    if torch.cuda.is_available():
        runs.append(("resnet50", (8, 3, 512, 512), "cuda"))
    verdicts = []
    for encoder, shape, device in runs:
        check_and_print_costs(names, encoder, shape[2:])
        for dtype in (None, torch.bfloat16) if has_bf16(torch.device(device)) else (None,):
            verdicts += compare(names, Case(encoder, shape, device, dtype), options.repeats)
    print("\n" + "\n".join(verdicts))


if __name__ == "__main__":
    main()
