"""No setting without effect: whatever conf/ has as a key, some code reads."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

REPOSITORY = Path(__file__).parents[2]
VERBS = ("train", "plan", "tune", "eval", "predict", "export", "check")


def targets() -> dict[str, set[str]]:
    """Every class and function of ours that a file of conf/ names, however deep -> what is set there."""
    found: dict[str, set[str]] = {}

    def look(node: Any) -> None:
        if isinstance(node, dict):
            if str(node.get("_target_")).startswith("seg_cli."):
                found.setdefault(node["_target_"], set()).update(map(str, node))
            node = list(node.values())
        for value in node if isinstance(node, list) else ():
            look(value)

    for file in sorted((REPOSITORY / "conf").rglob("*.yaml")):
        look(yaml.safe_load(file.read_text()))
    return found


@cache
def code() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted((REPOSITORY / "seg_cli").rglob("*.py"))}


@cache
def attributes_read() -> frozenset[str]:
    nodes = (node for module in code().values() for node in ast.walk(module))
    return frozenset(n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))


@cache
def strings() -> frozenset[str]:
    """Of all code but that which says which values a setting may have, and without docstrings' sentences."""
    others = (module for path, module in code().items() if path.name != "schema.py")
    nodes = (node for module in others for node in ast.walk(module))
    return frozenset(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


def unread(target: str) -> list[str]:
    """Parameters of a constructor or function that nothing is made of, and fields that nobody looks at."""
    module, _, name = target.rpartition(".")
    made = getattr(import_module(module), name)
    names = list(inspect.signature(made).parameters)
    if not names:
        return []
    function = made.__init__ if inspect.isclass(made) else made
    if hasattr(made, "__dataclass_fields__"):
        return [name for name in names if name not in attributes_read()]
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    loaded: set[str] = set()
    for node in (node for statement in definition.body for node in ast.walk(statement)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loaded.add(node.id)
    kept = {
        value.id: target.attr
        for statement in ast.walk(definition)
        if isinstance(statement, ast.Assign)
        for target, value in pairs(statement)
    }
    return [name for name in names if name not in loaded or (name in kept and kept[name] not in attributes_read())]


def pairs(statement: ast.Assign) -> Iterator[tuple[ast.Attribute, ast.Name]]:
    """``self.a, self.b = a, b``: what is kept under which name as it is."""
    (target,) = statement.targets
    both = isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple)
    found = zip(target.elts, statement.value.elts, strict=True) if both else [(target, statement.value)]  # type: ignore[attr-defined]
    for left, right in found:
        if isinstance(left, ast.Attribute) and isinstance(right, ast.Name):
            yield left, right


@pytest.mark.parametrize(("target", "settings"), targets().items())
def test_a_component_makes_something_of_every_setting(target: str, settings: set[str]) -> None:
    assert settings.intersection(unread(target)) == set()


@pytest.mark.parametrize("verb", VERBS)
def test_every_setting_of_a_verb_is_read(verb: str, compose_config: Callable[..., DictConfig]) -> None:
    def plain(node: Any, path: str = "") -> Iterator[str]:
        if not isinstance(node, dict):
            yield path
        elif "_target_" not in node:
            for key, value in node.items():
                yield from plain(value, f"{path}.{key}" if path else str(key))

    config = OmegaConf.to_container(compose_config(verb=verb), resolve=False)
    keys = [key for key in plain(config) if key]
    assert len(keys) > 5
    assert [key for key in keys if not {key, key.rpartition(".")[2]} & strings()] == []


class Deaf:
    """What the tests above are there to find."""

    def __init__(self, used: int, ignored: int, forgotten: int) -> None:
        self.samples, self.never_looked_at_again = used, forgotten


def test_a_setting_without_effect_is_found() -> None:
    assert unread(f"{__name__}.Deaf") == ["ignored", "forgotten"]
