"""Stages of a run, and their plan: epochs without gaps, steps that add up, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from seg_cli.commands.build import build
from seg_cli.data.loading import BatchShape
from seg_cli.errors import UserError
from seg_cli.training.stages import OneSize, Plan, Progressive, Stage

COMPARE = settings(max_examples=100, deadline=None)
IMAGE = (360, 480)

SIDES = st.integers(32, 600)
SETTING = st.fixed_dictionaries(
    {"size": st.sampled_from([0.25, 0.5, 0.6, 0.75, 1, 1.0, [64, 96]])},
    optional={"batch_size": st.sampled_from(["pixels", "same", 5]), "lr_factor": st.sampled_from([0.5, 1, 2.0])},
)
WEIGHTS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@st.composite
def stretches(draw: st.DrawFn) -> list[Stage]:
    """Stages that follow on each other."""
    found: list[Stage] = []
    for _ in range(draw(st.integers(1, 4))):
        first = found[-1].last + 1 if found else 0
        shape = draw(st.integers(1, 5)), None, draw(st.sampled_from([0.5, 1.0])), draw(st.integers(1, 9))
        found.append(Stage(first, *shape, lr_factor=draw(st.floats(0.1, 3)), warmup=draw(st.floats(0, 0.9))))
    return found


PLANS = st.builds(
    Plan,
    stretches(),
    st.integers(1, 60),
    world_size=st.integers(1, 3),
    accumulate=st.integers(1, 4),
    limit_batches=st.none() | st.integers(1, 5),
)


# ---- stages


def test_one_size_is_one_stage_of_what_the_loader_says() -> None:
    (stage,) = OneSize().stages(epochs=7, crop=(64, 96), image=IMAGE, batch_size=4)
    assert stage == Stage(0, 7, (64, 96), 1.0, 4)
    assert (stage.last, stage.size(IMAGE)) == (6, (64, 96))
    assert OneSize().stages(epochs=7, crop=None, image=IMAGE, batch_size=4)[0].size(IMAGE) == IMAGE


def test_the_shipped_stages_by_hand(compose_config: Callable[..., DictConfig]) -> None:
    config: Any = OmegaConf.to_container(compose_config("resize=progressive"), resolve=True)
    stages = build(config, "resize").stages(epochs=10, crop=(256, 320), image=IMAGE, batch_size=4)
    assert stages == [
        Stage(0, 5, (128, 160), 0.5, 16, 1.0, 0.0),
        Stage(5, 3, (192, 256), 0.75, 7, 1.0, 0.05),  # 240 is rounded to 256; 4 * 81920 / 49152 pixels are 6.67 samples
        Stage(8, 2, (256, 320), 1.0, 4, 1.0, 0.05),
    ]


def test_whole_images_become_smaller_samples_and_in_the_end_themselves() -> None:
    halves = [{"size": 0.5, "epochs": 0.5}, {"size": 1, "epochs": 0.5}]
    small, whole = Progressive(stages=halves).stages(epochs=2, crop=None, image=IMAGE, batch_size=2)
    assert (small.crop, small.zoom, small.batch_size) == ((192, 256), 0.5, 7)
    assert (whole.crop, whole.zoom, whole.batch_size) == (None, 1.0, 2)
    assert whole.size(IMAGE) == IMAGE


def test_a_size_in_pixels_zooms_by_the_root_of_the_area() -> None:
    stages = [{"size": [100, 50], "epochs": 2}]
    (stage,) = Progressive(stages=stages).stages(epochs=2, crop=(200, 400), image=IMAGE, batch_size=1)
    assert (stage.crop, stage.zoom, stage.batch_size) == ((100, 50), 0.25, 16)


@given(WEIGHTS, st.integers(1, 60), st.data())
@COMPARE
def test_stages_cover_all_epochs_without_gaps(weights: list[int], epochs: int, data: st.DataObject) -> None:
    shares: list[float] = list(weights)
    whole = data.draw(st.booleans())
    if whole:
        epochs = sum(weights)
    else:
        shares = [weight / sum(weights) for weight in weights]
    named: list[dict[str, Any]] = [data.draw(SETTING) | {"epochs": share} for share in shares]
    crop = data.draw(st.none() | st.tuples(st.integers(128, 600), st.integers(128, 600)))
    full = crop or IMAGE
    multiple, batch_size = data.draw(st.sampled_from([1, 8, 32])), data.draw(st.integers(1, 32))
    resize = Progressive(stages=named, multiple=multiple)
    try:
        stages = resize.stages(epochs=epochs, crop=crop, image=IMAGE, batch_size=batch_size)
    except UserError as refused:
        error: str | None = str(refused)
    else:
        error = None
    if error is not None:
        assert "not one whole epoch" in error
        assert min(shares) * epochs < 1  # a stage of an epoch and more is never left out
        return
    seen = [epoch for stage in stages for epoch in range(stage.first, stage.last + 1)]
    assert seen == list(range(epochs))
    for stage, setting, share in zip(stages, named, shares, strict=True):
        assert abs(stage.epochs - (share if whole else share * epochs)) <= 1
        height, width = stage.size(IMAGE)
        if isinstance(setting["size"], list):
            assert [height, width] == setting["size"]
        elif setting["size"] != 1:
            assert height % multiple == width % multiple == 0
            assert abs(height - full[0] * setting["size"]) <= multiple / 2
            assert abs(width - full[1] * setting["size"]) <= multiple / 2
        match setting.get("batch_size", "pixels"):
            case "pixels":  # within half a sample, but for a single one
                off = stage.batch_size * height * width - batch_size * full[0] * full[1]
                assert abs(off) <= height * width / 2 or stage.batch_size == 1
            case "same":
                assert stage.batch_size == batch_size
            case number:
                assert stage.batch_size == number
        assert stage.lr_factor == setting.get("lr_factor", 1.0)
        assert stage.warmup == (0.05 if stage.first else 0)


# ---- what is refused

HALF = {"size": 0.5, "epochs": 0.5}


@pytest.mark.parametrize(
    ("named", "epochs", "message"),
    [
        (
            [{"size": 0.5, "epochs": 3}, {"size": 1, "epochs": 4}],
            8,
            r"resize\.stages: their epochs are 3 \+ 4 = 7, and trainer\.max_epochs=8\. Make them agree, or write",
        ),
        (
            [HALF, {"size": 1, "epochs": 0.4}],
            10,
            r"resize\.stages: .* shares of the run, and 0\.5 \+ 0\.4 = 0\.9, not 1",
        ),
        ([HALF, {"size": 1, "epochs": 5}], 10, r"shares of the run, and 0\.5 \+ 5 = 5\.5, not 1"),
        (
            [{"size": 0.5, "epochs": 0.1}, {"size": 1, "epochs": 0.9}],
            3,
            r"resize\.stages\[0\]\.epochs: of trainer\.max_epochs=3 there is not one whole epoch for this stage",
        ),
        (
            [{"size": [31, 480], "epochs": 1.0}],
            3,
            r"resize\.stages\[0\]\.size=\[31, 480\]: samples would be 31x480 pixels \(of 360x480\), and no .* below 32",
        ),
    ],
)
def test_stages_that_do_not_fit_the_run_are_refused(named: list[dict[str, Any]], epochs: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Progressive(stages=named).stages(epochs=epochs, crop=None, image=IMAGE, batch_size=4)


def test_a_share_of_a_small_crop_that_no_encoder_takes_is_refused() -> None:
    with pytest.raises(UserError, match=r"stages\[0\]\.size=0\.5: samples would be 24x48 pixels \(of 48x96\)"):
        Progressive(stages=[HALF, {"size": 1, "epochs": 0.5}], multiple=8).stages(
            epochs=2, crop=(48, 96), image=IMAGE, batch_size=4
        )


def test_a_single_stage_takes_the_whole_run() -> None:
    for one in (1, 1.0):
        (stage,) = Progressive(stages=[{"size": 1, "epochs": one}]).stages(
            epochs=9, crop=None, image=IMAGE, batch_size=4
        )
        assert stage.epochs == 9


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"siez": 0.5, "epochs": 1},
            r"siez: there is no such setting\. Did you mean 'size'\? Settings: size, epochs, ",
        ),
        ({"size": 0.5, "epoch": 1}, r"epoch: there is no such setting\. Did you mean 'epochs'\?"),
        ({"size": 0.5, "batchsize": 1}, r"batchsize: there is no such setting\. Did you mean 'batch_size'\?"),
        ({"epochs": 1}, r"resize\.stages\[1\]: its size is missing, as in \{size: 0\.5, epochs: 0\.5\}"),
        ({"size": 1}, r"resize\.stages\[1\]: its epochs is missing"),
        (0.5, r"resize\.stages\[1\]=0\.5: it must be a stage, as in \{size: 0\.5, epochs: 0\.5\}"),
        *(
            ({"size": size, "epochs": 1}, r"resize\.stages\[1\]\.size=.*: it must be a share of the full side, 0 to 1,")
            for size in (0, -0.5, 1.5, 64, True, "half", "ab", [64], [64, 0], [64, 1.5], [1, 2, 3], None, float("nan"))
        ),
        *(
            (
                {"size": 1, "epochs": epochs},
                r"resize\.stages\[1\]\.epochs=.*: it must be a number of epochs, or a share",
            )
            for epochs in (0, -1, 1.5, True, "all", None)
        ),
        *(
            ({**HALF, "batch_size": size}, r"resize\.stages\[1\]\.batch_size=.*: it must be pixels, same, or a number")
            for size in (0, 1.5, "pixel", None, True)
        ),
        *(
            ({**HALF, "lr_factor": factor}, r"resize\.stages\[1\]\.lr_factor=.*: it must be a number > 0")
            for factor in (0, -1, "fast", None, True, float("nan"), float("inf"))
        ),
    ],
)
def test_a_stage_that_makes_no_sense_is_named(stage: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Progressive(stages=[HALF, stage])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, r"resize\.stages: name at least one stage, or choose resize=none"),
        ({"warmup": 1}, r"resize\.warmup=1: it is a share of a stage, 0 or more and less than 1"),
        ({"warmup": -0.1}, r"resize\.warmup=-0\.1"),
        ({"warmup": float("nan")}, r"resize\.warmup=nan"),
        ({"multiple": 0}, r"resize\.multiple=0: it must be a whole number of pixels, 1 or more"),
        ({"multiple": 1.5}, r"resize\.multiple=1\.5"),
    ],
)
def test_settings_of_all_stages_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Progressive(**({"stages": [HALF]} | changes))


# ---- the plan


def test_a_plan_by_hand() -> None:
    stages = [Stage(0, 2, (32, 32), 0.5, 8), Stage(2, 3, None, 1.0, 2, lr_factor=0.5, warmup=0.5)]
    plan = Plan(stages, 18, world_size=2, accumulate=2)
    assert plan.epochs == 5
    assert [plan.stage(epoch) for epoch in (0, 1, 2, 4, 9)] == [*stages[:1] * 2, *stages[1:] * 3]
    assert [plan.number(epoch) for epoch in range(5)] == [0, 0, 1, 1, 1]
    assert plan.shape(1) == BatchShape(8, (32, 32), 0.5)
    assert [plan.batches(epoch) for epoch in (1, 2)] == [1, 4]  # 18 // (8 * 2), 18 // (2 * 2)
    assert [plan.steps(epoch) for epoch in (1, 2)] == [1, 2]  # two batches a step; the last one takes what there is
    assert plan.total_steps == 2 * 1 + 3 * 2
    assert plan.steps_before(3) == 4
    assert plan.progress(3, 1) == 5 / 8
    assert plan.step_samples == 2 * 2 * 2  # of the full-size stage
    # the warm-up is half of the second stage's 6 steps; its factor halves what comes after
    assert [plan.lr_factor(0, 0), *(plan.lr_factor(2 + n // 2, n % 2) for n in range(6))] == pytest.approx(
        [1, 0.5 / 3, 1 / 3, 0.5, 0.5, 0.5, 0.5]
    )


def test_a_limit_shortens_every_epoch() -> None:
    plan = Plan([Stage(0, 1, None, 1.0, 4)], 100, limit_batches=3)
    assert (plan.batches(0), plan.total_steps) == (3, 3)


def test_a_split_smaller_than_a_batch_is_one_batch() -> None:
    assert Plan([Stage(0, 1, None, 1.0, 4)], 3, world_size=2).batches(0) == 1


@given(PLANS)
@COMPARE
def test_total_steps_are_the_sum_of_the_epochs(plan: Plan) -> None:
    steps = [plan.steps(epoch) for epoch in range(plan.epochs)]
    assert min(steps) >= 1
    assert plan.total_steps == sum(steps)
    assert [plan.steps_before(epoch) for epoch in range(plan.epochs)] == [sum(steps[:e]) for e in range(plan.epochs)]
    for epoch in range(plan.epochs):
        accumulated = plan.steps(epoch) * plan.accumulate
        assert accumulated - plan.accumulate < plan.batches(epoch) <= accumulated
        assert plan.limit_batches is None or plan.batches(epoch) <= plan.limit_batches
        stage = plan.stages[plan.number(epoch)]
        assert stage.first <= epoch <= stage.last


@given(PLANS)
@COMPARE
def test_progress_climbs_evenly_from_0_to_1(plan: Plan) -> None:
    found = [plan.progress(epoch, step) for epoch in range(plan.epochs) for step in range(plan.steps(epoch))]
    assert found == pytest.approx([step / plan.total_steps for step in range(plan.total_steps)])
    last = plan.epochs - 1
    assert plan.progress(last, plan.steps(last)) == 1
    assert all(
        plan.progress(epoch, plan.steps(epoch)) == pytest.approx(plan.progress(epoch + 1, 0)) for epoch in range(last)
    )


@given(PLANS)
@COMPARE
def test_the_learning_rate_warms_up_once_a_stage(plan: Plan) -> None:
    for stage in plan.stages:
        epochs = range(stage.first, stage.last + 1)
        factors = [plan.lr_factor(epoch, step) for epoch in epochs for step in range(plan.steps(epoch))]
        warm = stage.warmup * len(factors)
        expected = [stage.lr_factor * (min(1, (n + 1) / warm) if warm else 1) for n in range(len(factors))]
        assert factors == pytest.approx(expected)
        assert factors == sorted(factors)
        assert factors[0] > 0  # no step is lost
        assert factors[-1] == pytest.approx(stage.lr_factor)
