"""The learning-rate finder: what it reads from curves of known form, and from a model whose best rate is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seg_cli.data.loading import Batch
from seg_cli.reports.lr_curve import draw_lr_curve
from seg_cli.training.lr_finder import find_lr, read_curve, smooth

RATES = np.logspace(-6, 1, 100)


def sigmoid_valley(noise: float = 0.0) -> np.ndarray:
    """A loss that falls from 2 to 1, fastest at 1e-3, and climbs from about 0.3 on."""
    logs = np.log10(RATES)
    losses = 2 - 1 / (1 + np.exp(-4 * (logs + 3))) + np.exp(3 * (logs - 0.4))
    return losses + np.random.default_rng(0).normal(0, noise, len(RATES))


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_steepest_point_of_a_known_curve(noise: float) -> None:
    curve = read_curve(RATES, sigmoid_valley(noise), steps=100, diverged=True)
    assert curve.steepest is not None
    assert abs(np.log10(curve.steepest) + 3) < 0.35
    assert 1e-2 < curve.lowest < 0.5


@pytest.mark.parametrize("losses", [np.linspace(1, 3, 100), np.random.default_rng(0).normal(1, 0.2, 100)])
def test_a_loss_that_does_not_fall_gives_no_suggestion(losses: np.ndarray) -> None:
    assert read_curve(RATES, losses, steps=100, diverged=False).steepest is None


def test_smoothing_keeps_lines_and_means_and_does_not_lag() -> None:
    line = np.linspace(0, 1, 50)
    assert smooth(line, width=3)[10:-10] == pytest.approx(line[10:-10], abs=1e-4)
    assert smooth(np.full(7, 2.0), width=3) == pytest.approx(2.0)
    step = np.repeat([1.0, 0.0], 25)
    assert smooth(step, width=3)[24:26].mean() == pytest.approx(0.5)
    assert len(smooth(np.zeros(0), width=3)) == 0


class Parabola:
    """Stands for a stepper: gradient descent on ``curvature / 2 * w^2``, which diverges above ``2 / curvature``."""

    def __init__(self, curvature: float, configured: float) -> None:
        self.device = torch.device("cpu")
        self.curvature, self.configured, self.w, self.rate = curvature, configured, 1.0, 0.0
        self.batches: list[int] = []

    def set_learning_rates(self, factor: float, of_part: dict[str, float]) -> None:
        self.rate = self.configured * factor

    def step(self, batches: list[Batch], *, guarded: bool) -> dict[str, torch.Tensor]:
        loss = self.curvature / 2 * self.w**2
        self.w -= self.rate * self.curvature * self.w
        self.batches.append(len(batches))
        return {"": torch.tensor(loss)}


def batches(count: int) -> list[Batch]:
    return [Batch(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2), ["x"], [""])] * count


def test_a_parabola_diverges_where_theory_says_and_stops_there() -> None:
    stepper = Parabola(curvature=10.0, configured=0.05)
    curve = find_lr(stepper, batches(400), configured=0.05, first=1e-5, last=100, steps=200, accumulate=2)  # type: ignore[arg-type]
    assert curve.diverged
    assert set(stepper.batches) == {2}
    assert curve.rates[0] == pytest.approx(1e-5)
    assert curve.rates[1] / curve.rates[0] == pytest.approx(1e7 ** (1 / 199))
    assert 0.2 < curve.rates[-1] < 2  # 2 / curvature = 0.2, and it takes some steps to be seen
    assert curve.steepest is not None
    assert 1e-4 < curve.steepest < 0.2


def test_a_loss_that_is_no_number_ends_it() -> None:
    stepper = Parabola(curvature=float("nan"), configured=1.0)
    curve = find_lr(stepper, batches(20), configured=1.0, first=1e-3, last=1, steps=20)  # type: ignore[arg-type]
    assert (len(curve.rates), curve.steepest, curve.diverged, len(stepper.batches)) == (0, None, True, 1)


def test_too_few_batches_end_it_too() -> None:
    stepper = Parabola(curvature=1.0, configured=1.0)
    curve = find_lr(stepper, batches(5), configured=1.0, first=1e-3, last=1, steps=20)  # type: ignore[arg-type]
    assert len(curve.rates) == 5
    assert not curve.diverged


@pytest.mark.parametrize("losses", [sigmoid_valley(0.03), np.linspace(1, 3, 100), np.ones(100)])
def test_the_picture(losses: np.ndarray, tmp_path: Path) -> None:
    draw_lr_curve(read_curve(RATES, losses, steps=100, diverged=True), 1e-3, tmp_path / "lr.png")
    with Image.open(tmp_path / "lr.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_the_picture_of_a_single_step(tmp_path: Path) -> None:
    draw_lr_curve(read_curve(RATES[:1], np.ones(1), steps=100, diverged=True), 1e-3, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").stat().st_size > 1000
