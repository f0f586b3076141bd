"""Search spaces: what they read, what they draw, and what they refuse by name."""

import random
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from seg_cli.config.space import Choices, Parameter, Range, Space, override
from seg_cli.errors import UserError

SPACE = {
    "optimizer": {
        "lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "weight_decay": {"low": 0, "high": 0.25, "step": 0.1, "type": "float"},
    },
    "loader.batch_size": {"low": 4, "high": 13, "step": 4},
    "loss": ["ce", "dice+focal", "ce+2*dice"],
    "loss.weights.dice": {"low": 1, "high": 3, "when": {"loss": ["dice+focal", "ce+2*dice"]}},
    "sharp": {"choices": [[16, 8], None], "key": "model.decoder_channels", "when": {"loss": "ce"}},
    "soft": {"choices": [[8, 4]], "key": "model.decoder_channels", "when": {"loss": ["dice+focal", "ce+2*dice"]}},
}


def draw(space: Space, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)

    def suggest(parameter: Parameter) -> Any:
        source = parameter.source
        if isinstance(source, Choices):
            return rng.choice(source.values)
        return rng.choice(source.values) if source.values else rng.uniform(source.low, source.high)

    return space.draw(suggest)


def test_kinds_of_parameters() -> None:
    found = {parameter.name: parameter for parameter in Space.parse(SPACE).parameters}
    assert list(found) == [
        *("optimizer.lr", "optimizer.weight_decay", "loader.batch_size", "loss", "loss.weights.dice", "sharp", "soft")
    ]
    assert found["optimizer.lr"].source == Range(1e-4, 1e-1, log=True)
    assert found["optimizer.weight_decay"].source == Range(0.0, 0.2, step=0.1)  # the last step inside
    assert found["optimizer.weight_decay"].source.values == (0.0, 0.1, 0.2)
    assert found["loader.batch_size"].source == Range(4, 12, whole=True, step=4)
    assert found["loader.batch_size"].source.values == (4, 8, 12)
    assert found["loss.weights.dice"].source.values == (1, 2, 3)
    assert found["sharp"].key == "model.decoder_channels"
    assert Range(0, 2**32, whole=True).values is None  # too many to count


def test_conditions_decide_what_is_drawn() -> None:
    space = Space.parse(SPACE)
    seen = set()
    for seed in range(40):
        drawn = draw(space, seed)
        seen.add(drawn["loss"])
        assert ("loss.weights.dice" in drawn) == (drawn["loss"] != "ce") == ("soft" in drawn)
        assert ("sharp" in drawn) == (drawn["loss"] == "ce")
    assert len(seen) == 3


def test_a_condition_on_what_is_not_drawn_does_not_hold() -> None:
    space = Space.parse(
        {"a": [1, 2], "b": {"choices": [1, 2], "when": {"a": 1}}, "c": {"choices": [5], "when": {"b": [1, 2]}}}
    )
    assert space.draw(lambda parameter: 2 if parameter.name == "a" else 1) == {"a": 2}
    assert space.combinations() == [{"a": 1, "b": 1, "c": 5}, {"a": 1, "b": 2, "c": 5}, {"a": 2}]
    assert space.count() == 4


def test_examples_show_every_choice_and_both_ends() -> None:
    seen: dict[str, list[Any]] = {}
    for point in Space.parse(SPACE).examples():
        for name, value in point.items():
            seen.setdefault(name, []).append(value)
    assert {1e-4, 1e-1} <= set(seen["optimizer.lr"])
    assert {4, 12} <= set(seen["loader.batch_size"])
    assert {"ce", "dice+focal", "ce+2*dice"} == set(seen["loss"])
    assert {1, 3} <= set(seen["loss.weights.dice"])
    assert [16, 8] in seen["sharp"]
    assert None in seen["sharp"]
    assert [8, 4] in seen["soft"]


@pytest.mark.parametrize(
    "value",
    [
        *(
            1e-05,
            0.1 + 0.2,
            3,
            True,
            None,
            "ce+2*dice",
            "none",
            "null",
            "1",
            "it's",
            "a b",
            "a,b",
            "x\\",
            "",
            "${seed}",
        ),
        *([1, [2.5, "a b"]], {"a": 1, "b": ["c"]}),
    ],
)
def test_hydra_reads_what_is_written(value: Any) -> None:
    text = override("loss", value)
    assert OverridesParser.create().parse_override(text).value() == value, text


