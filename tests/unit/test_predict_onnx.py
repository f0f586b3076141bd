"""ONNX files of ours: what they say about themselves, labels without PyTorch, and files of others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from seg_cli.data.labels import LabelSpace
from seg_cli.errors import UserError
from seg_cli.inference.model_file import KEY, About, OnnxModel, largest

LABELS = LabelSpace(("road", "sky", "cär"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
ABOUT = About(LABELS, channels=3, value_range=(0.0, 4095.0), model="unet", run="2026-01-01")


def write(path: Path, about: dict[str, Any] | str | None) -> Path:
    """A model whose logits are the bands of the image."""
    shape = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["logits"])],
        "bands",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if about is not None:
        model.metadata_props.add(key=KEY, value=about if isinstance(about, str) else json.dumps(about))
    onnx.save(model, path)
    return path


def test_what_a_file_says_comes_back(tmp_path: Path) -> None:
    assert OnnxModel(write(tmp_path / "m.onnx", ABOUT.to_dict())).about == ABOUT
    other = About(LabelSpace(("a",), ((1, 2, 3),), overlapping=True), 1, size=(4, 6), thresholds=(0.25,))
    assert About.of_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_labels_and_probabilities_are_those_of_torch(tmp_path: Path) -> None:
    model = OnnxModel(write(tmp_path / "m.onnx", ABOUT.to_dict()))
    images = np.random.default_rng(0).normal(0, 3, (2, 5, 7, 3)).astype(np.float32)
    found = model.label(images, probabilities=True)
    logits = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert np.array_equal(found.labels, logits.argmax(1).numpy())
    assert found.labels.dtype == np.uint8
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, logits.softmax(1).numpy(), atol=1e-3)
    assert found.probabilities.dtype == np.float16
    assert model.label(images).probabilities is None


def test_overlapping_labels_are_held_against_their_thresholds(tmp_path: Path) -> None:
    labels = LabelSpace(LABELS.names, LABELS.colors, overlapping=True)
    about = About(labels, 3, thresholds=(0.5, 0.9, 0.01))
    model = OnnxModel(write(tmp_path / "m.onnx", about.to_dict()))
    images = np.random.default_rng(0).normal(0, 3, (2, 5, 7, 3)).astype(np.float32)
    found = model.label(images, probabilities=True)
    shares = torch.from_numpy(images).permute(0, 3, 1, 2).sigmoid().numpy()
    assert np.array_equal(found.labels, shares > np.reshape([0.5, 0.9, 0.01], (3, 1, 1)))
    np.testing.assert_allclose(found.probabilities, shares, atol=1e-3)


def test_the_first_of_equal_logits_wins_as_in_argmax() -> None:
    logits = np.random.default_rng(0).integers(0, 3, (2, 9, 20, 30)).astype(np.float32)
    assert np.array_equal(largest(logits), logits.argmax(1))
    assert largest(logits[:, :1]).max() == 0


def test_an_image_of_another_size_than_the_model_is_for(tmp_path: Path) -> None:
    about = About(LABELS, 3, size=(8, 16))
    model = OnnxModel(write(tmp_path / "m.onnx", about.to_dict()))
    assert model.label(np.zeros((1, 8, 16, 3), np.uint8)).labels.shape == (1, 8, 16)
    with pytest.raises(UserError, match=r"the image is 8x8 .* exported for 8x16 alone"):
        model.label(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (None, "was not made by segrun export"),
        ("{", "what the file says about itself cannot be used"),
        ("[]", "cannot be used"),
        (ABOUT.to_dict() | {"schema": 99}, "schema 99, and this version of segrun reads 1"),
        ({key: value for key, value in ABOUT.to_dict().items() if key != "classes"}, "cannot be used"),
        (ABOUT.to_dict() | {"classes": [{"name": "a", "color": [1, 2]}]}, "cannot be used"),
    ],
)
def test_files_that_are_not_ours_are_refused(tmp_path: Path, about: Any, said: str) -> None:
    with pytest.raises(UserError) as wrong:
        OnnxModel(write(tmp_path / "m.onnx", about))
    assert said in str(wrong.value)
    assert str(wrong.value).startswith(f"model={tmp_path / 'm.onnx'}: ")


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "m.onnx").write_bytes(b"PK\x03\x04 of something else")
    with pytest.raises(UserError, match="onnxruntime cannot read this as a model"):
        OnnxModel(tmp_path / "m.onnx")
