"""The operators that make a feature map larger by a whole factor: every decoder takes one by ``model.upsample=``.

Interpolation: ``nearest``, ``area``, ``bilinear``, ``bicubic``, ``gaussian``, ``mitchell``, ``lanczos3``, ``lanczos5``.
Textbook: ``bed_of_nails``, ``max_unpool``. Learned: ``transposed``, ``pixel_shuffle``.

Pixels are areas (``align_corners=False``) and borders replicate, except where an operator says otherwise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.config.choices import UPSAMPLINGS
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError

KINDS = tuple(UPSAMPLINGS)


class Pool(NamedTuple):
    """A max pooling by 2 in an encoder: the stride after it, and the channels that it pools."""

    stride: int
    channels: int


class Upsample(nn.Module):
    """(N, channels, h, w) -> (N, channels, factor*h, factor*w).

    All learned operators but ``max_unpool`` start as an interpolation and draw no random numbers, so that a seed gives
    the rest of a network the same weights whichever operator it has. ``init_decoder`` leaves them alone.

    Args:
        kind: one of ``KINDS``.
        channels: of what comes in, and of what goes out.
        factor: whole; 1 does nothing.
        pools: for ``max_unpool``, the poolings to undo, deepest first. ``Encoder.upsampling`` fills this in.

    Raises:
        UserError: if there is no such kind, or ``max_unpool`` has not got a pooling for each step of two.
        ValueError: if the factor is not a positive whole number.
    """

    def __init__(self, kind: str, channels: int, factor: int, *, pools: Sequence[Pool] = ()) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(
                f"model.upsample={kind}: there is no such upsampling.{did_you_mean(str(kind), KINDS)} "
                f"Allowed are {', '.join(KINDS)}."
            )
        if factor < 1 or factor != int(factor):
            raise ValueError(f"an upsampling factor is a positive whole number, not {factor}")
        self.kind, self.factor = kind, int(factor)
        self.by: nn.Module
        if factor == 1:
            self.by = nn.Identity()
        elif kind in ("nearest", "area"):
            # An area that is a whole multiple of a pixel holds one pixel: the mean of one is the pixel.
            # (Not "nearest-exact", which ONNX lacks: it differs at factors that no encoder has, the first being 41.)
            self.by = Interpolate(self.factor, "nearest")
        elif kind == "bilinear":
            self.by = Interpolate(self.factor, "bilinear")
        elif kind == "transposed":
            self.by = transposed(channels, self.factor)
        elif kind == "pixel_shuffle":
            self.by = pixel_shuffle(channels, self.factor)
        elif kind == "max_unpool":
            if 2 ** len(pools) != factor:
                raise UserError(
                    f"model.upsample=max_unpool: going up by {factor} takes the positions of {math.log2(factor):g} max "
                    f"poolings by 2, and this encoder has {len(pools)} there. encoder.name=vgg16_bn has one at every "
                    "step; or choose another model.upsample, as model.upsample=bilinear."
                )
            self.by = MaxUnpool(channels, pools)
        else:
            self.by = FixedKernel(kind, channels, self.factor)

    def forward(self, x: Tensor, positions: Mapping[int, Tensor] | None = None) -> Tensor:
        """Upsample x.

        Args:
            x: (N, channels, h, w).
            positions: for ``max_unpool``, by the stride after each pooling: where the maxima were, as
                ``Encoder.with_positions`` gives them. The other kinds take no notice.
        """
        if isinstance(self.by, MaxUnpool):
            return self.by(x, positions or {})
        return self.by(x)


class Interpolate(nn.Module):
    """PyTorch's interpolation by a whole factor."""

    def __init__(self, factor: int, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, factor*h, factor*w)."""
        size = (self.factor * x.shape[-2], self.factor * x.shape[-1])
        x = F.interpolate(x, size, mode=self.mode, align_corners=False if self.mode == "bilinear" else None)
        return _DenseGradient.apply(x) if x.device.type == "cpu" and x.requires_grad else x


class _DenseGradient(torch.autograd.Function):
    """Hands x on; the gradient of x comes back without gaps between its pixels.

    Gaps are what a concatenation along the channels leaves there in channels_last order, and what PyTorch's
    interpolation then takes 15 times as long for on a CPU: up to a tenth of a U-Net's step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        order = torch.channels_last if gradient.stride(1) == 1 else torch.contiguous_format
        return gradient.contiguous(memory_format=order)


