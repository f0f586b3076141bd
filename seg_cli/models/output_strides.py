"""Networks that change their output stride between training and evaluation, and multi-grid.

Training at output stride 16 is cheaper than at 8, and evaluation at 8 finer than at 16; the weights are the same, only
strides and atrous rates differ (DeepLab v3, arXiv:1706.05587, section 4.1).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from seg_cli.errors import UserError
from seg_cli.models.dilation import dilate
from seg_cli.models.encoder import Encoder


def last_blocks(encoder: Encoder) -> list[nn.Module]:
    """The residual blocks of the last stage where the encoder is a ResNet (ResNeXt, SE-ResNet, ...), else none."""
    stage = getattr(encoder.body, "layer4", None)
    return list(stage) if isinstance(stage, nn.Sequential) else []


def dilate_by_grid(blocks: Sequence[nn.Module], rate: int, grid: Sequence[int]) -> None:
    """Multi-grid: each block has its own multiple of the stage's rate (DeepLabV3, section 3.2.1)."""
    for block, unit in zip(blocks, grid, strict=True):
        dilate(block, rate * unit)


def fit_grid(encoder: Encoder, asked: Sequence[int] | None, default: Sequence[int]) -> list[int]:
    """The grid that a model was asked for, or the default, fitted to the blocks that the encoder has.

    Raises:
        UserError: if a grid was asked for, and the encoder is no ResNet.
        ValueError: if it has another length than the last stage of this ResNet, or a number below 1.
    """
    blocks = len(last_blocks(encoder))
    if asked is None:
        return [default[min(i, len(default) - 1)] for i in range(blocks)]
    if not blocks:
        raise UserError(
            f"model.multi_grid={list(asked)}: encoder.name={encoder.name} is no ResNet, whose last blocks it is for. "
            "Allowed is null, or choose another encoder, as resnet50."
        )
    if len(asked) != blocks or min(asked) < 1:
        raise ValueError(
            f"multi_grid={list(asked)}: the last stage of encoder.name={encoder.name} has {blocks} blocks; give as "
            "many numbers, each at least 1."
        )
    return list(asked)


class TwoStrides:
    """An encoder with one output stride in training and another in evaluation, and the same weights in both.

    timm says how the layers of a network differ between two output strides: the encoder is built again at the other
    one, without memory (on the meta device), and the layers that differ are kept. To switch, they change places with
    those of the encoder, and take over their weights.

    Args:
        encoder: as it is in training; is changed.
        in_eval: its output stride in evaluation; None where it is the same.
        grid: multi-grid of the last stage; empty for none.

    Attributes:
        train, eval: the strides of the encoder's deepest map.

    Raises:
        ValueError: for another output stride than 8, 16 and 32.
        UserError: if the encoder cannot have that stride, or has other weights at it.
    """

    def __init__(self, encoder: Encoder, in_eval: int | None, grid: Sequence[int]) -> None:
        if in_eval not in (None, 8, 16, 32):
            raise ValueError(f"eval_output_stride={in_eval}: allowed are null (as in training), 8, 16 and 32.")
        self.train = self.eval = encoder.strides[-1]
        self._set_grid(encoder, grid)
        self._spare: dict[str, nn.Module] = {}
        self._is_training = True
        if in_eval in (None, self.train):
            return
        twin = _at(encoder, in_eval)
        self.eval = twin.strides[-1]
        self._set_grid(twin, grid)
        here = dict(encoder.body.named_modules())
        self._spare = {
            name: layer
            for name, layer in twin.body.named_modules()
            if not list(layer.children()) and _settings(layer) != _settings(here[name])
        }
        self._spare_strides = twin.strides
        encoder.multiple = math.lcm(encoder.multiple, twin.multiple)

    def switch(self, encoder: Encoder, training: bool) -> None:
        """Give the encoder the layers of training or of evaluation, where it has not got them."""
        if training == self._is_training or not self._spare:
            return
        self._is_training = training
        for name, layer in self._spare.items():
            leaving = encoder.body.get_submodule(name)
            layer._parameters, layer._buffers = leaving._parameters, leaving._buffers
            layer.training = leaving.training
            encoder.body.set_submodule(name, layer)
            self._spare[name] = leaving
        encoder.strides, self._spare_strides = self._spare_strides, encoder.strides

    def _set_grid(self, encoder: Encoder, grid: Sequence[int]) -> None:
        if grid:
            dilate_by_grid(last_blocks(encoder), 32 // encoder.strides[-1], grid)


def _at(encoder: Encoder, output_stride: int) -> Encoder:
    """The same encoder at another output stride, without memory."""
    try:
        with torch.device("meta"):
            twin = Encoder(encoder.name, in_channels=encoder.normalize.scale.shape[1], output_stride=output_stride)
    except UserError:
        twin = None
    if twin is None or _shapes(twin) != _shapes(encoder):
        raise UserError(
            f"model.eval_output_stride={output_stride}: encoder.name={encoder.name} cannot have this output stride "
            "with the same weights. Type model.eval_output_stride=null, or choose another encoder, as resnet50."
        )
    return twin


def _shapes(encoder: Encoder) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in encoder.body.state_dict().items()}


def _settings(layer: nn.Module) -> tuple[type, dict[str, Any]]:
    """What a layer was built with: stride, dilation, padding and the like."""
    return type(layer), {key: value for key, value in vars(layer).items() if not key.startswith("_")}
