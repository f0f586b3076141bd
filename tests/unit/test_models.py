"""One contract for every architecture in ``conf/model``: shapes, sizes, types, gradients, repeatability."""

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig
from torch import Tensor, nn

from seg_cli.commands.build import build_model
from seg_cli.config.paths import conf_dir
from seg_cli.errors import UserError
from seg_cli.models.deeplabv3plus import DeepLabV3Plus
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.unet import UNet
from seg_cli.models.upsample import KINDS, Upsample

CLASSES = 5
# Methods without epochs have a contract of their own: tests/unit/test_classical.py.
MODELS = sorted(
    path.stem for path in (conf_dir() / "model").glob("*.yaml") if "models.classical" not in path.read_text()
)
# What makes a model small enough for tests, where a small encoder does not or cannot.
SMALL: dict[str, tuple[str, ...]] = {
    "deeplabv3_cascade": ("encoder.name=resnet10t",),
    "deconvnet": ("encoder.name=vgg11_bn", "model.bottleneck=16"),
    "segnet": ("encoder.name=vgg11_bn",),
    "segnet_basic": ("model.channels=16",),
    "unet_paper": ("model.channels=8",),
}
BUILT: dict[tuple[str, ...], nn.Module] = {}
every_model = pytest.mark.parametrize("name", MODELS)
Compose = Callable[..., DictConfig]


@pytest.fixture
def build(compose_config: Compose) -> Callable[..., nn.Module]:
    def built(name: str, *overrides: str, seed: int | None = None) -> nn.Module:
        """A model, with a seed a new one, otherwise a copy of the first that was built so."""
        choice = (f"model={name}", "encoder.name=resnet10t", *overrides, *SMALL.get(name, ()))
        if seed is None and choice in BUILT:
            return copy.deepcopy(BUILT[choice])
        torch.manual_seed(seed or 0)
        model = build_model(compose_config(*choice), CLASSES)
        if seed is None and not overrides:
            BUILT[choice] = copy.deepcopy(model)
        return model

    return built