def convolve_nearest(x: Tensor, weight: Tensor) -> Tensor:
    """The 3x3 convolution of a map that ``nearest`` has made twice as large, without making that map.

    Zeros lie around, as with ``padding=1``. A pixel of the large map sees two of the small map along each axis, where a
    kernel of 3 multiplies one of them twice. With the weights added first, 4 products of 9 are left, and the whole is a
    transposed convolution (Shi 2016, arXiv:1609.07009).

    Args:
        x: (N, C, h, w).
        weight: (O, C, 3, 3).

    Returns:
        (N, O, 2h, 2w)
    """
    sums = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)  # (O, C, 4, 4)
    return F.conv_transpose2d(x, sums.transpose(0, 1), stride=2, padding=1)


class FixedKernel(nn.Module):
    """Zeros inserted between the pixels, then a filter along each axis: what interpolation with a kernel is.

    Every output pixel of the same place in its small pixel (its phase) meets the same taps of the kernel, the others
    being multiplied with inserted zeros. So it is computed as one depthwise convolution of the small map for each
    phase, and the phases are interleaved. The taps of a phase sum to 1, so that constants stay constant; those of
    ``bed_of_nails``, where the pixel goes to the upper left and all else is 0, do not.

    Besides being one code for all kernels, its gradient on CUDA is deterministic where asked, which that of
    PyTorch's bicubic is not.

    Args:
        kind: a key of ``KERNELS``, or ``bed_of_nails``.
        channels: of the map.
        factor: whole, at least 2.
    """

    kernel: Tensor

    def __init__(self, kind: str, channels: int, factor: int) -> None:
        super().__init__()
        taps = torch.eye(factor, 1) if kind == "bed_of_nails" else phase_taps(*KERNELS[kind], factor)
        self.channels, self.factor, self.radius = channels, factor, taps.shape[1] // 2
        self.register_buffer("kernel", taps.repeat(channels, 1).unsqueeze(1), persistent=False)  # (c*factor, 1, taps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, factor*h, factor*w)."""
        c, factor, r = self.channels, self.factor, self.radius
        n, _, h, w = x.shape
        kernel = self.kernel.to(x.dtype)
        x = F.conv2d(_replicate(x, 0, r), kernel.unsqueeze(-1), groups=c)  # (n, c*factor, h, w), phases inside channels
        x = x.reshape(n, c, factor, h, w).transpose(2, 3).reshape(n, c, factor * h, w)
        x = F.conv2d(_replicate(x, r, 0), kernel.unsqueeze(-2), groups=c)  # (n, c*factor, factor*h, w)
        x = x.reshape(n, c, factor, factor * h, w).permute(0, 1, 3, 4, 2)  # (n, c, factor*h, w, factor)
        return x.reshape(n, c, factor * h, factor * w)


def _replicate(x: Tensor, wide: int, high: int) -> Tensor:
    return F.pad(x, (wide, wide, high, high), mode="replicate") if wide or high else x


def phase_taps(kernel: Callable[[Tensor], Tensor], support: float, factor: int) -> Tensor:
    """(factor, 2*radius + 1): the weights of the pixels around, for each place in a small pixel.

    The centre of output pixel ``factor*j + p`` lies ``(p + 1/2)/factor - 1/2`` small pixels right of the centre of
    small pixel j; tap t weighs small pixel ``j + t - radius``.
    """
    radius = math.ceil(support + 0.5) - 1
    shift = (torch.arange(factor, dtype=torch.float64) + 0.5) / factor - 0.5
    distance = (torch.arange(-radius, radius + 1, dtype=torch.float64) - shift.unsqueeze(1)).abs()
    taps = torch.where(distance < support, kernel(distance), 0.0)
    return (taps / taps.sum(1, keepdim=True)).float()


def _cubic(b: float, c: float) -> Callable[[Tensor], Tensor]:
    """The family of Mitchell and Netravali (1988), equation 8."""

    def kernel(t: Tensor) -> Tensor:
        near = (12 - 9 * b - 6 * c) * t**3 + (-18 + 12 * b + 6 * c) * t**2 + (6 - 2 * b)
        far = (-b - 6 * c) * t**3 + (6 * b + 30 * c) * t**2 + (-12 * b - 48 * c) * t + (8 * b + 24 * c)
        return torch.where(t < 1, near, far) / 6

    return kernel


