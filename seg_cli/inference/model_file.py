"""What an exported model says about itself, and running an ONNX file without PyTorch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seg_cli import __version__
from seg_cli.data.labels import LabelSpace
from seg_cli.errors import UserError
from seg_cli.inference.labelling import Labelled

KEY, INPUT, OUTPUT = "segrun", "images", "logits"
"""Of the metadata, and of what goes in and comes out."""

SCHEMA = 1
"""Of the metadata; raised when a reader of the old form would misunderstand the new one."""


@dataclass(frozen=True)
class About:
    """What has to be known of a model to use it.

    Attributes:
        labels: names and colours of the classes.
        channels: bands of an image.
        value_range: the values in files that become 0 and 255, as ``ImageReader`` takes them.
        size: (height, width) of all images; None for a model of any size.
        thresholds: where labels overlap: of the sigmoid of each class.
        model, run: the architecture, and the name of the run directory.
    """

    labels: LabelSpace
    channels: int
    value_range: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    thresholds: tuple[float, ...] | None = None
    model: str = ""
    run: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, see docs/inference.md."""
        named = zip(self.labels.names, self.labels.colors, strict=True)
        return {
            "schema": SCHEMA,
            "classes": [{"name": name, "color": [int(part) for part in color]} for name, color in named],
            "overlapping": self.labels.overlapping,
            "thresholds": self.thresholds,
            "channels": self.channels,
            "value_range": self.value_range,
            "size": self.size,
            "model": self.model,
            "run": self.run,
            "segrun": __version__,
        }

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "About":
        """The reverse of ``to_dict``. Raises ValueError, TypeError or LookupError if it is something else."""
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']}, and this version of segrun reads {SCHEMA}")
        classes = values["classes"]

        def numbers(key: str) -> Any:
            return None if values[key] is None else tuple(values[key])

        red_green_blue = [tuple(int(part) for part in each["color"]) for each in classes]
        labels = LabelSpace(
            tuple(each["name"] for each in classes),
            tuple((red, green, blue) for red, green, blue in red_green_blue),
            overlapping=bool(values["overlapping"]),
        )
        return cls(
            labels,
            int(values["channels"]),
            numbers("value_range"),
            numbers("size"),
            numbers("thresholds"),
            str(values["model"]),
            str(values["run"]),
        )


class OnnxModel:
    """An ONNX file of ``segrun export``, run by onnxruntime.

    Args:
        path: the file.
        accelerator: ``auto``, ``cpu`` or ``gpu``.

    Attributes:
        about: what its metadata say.

    Raises:
        UserError: if onnxruntime is not installed, there is no such file, it is not one of ours, or there is no GPU.
    """

    def __init__(self, path: Path, *, accelerator: str = "auto") -> None:
        if not path.is_file():
            raise UserError(f"model={path}: there is no such file. segrun export run=RUN out={path} makes one.")
        self._session = open_session(path, accelerator)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if KEY not in metadata:
            raise UserError(
                f"model={path}: this ONNX file was not made by segrun export: it does not say which classes it knows, "
                "and what its input is. Type run=RUN, or export the run again."
            )
        try:
            self.about = About.of_dict(json.loads(metadata[KEY]))
        except (ValueError, TypeError, LookupError) as error:
            raise UserError(f"model={path}: what the file says about itself cannot be used ({error}).") from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(N, channels, H, W) in 0..255 -> logits (N, C, H, W) float32.

        Raises:
            UserError: if the model is for images of another size.
        """
        if self.about.size and images.shape[-2:] != self.about.size:
            height, width = images.shape[-2:]
            raise UserError(
                f"the image is {height}x{width} (height x width), and the model was exported for "
                f"{'x'.join(map(str, self.about.size))} alone. Export it without size=."
            )
        (logits,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(images, np.float32)})
        return logits

    def label(self, images: np.ndarray, *, probabilities: bool = False) -> Labelled:
        """Labels of images (N, H, W, channels), as ``labelling.Label`` has it."""
        logits = self(images.transpose(0, 3, 1, 2))
        if self.about.labels.overlapping:
            thresholds = np.asarray(self.about.thresholds, np.float32).reshape(-1, 1, 1)
            labels = (logits > np.log(thresholds / (1 - thresholds))).astype(np.uint8)
        else:
            labels = largest(logits)
        shares = self._probabilities(logits).astype(np.float16) if probabilities else None
        return Labelled(labels, shares)

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        if self.about.labels.overlapping:
            return 0.5 + 0.5 * np.tanh(0.5 * logits)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def open_session(model: Path | bytes, accelerator: str = "auto", *, spin: bool = False) -> Any:
    """An onnxruntime session.

    Args:
        model: an ONNX file, or what it holds.
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        spin: whether its threads keep a core busy while they wait, which is faster where nothing else has to be done.

    Raises:
        UserError: if onnxruntime is not installed or cannot read the file, or there is no GPU.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "ONNX: onnxruntime, which runs exported models, is not installed. Type pip install 'segrun[onnx]'."
        ) from None
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if accelerator == "gpu" and not has_gpu:
        raise UserError(
            "accelerator=gpu: this onnxruntime has no CUDA. Type pip install onnxruntime-gpu, or accelerator=cpu."
        )
    providers = ["CUDAExecutionProvider"] if has_gpu and accelerator != "cpu" else []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes of errors
        where = "" if isinstance(model, bytes) else f"model={model}: "
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}onnxruntime cannot read this as a model ({reason}).") from None


def largest(logits: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> (N, H, W) uint8: the class with the largest logit, the first of equal ones.

    Much quicker than ``argmax(1)``, which goes through the classes of one pixel after the other.
    """
    top = logits.max(1)
    labels = np.zeros(top.shape, np.uint8)
    for index in range(logits.shape[1] - 1, -1, -1):
        np.putmask(labels, logits[:, index] == top, np.uint8(index))
    return labels
