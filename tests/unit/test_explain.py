"""What Hydra and OmegaConf raise, said for people."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from seg_cli.config.explain import explain
from seg_cli.errors import RunFailed, UserError


class Blur:
    """A component with a few ways to go wrong."""

    def __init__(self, radius: int, sigma: float = 1.0) -> None:
        if radius < 0:
            raise ValueError(f"radius must be 0 or more, not {radius}")
        if radius > 100:
            raise UserError("blur.radius=101: at most 100.")
        if radius == 42:
            raise RuntimeError("a bug")
        if radius == 43:
            dict(**{"a": 1}, **{"a": 2})  # a TypeError of its own, which has nothing to do with the settings


class Plain(nn.Module):
    """A module without settings."""


def error_of(**settings: object) -> Exception:
    cfg = OmegaConf.create({"augment": {"blur": {"_target_": f"{__name__}.Blur", **settings}}})
    with pytest.raises(Exception) as raised:  # noqa: PT011
        instantiate(cfg.augment)
    return raised.value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"radius": 1, "sigmma": 2},
            "augment.blur.sigmma: Blur has no such setting. Did you mean 'sigma'? Settings: radius, sigma.",
        ),
        (
            {"sigma": 2},
            "augment.blur: Blur also needs 'radius'. Type augment.blur.SETTING=VALUE. Settings: radius, sigma.",
        ),
        ({"radius": -1}, "augment.blur: radius must be 0 or more, not -1"),
        ({"radius": 101}, "blur.radius=101: at most 100."),
        ({"radius": "???"}, "augment.blur.radius: it has no value yet. Type augment.blur.radius=VALUE."),
        (
            {"radius": "${nope}"},
            "The config: it refers to something that is not there (Interpolation key 'nope' not found).",
        ),
        (
            {"radius": "${oc.env:SEGRUN_NOT_SET}"},
            "The config: it refers to the environment variable SEGRUN_NOT_SET, which is not set. "
            "Type export SEGRUN_NOT_SET=VALUE first.",
        ),
    ],
)
def test_components_that_cannot_be_made(settings: dict, message: str) -> None:
    told = explain(error_of(**settings))
    assert isinstance(told, UserError)
    assert str(told) == message


def test_a_component_without_a_constructor_of_its_own() -> None:
    cfg = OmegaConf.create({"loss": {"_target_": f"{__name__}.Plain", "smoth": 1}})
    with pytest.raises(Exception) as raised:  # noqa: PT011
        instantiate(cfg.loss)
    assert str(explain(raised.value)) == "loss.smoth: Plain has no such setting. Settings: none."


def test_a_target_that_is_not_there() -> None:
    told = explain(error_of(_target_="seg_cli.nowhere.Blur"))
    assert str(told).startswith("augment.blur._target_=seg_cli.nowhere.Blur: there is no such class or function (")
    assert "PYTHONPATH" not in str(told), "the package is there"


def test_a_package_that_python_does_not_find() -> None:
    told = str(explain(error_of(_target_="my_lab.losses.Blur")))
    assert "No module named 'my_lab'" in told
    assert told.endswith("Type export PYTHONPATH=DIR with the folder it lies in, or pip install -e DIR.")


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.run"])
def test_a_configuration_of_somebody_elses_calls_no_part_of_python(target: str, tmp_path: Path) -> None:
    mark = tmp_path / "made"
    cfg = OmegaConf.create({"model": {"_target_": target, "_args_": [f"touch {mark}"]}})
    with pytest.raises(Exception) as raised:  # noqa: PT011
        instantiate(cfg.model)
    told = explain(raised.value)
    assert isinstance(told, UserError)
    assert str(told).startswith(f"model._target_={target}: it is not called")
    assert not mark.exists()


@pytest.mark.parametrize("radius", [42, 43])
def test_bugs_stay_bugs(radius: int) -> None:
    assert explain(error_of(radius=radius)) is None


def test_keys_that_our_code_asks_for_are_bugs() -> None:
    cfg = OmegaConf.create({"a": 1})
    OmegaConf.set_struct(cfg, True)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        _ = cfg.b
    assert explain(raised.value) is None
    assert explain(ValueError("ours")) is None


def test_our_own_errors_stay_as_they_are() -> None:
    error = RunFailed("the loss is not finite")
    assert explain(error) is error