def _lanczos(lobes: int) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.sinc(t) * torch.sinc(t / lobes)


SIGMA = 0.5  # of the Gaussian, in pixels of the small map; it is cut at 4 sigma

# Distance in pixels of the small map -> weight, and the distance from which on it is 0.
KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "nearest": (torch.ones_like, 0.5),
    "area": (torch.ones_like, 0.5),
    "bilinear": (lambda t: 1 - t, 1),
    "bicubic": (_cubic(0, 0.75), 2),  # Keys (1981) with a = -0.75, as PyTorch and OpenCV have it
    "mitchell": (_cubic(1 / 3, 1 / 3), 2),
    "gaussian": (lambda t: torch.exp(-0.5 * (t / SIGMA) ** 2), 2),
    "lanczos3": (_lanczos(3), 3),
    "lanczos5": (_lanczos(5), 5),
}


def transposed(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A learnable transposed convolution that starts as bilinear interpolation of each channel by itself.

    Kernel and start are those of FCN (Long, Shelhamer, Darrell 2015, arXiv:1411.4038). At the border it sees zeros, so
    the outermost pixels start darker than with ``bilinear``.
    """
    size = 2 * factor - factor % 2
    conv = nn.utils.skip_init(
        nn.ConvTranspose2d, channels, channels, size, stride=factor, padding=(size - factor) // 2, bias=False
    )
    line = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    kernels = torch.zeros(channels, channels, size, size)
    kernels[range(channels), range(channels)] = torch.outer(line, line)
    conv.weight.data.copy_(kernels)
    return conv


def pixel_shuffle(channels: int, factor: int) -> nn.Sequential:
    """A 3x3 convolution to factor*factor values a pixel, which become its pixels (Shi 2016, arXiv:1609.05158).

    All values of a pixel start equal, so that there is no checkerboard (ICNR: Aitken 2017, arXiv:1707.02937), and equal
    to the pixel itself: it starts as ``nearest``.
    """
    conv = nn.utils.skip_init(nn.Conv2d, channels, channels * factor**2, 3, padding=1)
    start = nn.init.dirac_(torch.empty(channels, channels, 3, 3))
    conv.weight.data.copy_(start.repeat_interleave(factor**2, 0))
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.PixelShuffle(factor))


class MaxUnpool(nn.Module):
    """Each value goes back to where its maximum was, everything else is 0 (Zeiler 2014, arXiv:1311.2901; SegNet).

    Where the map has other channels than the pooling had, a 1x1 convolution leads to the pooling's, and one back at the
    end.

    Args:
        channels: of what comes in and goes out.
        pools: the poolings to undo, deepest first, at least one.
    """

    def __init__(self, channels: int, pools: Sequence[Pool]) -> None:
        super().__init__()
        self.strides = [pool.stride for pool in pools]
        counts = [channels, *(pool.channels for pool in pools), channels]
        self.project = nn.ModuleList(
            nn.Identity() if before == after else nn.Conv2d(before, after, 1, bias=False)
            for before, after in pairwise(counts)
        )

    def forward(self, x: Tensor, positions: Mapping[int, Tensor]) -> Tensor:
        """(N, C, h, w), and positions by stride -> (N, C, factor*h, factor*w). Raises UserError without."""
        for stride, project in zip(self.strides, self.project[:-1], strict=True):
            if stride not in positions:
                raise UserError(
                    f"model.upsample=max_unpool: no positions came with stride {stride}; the encoder gives them by "
                    "with_positions(images), if it has a max pooling there, as encoder.name=vgg16_bn has at every step."
                )
            x = max_unpool(project(x), positions[stride])
        return self.project[-1](x)


def max_unpool(x: Tensor, positions: Tensor) -> Tensor:
    """(N, C, h, w) and the positions of maxima in a map of twice the size -> (N, C, 2h, 2w).

    It is ``F.max_unpool2d``, by a scatter, which unlike that one is deterministic on CUDA where asked, and exports.
    """
    n, c, h, w = x.shape
    flat = x.new_zeros(n, c, 4 * h * w).scatter(2, positions.flatten(2), x.flatten(2))
    return flat.view(n, c, 2 * h, 2 * w)
