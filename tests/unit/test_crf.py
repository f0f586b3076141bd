"""The fully connected CRF: against a mean field over all pairs of pixels, and what it does to a noisy picture."""

import math

import pytest
import torch
from torch import Tensor

from seg_cli.models.crf import DenseCRF


def mean_field_over_all_pairs(
    logits: Tensor, image: Tensor, iterations: int, appearance: tuple[float, ...], smoothness: tuple[float, ...]
) -> Tensor:
    """Algorithm 1 of Kraehenbuehl and Koltun, pixel by pixel: (C, H, W) and (3, H, W) -> probabilities (C, H, W)."""
    classes, height, width = logits.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    kernels = []
    for weight, sigma, colour_sigma in (appearance, (*smoothness, math.inf)):
        kernel = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
        for i, (y, x) in enumerate(pixels):
            for j, (v, u) in enumerate(pixels):
                colour = float((image[:, y, x] - image[:, v, u]).square().sum())
                distance = (y - v) ** 2 + (x - u) ** 2
                kernel[i, j] = math.exp(-distance / (2 * sigma**2) - colour / (2 * colour_sigma**2))
        norm = kernel.sum(1).sqrt()
        kernels.append(weight * kernel / norm[:, None] / norm[None, :])
    pairwise = sum(kernels)
    pairwise.fill_diagonal_(0)
    potts = 1 - torch.eye(classes, dtype=torch.float64)
    unary = -logits.double().flatten(1).T  # (pixels, classes)
    beliefs = (-unary).softmax(1)
    for _ in range(iterations):
        beliefs = (-unary - pairwise @ beliefs @ potts).softmax(1)
    return beliefs.T.reshape(logits.shape)


def test_it_is_the_mean_field_over_all_pairs_where_the_window_holds_all() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, generator=generator)
    images = torch.randint(0, 40, (2, 3, 4, 6), generator=generator)
    appearance, smoothness = (4.0, 5.0, 20.0), (3.0, 1.5)
    crf = DenseCRF(iterations=4, window=11, appearance=appearance, smoothness=smoothness)
    found = crf(logits, images.to(torch.uint8)).softmax(1)
    for i in range(2):
        expected = mean_field_over_all_pairs(logits[i], images[i].float(), 4, appearance, smoothness)
        torch.testing.assert_close(found[i], expected.float(), rtol=1e-4, atol=1e-5)


def test_pixels_beyond_the_window_say_nothing_in_one_step() -> None:
    logits, images = torch.zeros(1, 2, 1, 9), torch.zeros(1, 3, 1, 9, dtype=torch.uint8)
    logits[0, 1, 0, 0] = 5
    before = torch.zeros(1, 2, 1, 9)
    crf = DenseCRF(iterations=1, window=5)
    change = (crf(logits, images) - crf(before, images) - logits)[0, 1, 0]
    assert (change[1:3] > 0).all()
    assert (change[3:] == 0).all()


def noisy_picture() -> tuple[Tensor, Tensor, Tensor]:
    """A dark and a bright half of 24x24 pixels, logits that are wrong on a tenth of them and blurred at the border."""
    generator = torch.Generator().manual_seed(0)
    truth = (torch.arange(24) >= 12).long().expand(24, 24)
    image = (60 + 120 * truth + 2 * torch.randn(24, 24, generator=generator)).clamp(0, 255).expand(1, 3, 24, 24)
    ramp = ((torch.arange(24) - 14.5) / 3).clamp(-1, 1).expand(24, 24)  # the border 3 pixels off
    flips = torch.where(torch.rand(24, 24, generator=generator) < 0.1, -1.0, 1.0)
    score = flips * torch.where(ramp.abs() < 1, 0.5 * ramp, ramp)
    return truth, image, torch.stack((-score, score)).unsqueeze(0)


def test_it_removes_speckle_and_finds_the_border() -> None:
    truth, image, logits = noisy_picture()
    wrong_before = logits.argmax(1)[0] != truth
    wrong = DenseCRF()(logits, image).argmax(1)[0] != truth
    assert wrong_before.sum() > 60
    assert wrong_before[:, 12:15].float().mean() > 0.5  # the border is 3 pixels off
    assert wrong.sum() <= 2


def test_without_weights_or_steps_or_neighbours_it_is_the_identity() -> None:
    _, image, logits = noisy_picture()
    for crf in (DenseCRF(appearance=(0, 67, 3), smoothness=(0, 3)), DenseCRF(iterations=0), DenseCRF(window=1)):
        assert torch.equal(crf(logits, image), logits)


def test_the_window_may_be_larger_than_the_picture_and_half_precision_does_not_enter() -> None:
    _, image, logits = noisy_picture()
    small = DenseCRF(window=51)(logits[..., :5, :3], image[..., :5, :3])
    assert small.shape == (1, 2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = DenseCRF()(logits.bfloat16(), image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, DenseCRF()(logits.bfloat16().float(), image))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 4}, r"window=4: an odd number"),
        ({"iterations": -1}, r"iterations=-1: 0 or more"),
        ({"appearance": [4, 67]}, r"appearance=\[4, 67\]: a weight, a sigma in pixels, a sigma in steps of colour"),
        ({"appearance": [4, 67, 0]}, r"appearance=\[4, 67, 0\]: .*sigmas positive"),
        ({"smoothness": [-3, 3]}, r"smoothness=\[-3, 3\]: .*the weight is not negative"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseCRF(**settings)
