"""Help texts are written by hand: that they say what the code takes is tested here."""

import ast
import re
from pathlib import Path

import pytest

from seg_cli import commands
from seg_cli.commands.completion import _FLAGS
from seg_cli.commands.help import VERBS, help_text

FOLDER = Path(commands.__file__).parent
REPOSITORY = Path(__file__).parents[2]


def taken(verb: str) -> set[str]:
    """The flags that a verb's parser knows, read from its source."""
    calls = (node for node in ast.walk(ast.parse((FOLDER / f"{verb}.py").read_text())) if isinstance(node, ast.Call))
    added = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument")
    names = [argument.value for call in added for argument in call.args if isinstance(argument, ast.Constant)]
    return {name for name in names if name.startswith("--")}


PLAIN = [verb for verb in VERBS if taken(verb)]


def test_there_are_verbs_with_flags_of_their_own() -> None:
    assert {"table", "report", "resume", "rerun", "status", "cancel", "list", "doctor"} <= set(PLAIN)


@pytest.mark.parametrize("verb", PLAIN)
def test_help_and_completion_have_the_flags_that_are_taken(verb: str) -> None:
    named = set(re.findall(r"--[a-z][a-z-]*", help_text(verb)))
    assert named == taken(verb)
    assert set(_FLAGS[verb]) == taken(verb) | {"--help"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_overview_the_completion_and_the_docs(verb: str) -> None:
    assert re.search(rf"^  {verb} +\S", help_text(None), re.MULTILINE)
    assert verb in _FLAGS
    pages = "".join(page.read_text() for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
    assert f"segrun {verb}" in pages or verb == "train"
