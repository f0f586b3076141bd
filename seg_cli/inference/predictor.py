"""A model with the settings of inference around it: windows, test-time augmentation, post-processing."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.large_images import Pixels
from seg_cli.inference.postprocess import Postprocess
from seg_cli.inference.sliding import Inference, Sliding, Whole
from seg_cli.inference.tta import Tta
from seg_cli.metrics.counting import Counting


class Predictor(nn.Module):
    """From images to scores; it can stand wherever a model in evaluation can.

    Whatever is averaged, scores are used like logits: the largest is the label, or their sigmoid is held against a
    threshold, and their softmax or sigmoid are probabilities.

    Args:
        model: images (N, B, H, W) -> logits (N, C, H, W).
        counting: how scores become labels.
        inference: the whole image or windows; the whole where it is not given.
        tta: views of the image, each of which goes through ``inference``; none where it is not given.
        postprocess: what is done to the scores; nothing where it is not given.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        counting: Counting,
        inference: Inference | None = None,
        tta: Tta | None = None,
        postprocess: Postprocess | None = None,
    ) -> None:
        super().__init__()
        self.model, self.counting = model, counting
        self.inference = inference or Whole()
        self.tta = tta or Tta(transforms={})
        self.postprocess = postprocess or Postprocess(steps={})

    def forward(self, images: Tensor) -> Tensor:
        """Scores of images.

        Args:
            images: (N, B, H, W) pixel values in 0..255, uint8 or floating.

        Returns:
            (N, C, H, W) scores; the model's logits themselves where no setting asks for more.
        """
        scores = self.tta(lambda views: self.inference(self.model, views), images, self.counting)
        return self.postprocess(scores, images, self.counting)

    @torch.inference_mode()
    def label_large(
        self,
        image: Pixels,
        out: np.ndarray,
        *,
        device: torch.device,
        convert: Callable[[np.ndarray], np.ndarray] = np.array,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """Label an image that may be too large for memory: labels are written as windows are finished.

        Views of test-time augmentation are taken of each window, not of the whole image.

        Args:
            image: (H, W, B), of which windows are read; an array, a file mapped into memory, or ``LargeTiff``.
            out: (H, W) integers, or where labels overlap (C, H, W); an array or a file mapped into memory.
            device: where windows are computed. The model is put into eval mode there.
            convert: (h, w, B') values as they are stored -> (h, w, B) uint8 or float32 in 0..255, a new array.
            progress: is told how many rows are done.

        Raises:
            UserError: if ``inference`` is not by windows, or there is post-processing, which needs all of the image.
        """
        if not isinstance(self.inference, Sliding):
            raise UserError("inference: an image this large goes through the model by windows. Type inference=sliding.")
        if self.postprocess.steps:
            raise UserError("postprocess: it needs the whole image, and this one is too large. Type postprocess=none.")
        self.eval().to(device)

        def read(_: int, rows: slice, columns: slice) -> Tensor:
            window = torch.from_numpy(convert(image[rows, columns])).to(device)  # (h, w, B)
            return window.permute(2, 0, 1).unsqueeze(0)  # channels_last by its strides

        def predict(windows: Tensor) -> Tensor:
            return self.tta(self.model, windows, self.counting)

        for top, scores in self.inference.bands(predict, read, image.shape[:2]):
            labels = self.counting.predict(scores)[0]  # (rows, W) or (C, rows, W)
            out[..., top : top + scores.shape[-2], :] = labels.to(torch.uint8).cpu().numpy()
            progress(top + scores.shape[-2])
