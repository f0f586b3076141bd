"""Atrous (dilated) convolutions: rates, where their kernels start, and networks that were built without.

The atrous algorithm: where a stride is taken away, everything behind it dilates by that stride, and each kernel still
sees what it saw (Holschneider 1989; Chen, Papandreou, Kokkinos, Murphy, Yuille 2014, arXiv:1412.7062).
"""

from collections.abc import Iterable, Sequence

from torch import nn


def dilate(module: nn.Module, rate: int) -> None:
    """Give every convolution in a module that is larger than 1x1 this rate, with the padding that keeps the size."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1:
            conv.dilation = (rate, rate)
            conv.padding = tuple(rate * (side // 2) for side in conv.kernel_size)


def start_from_centers(branches: Iterable[nn.Module]) -> None:
    """Zero all but the central tap of the first 3x3 kernels of each branch, an atrous convolution.

    On crops smaller than an atrous rate the outer taps see nothing but padding, and stay as they were initialised.
    On larger images they do see the image, and as zeros they then do no harm.
    """
    for branch in branches:
        kernels = next(branch.parameters()).data  # (outputs, inputs or 1, 3, 3)
        centers = kernels[:, :, 1, 1].clone()
        kernels.zero_()
        kernels[:, :, 1, 1] = centers


def scale_rates(rates: Sequence[int], given_at: int, stride: int) -> list[int]:
    """Atrous rates that see the same part of the image at another stride: half of them at twice the stride."""
    return [max(1, rate * given_at // stride) for rate in rates]


def dilate_chain(layers: Iterable[nn.Module], output_stride: int) -> None:
    """Make a chain of convolutions and max poolings by 2, as VGG, end at an output stride that it reaches on its way.

    Poolings from there on go by 1, over 3x3 pixels so that the size stays, and every convolution behind them dilates:
    DeepLab's VGG-16 (arXiv:1606.00915, section 3.1).
    """
    stride = rate = 1
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            if stride == output_stride:
                layer.kernel_size, layer.stride, layer.padding = 3, 1, 1
                rate *= 2
            else:
                stride *= 2
        elif isinstance(layer, nn.Conv2d):
            dilate(layer, rate)
