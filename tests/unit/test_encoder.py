"""The encoder: feature maps, strides, and weights that fit, do not fit, or would rather execute code."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models import encoder as encoder_module
from seg_cli.models.encoder import Encoder

NAME = "resnet10t"


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """A whole timm classifier, as its weights are published."""
    torch.manual_seed(1)
    return timm.create_model(NAME, pretrained=False).eval()


def features(model: Encoder, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return model.eval()(images)


# ---- feature maps


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        (NAME, 32, [2, 4, 8, 16, 32]),
        (NAME, 16, [2, 4, 8, 16, 16]),
        (NAME, 8, [2, 4, 8, 8, 8]),
        ("convnext_atto", 32, [4, 8, 16, 32]),
        ("convnext_atto", 16, [4, 8, 16, 16]),
        ("tf_efficientnet_lite0", 16, [2, 4, 8, 16, 16]),
    ],
)
def test_feature_maps_have_the_channels_and_strides_it_says(name: str, output_stride: int, strides: list[int]) -> None:
    model = Encoder(name, output_stride=output_stride)
    assert model.strides == strides
    maps = features(model, torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert [tuple(x.shape) for x in maps] == [
        (1, channels, 64 // stride, 96 // stride) for channels, stride in zip(model.channels, strides, strict=True)
    ]
    assert model.level(stride=4) == strides.index(4)


def test_images_are_normalised_as_the_encoder_was_trained() -> None:
    model = Encoder(NAME)
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    mean, std = (torch.tensor(model.body.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(model.normalize(images), (images / 255 - mean) / std)
    torch.testing.assert_close(model.normalize(images.float()), model.normalize(images))
    assert not any(key.startswith("normalize") for key in model.state_dict())


FAMILIES = [
    *("resnet18", "vgg16_bn", "mobilenetv3_large_100", "tf_efficientnet_lite0", "convnext_atto", "inception_v3"),
    *("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_images_may_have_any_size(name: str) -> None:
    """Maps are of the padded size, also where timm's own are not: Inception has no padding, others round up."""
    model = Encoder(name)
    assert model.multiple == (16 if name.startswith("vit") else 32)
    for height, width in ((97, 131), (128, 96)):
        padded = [-(-side // model.multiple) * model.multiple for side in (height, width)]
        maps = features(model, torch.zeros(1, 3, height, width, dtype=torch.uint8))
        assert [tuple(x.shape) for x in maps] == [
            (1, channels, padded[0] // stride, padded[1] // stride)
            for channels, stride in zip(model.channels, model.strides, strict=True)
        ]


def test_padding_repeats_the_border_at_the_bottom_and_right() -> None:
    model = Encoder(NAME)
    images = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    rows, columns = (torch.arange(64).clamp(max=side - 1) for side in (33, 40))
    for found, expected in zip(
        features(model, images), features(model, images[..., rows, :][..., columns]), strict=True
    ):
        assert torch.equal(found, expected)


def test_images_that_need_no_padding_go_to_the_network_as_they_are() -> None:
    model = Encoder(NAME).eval()
    images = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.body(model.normalize(images))
    assert all(torch.equal(*pair) for pair in zip(features(model, images), expected, strict=True))


def test_a_network_with_windows_takes_multiples_of_the_size_that_it_was_built_for() -> None:
    model = Encoder("maxvit_rmlp_pico_rw_256")
    assert (model.multiple, model.any_multiple) == (256, True)
    assert features(model, torch.zeros(1, 3, 32, 270))[-1].shape[-2:] == (8, 16)


def test_a_network_for_one_size_takes_images_up_to_it() -> None:
    model = Encoder("coat_lite_tiny")
    assert (model.multiple, model.any_multiple) == (224, False)
    assert features(model, torch.zeros(1, 3, 100, 50))[-1].shape[-2:] == (7, 7)
    with pytest.raises(UserError, match="takes images of at most 224x224 pixels, and was given 225x100"):
        model(torch.zeros(1, 3, 225, 100))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crossvit_9_240", "feature maps of stride 12, 17, which are no whole multiples of each other"),
        ("levit_128s", r"images of 224x224 alone, which is no multiple .* feature maps \(16, 32, 64\)"),
    ],
)
def test_maps_that_no_decoder_could_join_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(name)


@pytest.mark.parametrize("channels", [1, 4, 12])
@pytest.mark.parametrize("name", [NAME, "convnext_atto", "vit_tiny_patch16_224"])
def test_images_may_have_other_channels(name: str, channels: int) -> None:
    model = Encoder(name, in_channels=channels)
    maps = features(model, torch.zeros(1, channels, 32, 32, dtype=torch.uint8))
    assert [x.shape[1] for x in maps] == model.channels


# ---- positions of max pools


@pytest.mark.parametrize(
    ("name", "pools"),
    [
        ("vgg16_bn", {2: 64, 4: 128, 8: 256, 16: 512, 32: 512}),
        ("resnet18", {4: 64}),
        ("densenet121", {4: 64}),
        ("vovnet39a", {}),  # they are inside the stages
        ("inception_v3", {}),  # not of even maps
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", {}),
    ],
)
def test_max_pools_between_the_maps_are_found(name: str, pools: dict[int, int]) -> None:
    assert Encoder(name).pools == pools


@pytest.mark.parametrize(("name", "size"), [("vgg11_bn", (40, 70)), ("resnet10t", (64, 64))])
def test_positions_are_where_the_maxima_were(name: str, size: tuple[int, int]) -> None:
    """The maxima, taken from the map above at the positions, are what a pooling of it gives."""
    model = Encoder(name).eval()
    for stride in model.pools:
        model.upsampling("max_unpool", 3, stride, stride // 2)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        maps, positions = model.with_positions(images)
    assert sorted(positions) == sorted(model.pools)
    for stride, where in positions.items():
        above = maps[model.level(stride // 2)]
        kernel, padding = (3, 1) if name.startswith("resnet") else (2, 0)
        maxima = above.flatten(2).gather(2, where.flatten(2)).view_as(where)
        assert torch.equal(maxima, F.max_pool2d(above, kernel, 2, padding))
    for found, expected in zip(maps, features(without_decoder(model), images), strict=True):
        assert torch.equal(found, expected)


def without_decoder(model: Encoder) -> Encoder:
    """The same weights, without a decoder that wants positions."""
    other = Encoder(model.name)
    other.load_state_dict(model.state_dict())
    return other


def test_positions_are_given_only_where_a_decoder_wants_them() -> None:
    model = Encoder("vgg11_bn").eval()
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert model.with_positions(images)[1] == {}
        assert not list(model.upsampling("bilinear", 3, 32, 8).parameters())
        assert model.with_positions(images)[1] == {}
        up = model.upsampling("max_unpool", 512, 32, 8)
        maps, positions = model.with_positions(images)
        assert list(positions) == [16, 32]
        assert up(maps[-1], positions).shape == (1, 512, 4, 4)


@pytest.mark.parametrize(
    ("name", "start", "end", "message"),
    [
        ("resnet18", 32, 16, r"pooling to stride 32, and encoder.name=resnet18 has no .* \(it has at stride 4\)"),
        ("resnet18", 4, 1, "pooling to stride 2, and encoder.name=resnet18 has no"),
        (
            "convnext_atto",
            8,
            4,
            r"pooling to stride 8, .* \(it has none\)\. encoder\.name=vgg16_bn .* nearest, bilinear, ",
        ),
    ],
)
def test_max_unpooling_without_a_pool_is_refused(name: str, start: int, end: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(name).upsampling("max_unpool", 3, start, end)


def test_an_unknown_upsampling_is_refused_before_anything_else() -> None:
    with pytest.raises(UserError, match=r"model\.upsample=lanczos4: .* Did you mean 'lanczos[35]'\?"):
        Encoder(NAME).upsampling("lanczos4", 3, 32, 16)
    with pytest.raises(ValueError, match="stride 32 is no multiple of stride 12"):
        Encoder(NAME).upsampling("nearest", 3, 32, 12)


def test_a_stride_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="feature maps of stride 4, 8, 16, 32, and the model needs one of stride 2"):
        Encoder("convnext_atto").level(stride=2)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"encoder\.name=resnet_18: timm has no such model\. Did you mean .*resnet18"):
        Encoder("resnet_18")


def test_a_stride_that_it_cannot_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"output_stride=4: allowed are 8, 16 and 32"):
        Encoder(NAME, output_stride=4)
    for name in ("swin_tiny_patch4_window7_224", "densenet121"):
        with pytest.raises(UserError, match="cannot give feature maps at output stride 16") as refusal:
            Encoder(name, output_stride=16)
        assert "Type model.encoder.output_stride=32, or choose another encoder" in str(refusal.value)
        assert " ()" not in str(refusal.value)


# ---- weights


def save(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("wrapper", ["safetensors", "plain", "state_dict", "model"])
def test_weights_from_a_file_are_what_the_encoder_starts_from(tmp_path: Path, source: nn.Module, wrapper: str) -> None:
    state: dict[str, Any] = source.state_dict()
    if wrapper == "safetensors":
        path = save(state, tmp_path / "weights.safetensors")
    else:
        path = save(state if wrapper == "plain" else {wrapper: state, "epoch": 3}, tmp_path / "weights.pth")
    model = Encoder(NAME, weights=str(path))
    assert re.fullmatch(rf"{path.name} sha256:[0-9a-f]{{16}}", model.pretrained)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = source.forward_features(model.normalize(images))  # type: ignore[operator]
    torch.testing.assert_close(features(model, images)[-1], expected)


def test_names_of_a_network_whose_stages_are_renamed_fit_too(tmp_path: Path) -> None:
    source = timm.create_model("convnext_atto", pretrained=False).eval()
    path = save(source.state_dict(), tmp_path / "weights.safetensors")
    model = Encoder("convnext_atto", weights=str(path), output_stride=16)
    torch.testing.assert_close(model.body.state_dict()["stem_0.weight"], source.state_dict()["stem.0.weight"])


def test_weights_without_the_counters_of_batch_norms_fit(tmp_path: Path, source: nn.Module) -> None:
    """Files from before PyTorch 0.4.1, and many that were converted, have no num_batches_tracked."""
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    Encoder(NAME, weights=str(save(state, tmp_path / "weights.safetensors")))


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_layer_is_adapted_to_the_channels(tmp_path: Path, source: nn.Module, channels: int) -> None:
    path = save(source.state_dict(), tmp_path / "weights.safetensors")
    kernel = Encoder(NAME, weights=str(path), in_channels=channels).body.state_dict()["conv1.0.weight"]
    original = source.state_dict()["conv1.0.weight"]
    assert kernel.shape[1] == channels
    torch.testing.assert_close(kernel.sum(1), original.sum(1) if channels == 1 else kernel.sum(1))


def test_a_file_for_the_same_other_channels_is_taken_as_it_is(tmp_path: Path) -> None:
    source = timm.create_model(NAME, pretrained=False, in_chans=4)
    path = save(source.state_dict(), tmp_path / "weights.safetensors")
    kernel = Encoder(NAME, weights=str(path), in_channels=4).body.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(kernel, source.state_dict()["conv1.0.weight"])


def test_weights_of_another_network_are_refused(tmp_path: Path, source: nn.Module) -> None:
    path = save(source.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(UserError) as refusal:
        Encoder("resnet18", weights=str(path))
    message = str(refusal.value)
    assert f"encoder.weights={path}: these weights do not fit encoder.name=resnet18: " in message
    assert re.search(r"\d+ of \d+ tensors are missing, as ", message)
    state = source.state_dict()
    state["bn1.weight"] = torch.zeros(7)
    save(state, path)
    with pytest.raises(UserError, match=r"1 have another shape: bn1\.weight is \(7,\) and should be \(64,\)"):
        Encoder(NAME, weights=str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such file .* Allowed are imagenet, none, and the path"):
        Encoder(NAME, weights=str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kept", [0, 0.001, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, source: nn.Module, suffix: str, kept: float) -> None:
    path = save(source.state_dict(), tmp_path / f"cut.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=rf"encoder\.weights={re.escape(str(path))}: "):
        Encoder(NAME, weights=str(path))


class Malicious:
    """What unpickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_that_executes_code_is_refused_and_not_executed(tmp_path: Path, source: nn.Module) -> None:
    target = tmp_path / "executed"
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": source.state_dict(), "extra": Malicious(target)}, path)
    with pytest.raises(UserError, match="holds more than tensors and is not loaded, since it could execute code"):
        Encoder(NAME, weights=str(path))
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # it would have


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_a_checkpoint_that_holds_no_weights_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match="expected a state dict, names with tensors"):
        Encoder(NAME, weights=str(path))


def test_imagenet_weights_out_of_reach_name_three_ways_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is random in silence."""
    monkeypatch.setattr(encoder_module, "hub_answers", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as refusal:
        Encoder(NAME, weights="imagenet")
    message = str(refusal.value)
    assert f"the weights of '{NAME}' could not be downloaded" in message
    for way in ("run once where there is a network", "encoder.weights=FILE.safetensors", "encoder.weights=none"):
        assert way in message
    assert huggingface_hub.constants.HF_HUB_OFFLINE in (False, True)


def test_a_hub_that_refuses_connections_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    assert not encoder_module.hub_answers()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert encoder_module.hub_answers()


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
def test_real_imagenet_weights(shared: Path, channels: int) -> None:
    path = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    model = Encoder("tf_efficientnet_lite0", weights=str(path), output_stride=16, in_channels=channels)
    assert model.pretrained.startswith("tf_efficientnet_lite0.safetensors sha256:")
    kernel, original = model.body.state_dict()["conv_stem.weight"], load_file(path)["conv_stem.weight"].float()
    assert kernel.dtype == torch.float32
    if channels == 1:
        torch.testing.assert_close(kernel, original.sum(1, keepdim=True))
    else:  # the colours over and over, weighed so that images of one value in all channels give the same
        repeated = original.repeat(1, 4, 1, 1)[:, :channels] * 3 / channels
        torch.testing.assert_close(kernel, repeated)
    assert len(features(model, torch.zeros(1, channels, 50, 40))) == 5