def pictures(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@every_model
@pytest.mark.parametrize(("encoder", "size"), [("resnet10t", (64, 64)), ("convnext_atto", (97, 131))])
def test_logits_have_the_size_of_the_image(
    build: Callable[..., nn.Module], name: str, encoder: str, size: tuple[int, int]
) -> None:
    model = build(name, f"encoder.name={encoder}").eval()
    with torch.no_grad():
        logits = model(pictures(1, *size))
    assert logits.shape == (1, CLASSES, *size)
    assert logits.dtype == torch.float32
    assert (logits < 0).any()  # no activation inside


@every_model
def test_bytes_and_floats_and_memory_orders_agree(build: Callable[..., nn.Module], name: str) -> None:
    model, images = build(name).eval(), pictures(2, 64, 64)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(model(images.float()), expected)
        channels_last = images.contiguous(memory_format=torch.channels_last)
        found = model.to(memory_format=torch.channels_last)(channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@every_model
def test_an_image_is_scored_alike_alone_and_among_others(build: Callable[..., nn.Module], name: str) -> None:
    model, images = build(name).eval(), pictures(3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images[1:2]), model(images)[1:2], rtol=1e-4, atol=1e-4)


@every_model
def test_a_gradient_reaches_every_parameter(build: Callable[..., nn.Module], name: str) -> None:
    model = build(name).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # timm starts the last norm of a block at 0
    outputs = model(pictures(2, 64, 64))
    if isinstance(outputs, Tensor):
        outputs = Outputs(outputs)
    parts = [outputs.logits, *outputs.aux, *([] if outputs.edges is None else [outputs.edges])]
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


@every_model
def test_the_seed_decides_the_weights(build: Callable[..., nn.Module], name: str) -> None:
    first, again, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    for key in first:
        torch.testing.assert_close(first[key], again[key], rtol=0, atol=0)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_model
def test_bfloat16_is_finite_and_close(build: Callable[..., nn.Module], name: str) -> None:
    model, images = build(name).eval(), pictures(1, 64, 64)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
    assert logits.isfinite().all()
    # A maximum that rounding moves takes its value along to another place.
    bound = 0.2 if name in ("deconvnet", "segnet", "segnet_basic") else 0.1
    assert (logits.float() - expected).abs().mean() < bound * expected.std()


@every_model
def test_settings_are_keywords_and_none_is_swallowed(compose_config: Compose, name: str) -> None:
    constructor = get_class(compose_config(f"model={name}").model._target_)
    kinds = {parameter.kind for parameter in list(inspect.signature(constructor).parameters.values())}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@every_model
def test_every_setting_stands_in_the_config(compose_config: Compose, name: str) -> None:
    settings = compose_config(f"model={name}").model
    parameters = set(inspect.signature(get_class(settings._target_)).parameters)
    assert {str(key) for key in settings if key != "_target_"} == parameters - {"num_classes"}


@every_model
def test_every_parameter_lies_in_the_encoder_the_decoder_or_the_head(
    build: Callable[..., nn.Module], name: str
) -> None:
    """Freezing and learning rates go by these names."""
    model = build(name)
    for part in ("encoder", "decoder", "head"):
        assert isinstance(getattr(model, part), nn.Module)
    assert {key.partition(".")[0] for key, _ in model.named_parameters()} <= {"encoder", "decoder", "head"}
    assert any(True for _ in model.get_submodule("head").parameters())


@every_model
def test_every_upsampling_builds_and_learns(
    build: Callable[..., nn.Module], compose_config: Compose, name: str
) -> None:
    if "upsample" not in compose_config(f"model={name}").model:
        pytest.skip("it has no upsampling to choose")
    for kind in ("nearest", "transposed", "pixel_shuffle", "lanczos3"):
        model = build(name, f"model.upsample={kind}").eval()
        logits = model(pictures(2, 64, 70))
        assert logits.shape == (2, CLASSES, 64, 70)
        logits.square().mean().backward()
        ups = [module for module in model.modules() if isinstance(module, Upsample) and module.factor > 1]
        assert {module.kind for module in ups} == {kind}
        assert all(p.grad is not None and p.grad.any() for up in ups for p in up.parameters())
    with pytest.raises((UserError, InstantiationException), match=r"no such upsampling\. Did you mean 'bilinear'"):
        build(name, "model.upsample=bilinaer")


# ---- single architectures


@pytest.mark.parametrize(("output_stride", "rates"), [(32, [3, 6, 9]), (16, [6, 12, 18]), (8, [12, 24, 36])])
def test_the_rates_of_deeplabv3plus_follow_the_output_stride(output_stride: int, rates: list[int]) -> None:
    model = DeepLabV3Plus(encoder=Encoder("resnet10t", output_stride=output_stride), num_classes=2)
    depthwise = [m for m in model.decoder.aspp.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [conv.dilation[0] for conv in depthwise] == rates
    own = DeepLabV3Plus(encoder=Encoder("resnet10t"), num_classes=2, rates=[2, 4])
    assert [m.dilation[0] for m in own.decoder.aspp.modules() if isinstance(m, nn.Conv2d) and m.groups > 1] == [2, 4]


def test_unet_wants_a_number_of_channels_for_every_step() -> None:
    with pytest.raises(UserError, match=r"model\.decoder_channels: this encoder needs 5 numbers, .* not 2"):
        UNet(encoder=Encoder("resnet10t"), num_classes=2, decoder_channels=[64, 32])


@pytest.mark.parametrize("kind", KINDS)
def test_unet_learns_with_every_upsampling(build: Callable[..., nn.Module], kind: str) -> None:
    encoder = "vgg16_bn" if kind == "max_unpool" else "resnet10t"
    settings = ("model.decoder_channels=[16,16,8,8,8]", f"encoder.name={encoder}", f"model.upsample={kind}")
    model = build("unet", *settings).train()
    logits = model(pictures(2, 40, 64))
    assert logits.shape == (2, CLASSES, 40, 64)
    logits.square().mean().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert {m.kind for m in model.modules() if isinstance(m, Upsample)} == {kind}


def test_unpooling_and_learned_upsampling_are_in_the_decoder_and_the_head() -> None:
    """By 2 five times: four beside the skips of resnet, one to the image's resolution."""
    model = UNet(encoder=Encoder("resnet10t"), num_classes=3, decoder_channels=[16, 12, 8, 6, 4], upsample="transposed")
    ups = [m for m in model.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.stride[0]) for m in ups] == [(512, 2), (16, 2), (12, 2), (8, 2), (6, 2)]
    model = UNet(
        encoder=Encoder("convnext_atto"), num_classes=3, decoder_channels=[16, 12, 8, 6], upsample="transposed"
    )
    ups = [m for m in model.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.stride[0]) for m in ups] == [(320, 2), (16, 2), (12, 2), (8, 2), (3, 2)]


