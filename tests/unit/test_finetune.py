"""Which parts of a model learn when: what the parts are, how they freeze and thaw, and how fast they learn."""

from collections.abc import Callable
from typing import Any

import hydra
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from seg_cli.commands.build import build
from seg_cli.config.paths import conf_dir
from seg_cli.errors import UserError
from seg_cli.models.encoder import Encoder
from seg_cli.training.finetune import Gradual, Phases, encoder_levels, freeze, parts_of
from seg_cli.training.task import parameter_groups

PARTS = ["encoder.0", "encoder.1", "encoder.2", "encoder.3", "decoder", "head"]
LEVELS = PARTS[:4]


class Net(nn.Module):
    """A timm encoder under a head."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.encoder = Encoder(name)
        self.head = nn.Conv2d(self.encoder.channels[-1], 2, 1)


def small() -> nn.Module:
    """Two levels with batch norms, a decoder with one, and a head."""
    torch.manual_seed(0)
    model = nn.Module()
    model.encoder = nn.ModuleList(
        nn.Sequential(nn.Conv2d(i, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for i in (3, 4)
    )
    model.decoder = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model.head = nn.Conv2d(4, 2, 1)
    return model


def run(model: Any, images: Tensor) -> Tensor:
    return model.head(model.decoder(model.encoder[1](model.encoder[0](images))))


def depends_on(output: Tensor, parameters: dict[str, nn.Parameter]) -> set[str]:
    grads = torch.autograd.grad(output.sum(), [*parameters.values()], allow_unused=True, retain_graph=True)
    return {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}


def assert_each_in_one_part(model: nn.Module) -> None:
    named = [name for named in parts_of(model).values() for name, _ in named]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())


# ---- what the parts are


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("resnet18", 5),
        ("test_resnet", 5),
        ("vgg16_bn", 5),  # of its six feature maps the last is pooled from the one before it
        ("tf_efficientnet_lite0", 5),
        ("mobilenetv3_large_100", 5),
        ("convnext_tiny", 4),
        ("swin_tiny_patch4_window7_224", 4),
        ("vit_tiny_patch16_224", 3),
    ],
)
def test_a_level_is_what_its_feature_map_needs_beyond_those_before_it(name: str, levels: int) -> None:
    """The gradients tell, on the meta device, where nothing is computed."""
    with torch.device("meta"):
        model = Net(name).eval()
        maps = model.encoder(torch.empty(1, 3, 64, 64))
    parameters = dict(model.encoder.named_parameters(prefix="encoder"))
    first: dict[str, int] = {}
    for level, feature_map in enumerate(maps):
        for parameter in depends_on(feature_map, parameters):
            first.setdefault(parameter, level)
    assert encoder_levels(model) == first
    assert list(parts_of(model)) == [*(f"encoder.{level}" for level in range(levels)), "head"]
    assert_each_in_one_part(model)


@pytest.mark.parametrize(("name", "levels"), [("segnet_basic", 4), ("unet_paper", 5)])
def test_the_levels_of_an_encoder_of_ones_own_follow_on_each_other(name: str, levels: int) -> None:
    config = OmegaConf.create({"model": OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")})
    with torch.device("meta"):
        model = hydra.utils.instantiate(config.model, num_classes=3)
    parts = parts_of(model)
    assert list(parts) == [*(f"encoder.{level}" for level in range(levels)), "decoder", "head"]
    assert_each_in_one_part(model)

    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())
    seen: dict[int, set[str]] = {}  # level -> what its latest output depended on

    def note(level: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, output: seen.update({level: depends_on(output, parameters)})

    for level in range(levels):
        for owner in {name.rpartition(".")[0] for name, _ in parts[f"encoder.{level}"]}:
            modules[owner].register_forward_hook(note(level))
    model.eval()(torch.empty(1, 3, 64, 64, device="meta"))
    until: set[str] = set()
    for level in range(levels):
        until |= {name for name, _ in parts[f"encoder.{level}"]}
        assert seen[level] <= until
        assert seen[level] & {name for name, _ in parts[f"encoder.{level}"]}
        assert level == 0 or seen[level] & {name for name, _ in parts[f"encoder.{level - 1}"]}


def test_a_model_without_an_encoder_has_its_children_for_parts() -> None:
    model = nn.ModuleDict({"stem": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    assert list(parts_of(model)) == ["stem", "head"]
    assert encoder_levels(model) == {}


# ---- freezing


@pytest.mark.parametrize(
    "frozen", [set(), {"encoder.0"}, {"encoder.0", "encoder.1"}, {"decoder"}, {"encoder.1", "head"}, {"head"}]
)
def test_freeze_leaves_exactly_these_parts_as_they_are(frozen: set[str]) -> None:
    model = small()
    freeze(model, {"decoder", "encoder.1"})  # what was frozen before does not count
    freeze(model, frozen)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = {name for part in frozen for name, _ in parts_of(model)[part]}
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == kept
    images = torch.randn(4, 3, 8, 8)
    run(model, images).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1).step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if not key.startswith(tuple(f"{part}." for part in frozen))}


def test_a_part_that_is_not_there_cannot_be_frozen() -> None:
    with pytest.raises(KeyError):
        freeze(small(), {"neck"})


# ---- phases


def test_phases_follow_on_each_other_and_then_everything_learns() -> None:
    finetune = Phases(
        phases=[
            {"epochs": 0.3, "frozen": ["encoder"]},
            {"epochs": 1, "frozen": ["encoder.0", "head"]},
            {"epochs": 2, "frozen": []},
            {"epochs": 0.01, "frozen": ["decoder"]},  # one epoch at least
        ]
    )
    frozen = [finetune.frozen(epoch, epochs=10, parts=PARTS) for epoch in range(10)]
    assert frozen == [set(LEVELS)] * 3 + [{"encoder.0", "head"}] + [set()] * 2 + [{"decoder"}] + [set()] * 3


def test_one_epoch_is_1_and_the_whole_run_is_a_share_of_1() -> None:
    for epochs, count in ((1, 1), (1.0, 6), (6, 6), (0.5, 3)):
        finetune = Phases(phases=[{"epochs": epochs, "frozen": ["encoder"]}])
        assert [bool(finetune.frozen(epoch, epochs=6, parts=PARTS)) for epoch in range(6)].count(True) == count


@pytest.mark.parametrize(("name", "meant"), [("encodre", "encoder"), ("haed", "head"), ("neck", None), ("", None)])
def test_a_part_that_the_model_does_not_have_is_named(name: str, meant: str | None) -> None:
    finetune = Phases(phases=[{"epochs": 2, "frozen": []}, {"epochs": 2, "frozen": ["head", name]}])
    assert finetune.frozen(1, epochs=4, parts=PARTS) == set()
    with pytest.raises(UserError) as raised:
        finetune.frozen(2, epochs=4, parts=PARTS)
    message = str(raised.value)
    assert message.startswith(f"finetune.phases[1].frozen: the model has no part '{name}'.")
    assert message.endswith("Parts: encoder, decoder, head, encoder.0, encoder.1, encoder.2, encoder.3.")
    assert (f"Did you mean '{meant}'?" in message) if meant else ("Did you mean" not in message)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("encoder", r"finetune\.phases\[0\]=encoder: it must be a phase, as in \{epochs: 0\.3, frozen: \[encoder\]\}"),
        ({"epochs": 1, "freeze": []}, r"finetune\.phases\[0\]\.freeze: .* no such setting\. Did you mean 'frozen'\?"),
        ({"epoch": 1, "frozen": []}, r"finetune\.phases\[0\]\.epoch: .* Did you mean 'epochs'\? Settings: epochs, fr"),
        *(
            ({"epochs": epochs, "frozen": []}, r"finetune\.phases\[0\]\.epochs=.*: it must be a number of epochs, or a")
            for epochs in (0, -1, 1.5, True, None, "all", float("nan"))
        ),
        ({"frozen": []}, r"finetune\.phases\[0\]\.epochs=None"),
        *(
            ({"epochs": 1, "frozen": frozen}, r"finetune\.phases\[0\]\.frozen=.*: it must be a list of parts, as in ")
            for frozen in ("encoder", None, 3, [3], [["encoder"]])
        ),
    ],
)
def test_a_phase_that_makes_no_sense_is_named(phase: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Phases(phases=[phase])


@pytest.mark.parametrize("make", [Phases, Gradual])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("layer_decay", 0), ("layer_decay", 1.1), ("layer_decay", float("nan")), ("warmup", -0.1), ("warmup", 1.5)],
)
def test_factors_that_make_no_sense_are_named(make: type, setting: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"finetune\.{setting}={value}: it"):
        make(**{setting: value})


# ---- gradual


def test_gradual_by_hand() -> None:
    finetune = Gradual(start=0.2, end=0.8)
    frozen = [len(finetune.frozen(epoch, epochs=10, parts=PARTS)) for epoch in range(10)]
    # 4 levels thaw at 0.2, 0.4, 0.6 and 0.8 of the run
    assert frozen == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 50), st.integers(1, 7))
def test_gradual_thaws_the_deepest_level_first_and_never_freezes_again(
    a: float, b: float, epochs: int, count: int
) -> None:
    start, end = sorted((a, b))
    levels = [f"encoder.{level}" for level in range(count)]
    finetune = Gradual(start=start, end=end)
    numbers = []
    for epoch in range(epochs):
        frozen = finetune.frozen(epoch, epochs=epochs, parts=[*levels, "decoder", "head"])
        assert frozen == set(levels[: len(frozen)])
        numbers.append(len(frozen))
        if epoch / epochs < start:
            assert len(frozen) == count
        elif epoch / epochs >= end:
            assert not frozen
        else:
            assert len(frozen) < count
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_shares_in_the_wrong_order_are_refused(start: float, end: float) -> None:
    with pytest.raises(UserError, match=rf"finetune: start={start} and end={end} are shares of the run, 0 <= start <="):
        Gradual(start=start, end=end)


# ---- learning rates


@pytest.mark.parametrize("make", [Phases, Gradual])
def test_levels_learn_slower_the_closer_they_are_to_the_image(make: Callable[..., Any]) -> None:
    finetune = make(layer_decay=0.5)
    assert [finetune.lr_factor(part, PARTS) for part in PARTS] == [0.125, 0.25, 0.5, 1, 1, 1]
    assert {make().lr_factor(part, PARTS) for part in PARTS} == {1.0}


def test_the_groups_of_the_optimiser_have_every_parameter_once_at_its_parts_rate() -> None:
    model = small()
    groups = parameter_groups(model, 0.1, Phases(layer_decay=0.5))
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(map(id, model.parameters()))
    factors = {group["part"]: group["lr_factor"] for group in groups}
    assert factors == {"encoder.0": 0.05, "encoder.1": 0.1, "decoder": 1.0, "head": 1.0}
    for group in groups:
        matrices = {parameter.ndim > 1 for parameter in group["params"]}
        assert matrices == {"weight_decay" not in group}  # norms and biases do not decay


@pytest.mark.parametrize("name", ["none", "freeze", "gradual", "discriminative"])
def test_the_shipped_choices_do_what_they_say(name: str, compose_config: Callable[..., DictConfig]) -> None:
    config: Any = OmegaConf.to_container(compose_config(f"finetune={name}"), resolve=True)
    finetune = build(config, "finetune")
    frozen = [len(finetune.frozen(epoch, epochs=10, parts=PARTS)) for epoch in range(10)]
    assert (
        frozen
        == {
            "none": [0] * 10,
            "freeze": [4] * 3 + [0] * 7,
            "gradual": [4, 3, 3, 2, 1] + [0] * 5,
            "discriminative": [0] * 10,
        }[name]
    )
    assert (finetune.lr_factor("encoder.0", PARTS) < 1) == (name == "discriminative")
