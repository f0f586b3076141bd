"""All errors of users have one form: where, a colon, what is wrong, what is allowed, what to type. Read as one list."""

import ast
from pathlib import Path

import seg_cli

PACKAGE = Path(seg_cli.__file__).parent
WITH_A_PLACE_BEFORE = (
    "{}",  # a variable that begins with the place
    "the image is",  # of a batch: the file's name is put before it
    "memory does not do",
    "none of the",  # of a matrix, whose jobs have said it all
    "srun started",  # where the place is who started the process
)


def text(node: ast.AST) -> str:
    """What a message says, with {} for what is only known when it is raised."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    if isinstance(node, ast.BinOp):
        return text(node.left) + text(node.right)
    return "{}"


def messages() -> dict[str, str]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError" and node.args:
                found[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = text(node.args[0])
    return found


def test_there_is_a_list_of_them() -> None:
    assert len(messages()) > 300


def test_every_error_says_where_it_is() -> None:
    odd = {
        place: said
        for place, said in messages().items()
        if (": " not in said or len(said.partition(": ")[0]) > 90) and not said.startswith(WITH_A_PLACE_BEFORE)
    }
    assert odd == {}


def test_no_error_ends_in_the_middle() -> None:
    """With a full stop, or with what to type, which a full stop would become a part of."""
    typed = ("{}", "'", '"', ")", "?")
    odd = {
        place: said
        for place, said in messages().items()
        if not said.endswith((".", *typed))
        and not any(word in said.rpartition(". ")[2] for word in ("Type", "See", "=", "segrun", "mogrify"))
    }
    assert odd == {}
