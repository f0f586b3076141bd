"""Upsampling operators against textbook examples, explicit matrices and other implementations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.models import unet
from seg_cli.models.blocks import Head, crop_to, init_decoder
from seg_cli.models.encoder import Encoder
from seg_cli.models.unet import UNet
from seg_cli.models.unetpp import UNetPlusPlus
from seg_cli.models.upsample import (
    KERNELS,
    KINDS,
    FixedKernel,
    Pool,
    Upsample,
    convolve_nearest,
    max_unpool,
    pixel_shuffle,
    transposed,
)

INTERPOLATING = [
    *("nearest", "area", "bilinear", "bicubic", "gaussian", "mitchell", "lanczos3", "lanczos5", "pixel_shuffle")
]
SMALL = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
every_kind = pytest.mark.parametrize("kind", KINDS)


def upsampled(kind: str, x: Tensor, factor: int) -> Tensor:
    with torch.no_grad():
        return Upsample(kind, x.shape[1], factor).to(x.dtype)(x)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def built(kind: str, channels: int, factor: int) -> tuple[Upsample, dict[int, Tensor]]:
    """An operator, and for max-unpooling the positions with which it can be called on an 8x8 map of two images."""
    steps = [Pool(2**i, channels) for i in range(factor.bit_length() - 1, 0, -1)]
    positions, size = {}, 8
    for pool in steps:
        size *= 2
        positions[pool.stride] = F.max_pool2d(noise(2, channels, size, size), 2, return_indices=True)[1]
    return Upsample(kind, channels, factor, pools=steps if kind == "max_unpool" else ()), positions


# ---- what is done in another way than it says, because that is faster


def test_a_convolution_of_nearest_needs_no_large_map() -> None:
    x, weight = noise(2, 5, 4, 7).double().requires_grad_(), noise(3, 5, 3, 3).double().requires_grad_()
    found = convolve_nearest(x, weight)
    expected = F.conv2d(Upsample("nearest", 5, 2)(x), weight, padding=1)
    torch.testing.assert_close(found, expected)
    wanted = noise(*found.shape).double()
    for ours, theirs in zip(*(torch.autograd.grad(y, (x, weight), wanted) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("make", [UNet, UNetPlusPlus])
@pytest.mark.parametrize("kind", ["nearest", "area"])
def test_training_without_the_large_map_is_the_same_training(
    make: type[UNet] | type[UNetPlusPlus], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make(encoder=Encoder("resnet10t"), num_classes=3, decoder_channels=(16, 16, 8, 8, 8), upsample=kind)
    model = model.double().train()
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).double()
    calls: list[torch.Size] = []

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(x.shape)
        return convolve_nearest(x, weight)

    def trained() -> tuple[Tensor, list[Tensor]]:
        out = model(images)
        logits = out if isinstance(out, Tensor) else out.logits
        parameters = list(model.decoder.parameters())
        return logits, list(torch.autograd.grad((logits**2).mean(), parameters, allow_unused=True))

    monkeypatch.setattr(unet, "convolve_nearest", counted)
    logits, gradients = trained()
    assert calls == [torch.Size((2, 8, 32, 48))]  # the last step, to the image's size, and alone has the pixels
    monkeypatch.setattr(unet, "_is_faster_in_one", lambda up, x: False)
    expected, expected_gradients = trained()
    assert len(calls) == 1
    torch.testing.assert_close(logits, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    model.eval()(images)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_gradient_with_gaps_is_the_same_gradient(kind: str, order: torch.memory_format) -> None:
    x, beside = noise(2, 4, 3, 5).to(memory_format=order).requires_grad_(), noise(2, 2, 6, 10).to(memory_format=order)
    wanted = noise(2, 6, 6, 10).to(memory_format=order)
    torch.cat((Upsample(kind, 4, 2)(x), beside), 1).backward(wanted)
    plain = x.detach().clone().requires_grad_()
    F.interpolate(plain, scale_factor=2, mode=kind).backward(wanted[:, :4].contiguous())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, plain.grad)
    assert x.grad.is_contiguous(memory_format=order)


# ---- textbook examples


def test_nearest_repeats_each_pixel() -> None:
    expected = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    for kind in ("nearest", "area", "pixel_shuffle"):  # pixel shuffling starts as nearest
        assert torch.equal(upsampled(kind, SMALL, 2)[0, 0], expected)


def test_nearest_is_exact_at_the_factors_of_encoders() -> None:
    line = torch.arange(100.0).view(1, 1, 1, 100)
    for factor in (*range(2, 33), 64):
        assert torch.equal(upsampled("nearest", line, factor)[0, 0, 0], line.flatten().repeat_interleave(factor))


def test_bed_of_nails_sets_each_pixel_at_the_upper_left_of_zeros() -> None:
    expected = torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
    assert torch.equal(upsampled("bed_of_nails", SMALL, 2)[0, 0], expected)


def test_max_unpooling_puts_values_where_the_maxima_were() -> None:
    image = torch.tensor([[[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]]])
    pooled, positions = F.max_pool2d(image, 2, return_indices=True)
    assert pooled[0, 0].tolist() == [[5, 6], [7, 8]]
    up = Upsample("max_unpool", 1, 2, pools=[Pool(stride=2, channels=1)])
    expected = [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert up(SMALL, {2: positions})[0, 0].tolist() == expected
    assert not list(up.parameters())


def transposed_matrix(kernel: Tensor, count: int, stride: int) -> Tensor:
    """The matrix of a transposed convolution in one dimension: the kernel as a column, moved by stride."""
    matrix = torch.zeros((count - 1) * stride + len(kernel), count)
    for i in range(count):
        matrix[i * stride : i * stride + len(kernel), i] = kernel
    return matrix


def test_a_transposed_convolution_is_a_product_with_a_transposed_matrix() -> None:
    (x, y, z), (a, b) = (2.0, 3.0, 5.0), (7.0, 11.0)
    matrix = transposed_matrix(torch.tensor([x, y, z]), 2, 2)
    by_hand = torch.tensor([a * x, a * y, a * z + b * x, b * y, b * z])
    assert torch.equal(matrix @ torch.tensor([a, b]), by_hand)
    assert torch.equal(F.conv1d(by_hand.view(1, 1, 5), torch.tensor([[[x, y, z]]]), stride=2)[0, 0], matrix.T @ by_hand)

    conv = transposed(1, 2)  # 4x4; the kernel's upper left 3x1 is set, the rest is zero
    conv.weight.data.zero_()[0, 0, 1, :3] = torch.tensor([x, y, z])
    row = conv(torch.tensor([[[[a, b]]]]))[0, 0, 0]
    assert torch.equal(row, by_hand[1:])  # the padding of one cuts off the first; nothing is left of the fourth column


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_transposed_convolution_starts_as_a_bilinear_product_of_matrices(factor: int) -> None:
    line = {2: [1, 3, 3, 1], 3: [1, 2, 3, 2, 1], 4: [1, 3, 5, 7, 7, 5, 3, 1]}[factor]
    image = noise(1, 3, 5, 4)
    rows, columns = (transposed_matrix(torch.tensor(line) / max(line), n, factor) for n in (5, 4))
    cut = (len(line) - factor) // 2
    scale = {2: 3 / 4, 3: 1, 4: 7 / 8}[factor]  # the greatest tap of the triangle
    rows, columns = rows[cut:-cut] * scale, columns[cut:-cut] * scale
    found = upsampled("transposed", image, factor)
    torch.testing.assert_close(found, rows @ image @ columns.T)
    inner = slice(factor, -factor)  # the borders see zeros
    expected = upsampled("bilinear", image, factor)
    torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner])


# ---- kernels


def zero_insertion(kind: str, line: np.ndarray, factor: int) -> np.ndarray:
    """One dimension, literally: zeros between the pixels, then a convolution with the sampled kernel."""
    edge = 8  # small pixels repeated at each border
    padded = np.pad(line, edge, mode="edge")
    sparse = np.zeros(len(padded) * factor)
    sparse[::factor] = padded
    kernel, support = KERNELS[kind]
    # Output i has its centre at (i + 1/2)/factor - 1/2 small pixels, the pixel in slot j at j/factor.
    steps = np.arange(-factor * 7, factor * 7 + 1)
    distance = torch.tensor(np.abs((steps + 0.5) / factor - 0.5))
    taps = torch.where(distance < support, kernel(distance), 0.0).numpy()
    filtered, ones = (
        np.convolve(values, taps, mode="same") for values in (sparse, (np.arange(len(sparse)) % factor == 0))
    )
    inner = slice(edge * factor, -edge * factor)
    return filtered[inner] / ones[inner]


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_zeros_inserted_and_filtered_are_the_fixed_kernels(kind: str, factor: int) -> None:
    image = noise(1, 1, 6, 5).double()
    expected = np.apply_along_axis(lambda line: zero_insertion(kind, line, factor), 0, image[0, 0].numpy())
    expected = np.apply_along_axis(lambda line: zero_insertion(kind, line, factor), 1, expected)
    for operator in (FixedKernel(kind, 1, factor).double(), Upsample(kind, 1, factor).double()):
        np.testing.assert_allclose(operator(image)[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "mode"), [("nearest", "nearest"), ("bilinear", "bilinear"), ("bicubic", "bicubic")])
@pytest.mark.parametrize("factor", [2, 4, 7])
def test_fixed_kernels_are_pytorchs_interpolation(kind: str, mode: str, factor: int) -> None:
    image = noise(2, 3, 6, 5)
    corners = None if mode == "nearest" else False
    expected = F.interpolate(image, scale_factor=factor, mode=mode, align_corners=corners)
    torch.testing.assert_close(FixedKernel(kind, 3, factor)(image), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(upsampled(kind, image, factor), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 5])
def test_bilinear_is_pytorchs_bit_for_bit(factor: int) -> None:
    image = noise(2, 3, 7, 5)
    expected = F.interpolate(image, size=(7 * factor, 5 * factor), mode="bilinear", align_corners=False)
    assert torch.equal(upsampled("bilinear", image, factor), expected)


def test_lanczos3_is_pillows() -> None:
    image = noise(1, 1, 12, 11)
    resized = Image.fromarray(image[0, 0].numpy()).resize((44, 48), Image.Resampling.LANCZOS)
    inner = slice(12, -12)  # at the borders Pillow drops the taps outside
    expected = torch.from_numpy(np.array(resized))[inner, inner]
    torch.testing.assert_close(upsampled("lanczos3", image, 4)[0, 0, inner, inner], expected, rtol=1e-4, atol=1e-4)


def test_the_weights_of_cubic_kernels_at_factor_two_are_the_published_ones() -> None:
    """A quarter of a pixel off: bicubic with a=-0.75 by hand, and Mitchell's by its two polynomials."""
    a = -0.75
    far, near, near2, far2 = 1.75, 0.75, 0.25, 1.25
    inner = [(a + 2) * t**3 - (a + 3) * t**2 + 1 for t in (near, near2)]
    outer = [a * (t**3 - 5 * t**2 + 8 * t - 4) for t in (far, far2)]
    expected = [outer[0], inner[0], inner[1], outer[1], 0]
    torch.testing.assert_close(FixedKernel("bicubic", 1, 2).kernel[0, 0], torch.tensor(expected))
    inner = [(7 * t**3 - 12 * t**2 + 16 / 3) / 6 for t in (near, near2)]
    outer = [(-7 / 3 * t**3 + 12 * t**2 - 20 * t + 32 / 3) / 6 for t in (far, far2)]
    torch.testing.assert_close(
        FixedKernel("mitchell", 1, 2).kernel[0, 0], torch.tensor([outer[0], *inner, outer[1], 0])
    )


