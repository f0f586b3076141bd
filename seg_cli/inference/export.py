"""A model as a program that runs without this package: ONNX, or PyTorch's own exported program.

The program takes float32 pixel values (batch, bands, height, width) in 0..255 and gives logits at the image's size;
batch, height and width stay open unless a size is asked for. It computes in float32.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timm.layers import padding
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from seg_cli.errors import UserError
from seg_cli.inference.model_file import INPUT, KEY, OUTPUT
from seg_cli.models.pspnet import line_weights

_EXAMPLE = (331, 471)  # height and width that divide by nothing, so that no size looks like a special case
_LARGEST = 2**31 - 2**20  # bytes of an ONNX file, which is one message of protobuf


def trace(model: nn.Module, *, channels: int, size: Sequence[int] | None = None) -> ExportedProgram:
    """The operations of a model in evaluation.

    Args:
        model: images (N, channels, H, W) -> logits (N, num_classes, H, W). It is left on the CPU, in eval mode, in
            PyTorch's usual memory order.
        channels: bands of an image.
        size: (height, width) of all images; None leaves it open, and batches too.

    Raises:
        UserError: if the model does something that cannot be written down, or cannot be for every size.
    """
    model.float().cpu().eval()
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros(2, channels, *(size or _EXAMPLE))
    open_sides = {} if size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with torch.no_grad(), _quiet(), _of_any_size():
            program = torch.export.export(
                model,
                (example,),
                dynamic_shapes=({0: Dim.DYNAMIC, **open_sides},),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # whatever a module does that torch.export does not know
        reason = " ".join(str(error).split())[:300]
        advice = "" if size else " Type size=[HEIGHT,WIDTH] for a model of images of one size."
        raise UserError(f"export: torch.export cannot follow this model ({reason}).{advice}") from error
    _drop_assertions(program)
    return program


def to_onnx(program: ExportedProgram, about: Mapping[str, Any]) -> bytes:
    """An ONNX file with ``about`` in its metadata.

    Raises:
        UserError: if the exporter is not installed, an operation is not known to ONNX, or the file would be too large.
    """
    try:
        import onnxscript  # noqa: F401 - what torch.onnx needs
    except ImportError:
        raise UserError("format=onnx: onnxscript is not installed. Type pip install 'segrun[onnx]'.") from None
    try:
        with _quiet():
            exported = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
            )
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(
            f"format=onnx: ONNX cannot express this model ({reason}). Type size=[HEIGHT,WIDTH] for images of one size, "
            "or format=torch_export."
        ) from error
    assert exported is not None
    file = exported.model_proto
    file.producer_name = "segrun"
    file.metadata_props.add(key=KEY, value=json.dumps(about, ensure_ascii=False))
    for value in (file.graph.input[0], file.graph.output[0]):
        for side, name in zip(value.type.tensor_type.shape.dim, ("batch", "channels", "height", "width"), strict=True):
            if not side.HasField("dim_value"):
                side.dim_param = name
    if file.ByteSize() > _LARGEST:
        raise UserError(
            f"format=onnx: the file would have {file.ByteSize() / 2**30:.1f} GiB, and an ONNX file has less than 2. "
            "Type format=torch_export."
        )
    return file.SerializeToString()


def to_torch_export(program: ExportedProgram, about: Mapping[str, Any]) -> bytes:
    """A file of ``torch.export.save``, with ``about`` among its extra files."""
    buffer = io.BytesIO()
    try:
        with _quiet():
            torch.export.save(program, buffer, extra_files={KEY: json.dumps(about, ensure_ascii=False)})
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"format=torch_export: torch cannot write this model down ({reason}). Type size=[HEIGHT,WIDTH] for images "
            "of one size, or format=onnx."
        ) from error
    return buffer.getvalue()


def load_torch_export(data: bytes) -> nn.Module:
    """The module in a file of ``to_torch_export``."""
    with _quiet():
        return torch.export.load(io.BytesIO(data)).module()


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Functions of libraries that take the size of the example for that of every image, in a form that does not."""
    with (
        patch.object(F, "adaptive_avg_pool2d", _part_means),
        patch.object(padding, "get_same_padding", _same_padding),
    ):
        yield


def _same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:
    """timm's, of TensorFlow: by whole numbers, where it divides and rounds up."""
    return torch.sym_max(((x + stride - 1) // stride - 1) * stride + (kernel_size - 1) * dilation + 1 - x, 0)


def _part_means(x: Tensor, output_size: int | Sequence[int]) -> Tensor:
    """``F.adaptive_avg_pool2d`` of a map (N, C, h, w), by matrix products."""
    parts = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if parts == (1, 1):
        return x.mean((-2, -1), keepdim=True)  # (N, C, 1, 1)
    rows, columns = (line_weights(side, count, x) for side, count in zip(x.shape[-2:], parts, strict=True))
    return rows @ x @ columns.T  # (N, C, *parts)


def _drop_assertions(program: ExportedProgram) -> None:
    """Take out what the trace noted of its example: that a side was no multiple of 32, say.

    What holds for other sizes is found by comparing with the model.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
