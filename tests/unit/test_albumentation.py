"""Transforms of albumentations as steps: every spatial one leaves void, and wrong arguments are errors."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import albumentations
import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from painted import assert_together, augment, painted

from seg_cli.commands.build import build
from seg_cli.commands.experiment import build_data
from seg_cli.data.albumentation import Albumentation
from seg_cli.data.augment import Augment
from seg_cli.data.labels import VOID
from seg_cli.errors import UserError


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("ColourJitter", {}, "albumentations has no transform 'ColourJitter'. Did you mean 'ColorJitter'?"),
        ("cv2", {}, "albumentations has no transform 'cv2'"),
        ("ColorJitter", {"brightnes": 0.2}, "albumentations.ColorJitter does not take these arguments"),
        ("PadIfNeeded", {"mask_value": 255}, "albumentations.PadIfNeeded does not take these arguments"),
        ("GaussianBlur", {"blur_limit": "wide"}, "albumentations.GaussianBlur does not take these arguments"),
        ("AdvancedBlur", {"blur_limit": -5}, "albumentations.AdvancedBlur does not take these arguments: blur_limit"),
        ("Rotate", {"p": 2}, "albumentations.Rotate does not take these arguments"),
        ("Rotate", {"fill_mask": 3}, "albumentations.Rotate: fill_mask=3.0 would be a label where there is none"),
        ("PixelDropout", {"mask_drop_value": 3}, "albumentations.PixelDropout: mask_drop_value=3"),
        ("Rotate", {"mask_interpolation": 1}, "albumentations.Rotate: mask_interpolation=1 would mix labels"),
    ],
)
def test_wrong_albumentations_are_refused(name: str, args: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Albumentation(name=name, args=args)


def test_an_albumentation_that_gives_no_picture_is_refused() -> None:
    step = Albumentation(name="Normalize", args={})  # the model normalises
    with pytest.raises(UserError, match=r"^augment.steps.normalize: albumentations.Normalize gives float32 of shape"):
        augment({"normalize": step}, painted(16, 16), None, 0)


NEED_MORE = {
    *("AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "RandomSizedBBoxSafeCrop", "RandomCropNearBBox"),  # boxes
    *("Mosaic", "OverlayElements"),  # data of their own
    *("CenterCrop3D", "CoarseDropout3D", "CubicSymmetry", "Pad3D", "PadIfNeeded3D", "RandomCrop3D"),  # volumes
}
CHANGE_SIZE = {"LongestMaxSize", "SmallestMaxSize", "Pad", "RandomCropFromBorders", "RandomScale"}
COVER = {  # hide parts of the image and leave its labels
    *("CoarseDropout", "ConstrainedCoarseDropout", "Erasing", "GridDropout", "PixelDropout", "XYMasking"),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Affine": {"rotate": [20, 40], "translate_percent": 0.2, "scale": 0.7},
    "CenterCrop": {"height": 96, "width": 96},
    "ConstrainedCoarseDropout": {"mask_indices": [1, 2]},
    "Crop": {"x_min": 0, "y_min": 0, "x_max": 96, "y_max": 96},
    "CropAndPad": {"percent": 0.1},
    "CropNonEmptyMaskIfExists": {"height": 96, "width": 96},
    "ElasticTransform": {"alpha": 200, "sigma": 10},
    "FrequencyMasking": {"freq_mask_param": 30},
    "GridDistortion": {"distort_limit": [0.3, 0.6], "normalized": False},
    "GridElasticDeform": {"num_grid_xy": [3, 3], "magnitude": 16},
    "LongestMaxSize": {"max_size": 50},
    "OpticalDistortion": {"distort_limit": [0.6, 0.7]},
    "Pad": {"padding": 8},
    "PadIfNeeded": {"min_height": 64, "min_width": 64},
    "Perspective": {"scale": 0.2, "fit_output": True},
    "PixelDropout": {"dropout_prob": 0.2},
    "RandomCrop": {"height": 96, "width": 96},
    "RandomResizedCrop": {"size": [96, 96]},
    "RandomScale": {"scale_limit": [0.2, 0.3]},
    "RandomSizedCrop": {"min_max_height": [40, 80], "size": [96, 96]},
    "Resize": {"height": 96, "width": 96},
    "SmallestMaxSize": {"max_size": 50},
    "TimeMasking": {"time_mask_param": 30},
    "XYMasking": {"num_masks_x": 1, "mask_x_length": 20},
}
LEAVE_EMPTY = {
    *("Affine", "CropAndPad", "ElasticTransform", "FrequencyMasking", "GridDistortion", "GridElasticDeform"),
    *("MaskDropout", "OpticalDistortion", "Perspective", "Rotate", "SafeRotate", "ShiftScaleRotate"),
    *("ThinPlateSpline", "TimeMasking"),
}
SPATIAL = sorted(
    name
    for name, value in vars(albumentations).items()
    if inspect.isclass(value)
    and issubclass(value, albumentations.DualTransform)
    and name not in ("DualTransform", "Transform3D", *NEED_MORE)
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SPATIAL)
def test_every_spatial_albumentation_moves_image_and_mask_together_and_leaves_void(name: str) -> None:
    sample = painted(96, 96, 1, cell=24)
    step = Albumentation(name=name, args={**ARGUMENTS.get(name, {}), "p": 1})
    if name in CHANGE_SIZE:
        with pytest.raises(
            UserError, match=rf"augment.steps.t: albumentations.{name} makes a picture of \d+x\d+ of one"
        ):
            augment({"t": step}, sample, None, 0)
        return
    results = [augment({"t": step}, sample, None, seed) for seed in range(4)]
    for seed, result in enumerate(results):
        assert set(np.unique(result.mask)) <= {*range(6), VOID}
        if name in COVER:
            np.testing.assert_array_equal(result.mask, sample.mask)
        else:
            assert_together(result, wrong=0.01, tolerance=2)
        again = augment({"t": step}, sample, None, seed)
        np.testing.assert_array_equal(again.image, result.image)
        np.testing.assert_array_equal(again.mask, result.mask)
    if name in LEAVE_EMPTY:
        assert max((result.mask == VOID).mean() for result in results) > 0.002


def test_what_needs_more_than_an_image_and_its_mask_is_refused() -> None:
    for name in ("BBoxSafeRandomCrop", "Mosaic", "CoarseDropout3D", "CubicSymmetry"):
        with pytest.raises(
            UserError, match=rf"augment.steps.t: albumentations.{name} does not take a uint8 image of 3"
        ):
            augment({"t": Albumentation(name=name, args={"p": 1})}, painted(32, 32), None, 0)


def test_labels_that_dropout_removes_are_void_where_that_is_asked_for() -> None:
    step = Albumentation(name="CoarseDropout", args={"fill_mask": 255, "p": 1})
    sample = painted(96, 96, 1, cell=24)
    result = augment({"t": step}, sample, None, 0)
    changed = result.mask != sample.mask
    assert changed.any()
    assert (result.mask[changed] == VOID).all()


def test_a_transform_named_by_itself_is_a_step_and_filled_with_void() -> None:
    sample = painted(96, 96, 1, cell=24)
    for step in (
        albumentations.Rotate(limit=(40, 50), p=1),
        albumentations.OneOf([albumentations.Rotate(limit=(40, 50), p=1), albumentations.Affine(scale=0.5, p=1)], p=1),
        albumentations.Compose([albumentations.HorizontalFlip(p=1), albumentations.Rotate(limit=(40, 50), p=1)]),
    ):
        results = [augment({"t": step}, sample, None, seed) for seed in (0, 0, 1)]
        for result in results:
            assert_together(result, tolerance=2)
            assert (result.mask == VOID).mean() > 0.1
        np.testing.assert_array_equal(results[0].mask, results[1].mask)
        assert not np.array_equal(results[0].mask, results[2].mask)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("inside", [lambda step: step, lambda step: albumentations.OneOf([step])])
def test_wrong_arguments_of_a_transform_named_by_itself_are_refused(inside: Callable[[Any], Any]) -> None:
    with pytest.raises(UserError, match=r"augment.steps.t: albumentations.Rotate does not take .* it has no 'limits'"):
        Augment({"t": inside(albumentations.Rotate(limits=3))})
    with pytest.raises(UserError, match=r"augment.steps.t: albumentations.Rotate: fill_mask=7"):
        Augment({"t": inside(albumentations.Rotate(fill_mask=7))})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"_target_": "albumentations.AdvancedBlur", "blur_limit": -5},
            "albumentations.AdvancedBlur does not take these",
        ),
        (
            {"_target_": "albumentations.Rotate", "mask_value": 255},
            "albumentations.Rotate does not take these arguments",
        ),
        (
            {"_target_": "albumentations.Resize", "height": 9, "width": 9},
            "albumentations.Resize makes a picture of 9x9",
        ),
    ],
)
def test_in_a_config_a_wrong_transform_is_an_error_before_training(
    compose_config: Callable[..., DictConfig], settings: dict[str, Any], said: str
) -> None:
    config = OmegaConf.to_container(compose_config("data=shapes", "data.train=3"), resolve=True)
    assert isinstance(config, dict)
    config["augment"]["steps"]["t"] = settings
    with pytest.raises(Exception, match=re.escape(said)):
        build_data(config, build(config, "data"))