@pytest.mark.parametrize("kind", INTERPOLATING)
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_constants_stay_constant_up_to_the_border(kind: str, factor: int) -> None:
    found = upsampled(kind, torch.full((1, 2, 4, 3), 5.0), factor)
    # The convolution of pixel_shuffle pads with zeros, but starts as nearest.
    torch.testing.assert_close(found, torch.full((1, 2, 4 * factor, 3 * factor), 5.0))


@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "mitchell", "transposed"])
def test_ramps_stay_ramps_inside(kind: str) -> None:
    """What follows from tents and cubics; Keys' kernel does it for a=-0.5, and with -0.75 nearly."""
    ramp = torch.arange(12.0).expand(1, 1, 12, 12)
    found = upsampled(kind, ramp, 2)[0, 0, 6:-6, 6:-6]
    expected = ((torch.arange(24.0) + 0.5) / 2 - 0.5)[6:-6].expand_as(found)
    tolerance = 0.05 if kind == "bicubic" else 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_pixel_shuffling_starts_without_a_checkerboard() -> None:
    """Also where the sub-kernel is not the identity: each factor x factor block is of one value."""
    shuffle = pixel_shuffle(4, 3)
    conv = shuffle[0]
    assert isinstance(conv, nn.Conv2d)
    sub = noise(4, 4, 3, 3)
    assert torch.equal(conv.weight, conv.weight[::9].repeat_interleave(9, 0))
    conv.weight.data.copy_(sub.repeat_interleave(9, 0))
    found, image = shuffle(noise(1, 4, 5, 5)), noise(1, 4, 5, 5)
    assert torch.equal(found, found[..., ::3, ::3].repeat_interleave(3, 2).repeat_interleave(3, 3))
    torch.testing.assert_close(found[..., ::3, ::3], F.conv2d(image, sub, padding=1))


