"""Labelling batches of images with a PyTorch model."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.evaluate import autocast
from seg_cli.inference.labelling import Labelled
from seg_cli.inference.memory import Portions, is_out_of_memory
from seg_cli.inference.predictor import Predictor
from seg_cli.inference.sliding import Sliding
from seg_cli.metrics.counting import Counting

_LARGE = 2**26  # pixels


class TorchLabel:
    """What ``labelling.label_files`` is handed: a model on its device.

    Args:
        model: images (N, B, H, W) -> scores (N, C, H, W), a ``Predictor`` say. It is put into eval mode on ``device``.
        counting: how scores become labels.
        device: where it computes.
        dtype: of mixed precision; None for float32.
        probabilities: whether to give those too.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        counting: Counting,
        device: torch.device,
        dtype: torch.dtype | None,
        probabilities: bool = False,
    ) -> None:
        self.model = model.eval().to(device)
        self.counting, self.device, self.dtype = counting, device, dtype
        self.probabilities = probabilities
        self._portions = Portions(None)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Labelled:
        """Labels of images (N, H, W, B). Raises UserError if memory does not do for a single one."""
        try:
            if self._by_bands(images):
                return self._label_large(images[0])
            found = [result for _, result in self._portions.run(images, self._label)]  # type: ignore[arg-type]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            height, width = images.shape[1:3]
            raise UserError(
                f"memory does not do for an image of {height}x{width} (height x width). Type inference=sliding, or "
                "accelerator=cpu where the GPU is the limit."
            ) from None
        labels = np.concatenate([part.labels for part in found])
        shares = [part.probabilities for part in found if part.probabilities is not None]
        return Labelled(labels, np.concatenate(shares) if shares else None)

    def _label(self, images: Sequence[np.ndarray]) -> Labelled:
        batch = torch.from_numpy(np.asarray(images)).to(self.device).permute(0, 3, 1, 2)  # channels_last by its strides
        with autocast(self.device, self.dtype):
            scores = self.model(batch)  # (N, C, H, W)
        labels = self.counting.predict(scores).to(torch.uint8).cpu().numpy()
        return Labelled(labels, self._shares(scores).cpu().numpy() if self.probabilities else None)

    def _by_bands(self, images: np.ndarray) -> bool:
        """Whether this is an image whose scores had better not be in memory all at once, and they need not be."""
        model = self.model
        return (
            images.shape[1] * images.shape[2] > _LARGE
            and isinstance(model, Predictor)
            and isinstance(model.inference, Sliding)
            and not model.postprocess.steps
            and not self.probabilities
        )

    def _label_large(self, image: np.ndarray) -> Labelled:
        planes = (self.counting.num_classes,) if self.counting.overlapping else ()
        labels = np.empty((*planes, *image.shape[:2]), np.uint8)
        with autocast(self.device, self.dtype):
            cast(Predictor, self.model).label_large(image, labels, device=self.device)
        return Labelled(labels[None])

    def _shares(self, scores: Tensor) -> Tensor:
        scores = scores.float()
        return (scores.sigmoid() if self.counting.overlapping else scores.softmax(1)).half()
