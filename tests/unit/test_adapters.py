"""Models of torchvision and SMP, and of one's own: the same numbers as there, our contract, and what is refused."""

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.models as library
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum

from seg_cli import cli
from seg_cli.commands.build import build_model
from seg_cli.config.choices import choices
from seg_cli.config.explain import explain
from seg_cli.errors import UserError
from seg_cli.inference.cost import count_flops
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.smp import SMP
from seg_cli.models.torchvision import NAMES, Torchvision
from seg_cli.models.transformers import ARCHITECTURES, Transformers
from seg_cli.models.unet import UNet

Compose = Callable[..., DictConfig]
ADAPTED = [choice.name for choice in choices("model") if choice.name.startswith(("smp/", "torchvision/"))]
OF_TRANSFORMERS = [f"transformers/{name}" for name in ARCHITECTURES]


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def normalized(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return (images / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def imagenet(images: Tensor) -> Tensor:
    return normalized(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def smp_model(arch: str, encoder: str = "resnet10t", **options: Any) -> SMP:
    torch.manual_seed(0)
    return SMP(arch=arch, encoder=Encoder(encoder), num_classes=5, options=options)


# ---- every file in conf/model's folders


@pytest.mark.parametrize("name", ADAPTED + OF_TRANSFORMERS)
def test_a_choice_builds_on_the_command_lines_encoder_and_its_settings_are_the_constructors(
    compose_config: Compose, name: str
) -> None:
    packages = {"smp": "segmentation_models_pytorch", "transformers": "transformers", "torchvision": "torchvision"}
    pytest.importorskip(packages[name.partition("/")[0]])
    encoder = "vit_tiny_patch16_224" if name == "smp/dpt" else "resnet10t"
    config = compose_config(f"model={name}", f"encoder.name={encoder}")
    with torch.device("meta"):
        model = build_model(config, 5)
    for part in ("encoder", "decoder", "head"):
        assert isinstance(getattr(model, part), nn.Module)
    assert {key.partition(".")[0] for key, _ in model.named_parameters()} <= {"encoder", "decoder", "head"}
    assert parameters(model.get_submodule("head")) > 0
    constructor = inspect.signature(get_class(config.model._target_)).parameters
    assert {str(key) for key in config.model if key != "_target_"} == set(constructor) - {"num_classes"}
    assert {parameter.kind for parameter in constructor.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_every_model_of_the_libraries_has_a_file() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    names = [f"torchvision/{name}" for name in library.list_models(module=library.segmentation)]
    names += [f"smp/{name}" for name in smp.MODEL_ARCHITECTURES_MAPPING]
    assert sorted(names) == sorted(ADAPTED)


# ---- torchvision


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_has_the_parameters_that_its_documentation_states(name: str) -> None:
    with torch.device("meta"):
        model = Torchvision(name=name, num_classes=21, aux_weight=0.0 if name.startswith("lraspp") else 0.5)
    assert parameters(model) == library.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_logits_are_its_own(name: str) -> None:
    lraspp = name.startswith("lraspp")
    torch.manual_seed(0)
    ours = Torchvision(name=name, num_classes=5, aux_weight=0.0 if lraspp else 0.4)
    torch.manual_seed(0)
    settings = {} if lraspp else {"aux_loss": True}
    theirs = library.get_model(name, weights=None, weights_backbone=None, num_classes=5, **settings)
    images = pictures(2, 50, 67)
    with torch.no_grad():
        expected = theirs.eval()(imagenet(images))
        torch.testing.assert_close(ours.eval()(images), expected["out"], rtol=1e-4, atol=1e-5)
        torch.manual_seed(1)
        found = ours.train()(images)
        torch.manual_seed(1)
        expected = theirs.train()(imagenet(images))
    if lraspp:
        torch.testing.assert_close(found, expected["out"], rtol=1e-3, atol=1e-4)
        return
    assert isinstance(found, Outputs)
    torch.testing.assert_close(found.logits, expected["out"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.aux[0], expected["aux"], rtol=1e-3, atol=1e-4)
    assert ours.aux_weight == 0.4


def test_without_weight_there_is_no_auxiliary_classifier() -> None:
    with torch.device("meta"):
        model = Torchvision(name="fcn_resnet50", num_classes=2, aux_weight=0)
    assert set(model.head) == {"logits"}


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_downloads_fill_what_fits(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    aux = {"aux_weight": 0.0 if name.startswith("lraspp") else 0.5}
    whole = library.get_model(name, weights=None, weights_backbone=None, num_classes=21)
    backbone = library.mobilenet_v3_large()
    states = {"COCO_WITH_VOC_LABELS_V1": whole.state_dict(), "IMAGENET1K_V1": backbone.state_dict()}
    asked = []

    def downloaded(weights: Any, **settings: Any) -> dict[str, Tensor]:
        asked.append(settings)
        return states[weights.name]

    monkeypatch.setattr(WeightsEnum, "get_state_dict", downloaded)
    coco = Torchvision(name=name, num_classes=5, weights="coco", **aux)
    assert coco.encoder.pretrained == "coco"
    for key, value in coco.encoder.state_dict().items():
        assert torch.equal(value, whole.backbone.state_dict()[key]), key
    start = Torchvision(name=name, num_classes=5, weights="imagenet", **aux)
    filled = {f"features.{key}": value for key, value in start.encoder.state_dict().items()}
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in filled.items())
    same = Torchvision(name=name, num_classes=21, weights="coco", **aux).eval()
    with torch.no_grad():
        expected = whole.eval()(imagenet(pictures(1, 40, 40)))["out"]
        torch.testing.assert_close(same(pictures(1, 40, 40)), expected, rtol=1e-4, atol=1e-5)
    assert all(settings["weights_only"] and settings["check_hash"] for settings in asked)


def test_weights_of_torchvision_that_cannot_be_had_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(weights: Any, **_: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refused)
    with pytest.raises(UserError, match=r"model\.weights=imagenet: https://\S+mobilenet\S+ could not be downloaded"):
        Torchvision(name="lraspp_mobilenet_v3_large", num_classes=2, weights="imagenet", aux_weight=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "deeplabv3_resnet5"}, "no such segmentation model. Did you mean 'deeplabv3_resnet50'"),
        ({"weights": "voc"}, "model.weights=voc: torchvision's models have none, imagenet, coco"),
        ({"aux_weight": -1}, "aux_weight=-1: it must be 0 or more"),
        ({"name": "lraspp_mobilenet_v3_large"}, "aux_weight=0.5: it must be 0, since LR-ASPP has no auxiliary"),
    ],
)
def test_wrong_settings_of_torchvision_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        Torchvision(**{"name": "fcn_resnet50", "num_classes": 2} | settings)


# ---- segmentation-models-pytorch


@pytest.mark.parametrize("arch", [name.removeprefix("smp/") for name in ADAPTED if name.startswith("smp/")])
def test_smps_architectures_take_any_size_and_learn(arch: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    encoder = "vit_tiny_patch16_224" if arch == "dpt" else "resnet10t"
    options = (
        {"decoder_intermediate_channels": [16, 16, 16, 16], "decoder_fusion_channels": 16} if arch == "dpt" else {}
    )
    model = smp_model(arch, encoder, **options)
    with torch.no_grad():
        assert model.eval()(pictures(1, 33, 70)).shape == (1, 5, 33, 70)
    logits = model.train()(pictures(2, 64, 64))
    assert logits.shape == (2, 5, 64, 64)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize(("arch", "encoder"), [("unet", "resnet10t"), ("fpn", "convnext_atto")])
def test_smps_logits_are_its_own_with_our_encoders_weights(arch: str, encoder: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    source = Encoder(encoder)
    ours = SMP(arch=arch, encoder=source, num_classes=5).eval()
    theirs = smp.create_model(arch, f"tu-{encoder}", encoder_weights=None, classes=5).eval()
    theirs.encoder.model.load_state_dict(source.body.state_dict())
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    theirs.segmentation_head.load_state_dict(ours.head.state_dict())
    with torch.no_grad():
        expected = theirs(imagenet(pictures(2, 64, 96)))
        torch.testing.assert_close(ours(pictures(2, 64, 96)), expected, rtol=1e-4, atol=1e-5)
    assert parameters(ours) == parameters(theirs)
    assert ours.encoder.pretrained == "none"


def test_smps_unet_and_ours_differ_by_the_upsampling_alone() -> None:
    """The same convolutions on the same encoder; SMP's last one has a bias too."""
    pytest.importorskip("segmentation_models_pytorch")
    ours, theirs = UNet(encoder=Encoder("resnet10t"), num_classes=5), smp_model("unet")
    assert parameters(ours) == parameters(theirs)
    assert count_flops(ours, (64, 64)) == pytest.approx(count_flops(theirs, (64, 64)), rel=0.01)


def test_smps_shallow_decoders_take_the_shallow_stages_over() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    source = Encoder("resnet10t")
    model = SMP(arch="pspnet", encoder=source, num_classes=2)
    kept = model.encoder.model.state_dict()
    assert 0 < len(kept) < len(source.body.state_dict())
    assert all(torch.equal(value, source.body.state_dict()[key]) for key, value in kept.items())


def test_smps_networks_for_one_size_of_image_take_others() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    model = smp_model("unet", "swin_tiny_patch4_window7_224").eval()
    assert model(pictures(1, 50, 70)).shape == (1, 5, 50, 70)


def test_smp_takes_other_channels(compose_config: Compose) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    model = build_model(compose_config("model=smp/unet", "encoder.name=resnet10t", "model.encoder.in_channels=4"), 3)
    assert model.eval()(torch.zeros(1, 4, 40, 40, dtype=torch.uint8)).shape == (1, 3, 40, 40)


@pytest.mark.parametrize(
    ("arch", "encoder", "options", "message"),
    [
        ("unett", "resnet10t", {}, r"model\.arch=unett: .* no such architecture\. Did you mean 'unet'"),
        (
            "unet",
            "resnet10t",
            {"decoder_chanels": 3},
            r"model\.options\.decoder_chanels: smp\.Unet has no such setting",
        ),
        (
            "unet",
            "resnet10t",
            {"decoder_channels": [3]},
            r"model\.arch=unet: .*encoder\.name=resnet10t .*decoder_channels",
        ),
        ("unet", "vit_tiny_patch16_224", {}, r"cannot build it on encoder\.name=vit_tiny_patch16_224"),
        ("deeplabv3", "vgg11_bn", {}, r"cannot build it on encoder\.name=vgg11_bn"),
    ],
)
def test_what_smp_cannot_build_is_a_sentence(arch: str, encoder: str, options: dict[str, Any], message: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(UserError, match=message):
        smp_model(arch, encoder, **options)


# ---- libraries that are not installed


@pytest.mark.parametrize(
    ("package", "make", "extra"),
    [
        ("segmentation_models_pytorch", lambda: smp_model("unet"), "segrun[smp]"),
        ("transformers", lambda: Transformers(name="segformer", num_classes=2), "segrun[transformers]"),
    ],
)
def test_a_missing_library_is_a_sentence_with_the_command(
    monkeypatch: pytest.MonkeyPatch, package: str, make: Callable[[], nn.Module], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        make()
    assert f"Type: pip install '{extra}'" in str(error.value)


# ---- one's own modules


class PerPixel(nn.Module):
    """The smallest model that there can be: neither encoder nor settings but one."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images / 255)


class NoClasses(nn.Module):
    def __init__(self, *, classes: int = 2) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 1)


def target(made: type) -> str:
    return f"model._target_={made.__module__}.{made.__name__}"


def test_any_module_is_a_model(compose_config: Compose) -> None:
    model = build_model(compose_config("model=own/module", target(PerPixel), "+model.width=7"), 5)
    assert isinstance(model, PerPixel)
    assert model(pictures(1, 20, 30)).shape == (1, 5, 20, 30)
    assert model.layers[0].out_channels == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["model=own/module", target(PerPixel), "+model.widht=7"],
            "model.widht: PerPixel has no such setting. Did you",
        ),
        (["model=unet", target(PerPixel)], "has no such setting"),
        (["model=own/module", target(NoClasses)], "model.num_classes: NoClasses has no such setting. Did you mean"),
        (["model=own/module", "model._target_=no_such.Net"], "model._target_=no_such.Net: there is no such class"),
    ],
)
def test_a_module_that_does_not_fit_is_a_sentence(compose_config: Compose, options: list[str], message: str) -> None:
    with pytest.raises((InstantiationException, UserError)) as error:
        build_model(compose_config(*options), 5)
    explained = explain(error.value)
    assert explained is not None
    assert message in str(explained)


@pytest.mark.parametrize(
    ("choice", "options"),
    [("own/module", (target(PerPixel),)), ("torchvision/lraspp_mobilenet_v3_large", ())],
)
def test_the_command_line_trains_it_and_records_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = (
        "data=shapes",
        "data.train=2",
        "data.val=1",
        "data.test=1",
        "data.size=[32,32]",
        "run_dir=r",
        "logger=none",
    )
    small = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "loader.batch_size=2", "loader.workers=0")
    assert cli.run([f"model={choice}", *options, *shapes, *small, "precision=fp32"]) == 0
    assert json.loads((tmp_path / "r" / "results.json").read_text())["choices"]["model"] == choice
