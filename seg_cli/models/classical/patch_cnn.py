"""A network that sees one patch and labels its centre: Ciresan (2012); Farabet (2013); in one pass: Long (2015,
arXiv:1411.4038), Sermanet (2013, arXiv:1312.6229).

Patches of neighbours overlap almost everywhere, so that one by one nearly everything is computed again for each pixel.
Converted to a fully convolutional network, whose pooling leaves no gaps, it is computed once, and the answers are the
same.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.data.sample import Split
from seg_cli.errors import UserError
from seg_cli.models.classical.method import Method, Progress, in_range, one_of, whole
from seg_cli.models.classical.pixels import PRIORS, draw_places, log_prior

_AT_ONCE = 2048  # patches


class PatchCNN(Method):
    """A patch classifier, applied to every pixel.

    Args:
        num_classes: C.
        in_channels: bands of an image.
        patch: side of the square that it sees, in pixels.
        channels: of each convolution, every one of which is followed by a pooling of 2.
        kernel: of the convolutions.
        hidden: units between the last pooling and the classes.
        form: how it is applied: ``dense``, as a fully convolutional network, or ``patches``, one by one.
        patches: drawn from the training split, as many of each class of an image.
        epochs: how often each is seen.
        batch_size, lr: of the training, with Adam.
        prior: ``frequency`` or ``balanced``, see ``PixelForest``.

    Raises:
        UserError: for a setting that is not allowed, or a patch too small for so many poolings.
    """

    mean: Tensor
    deviation: Tensor
    log_prior: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        patch: int,
        channels: Sequence[int],
        kernel: int,
        hidden: int,
        form: str,
        patches: int,
        epochs: int,
        batch_size: int,
        lr: float,
        prior: str,
    ) -> None:
        one_of("prior", prior, PRIORS)
        one_of("form", form, ("dense", "patches"))
        for name, value in (("patch", patch), ("kernel", kernel), ("hidden", hidden), ("patches", patches)):
            whole(name, value, 1)
        whole("epochs", epochs, 1)
        whole("batch_size", batch_size, 1)
        in_range("lr", lr, 1e-9, 1)
        side = patch
        for _ in channels:
            side = (side - kernel + 1) // 2
        if side < 1:
            raise UserError(
                f"model.patch={patch}: nothing is left of it after {len(channels)} convolutions of {kernel} with "
                "pooling. Choose a larger patch, or fewer model.channels."
            )
        super().__init__(num_classes=num_classes)
        self.patch, self.form, self.prior = patch, form, prior
        self.patches, self.epochs, self.batch_size, self.lr = patches, epochs, batch_size, lr
        widths = [in_channels, *channels]
        self.encoder: Any = nn.ModuleList(
            nn.Conv2d(before, after, kernel) for before, after in itertools.pairwise(widths)
        )
        self.decoder = nn.Conv2d(widths[-1], hidden, side)  # on a patch: fully connected
        self.head = nn.Conv2d(hidden, num_classes, 1)
        self.register_buffer("mean", torch.full((in_channels, 1, 1), 127.5))
        self.register_buffer("log_prior", torch.zeros(num_classes, 1, 1))
        self.register_buffer("deviation", torch.full((in_channels, 1, 1), 64.0))

    # ---- two ways to the same answers

    def of_patches(self, patches: Tensor) -> Tensor:
        """Logits (N, C) of patches (N, B, patch, patch), normalised."""
        x = patches
        for convolution in self.encoder:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        x = F.relu(self.decoder(x)[..., :1, :1])  # (N, hidden, 1, 1)
        return self.head(x)[..., 0, 0]

    def dense(self, padded: Tensor) -> Tensor:
        """Logits of every patch in an image (N, B, H + patch - 1, W + patch - 1), normalised: (N, C, H, W).

        Pooling keeps its window and loses its stride; what follows skips as many pixels instead (à trous), so that each
        pixel meets the same numbers as in its own patch.
        """
        height, width = (side - self.patch + 1 for side in padded.shape[2:])
        x, step = padded, 1
        for convolution in self.encoder:
            x = F.relu(F.conv2d(x, convolution.weight, convolution.bias, dilation=step))
            x = F.max_pool2d(x, 2, stride=1, dilation=step)
            step *= 2
        x = F.relu(F.conv2d(x, self.decoder.weight, self.decoder.bias, dilation=step))
        return self.head(x)[..., :height, :width]

    def one_by_one(self, padded: Tensor) -> Tensor:
        """The same, patch after patch."""
        height, width = (side - self.patch + 1 for side in padded.shape[2:])
        windows = padded.unfold(2, self.patch, 1).unfold(3, self.patch, 1)  # (N, B, H, W, patch, patch), a view
        logits = padded.new_empty(len(padded), height * width, self.num_classes)
        for number, image in enumerate(windows):
            for start in range(0, height * width, _AT_ONCE):
                places = torch.arange(start, min(start + _AT_ONCE, height * width), device=padded.device)
                patches = image[:, places // width, places % width].transpose(0, 1)  # (P, B, patch, patch)
                logits[number, places] = self.of_patches(patches).to(logits)
        return logits.transpose(1, 2).unflatten(2, (height, width))

    def forward(self, images: Tensor) -> Tensor:
        """(N, B, H, W) images in 0..255 -> (N, num_classes, H, W) logits."""
        padded = self.padded(images.float())
        logits = self.dense(padded) if self.form == "dense" else self.one_by_one(padded)
        return logits + self.log_prior

    def padded(self, images: Tensor) -> Tensor:
        """Images (N, B, H, W) in 0..255, normalised, with a border that lets every pixel be a centre."""
        before, after = self.patch // 2, self.patch - 1 - self.patch // 2
        return F.pad((images - self.mean) / self.deviation, (before, after, before, after), mode="replicate")

    # ---- learning

    def fit(self, samples: Split, *, seed: int, device: torch.device, progress: Progress = iter) -> None:
        torch.manual_seed(seed)
        patches, classes, frequencies = self._draw(samples, seed)
        if self.prior == "frequency":
            self.log_prior.copy_(
                torch.from_numpy(log_prior(frequencies, classes.numpy(), self.num_classes))[:, None, None]
            )
        bands = patches.float()
        self.mean.copy_(bands.mean((0, 2, 3))[:, None, None])
        self.deviation.copy_(bands.std((0, 2, 3)).clamp(min=1)[:, None, None])
        for layer in (*self.encoder, self.decoder, self.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.to(device).train()
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = self.epochs * -(-len(classes) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        order = torch.Generator().manual_seed(seed)
        losses = []
        for epoch in progress(range(self.epochs)):
            total = 0.0
            for chosen in torch.randperm(len(classes), generator=order).split(self.batch_size):
                turned = _turned(patches[chosen], epoch)
                batch = (turned.to(device).float() - self.mean) / self.deviation
                loss = F.cross_entropy(self.of_patches(batch), classes[chosen].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(chosen)
            losses.append(total / len(classes))
        self.eval()
        self.learned |= {"patches": len(classes), "losses": losses}

    def _draw(self, samples: Split, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """Patches (P, B, patch, patch) of bytes or floats, what their centres are, (P,), and pixels of each class."""
        patches, classes, frequencies = [], [], np.zeros(256, np.int64)
        before, after = self.patch // 2, self.patch - 1 - self.patch // 2
        border = ((before, after), (before, after), (0, 0))
        for sample, rows, columns in draw_places(samples, self.patches, seed):
            image = np.pad(sample.image, border, mode="edge")
            patches += [image[r : r + self.patch, c : c + self.patch] for r, c in zip(rows, columns, strict=True)]
            classes.append(sample.mask[rows, columns])
            frequencies += np.bincount(sample.mask.ravel(), minlength=256)
        if not patches:
            raise UserError("data: every pixel of the training images is void, and there is nothing to learn from.")
        stacked = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).contiguous()
        return stacked, torch.from_numpy(np.concatenate(classes)).long(), frequencies

    @property
    def learned_values(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def check_fitted(self) -> None:
        """As any network it has weights from the beginning."""

    def report(self, class_names: Sequence[str]) -> dict[str, Any]:
        return {"patches": self.learned["patches"], "losses": [round(loss, 5) for loss in self.learned["losses"]]}


def _turned(patches: Tensor, epoch: int) -> Tensor:
    """Another of the eight ways to lay a square each epoch."""
    turned = torch.rot90(patches, epoch % 4, (2, 3))
    return turned.flip(3) if epoch % 8 >= 4 else turned
