"""The patch classifier: patch by patch and in one pass give the same answers, in float64 to the last digits."""

from typing import Any

import numpy as np
import pytest
import torch

from seg_cli.data.sample import Sample
from seg_cli.errors import UserError
from seg_cli.models.classical.patch_cnn import PatchCNN


def patch_cnn(**settings: Any) -> PatchCNN:
    small = {"num_classes": 3, "in_channels": 3, "patch": 13, "channels": [4, 6], "kernel": 3, "hidden": 5}
    training = {"form": "dense", "patches": 200, "epochs": 2, "batch_size": 32, "lr": 1e-2, "prior": "frequency"}
    torch.manual_seed(0)
    return PatchCNN(**{**small, **training, **settings})


@pytest.mark.parametrize(
    ("patch", "kernel", "channels"),
    [(9, 2, [4]), (12, 3, [4, 6]), (13, 3, [4, 6]), (14, 4, [5, 5]), (23, 2, [3, 3, 3])],
)
def test_both_forms_give_the_same_answers(patch: int, kernel: int, channels: list[int]) -> None:
    model = patch_cnn(patch=patch, kernel=kernel, channels=channels).double().eval()
    images = torch.rand(2, 3, 11, 15, dtype=torch.float64) * 255
    with torch.inference_mode():
        padded = model.padded(images)
        one_by_one, dense = model.one_by_one(padded), model.dense(padded)
    assert one_by_one.shape == dense.shape == (2, 3, 11, 15)
    torch.testing.assert_close(dense, one_by_one, rtol=1e-10, atol=1e-10)
    assert one_by_one.std() > 1e-3  # they are not the same because they say nothing


def test_a_pixel_is_the_centre_of_its_patch() -> None:
    model = patch_cnn().double().eval()
    image = torch.rand(1, 3, 20, 20, dtype=torch.float64) * 255
    with torch.inference_mode():
        dense = model.dense(model.padded(image))
        cut = (image[..., 4:17, 3:16] - model.mean) / model.deviation  # 13x13 around row 10, column 9
        torch.testing.assert_close(dense[0, :, 10, 9], model.of_patches(cut)[0])


def test_the_setting_chooses_the_form() -> None:
    images = torch.randint(0, 256, (1, 3, 9, 9), dtype=torch.uint8)
    one, two = (patch_cnn(form=form).eval() for form in ("dense", "patches"))
    two.load_state_dict(one.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(one(images), two(images), rtol=1e-4, atol=1e-4)


def test_it_learns_texture_that_no_threshold_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes across and down, of the same grey levels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    samples = []
    for number in range(2):
        mask = (columns >= 24).astype(np.uint8)
        stripes = np.where(mask == 1, rows // 2 % 2, columns // 2 % 2) * 120 + 60
        image = np.clip(stripes[..., None] + rng.normal(0, 5, (48, 48, 3)), 0, 255).astype(np.uint8)
        mask[:2] = 255
        samples.append(Sample(image, mask, str(number)))
    model = patch_cnn(num_classes=2, patches=600, epochs=4)
    # Turned patches would make them one and the same.
    monkeypatch.setattr("seg_cli.models.classical.patch_cnn._turned", lambda patches, epoch: patches)
    model.fit(samples, seed=0, device=torch.device("cpu"))
    assert model.report(("across", "down"))["losses"][-1] < 0.5
    with torch.inference_mode():
        found = model(torch.from_numpy(samples[0].image).permute(2, 0, 1)[None])[0].argmax(0).numpy()
    assert (found == samples[0].mask)[2:, :].mean() > 0.85
    assert model.learned_values == sum(p.numel() for p in model.parameters())


def test_patches_of_only_void_teach_nothing() -> None:
    nothing = Sample(np.zeros((16, 16, 3), np.uint8), np.full((16, 16), 255, np.uint8), "a")
    with pytest.raises(UserError, match="every pixel of the training images is void"):
        patch_cnn().fit([nothing], seed=0, device=torch.device("cpu"))
