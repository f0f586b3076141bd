"""Classical methods: each step by hand on small pictures, what they learn, refuse, and keep in a checkpoint."""

import builtins
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from seg_cli.commands.build import build_model
from seg_cli.config.paths import conf_dir
from seg_cli.data.labels import LabelSpace
from seg_cli.data.sample import Sample
from seg_cli.errors import UserError
from seg_cli.models.classical import is_classical
from seg_cli.models.classical.method import CERTAIN, Method, channel_of, choose_space, colors_of, gray
from seg_cli.models.classical.pixels import draw_pixels, log_prior
from seg_cli.models.classical.regions import assign, describe, overlap
from seg_cli.training.checkpoints import load_model, write_checkpoint

Compose = Callable[..., DictConfig]
Make = Callable[..., Any]
NAMES = sorted(
    path.stem for path in (conf_dir() / "model").glob("*.yaml") if "models.classical" in path.read_text("utf-8")
)
SMALL = {
    "pixel_forest": ("model.trees=4", "model.pixels=1000", "model.sigmas=[1,2]"),
    "patch_cnn": ("model.patches=60", "model.epochs=1", "model.patch=13", "model.channels=[4]", "model.hidden=8"),
}
CPU = torch.device("cpu")
PAIR = LabelSpace(("ground", "thing"), ((0, 0, 0), (255, 0, 0)))
TRIPLE = LabelSpace(("ground", "thing", "other"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


@pytest.fixture
def make(compose_config: Compose) -> Make:
    def made(name: str, *overrides: str, classes: int = 2) -> Method:
        method = build_model(
            OmegaConf.to_container(compose_config(f"model={name}", *overrides), resolve=True),  # type: ignore[arg-type]
            classes,
        )
        assert isinstance(method, Method)
        return method

    return made


def scene(seed: int, *, dtype: type = np.uint8, bands: int = 3) -> Sample:
    """A red square on a grey-blue ground, 40x48, with noise and a void border."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 48), np.uint8)
    top, left = rng.integers(5, 18, 2)
    mask[top : top + 18, left : left + 18] = 1
    colors = np.array(((70, 80, 120), (220, 60, 40)))[:, :bands]
    image = np.clip(colors[mask] + rng.normal(0, 4, (40, 48, bands)), 0, 255).astype(dtype)
    mask[0] = 255
    return Sample(image, mask, f"scene {seed}")


def fitted(method: Method, samples: Sequence[Sample]) -> Method:
    method.check(samples[0], PAIR)
    method.fit(samples, seed=0, device=CPU)
    return method.eval()


# ---- the contract


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns_is_kept_and_answers_the_same(make: Make, tmp_path: Path, name: str) -> None:
    small = SMALL.get(name, ())
    method = fitted(make(name, *small), [scene(0), scene(1)])
    test = scene(2)
    images = torch.from_numpy(test.image).permute(2, 0, 1)[None]
    logits = method(images)
    assert logits.shape == (1, 2, 40, 48)
    assert logits.dtype == torch.float32
    valid = test.mask != 255
    if name != "patch_cnn":  # which has seen sixty patches once
        right = (logits[0].argmax(0).numpy() == test.mask)[valid].mean()
        assert right > (0.8 if name == "edges" else 0.9), right  # edges are some pixels wide
    assert method.report(PAIR.names)
    assert method.learned_values > 0 or name == "edges"

    state = {f"model.{key}": value for key, value in method.state_dict().items()}
    write_checkpoint(tmp_path / "best.ckpt", {"state_dict": state, "epoch": 0})
    again = make(name, *small).eval()
    load_model(again, tmp_path / "best.ckpt")
    assert torch.equal(again(images), logits)
    for step in again.steps(test.image):
        assert step.picture.shape[:2] == (40, 48)
        assert step.picture.dtype in (bool, np.float32, np.int32, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [(np.float32, 3), (np.uint8, 1), (np.uint8, 5)])
def test_images_of_other_types_and_bands(make: Make, name: str, kind: tuple[type, int]) -> None:
    dtype, bands = kind
    samples = [scene(seed, dtype=dtype, bands=min(bands, 3)) for seed in range(2)]
    if bands == 5:
        for sample in samples:
            sample.image = np.concatenate((sample.image, sample.image[..., :2]), 2)
    more = (f"model.in_channels={bands}",) if name == "patch_cnn" else ()
    method = fitted(make(name, *SMALL.get(name, ()), *more), samples)
    found = method(torch.from_numpy(samples[0].image).permute(2, 0, 1)[None])
    assert found.shape == (1, 2, 40, 48)
    assert torch.isfinite(found).all()


def test_the_same_seed_learns_the_same(make: Make) -> None:
    for name in ("kmeans", "pixel_forest", "graphcut"):
        one, two = (fitted(make(name, *SMALL.get(name, ())), [scene(0), scene(1)]) for _ in range(2))
        for key, value in one.learned.items():
            np.testing.assert_array_equal(value, two.learned[key])


def test_a_method_that_is_not_fitted_says_so(make: Make) -> None:
    with pytest.raises(UserError, match="threshold with multi_otsu knows nothing before it is fitted"):
        make("threshold")(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["threshold", "kmeans", "watershed", "graphcut", "pixel_forest"])
def test_what_was_learned_is_looked_at_when_it_is_read(make: Make, name: str) -> None:
    method = fitted(make(name, *SMALL.get(name, ())), [scene(0)])
    state = method.get_extra_state()
    other = make(name, *SMALL.get(name, ()), classes=3)
    broken = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in state.items()}
    for damaged in (broken, {"class_of": 3}):
        with pytest.raises(RuntimeError, match="what was learned is damaged"):
            other.set_extra_state(damaged)


def test_a_forest_whose_trees_lead_nowhere_is_not_walked(make: Make) -> None:
    method = fitted(make("pixel_forest", *SMALL["pixel_forest"]), [scene(0)])
    for key, value in (("left", 10**6), ("left", 0), ("feature", 99)):
        state = method.get_extra_state()
        state[key] = state[key].clone()
        state[key][0] = value
        with pytest.raises(RuntimeError, match="a tree"):
            make("pixel_forest", *SMALL["pixel_forest"]).set_extra_state(state)


def test_the_forest_votes_as_scikit_learn_does(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    kept = []
    original = ensemble.RandomForestClassifier.fit

    def fit(self: Any, *data: Any) -> Any:
        kept.append(self)
        return original(self, *data)

    monkeypatch.setattr(ensemble.RandomForestClassifier, "fit", fit)
    method = fitted(make("pixel_forest", *SMALL["pixel_forest"]), [scene(0), scene(1)])
    features = method.features(scene(2).image, method.learned["space"])
    expected = kept[0].predict_proba(features.reshape(-1, features.shape[2]))
    np.testing.assert_allclose(method.shares(scene(2).image).reshape(expected.shape), expected, atol=1e-6)
    assert len(method.feature_names()) == features.shape[2] == 3 + 2 * (3 + 6)


def test_who_is_classical() -> None:
    assert is_classical({"model": {"_target_": "seg_cli.models.classical.edges.Edges"}})
    assert not is_classical({"model": {"_target_": "seg_cli.models.unet.UNet"}})
    assert is_classical({"model": {"_target_": f"{__name__}.Constant"}})  # a user's own
    assert not is_classical({"model": {"_target_": "no.such.module.Net"}})


class Constant(Method):
    """Everything is class 0."""


# ---- regions and classes


def test_overlap_counts_pixels_without_void() -> None:
    regions = np.array([[0, 0, 1], [1, 2, -1]])
    mask = np.array([[0, 1, 1], [1, 255, 0]], np.uint8)
    assert overlap(regions, mask, 3, 2).tolist() == [[1, 1], [0, 2], [0, 0]]


def test_regions_become_classes() -> None:
    counts = np.array([[90, 40, 0], [80, 20, 0], [10, 0, 5], [0, 0, 0]])
    assert assign(counts, "majority").tolist() == [0, 0, 0, 0]
    # Shares of a class: 90/180 and 40/60; 80/180 and 20/60; 10/180 and 5/5.
    assert assign(counts, "balanced").tolist() == [1, 0, 2, 0]
    # 80 + 40 + 5 is the most that three regions with a class each get right.
    assert assign(counts, "one_to_one").tolist() == [1, 0, 2, 0]


def test_regions_are_described_by_mean_colour_and_deviation() -> None:
    image = np.array([[[10], [20], [50]]], np.uint8)
    look, sizes = describe(image, np.array([[1, 1, 2]], np.int32), "gray")
    assert look.tolist() == [[15, 5], [50, 0]]
    assert sizes.tolist() == [2, 1]


def test_pixels_are_drawn_without_void_and_evenly() -> None:
    rare = np.zeros((10, 10), np.uint8)
    rare[0, :4], rare[1] = 1, 255
    samples = [Sample(np.full((10, 10, 1), 7, np.uint8), rare, "a")]
    drawn = draw_pixels(samples, lambda image: image.astype(np.float32), 8, 0, balanced=True)
    assert np.bincount(drawn.classes).tolist() == [4, 4]
    assert drawn.frequencies[[0, 1, 255]].tolist() == [86, 4, 10]
    assert len(draw_pixels(samples, lambda image: image.astype(np.float32), 1000, 0).classes) == 90
    # Class 1 is 4/90 of the pixels, and was half of what was drawn.
    np.testing.assert_allclose(log_prior(drawn.frequencies, drawn.classes, 2), np.log([2 * 86 / 90, 2 * 4 / 90]), 1e-6)
    samples[0].mask = np.full((10, 10), 255, np.uint8)
    with pytest.raises(UserError, match="every pixel of the training images is void"):
        draw_pixels(samples, lambda image: image.astype(np.float32), 8, 0)


# ---- one method after the other


def test_otsu_cuts_between_two_peaks(make: Make) -> None:
    image = np.repeat(np.array([[40, 42, 44, 200, 202]], np.uint8), 4, 0)[..., None]
    method = make("threshold", "model.method=otsu", "model.smooth=0")
    assert 44 <= method.cuts(image[..., 0])[0] < 200
    assert method.regions(image)[0].tolist() == [0, 0, 0, 1, 1]
    # What is dark may be the second class.
    method.fit([Sample(image, np.repeat(np.array([[1, 1, 1, 0, 0]], np.uint8), 4, 0), "a")], seed=0, device=CPU)
    assert method.label(image)[0].tolist() == [1, 1, 1, 0, 0]
    assert method.report(PAIR.names)["mapping"]["darkest"] == {"class": "thing", "pixels": {"ground": 0, "thing": 12}}


def test_multi_otsu_has_so_many_levels(make: Make) -> None:
    image = np.repeat(np.array([[10, 12, 100, 104, 240, 250]], np.uint8), 6, 0)[..., None]
    method = make("threshold", "model.smooth=0", "model.levels=3")
    assert method.regions(image)[0].tolist() == [0, 0, 1, 1, 2, 2]
    flat = np.full((6, 6, 1), 9, np.uint8)  # of which there is nothing to cut
    assert method.regions(flat).max() == 0


def test_an_adaptive_threshold_follows_the_light(make: Make) -> None:
    light = np.tile(np.linspace(0, 200, 60), (20, 1))
    light[8:12, ::6] += 40  # brighter than around them, wherever they are
    image = light.astype(np.uint8)[..., None]
    options = ("model.method=adaptive", "model.smooth=0", "model.window=9", "model.offset=-15")
    bright = make("threshold", *options).regions(image) == 1
    assert bright[8:12, ::6].mean() > 0.9
    bright[8:12, ::6] = False
    assert bright.mean() < 0.02


def test_edges_enclose_what_is_inside(make: Make) -> None:
    image = np.full((40, 40, 1), 50, np.uint8)
    image[10:30, 10:30] = 200
    for kind in ("canny", "sobel"):
        found = make("edges", f"model.method={kind}", "model.smooth=1").regions(image)
        assert found[20, 20] == 1
        assert found[2, 2] == 0
        assert (found[:, 20] == 2).any()


def test_kmeans_finds_the_colours_that_there_are(make: Make) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8] = 1
    image = np.array([[20, 20, 200], [200, 30, 30]], np.uint8)[mask]
    method = make("kmeans", "model.clusters=2", "model.space=rgb", "model.pixels=1000")
    method.fit([Sample(image, mask, "a")], seed=0, device=CPU)
    np.testing.assert_allclose(method.learned["centers"], [[20, 20, 200], [200, 30, 30]], atol=1e-3)
    assert (method.label(image) == mask).all()
    assert method.learned_values == 2 * 3 + 2


def test_more_clusters_than_colours_are_refused(make: Make) -> None:
    method = make("kmeans", "model.clusters=5")
    with pytest.raises(UserError, match=r"model.clusters=5: .* only 1 different colours \(in gray\)"):
        method.fit([Sample(np.full((8, 8, 3), 9, np.uint8), np.zeros((8, 8), np.uint8), "a")], seed=0, device=CPU)


def test_position_tells_equal_colours_apart(make: Make) -> None:
    image, mask = np.full((8, 32, 3), 90, np.uint8), np.zeros((8, 32), np.uint8)
    image[0, 0] = 91
    mask[:, 16:] = 1
    method = make("kmeans", "model.clusters=2", "model.position=500", "model.pixels=1000")
    method.fit([Sample(image, mask, "a")], seed=0, device=CPU)
    assert (method.label(image) == mask).mean() > 0.95


def test_lakes_meet_at_a_line(make: Make) -> None:
    image = np.full((21, 41, 1), 200, np.uint8)
    image[:, 20] = 20  # a dark wall
    method = make("watershed", "model.relief=dark", "model.smooth=0", "model.line=1", "model.depth=2")
    lakes = method.regions(image)
    assert len(np.unique(lakes[lakes > 0])) == 2
    assert (lakes[:, 20] == 0).all()
    assert lakes[3, 3] != lakes[3, 38]
    grid = make("watershed", "model.markers=grid", "model.spacing=10", "model.smooth=0").regions(image)
    assert grid.max() == 2 * 4


@pytest.mark.parametrize("kind", ["seeds", "felzenszwalb", "slic"])
def test_regions_grow_up_to_the_border(make: Make, kind: str) -> None:
    image = np.full((48, 48, 3), 60, np.uint8)
    image[12:36, 12:36] = (200, 90, 40)
    options = ("model.smooth=0", "model.spacing=4", "model.tolerance=20")
    found = make("region_growing", f"model.method={kind}", *options).regions(image)
    assert found.min() >= 1
    inside, outside = np.unique(found[16:32, 16:32]), np.unique(found[:8])
    assert not set(inside) & set(outside)
    assert len(inside) == 1  # which it is only if what is equal was put together


@pytest.mark.parametrize("kind", ["random_walker", "grabcut"])
def test_a_cut_takes_away_what_the_prior_got_wrong(make: Make, kind: str) -> None:
    options = (f"model.method={kind}", "model.longest=null", "model.smooth=0", "model.sure=0.9", "model.colors=8")
    method = fitted(make("graphcut", *options), [scene(0), scene(1)])
    test = scene(3)
    rng = np.random.default_rng(0)
    speckled = test.image.copy()
    noisy = rng.random(test.mask.shape) < 0.04
    speckled[noisy] = (150, 70, 80)  # a colour between the two
    truth, valid = test.mask, test.mask != 255
    prior = method.prior(speckled)
    assert prior.sum(2) == pytest.approx(1, abs=1e-4)
    cut = method.label(speckled)
    assert ((cut == truth) | ~valid).mean() > 0.98
    shrunk = fitted(make("graphcut", *options[:1], "model.longest=24"), [scene(0), scene(1)])
    assert shrunk.label(test.image).shape == test.mask.shape


# ---- images


def test_channels_and_colours() -> None:
    image = np.array([[[255, 0, 0], [0, 128, 0]]], np.uint8)
    assert channel_of(image, "red").tolist() == [[255, 0]]
    assert channel_of(image, "green").tolist() == [[0, 128]]
    assert channel_of(image, "value").tolist() == [[255, 128]]
    assert channel_of(image, "saturation").tolist() == [[255, 255]]
    assert gray(image).tolist() == [[76, 75]]  # 0.299 * 255, 0.587 * 128
    np.testing.assert_allclose(colors_of(image, "lab")[0, 0], [53.24, 80.09, 67.20], atol=0.1)
    assert gray(np.array([[[1, 2, 3, 6]]], np.uint8)).tolist() == [[3]]


def test_auto_is_colour_only_where_there_is_some() -> None:
    mask = np.zeros((2, 2), np.uint8)
    grey = Sample(np.full((2, 2, 3), 5, np.uint8), mask, "a")
    assert choose_space("auto", grey) == "gray"
    assert choose_space("auto", scene(0)) == "lab"
    assert choose_space("auto", Sample(np.zeros((2, 2, 5), np.uint8), mask, "a")) == "rgb"


def test_logits_of_a_choice_are_certain(make: Make) -> None:
    method = fitted(make("threshold"), [scene(0)])
    scores = method.scores(scene(1).image)
    assert sorted(np.unique(scores)) == [0, CERTAIN]
    assert (scores.argmax(0) == method.label(scene(1).image)).all()


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("threshold", "method=ostu", "model.method=ostu: otsu, multi_otsu or adaptive are allowed"),
        ("threshold", "levels=9", "model.levels=9: a number from 2 to 5"),
        ("threshold", "window=50", "model.window=50: an odd number"),
        ("threshold", "channel=infrared", "model.channel=infrared: gray, red"),
        ("edges", "low=20", "model.low=20: a number from 0 to 10"),
        ("watershed", "mapping=best", "model.mapping=best: majority, one_to_one or balanced"),
        ("kmeans", "clusters=1", "model.clusters=1: a number from 2 to 250"),
        ("region_growing", "spacing=2.5", "model.spacing=2.5: a whole number"),
        ("graphcut", "sure=2", "model.sure=2: a number from 0 to 1"),
        ("pixel_forest", "sigmas=3", "model.sigmas=3: a list of widths"),
        ("pixel_forest", "trees=0", "model.trees=0: a number of 1 or more"),
        ("patch_cnn", "patch=8", "model.patch=8: nothing is left of it after 2 convolutions"),
        ("patch_cnn", "form=fast", "model.form=fast: dense or patches"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(make: Make, name: str, setting: str, said: str) -> None:
    with pytest.raises(Exception, match=r"^(Error in call|model)") as wrong:
        make(name, f"model.{setting}")
    cause = wrong.value if isinstance(wrong.value, UserError) else wrong.value.__cause__
    assert isinstance(cause, UserError)
    assert str(cause).startswith(said)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("edges", ()),
        ("threshold", ("model.method=otsu",)),
        ("threshold", ("model.method=adaptive",)),
        ("threshold", ("model.levels=2",)),
        ("graphcut", ("model.method=grabcut",)),
    ],
)
def test_a_binary_method_refuses_more_classes_and_names_those_that_fit(
    make: Make, name: str, options: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"tells two classes apart, and the dataset has 3\. .*kmeans, watershed"):
        make(name, *options, classes=3).check(scene(0), TRIPLE)


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_overlap_are_refused(make: Make, name: str) -> None:
    both = LabelSpace(PAIR.names, PAIR.colors, overlapping=True)
    with pytest.raises(UserError, match="the labels of this dataset overlap"):
        make(name).check(scene(0), both)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("threshold", "model.channel=saturation"),
        ("kmeans", "model.space=lab"),
        ("watershed", "model.space=lab"),
        ("region_growing", "model.space=rgb"),
        ("graphcut", "model.space=rgb"),
    ],
)
def test_colour_is_not_asked_of_grey_images(make: Make, name: str, option: str) -> None:
    grey = Sample(np.full((8, 8, 3), 77, np.uint8), np.zeros((8, 8), np.uint8), "page 1")
    setting = option.removeprefix("model.").partition("=")[0]
    with pytest.raises(UserError, match=f"needs colour.* the three bands of 'page 1' are equal.*model.{setting}=gray"):
        make(name, option).check(grey, PAIR)
    grey.image = grey.image[..., :1]
    with pytest.raises(UserError, match="it needs colour, and the images have 1 band"):
        make(name, option).check(grey, PAIR)


def test_what_is_not_installed_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith(("sklearn", "skimage")):
            raise ImportError(name)
        return real(name, *rest, **more)

    method = make("kmeans")
    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(UserError, match=r"scikit-learn is not installed\. Type pip install 'segrun\[classical\]'"):
        method.check(scene(0), PAIR)
