"""Fully connected CRF: Kraehenbuehl, Koltun (2011), arXiv:1210.5644; in a window: Teichmann, Cipolla (2018),
arXiv:1805.04777.

Pixels that are near and of like colour pull each other to the same class. Mean field steps find the classes that agree
best with the network and among each other. Nothing here is learned.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

Region = tuple[slice, slice]


class DenseCRF(nn.Module):
    """Logits of a network, made to agree with the edges of the image.

    The pairwise term is Potts' (unlike classes cost the same), with two Gaussian kernels, appearance and smoothness
    (Kraehenbuehl and Koltun, equation 3); each is normalised symmetrically by its sums, the pixel itself included, as
    in their code. As in the ConvCRF, a pixel sees the pixels of a window around it and no others: messages go further
    by the steps. It goes through the places of the window one by one, so that it takes the memory of a few maps like
    the logits, whatever the window.

    Args:
        iterations: mean field steps.
        window: its side in pixels, odd.
        appearance: weight, sigma of the distance in pixels, sigma of the difference of colour in 0..255. The paper of
            DeepLab v2 searches 3..6, 30..100 and 3..6 by cross-validation.
        smoothness: weight, sigma of the distance in pixels.

    Raises:
        ValueError: if the window is even, a sigma is not positive, or another setting is negative or incomplete.
    """

    def __init__(
        self,
        *,
        iterations: int = 10,
        window: int = 11,
        appearance: Sequence[float] = (4, 67, 3),
        smoothness: Sequence[float] = (3, 3),
    ) -> None:
        super().__init__()
        if iterations < 0:
            raise ValueError(f"iterations={iterations}: 0 or more is allowed.")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window={window}: an odd number of pixels is allowed, 1 or more.")
        _check_kernel("appearance", appearance, "a weight, a sigma in pixels, a sigma in steps of colour")
        _check_kernel("smoothness", smoothness, "a weight, a sigma in pixels")
        self.iterations, self.radius = iterations, window // 2
        self.appearance_weight, self.appearance_sigma, self.colour_sigma = appearance
        self.smoothness_weight, self.smoothness_sigma = smoothness

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        """Take the mean field steps.

        Args:
            logits: (N, num_classes, H, W).
            images: (N, C, H, W) pixel values in 0..255.

        Returns:
            (N, num_classes, H, W) logits, in float32: those given, and to each the message of its neighbours. Their
            softmax is the mean field. Without weights or steps they are the logits given.
        """
        with torch.autocast(logits.device.type, enabled=False):
            return self._mean_field(logits.float(), images.float())

    def _mean_field(self, unary: Tensor, images: Tensor) -> Tensor:
        appearance_scale, smoothness_scale = self._scales(images)
        x = unary
        for _ in range(self.iterations):
            beliefs = x.softmax(1)
            message = torch.zeros_like(beliefs)
            for (dy, dx), here, there in self._pairs(images):
                appearance, smoothness = self._kernels(images, dy, dx, here, there)
                kernel = self.appearance_weight * appearance * _of_both(appearance_scale, here, there)
                kernel = kernel + self.smoothness_weight * smoothness * _of_both(smoothness_scale, here, there)
                message[..., *here].addcmul_(kernel, beliefs[..., *there])
                message[..., *there].addcmul_(kernel, beliefs[..., *here])
            x = unary + message
        return x

    def _scales(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """1 / sqrt of the sum of each kernel around each pixel, (N, 1, H, W) and (1, 1, H, W)."""
        appearances, smoothnesses = torch.ones_like(images[:, :1]), torch.ones_like(images[:1, :1])  # pixels themselves
        for (dy, dx), here, there in self._pairs(images):
            appearance, smoothness = self._kernels(images, dy, dx, here, there)
            for place in (here, there):
                appearances[..., *place] += appearance
                smoothnesses[..., *place] += smoothness
        return appearances.rsqrt(), smoothnesses.rsqrt()

    def _pairs(self, images: Tensor) -> Iterator[tuple[tuple[int, int], Region, Region]]:
        """Each offset of one half of the window, with the pixels that have a neighbour there and those neighbours.

        The other half are the same pairs seen from the other end.
        """
        height, width = images.shape[-2:]
        for dy in range(self.radius + 1):
            for dx in range(-self.radius if dy else 1, self.radius + 1):
                if dy < height and abs(dx) < width:
                    left, right = max(-dx, 0), max(dx, 0)
                    here = slice(0, height - dy), slice(left, width - right)
                    there = slice(dy, height), slice(right, width - left)
                    yield (dy, dx), here, there

    def _kernels(self, images: Tensor, dy: int, dx: int, here: Region, there: Region) -> tuple[Tensor, float]:
        """The two Gaussians for the pixels ``here`` and their neighbours at an offset: (N, 1, h, w), and a number."""
        distance = dy**2 + dx**2
        colour = (images[..., *here] - images[..., *there]).square().sum(1, keepdim=True)
        appearance = torch.exp(
            -distance / (2 * self.appearance_sigma**2) - colour / (2 * self.colour_sigma**2)  # equation 3
        )
        return appearance, math.exp(-distance / (2 * self.smoothness_sigma**2))


def _of_both(scale: Tensor, here: Region, there: Region) -> Tensor:
    """What a kernel between two pixels is multiplied with: the scales of both."""
    return scale[..., *here] * scale[..., *there]


def _check_kernel(name: str, values: Sequence[float], meaning: str) -> None:
    if len(values) != meaning.count(",") + 1 or values[0] < 0 or min(values[1:]) <= 0:
        raise ValueError(f"{name}={list(values)}: {meaning} are allowed; the weight is not negative, sigmas positive.")
