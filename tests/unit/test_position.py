"""What a checkpoint knows of where a run is: plain values, random generators, and sums of losses of each process."""

import io
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seg_cli.training.position import LossSums, Position, process_states, restore_process_state

CPU = torch.device("cpu")


def through_a_file(content: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def process(rank: int, world_size: int) -> Any:
    """What is asked of Fabric in one of several processes."""
    return SimpleNamespace(global_rank=rank, world_size=world_size, is_global_zero=rank == 0, device=CPU)


def sums(*batches: tuple[float, float, int]) -> LossSums:
    """Of batches of (loss, cross-entropy, samples)."""
    found = LossSums(CPU)
    for loss, ce, samples in batches:
        found.add({"": torch.tensor(loss), "/ce": torch.tensor(ce)}, samples)
    return found


def draws() -> list[float]:
    """Of every generator, and so many normal numbers that half a pair of them stays behind."""
    numbers = [random.random(), random.gauss(0, 1), np.random.random(), np.random.standard_normal()]
    return [*numbers, *torch.rand(3).tolist(), float(torch.randn(()))]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def test_every_generator_goes_on_where_it_was() -> None:
    fabric = process(0, 1)
    for number, count in ((0, 0), (1, 1), (2, 2), (3, 700)):  # 700: past the end of a block of Mersenne's numbers
        seed(number)
        for _ in range(count):
            draws()
        states = through_a_file(process_states(fabric, LossSums(CPU)))
        expected = [draws() for _ in range(5)]
        seed(99)
        draws()
        restore_process_state(states, fabric, LossSums(CPU))
        assert [draws() for _ in range(5)] == expected


def test_to_look_at_generators_draws_nothing() -> None:
    fabric = process(0, 1)
    seed(4)
    process_states(fabric, LossSums(CPU))
    found = draws()
    seed(4)
    assert found == draws()


def test_a_position_goes_through_a_file() -> None:
    position = Position(
        epoch=3,
        seen=12,
        step=40,
        rows=[{"epoch": 1, "step": 20, "train/loss": 0.1 + 0.2, "val/miou": None}],
        best_miou=1 / 3,
        best_epoch=2,
        waited=1,
        thawed={"encoder.0": -1, "encoder.1": 20},
        seconds=1.5,
    )
    assert Position.from_state_dict(through_a_file(position.state_dict())) == position
    assert Position.from_state_dict(through_a_file(Position().state_dict())) == Position()


def test_means_are_over_samples_and_not_over_batches() -> None:
    found = sums((1.0, 10.0, 4), (4.0, 20.0, 2)).means(process(0, 1))
    assert found == {"": pytest.approx(2.0), "/ce": pytest.approx(80 / 6)}


def test_no_sample_has_no_mean() -> None:
    fabric = process(0, 1)
    losses = sums((1.0, 1.0, 1))
    losses.reset()
    assert losses.means(fabric) == LossSums(CPU).means(fabric) == {}
    losses.add({"/other": torch.tensor(3.0)}, 2)  # the next epoch may have other terms
    assert losses.means(fabric) == {"/other": 3.0}


def test_a_sum_that_goes_on_is_the_sum_bit_for_bit() -> None:
    fabric = process(0, 1)
    batches = [(1 / (n + 3), n / 7, n % 3 + 1) for n in range(9)]
    states = through_a_file(process_states(fabric, sums(*batches[:4])))
    gone_on = LossSums(CPU)
    restore_process_state(states, fabric, gone_on)
    for loss, ce, samples in batches[4:]:
        gone_on.add({"": torch.tensor(loss), "/ce": torch.tensor(ce)}, samples)
    assert gone_on.means(fabric) == sums(*batches).means(fabric)


def states_of(*losses: LossSums) -> list[dict[str, Any]]:
    fabric = process(0, 1)
    return [through_a_file(process_states(fabric, each))[0] for each in losses]


def test_each_of_as_many_processes_takes_its_own_state() -> None:
    seed(0)
    first = states_of(sums((1.0, 2.0, 3)))
    seed(1)
    second = states_of(sums((5.0, 6.0, 7)))
    expected = draws()
    found = LossSums(CPU)
    restore_process_state([*first, *second], process(1, 2), found)
    assert draws() == expected
    assert found.sums.tolist() == [35, 42, 7]


@pytest.mark.parametrize("world_size", [1, 3])
def test_another_number_of_processes_shares_the_sums_and_draws_on(world_size: int) -> None:
    states = states_of(sums((1.0, 2.0, 3)), sums((5.0, 6.0, 7)))
    seed(5)
    ranks = [LossSums(CPU) for _ in range(world_size)]
    for rank, losses in enumerate(ranks):
        restore_process_state(states, process(rank, world_size), losses)
    found = draws()
    seed(5)
    assert found == draws()
    # all together they know what the two knew, and each can add to it
    assert sum(losses.sums for losses in ranks).tolist() == [38, 48, 10]  # type: ignore[union-attr]
    for losses in ranks:
        losses.add({"": torch.tensor(1.0), "/ce": torch.tensor(1.0)}, 2)
    assert sum(losses.sums for losses in ranks).tolist() == [  # type: ignore[union-attr]
        38 + 2 * world_size,
        48 + 2 * world_size,
        10 + 2 * world_size,
    ]


def test_between_two_epochs_there_are_no_sums_to_share() -> None:
    losses = LossSums(CPU)
    restore_process_state(states_of(LossSums(CPU), LossSums(CPU)), process(0, 1), losses)
    assert losses.means(process(0, 1)) == {}