# ---- max-unpooling


def test_max_unpooling_is_pytorchs() -> None:
    values = noise(2, 3, 4, 5)
    positions = F.max_pool2d(noise(2, 3, 8, 10), 2, return_indices=True)[1]
    assert torch.equal(max_unpool(values, positions), F.max_unpool2d(values, positions, 2))


def test_max_unpooling_undoes_several_poolings_and_other_channels() -> None:
    up = Upsample("max_unpool", 2, 4, pools=[Pool(8, 5), Pool(4, 3)])
    shapes = [tuple(p.shape) for p in up.parameters()]
    assert shapes == [(5, 2, 1, 1), (3, 5, 1, 1), (2, 3, 1, 1)]
    first = F.max_pool2d(noise(1, 3, 16, 16), 2, return_indices=True)[1]
    second = F.max_pool2d(noise(1, 5, 8, 8), 2, return_indices=True)[1]
    found = up(noise(1, 2, 4, 4), {4: first, 8: second, 2: torch.empty(0)})
    assert found.shape == (1, 2, 16, 16)
    assert (found != 0).any(1).sum() <= 3 * 5 * 16  # a value lands in one place of each channel of the pooling


def test_max_unpooling_without_positions_says_where_they_would_come_from() -> None:
    with pytest.raises(UserError, match=r"model\.upsample=max_unpool: .* 2 max poolings by 2, and this encoder has 0"):
        Upsample("max_unpool", 4, 4)
    up = Upsample("max_unpool", 4, 2, pools=[Pool(16, 4)])
    for positions in (None, {8: torch.zeros(1)}):
        with pytest.raises(UserError, match=r"no positions came with stride 16; .*encoder\.name=vgg16_bn"):
            up(torch.zeros(1, 4, 2, 2), positions)


