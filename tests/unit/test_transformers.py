"""Models of transformers: the same numbers as there, our contract, weights from a folder, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models.transformers import ARCHITECTURES, Transformers

hub = pytest.importorskip("transformers")

TINY: dict[str, dict[str, Any]] = {
    "beit": {
        "num_hidden_layers": 5,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "out_indices": [1, 2, 3, 4],
        "use_relative_position_bias": True,
        "image_size": 64,
    },
    "dpt": {
        "num_hidden_layers": 4,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 16,
        "image_size": 64,
    },
    "mobilenet_v2": {"output_stride": 16},
    "mobilevit": {"output_stride": 16},
    "mobilevitv2": {"output_stride": 16},
    "segformer": {"hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "depths": [1, 1, 1, 1]},
    "upernet": {
        "hidden_size": 32,
        "backbone_config": {
            "model_type": "convnext",
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
        },
    },
}


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def normalized(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return (images / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def imagenet(images: Tensor) -> Tensor:
    return normalized(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def transformer(name: str, **settings: Any) -> Transformers:
    torch.manual_seed(0)
    return Transformers(name=name, **{"num_classes": 5, "options": TINY.get(name)} | settings)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_take_any_size_and_what_they_run_learns(name: str) -> None:
    """And what they never run is frozen: the table of unused layers is neither too long nor too short."""
    model = transformer(name)
    with torch.no_grad():
        assert model.eval()(pictures(1, 50, 70)).shape == (1, 5, 50, 70)
    model.train()(pictures(2, 64, 96)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_segformer_has_the_parameters_of_the_paper() -> None:
    """Table 1a of Xie et al. for B0: 3.4 M in the encoder and 0.4 M in the decoder, with 150 classes."""
    with torch.device("meta"):
        model = Transformers(name="segformer", num_classes=150)
    assert parameters(model.encoder) == pytest.approx(3.4e6, rel=0.03)
    assert parameters(model.head) == pytest.approx(0.4e6, rel=0.1)


def saved(folder: Path, *, classes: int = 5, safe: bool = True) -> Any:
    """A small SegFormer as the library saves it."""
    torch.manual_seed(1)
    net = hub.SegformerForSemanticSegmentation(hub.SegformerConfig(num_labels=classes, **TINY["segformer"])).eval()
    net.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(net.state_dict(), folder / "pytorch_model.bin")
    return net


def test_a_folder_of_transformers_gives_the_librarys_own_logits(tmp_path: Path) -> None:
    net = saved(tmp_path)
    model = transformer(str(tmp_path), weights="pretrained", options={}).eval()
    images = pictures(2, 64, 96)
    with torch.no_grad():
        expected = nn.functional.interpolate(net(imagenet(images)).logits, (64, 96), mode="bilinear")
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert model.encoder.pretrained.startswith(f"{tmp_path.name} sha256:")
    alone = transformer(str(tmp_path), options={})  # the architecture of the folder, with random weights
    assert alone.state_dict().keys() == model.state_dict().keys()
    assert alone.encoder.pretrained == "none"


def test_a_folder_with_other_classes_gives_all_but_the_last_layer(tmp_path: Path) -> None:
    net = saved(tmp_path, classes=9)
    model = transformer(str(tmp_path), weights="pretrained", options={})
    assert model.head.classifier.out_channels == 5
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, net.segformer.state_dict()[key])


def test_the_normalisation_comes_with_the_weights(tmp_path: Path) -> None:
    net = saved(tmp_path)
    processor = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | {"do_flip_channel_order": True}))
    model = transformer(str(tmp_path), weights="pretrained", options={}).eval()
    images = pictures(1, 64, 64)
    with torch.no_grad():
        inputs = normalized(images.flip(1), processor["image_mean"], processor["image_std"])  # type: ignore[arg-type]
        expected = nn.functional.interpolate(net(inputs).logits, (64, 64), mode="bilinear")
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    model = transformer(str(tmp_path), options={})
    torch.testing.assert_close(model.normalize(images), images / 255)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "segformr"}, r"model\.name=segformr: .*Did you mean 'segformer'.*a folder with a config\.json"),
        ({"name": "detr"}, r"model\.name=detr: transformers has no such segmentation model"),
        ({"weights": "imagenet"}, r"model\.weights=imagenet: .* none and pretrained"),
        ({"weights": "pretrained"}, r"model\.weights=pretrained: 'segformer' is an architecture"),
        ({"options": {"depth": [1]}}, r"model\.options\.depth: .* no such setting\. Did you mean 'depths'"),
        ({"options": {"depths": "many"}}, r"model\.options: "),
        ({"options": {"depths": [1]}}, r"model\.options: a segformer cannot be built so"),
        ({"name": "beit", "options": {}}, r"model\.options: a beit cannot be built so \(.*out_indices"),
    ],
)
def test_wrong_settings_of_transformers_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        transformer(**{"name": "segformer"} | settings)


def test_weights_that_could_execute_code_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "pickle", safe=False)
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        transformer(str(tmp_path / "pickle"), weights="pretrained", options={})
    saved(tmp_path / "small")
    with pytest.raises(UserError, match=r"tensors of the encoder .* must have the same model\.options"):
        transformer(str(tmp_path / "small"), weights="pretrained", options={"hidden_sizes": [16, 16, 16, 16]})


def test_a_name_on_a_hub_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg_cli.models.transformers.hub_answers", lambda: False)
    with pytest.raises(UserError, match=r"model\.name=nobody/nothing: there is no such folder, and no config"):
        transformer("nobody/nothing", options={})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["segformer", "dpt"])
def test_the_parts_are_exported_under_our_names(name: str) -> None:
    model = transformer(name).eval()
    program = torch.export.export(model, (pictures(1, 64, 64),))
    assert {key.partition(".")[0] for key in program.state_dict} <= {"encoder", "decoder", "head"}
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pictures(1, 64, 64)), model(pictures(1, 64, 64)))