def test_deeplabv3plus_unpools_where_the_encoder_pools() -> None:
    model = DeepLabV3Plus(encoder=Encoder("vgg11_bn"), num_classes=3, channels=16, upsample="max_unpool").eval()
    assert model(pictures(1, 33, 64)).shape == (1, 3, 33, 64)
    with pytest.raises(UserError, match=r"max pooling to stride 32, and encoder\.name=resnet10t has no such pooling"):
        DeepLabV3Plus(encoder=Encoder("resnet10t"), num_classes=3, upsample="max_unpool")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_positions_and_padding_compile_into_one_graph() -> None:
    encoder = Encoder("vgg11_bn")
    model = UNet(encoder=encoder, num_classes=3, decoder_channels=[8] * 5, upsample="max_unpool").eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(pictures(1, 20, 32)), model(pictures(1, 20, 32)))


@pytest.mark.parametrize("architecture", [UNet, DeepLabV3Plus])
def test_the_padding_is_cut_off_again(architecture: type[nn.Module]) -> None:
    model = architecture(encoder=Encoder("resnet10t"), num_classes=3).eval()
    images = pictures(1, 50, 70)
    rows, columns = torch.arange(64).clamp(max=49), torch.arange(96).clamp(max=69)
    with torch.no_grad():
        assert torch.equal(model(images), model(images[..., rows, :][..., columns])[..., :50, :70])


@every_model
def test_images_of_other_channels_than_the_model_takes_are_refused(build: Callable[..., nn.Module], name: str) -> None:
    with torch.no_grad(), pytest.raises(UserError, match=r"^in_channels=3: the images have 4 channels\."):
        build(name).eval()(torch.zeros(1, 4, 40, 40, dtype=torch.uint8))


@every_model
@pytest.mark.slow
def test_it_compiles_to_the_same(build: Callable[..., nn.Module], name: str) -> None:
    model, images = build(name).eval(), pictures(2, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(images), model(images))


@every_model
def test_images_may_have_other_channels(build: Callable[..., nn.Module], compose_config: Compose, name: str) -> None:
    has_encoder = "encoder" in compose_config(f"model={name}").model
    model = build(name, "model.encoder.in_channels=4" if has_encoder else "model.in_channels=4").eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 4, 40, 40, dtype=torch.uint8)).shape == (1, CLASSES, 40, 40)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "vgg11_bn"])
def test_unet_takes_transformers_and_plain_networks(name: str) -> None:
    """Maps of one stride alone, channels that come last, and a first map at the image's own resolution."""
    model = UNet(encoder=Encoder(name), num_classes=5, decoder_channels=(16, 16, 16, 8, 8, 8)).eval()
    assert model(torch.zeros(1, 3, 96, 128)).shape == (1, 5, 96, 128)