# ---- every kind


@every_kind
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_maps_grow_by_the_factor_and_gradients_come_back(kind: str, factor: int) -> None:
    up, positions = built(kind, 3, factor)
    x = noise(2, 3, 8, 8).requires_grad_()
    found = up(x, positions)
    assert found.shape == (2, 3, 8 * factor, 8 * factor)
    found.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.any() for p in up.parameters())
    if factor == 1:
        assert found is x
        assert not list(up.parameters())


@every_kind
def test_mixed_precision_memory_orders_and_compilation_agree(kind: str) -> None:
    up, positions = built(kind, 3, 2)
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        expected = up(x, positions)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(up(x.bfloat16(), positions).float(), expected, rtol=0.05, atol=0.05)
            torch.testing.assert_close(up(x, positions).float(), expected, rtol=0.05, atol=0.05)
        torch.testing.assert_close(up(x.to(memory_format=torch.channels_last), positions), expected)
        program = torch.export.export(up, (x, positions))  # one graph, without a break
        torch.testing.assert_close(program.module()(x, positions), expected)


@every_kind
def test_no_kind_but_max_unpool_draws_random_numbers_or_is_initialised_again(kind: str) -> None:
    torch.manual_seed(0)
    up, _ = built(kind, 3, 2)
    before = {key: value.clone() for key, value in up.state_dict().items()}
    init_decoder(nn.Sequential(up))
    assert all(torch.equal(before[key], value) for key, value in up.state_dict().items())
    drawn = torch.rand(4)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(4))
    assert "by.kernel" not in before  # fixed kernels are no weights


def test_init_decoder_reaches_every_other_convolution() -> None:
    head = Head(2, 3, up=Upsample("pixel_shuffle", 3, 2))
    weight, bias = head.conv.weight.clone(), head.conv.bias
    init_decoder(nn.ModuleList([head]))
    assert not torch.equal(head.conv.weight, weight)
    assert bias is not None
    assert not bias.any()
    assert head(torch.zeros(1, 2, 4, 4)).shape == (1, 3, 8, 8)


def test_cropping_keeps_the_upper_left() -> None:
    logits = noise(1, 2, 8, 8)
    assert torch.equal(crop_to(logits, torch.zeros(1, 3, 5, 7)), logits[:, :, :5, :7])
    assert torch.equal(crop_to(logits, torch.zeros(1, 3, 8, 8)), logits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("bilinaer", "there is no such upsampling. Did you mean 'bilinear'? Allowed are nearest, bilinear, "),
        ("xyz", "there is no such upsampling. Allowed are "),
    ],
)
def test_an_unknown_kind_gets_a_suggestion(wrong: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        Upsample(wrong, 3, 1)
    assert f"model.upsample={wrong}: {message}" in str(refusal.value)


@pytest.mark.parametrize("factor", [0, -2, 1.5])
def test_a_factor_that_is_not_whole_is_refused(factor: int) -> None:
    with pytest.raises(ValueError, match="a positive whole number, not"):
        Upsample("nearest", 3, factor)
