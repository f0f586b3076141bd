"""The rooms of the code: which may import which, and how long a file may be. Read from the source, nothing is run."""

import ast
from functools import cache
from pathlib import Path

import pytest

import seg_cli

PACKAGE = Path(seg_cli.__file__).parent
ROOMS = ["config", "runs", "data", "models", "losses", "metrics", "inference", "training", "reports", "commands", "cli"]
FREE = {"errors", ""}  # '' is the package itself, which holds the version
FILES = {
    ".".join(("seg_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def imports(module: str, *, at_the_top: bool = False) -> frozenset[str]:
    """The modules that a module imports: anywhere, or only when it is itself imported."""
    tree = ast.parse(FILES[module].read_text())
    nodes = statements(tree.body) if at_the_top else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: relative import"
            found |= {name if (name := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
    return frozenset(found)


def statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements that run on import: not those of functions, nor those for the type checker alone."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found.append(node)
        for field in ("body", "orelse", "finalbody"):
            found += statements(getattr(node, field, []))
    return found


def reached(module: str, *, at_the_top: bool = False) -> set[str]:
    """Everything that a module imports, directly or through others of ours."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in FILES:
            waiting += imports(name, at_the_top=at_the_top)
            waiting.append(name.rpartition(".")[0] or name)  # its package is imported before it
    return seen


@pytest.mark.parametrize("module", FILES)
def test_a_room_imports_only_from_rooms_before_it(module: str) -> None:
    room = room_of(module)
    if room in FREE:
        assert not {name for name in imports(module) if name.startswith("seg_cli.")}
        return
    if room == "__main__":
        return
    allowed = FREE | set(ROOMS[: ROOMS.index(room) + 1])
    wrong = {name for name in imports(module) if name.startswith("seg_cli") and room_of(name) not in allowed}
    assert not wrong


@pytest.mark.parametrize("room", ["losses", "metrics", "models", "inference"])
def test_plain_pytorch_knows_no_framework(room: str) -> None:
    frameworks = {"pytorch_lightning", "lightning", "lightning_fabric", "hydra", "omegaconf", "wandb"}
    modules = [name for name in FILES if room_of(name) == room]
    assert modules
    for module in modules:
        assert not {name.partition(".")[0] for name in reached(module)} & frameworks, module


@pytest.mark.parametrize(
    "module",
    [
        "seg_cli.cli",
        "seg_cli.__main__",
        "seg_cli.commands.list",
        "seg_cli.commands.doctor",
        "seg_cli.commands.help",
        "seg_cli.commands.completion",
        *(name for name in FILES if room_of(name) == "config"),
    ],
)
def test_quick_answers_import_nothing_slow(module: str) -> None:
    slow = {"torch", "torchvision", "timm", "pytorch_lightning", "albumentations", "cv2", "wandb", "matplotlib"}
    assert not {name.partition(".")[0] for name in reached(module, at_the_top=True)} & slow


@pytest.mark.parametrize("module", FILES)
def test_a_file_is_short_and_says_what_it_is(module: str) -> None:
    text = FILES[module].read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)) or FILES[module].name == "__init__.py"


@pytest.mark.parametrize("module", [name for name in FILES if room_of(name) in {"models", "losses", "data", "metrics"}])
def test_no_constructor_swallows_keywords(module: str) -> None:
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert node.args.kwarg is None
            assert node.args.vararg is None
