"""The rooms that people import by themselves say what they do: every public class and function has a docstring, and
every architecture and loss names where it comes from. Read from the source, nothing is run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import seg_cli
from seg_cli.config.paths import conf_dir

PACKAGE = Path(seg_cli.__file__).parent
ROOMS = ("losses", "models", "metrics", "inference")
FILES = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py")) if path.read_text().strip()]
CONTRACTS = {
    "seg_cli/losses/evidence.py": ("Evidence", "Term"),
    "seg_cli/metrics/metric.py": ("Metric",),
    "seg_cli/models/classical/method.py": ("Method",),
    "seg_cli/models/classical/regions.py": ("FixedRegions", "LooseRegions"),
}
"""Classes whose methods say for all that have them what they take and give."""


def public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def promised() -> set[str]:
    """The methods that a contract describes."""
    found: set[str] = set()
    for file, names in CONTRACTS.items():
        for node in public(ast.parse((PACKAGE.parent / file).read_text()).body):
            if node.name in names:
                found |= {method.name for method in public(node.body) if ast.get_docstring(method)}
    return found


PROMISED = promised()


def silent(path: Path) -> list[str]:
    """What of a file is public and says nothing of itself."""
    tree = ast.parse(path.read_text())
    found = [] if ast.get_docstring(tree) else ["the file"]
    for node in public(tree.body):
        if not ast.get_docstring(node):
            found.append(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [method for method in public(node.body) if not ast.get_docstring(method)]
            found += [f"{node.name}.{method.name}" for method in methods if not _is_of_a_contract(method.name)]
    return found


def _is_of_a_contract(name: str) -> bool:
    """Overloaded from a class that describes it, or a method of a protocol; ``extra_repr`` is torch's own. What a
    ``forward`` takes and gives is of its own."""
    return name == "extra_repr" or (name in PROMISED and name != "forward")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert silent(path) == []


def sources() -> list[Path]:
    """The files of all architectures that ``conf/`` offers, and of all terms of a loss."""
    found = set()
    for file in (conf_dir() / "model").rglob("*.yaml"):
        found |= set(re.findall(r"_target_: seg_cli\.(models\.[\w.]+)\.\w+", file.read_text()))
    files = [PACKAGE / f"{name.replace('.', '/')}.py" for name in found]
    losses = (PACKAGE / "losses").glob("*.py")
    return sorted([*files, *(path for path in losses if re.search(r"^class \w+\(Term\)", path.read_text(), re.M))])


def test_there_are_architectures_and_losses_to_look_at() -> None:
    assert len(sources()) > 25


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_architectures_and_losses_name_author_and_year(path: Path) -> None:
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert re.search(r"[A-Z]\w+[^\n]*(\n[^\n]*)?\b(19|20)\d\d\b", told), f"{path}: {told.splitlines()[0]}"