def test_overrides_are_plain_where_they_can_be() -> None:
    space = Space.parse(SPACE)
    drawn = {"optimizer.lr": 1e-05, "loader.batch_size": 8, "loss": "ce+2*dice", "soft": [8, 4]}
    assert space.overrides(drawn) == [
        *("optimizer.lr=1e-05", "loader.batch_size=8", "loss=ce+2*dice", "model.decoder_channels=[8,4]")
    ]


def test_two_ways_of_writing_are_one_space() -> None:
    nested = Space.parse({"optimizer": {"lr": {"low": 1, "high": 2.5}}, "loss": {"choices": ["ce"]}})
    dotted = Space.parse({"optimizer.lr": {"high": 2.5, "low": 1.0, "log": False, "type": "float"}, "loss": ["ce"]})
    assert nested.describe() == dotted.describe()
    other = Space.parse({"optimizer.lr": {"low": 1, "high": 3}, "loss": ["ce"]})
    assert other.describe() != dotted.describe()


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({}, "sweep.space: it is empty"),
        ([1], "sweep.space=[1]: it must name parameters"),
        ({"loss": []}, "sweep.space.loss: there are no choices"),
        ({"loss": ["ce", "ce"]}, "sweep.space.loss: ce stands there twice"),
        ({"loss": "ce"}, "sweep.space.loss=ce: a parameter is a list of choices"),
        ({"optimizer": {"lr": 0.1}}, "sweep.space.optimizer.lr=0.1: a parameter is a list"),
        ({"lr": {"low": 1, "high": 1}}, "sweep.space.lr: the interval from 1 to 1 is empty"),
        ({"optimizer": {"lr": {"low": 0.1, "high": 0.01}}}, "optimizer.lr: the interval from 0.1 to 0.01 is empty"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "sweep.space.lr.low=0: on a logarithmic scale"),
        ({"lr": {"low": 1, "high": 2, "log": True, "step": 1}}, "log and step do not go together"),
        ({"lr": {"low": 1, "high": 2, "step": 3}}, "sweep.space.lr.step=3: it must be above 0 and at most 1"),
        ({"lr": {"low": 1, "high": 2, "step": 0}}, "sweep.space.lr.step=0"),
        ({"lr": {"low": 1, "hgih": 2}}, "sweep.space.lr.hgih: there is no such key. Did you mean 'high'?"),
        ({"lr": {"lwo": 1, "hgih": 2}}, "Did you mean 'low'?"),
        ({"lr": {"low": 1}}, "sweep.space.lr.high: a range needs it"),
        ({"lr": {"low": "a", "high": 2}}, "sweep.space.lr.low=a: it must be a number"),
        ({"lr": {"low": float("nan"), "high": 2}}, "sweep.space.lr.low=NaN: it must be a number"),
        ({"lr": {"low": 1, "high": float("inf")}}, "sweep.space.lr.high=Infinity: it must be a number"),
        ({"lr": {"low": 1, "high": 2.5, "type": "int"}}, "must be whole numbers"),
        ({"lr": {"low": 1, "high": 2, "type": "flaot"}}, "Did you mean 'float'?"),
        ({"lr": {"low": 1, "high": 2, "log": "yes"}}, "sweep.space.lr.log=yes: it must be true or false"),
        ({"lr": {"choices": [1], "low": 2}}, "it has choices, so that low say nothing"),
        ({"m": ["a"], "lr": {"choices": [1], "when": {"n": "a"}}}, "lr.when.n: no parameter above has this name"),
        ({"model": ["a"], "lr": {"choices": [1], "when": {"modle": "a"}}}, "Did you mean 'model'?"),
        ({"m": ["unet"], "lr": {"choices": [1], "when": {"m": "unt"}}}, "never has this value. Did you mean 'unet'?"),
        ({"a": {"choices": [1], "key": "lr"}, "b": {"choices": [2], "key": "lr"}}, "a and b set the same, lr"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(space: Any, says: str) -> None:
    with pytest.raises(UserError) as refused:
        Space.parse(space)
    assert says in str(refused.value)
