"""Learning-rate schedules: functions of the share of training done."""

import math

import pytest

from seg_cli.errors import UserError
from seg_cli.training.schedules import OneCycle, Poly, Schedule


def test_poly_warms_up_and_decays_to_0() -> None:
    schedule = Poly(power=0.9, warmup=0.1)
    assert schedule(0) == 0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == 1
    assert schedule(0.55) == pytest.approx(0.5**0.9)
    assert schedule(1) == 0


def test_poly_without_warm_up_starts_at_1() -> None:
    assert Poly()(0) == 1
    assert Poly(power=0)(0.7) == 1


def test_one_cycle_goes_up_and_down_along_cosines() -> None:
    schedule = OneCycle(warmup=0.2, start=0.04, end=1e-4)
    assert schedule(0) == pytest.approx(0.04)
    assert schedule(0.1) == pytest.approx((1 + 0.04) / 2)
    assert schedule(0.2) == 1
    assert schedule(0.6) == pytest.approx((1 + 1e-4) / 2)
    assert schedule(1) == pytest.approx(1e-4)


@pytest.mark.parametrize("schedule", [Poly(), Poly(warmup=0.3), OneCycle(), OneCycle(warmup=0)])
def test_every_factor_is_from_0_to_1_and_the_peak_is_1(schedule: Schedule) -> None:
    factors = [schedule(i / 1000) for i in range(1001)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=1e-4)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("schedule", [Poly, OneCycle])
@pytest.mark.parametrize("warmup", [-0.1, 1, 5, math.nan])
def test_a_warm_up_that_is_no_share_of_training_is_refused(schedule: type, warmup: float) -> None:
    with pytest.raises(UserError, match=r"scheduler\.warmup=.*: it is a share of training, 0 or more and less than 1"):
        schedule(warmup=warmup)


@pytest.mark.parametrize("power", [-1, math.nan])
def test_a_power_that_raises_the_learning_rate_is_refused(power: float) -> None:
    with pytest.raises(UserError, match=r"scheduler\.power="):
        Poly(power=power)
