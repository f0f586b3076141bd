"""The paper's U-Net: its parameters, its sizes, its mirrored border."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_cli.errors import UserError
from seg_cli.inference.cost import count_parameters
from seg_cli.models.blocks import pad_to_multiple
from seg_cli.models.unet_paper import UNetPaper, UpConv, crop_around, mirror_around
from seg_cli.models.upsample import Upsample


def blobs(size: int) -> tuple[Tensor, Tensor]:
    """Two grey pictures with a bright disc each, and the discs."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    discs = torch.stack([(y - a) ** 2 + (x - b) ** 2 < (size // 4) ** 2 for a, b in ((20, 24), (40, 30))])
    noise = torch.randint(0, 60, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
    return (80 + 90 * discs.unsqueeze(1) + noise).to(torch.uint8), discs.long()


def test_parameters_are_those_of_the_paper() -> None:
    """By hand: 3x3 convolutions, 2x2 up-convolutions and the classifier, all with biases."""
    widths = [64, 128, 256, 512, 1024]
    down = sum(9 * a * b + b + 9 * b * b + b for a, b in zip([1, *widths], widths, strict=False))
    up = sum(4 * 2 * c * c + c + 9 * 2 * c * c + c + 9 * c * c + c for c in widths[:-1])
    assert down + up + 64 * 2 + 2 == 31_030_658
    with torch.device("meta"):
        assert count_parameters(UNetPaper(num_classes=2, in_channels=1, norm=False)) == 31_030_658
        # A batch norm has a scale more than the bias that it takes the place of, a channel.
        normed = count_parameters(UNetPaper(num_classes=2, in_channels=1))
        # The text of the paper, an upsampling followed by a 2x2 convolution, has as many.
        bilinear = count_parameters(UNetPaper(num_classes=2, in_channels=1, norm=False, upsample="bilinear"))
    assert normed - 31_030_658 == 2 * sum(widths) + 2 * sum(widths[:-1])
    assert bilinear == 31_030_658


def test_sizes_without_padding_are_those_of_figure_1() -> None:
    model = UNetPaper(num_classes=2, channels=2, padding="valid").eval()
    with torch.no_grad():
        maps, positions = model.encoder(torch.zeros(1, 3, 388, 388))
        assert [x.shape[-1] for x in maps] == [568, 280, 136, 64, 28]
        assert model.decoder(maps, positions).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("size", [(388, 388), (389, 404), (64, 97), (5, 1)])
def test_the_image_is_mirrored_by_92_pixels_and_up_to_the_next_size_that_fits(size: tuple[int, int]) -> None:
    x = torch.rand(2, 1, *size)
    out = mirror_around(x)
    after = [side - 92 - given for side, given in zip(out.shape[-2:], size, strict=True)]
    assert all(92 <= a < 92 + 16 for a in after)
    assert all((side - 124) % 16 == 0 for side in out.shape[-2:])
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (92, after[0]), (92, after[1])), mode="reflect")
    np.testing.assert_array_equal(out.numpy(), expected)


def test_without_padding_logits_do_not_know_where_the_image_was_cut() -> None:
    """The overlap-tile strategy: of two tiles, what is 92 pixels (and a step of 16) away from their borders agrees."""
    torch.manual_seed(0)
    model = UNetPaper(num_classes=2, channels=2, padding="valid").eval()
    image = torch.randint(0, 256, (1, 3, 276, 276), dtype=torch.uint8)
    with torch.no_grad():
        whole, tile = model(image), model(image[..., 16:, 32:])
    torch.testing.assert_close(whole[..., 124:168, 140:168], tile[..., 108:152, 108:136])
    assert not torch.allclose(whole[..., 16:60, 32:60], tile[..., :44, :28])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (96, 64)])
def test_there_is_a_logit_for_every_pixel(padding: str, size: tuple[int, int]) -> None:
    model = UNetPaper(num_classes=3, in_channels=1, channels=2, padding=padding).eval()
    assert model(torch.zeros(1, 1, *size, dtype=torch.uint8)).shape == (1, 3, *size)


def test_the_up_convolution_is_inserted_zeros_and_a_2x2_convolution() -> None:
    torch.manual_seed(0)
    up, x = UpConv(6, 3, "bed_of_nails", stride=2), torch.randn(2, 6, 4, 5)
    assert isinstance(up.conv, nn.ConvTranspose2d)
    nails = F.pad(Upsample("bed_of_nails", 6, 2)(x), (1, 0, 1, 0))
    expected = F.conv2d(nails, up.conv.weight.transpose(0, 1).flip(2, 3), up.conv.bias).relu()
    torch.testing.assert_close(up(x, {}), expected)


def test_skips_are_copies_of_the_middle() -> None:
    skip = torch.arange(36.0).view(1, 1, 6, 6)
    assert crop_around(skip, torch.zeros(1, 1, 2, 4)).tolist() == [[[[13, 14, 15, 16], [19, 20, 21, 22]]]]


def test_the_border_is_repeated_to_a_multiple() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert pad_to_multiple(x, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert pad_to_multiple(x[..., :2], 2).shape == (1, 1, 2, 2)


def test_weights_start_as_he_says_and_dropout_ends_the_contracting_path() -> None:
    torch.manual_seed(0)
    model = UNetPaper(num_classes=2, channels=16, dropout=0.4)
    assert [drop.p for drop in model.encoder.dropouts] == [0, 0, 0, 0.4, 0.4]
    for conv in model.modules():  # deviation sqrt(2 / N), N being the incoming nodes of a neuron (section 3)
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 10_000:
            incoming = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
            assert conv.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=0.03)
        if isinstance(conv, nn.ConvTranspose2d) and conv.weight.numel() > 10_000:
            assert conv.weight.std().item() == pytest.approx((2 / conv.in_channels) ** 0.5, rel=0.03)


def test_unpooling_goes_back_to_the_maxima() -> None:
    model = UNetPaper(num_classes=2, channels=4, upsample="max_unpool")
    model(torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8)).square().mean().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"padding=reflect: allowed are same and valid"):
        UNetPaper(num_classes=2, padding="reflect")
    with pytest.raises(ValueError, match=r"channels=0: it must be a positive whole number"):
        UNetPaper(num_classes=2, channels=0)
    with pytest.raises(ValueError, match=r"upsample=max_unpool: .*padding=same"):
        UNetPaper(num_classes=2, channels=2, padding="valid", upsample="max_unpool")
    with pytest.raises(UserError, match=r"Did you mean 'nearest'"):
        UNetPaper(num_classes=2, channels=2, upsample="nearst")


@pytest.mark.parametrize("settings", [{"padding": "same"}, {"padding": "same", "norm": False}])
def test_it_learns_two_pictures(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = UNetPaper(num_classes=2, channels=8, **settings)  # type: ignore[arg-type]
    images, masks = blobs(64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(model(images), masks)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
