"""Ten steps of training give the losses that they gave when the curve was kept (see renew.py)."""

import pytest
from renew import STEPS, read, train


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec")
def test_the_first_ten_steps_are_the_golden_ones() -> None:
    found, golden = train(), read()
    assert len(found) == len(golden) == STEPS
    for step, (now, then) in enumerate(zip(found, golden, strict=True), 1):
        assert now == pytest.approx(then, rel=1e-3, abs=1e-3), f"step {step}"
    assert found[-1]["loss"] < found[0]["loss"]
