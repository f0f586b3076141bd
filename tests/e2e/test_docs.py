"""Every segrun command that the README, the docs and the help texts show is one that segrun understands."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from seg_cli.commands.help import VERBS, help_text
from seg_cli.config.choices import choices, groups
from tests.e2e.conftest import Outcome

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES_TEXT = "\n".join(page.read_text() for page in PAGES)


def commands() -> list[str]:
    """The lines of shell blocks and help texts, and inline code, that begin with segrun and are whole commands."""
    helped = "\n".join(help_text(verb) for verb in (None, *VERBS))
    found = [line.strip().partition("  ")[0] for line in helped.splitlines() if re.match(r"  segrun [^[]*$", line)]
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            found += [line for line in block.splitlines() if line.startswith("segrun")]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found += [" ".join(code.split()) for code in re.findall(r"`(segrun [^`]+)`", prose)]
    lines = (part.partition(" #")[0].strip() for command in found for part in command.split(" && "))
    return list(dict.fromkeys(lines))


PLAIN = ("resume", "rerun", "table", "report", "status", "cancel")


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


LONG = "segrun list models --cost"
"""Builds and counts every model; minutes."""


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=pytest.mark.slow) if command.startswith(LONG) else command for command in commands()],
)
def test_command_is_understood(segrun: Callable[..., Outcome], tmp_path: Path, command: str) -> None:
    own = tmp_path / "my_conf"
    for group in ("benchmark", "experiment"):
        (own / group).mkdir(parents=True)
    (own / "benchmark" / "mine.yaml").write_text(
        "# @package _global_\n# Two seeds\nhydra: {sweeper: {params: {seed: [0, 1]}}}\n"
    )
    (own / "experiment" / "street.yaml").write_text(re.search(r"```yaml\n(# @package.*?)```", PAGES_TEXT, re.DOTALL)[1])  # type: ignore[index]
    (own / "experiment" / "best.yaml").write_text("# @package _global_\n# The best of a search\nname: best\n")
    arguments = shlex.split(re.sub(r"--config-dir (DIR|outputs/lr_wd)", "--config-dir my_conf", command))[1:]
    plain = arguments and arguments[0] in ("list", "doctor", "--help", "--version", "--completion")
    composing = [] if plain else ["--cfg", "job"]
    if "-m" in arguments:  # --cfg shows one job, here that of the first values
        arguments = [re.sub(r",.*", "", argument) for argument in arguments if argument != "-m"]
    if arguments[:1] and arguments[0] in PLAIN:  # they compose nothing; their own tests try their options
        arguments, composing = [arguments[0], "--help"], []
    done = segrun(*arguments, *composing)
    # doctor reports what this machine lacks by its exit status
    assert done.status == 0 or arguments[0] == "doctor", done.err


def test_every_choice_is_named_in_the_readme_or_the_docs() -> None:
    for group in groups():
        for choice in choices(group):
            assert choice.name in PAGES_TEXT, f"{group}={choice.name} stands nowhere"


def test_the_makefile_has_what_the_readme_names() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    blocks = "".join(re.findall(r"```sh\n.*?```", PAGES_TEXT, re.DOTALL))
    targets = {*re.findall(r"`make ([a-z-]+)", PAGES_TEXT), *re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE)}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


def test_files_that_pages_name_are_there() -> None:
    named = set(re.findall(r"[`(]((?:\.\./)?(?:[a-z_]+/)+[a-z_0-9]+\.(?:py|sh|yaml))\)?`?", PAGES_TEXT))
    own = {name.removeprefix("../") for name in named}
    rooms = {path.name for path in (REPOSITORY / "seg_cli").iterdir() if path.is_dir()}
    ours = {name for name in own if name.split("/")[0] in {"seg_cli", "conf", "tests", "bench", "examples", *rooms}}
    assert len(ours) > 30
    users = {"conf/sweep/mine.yaml", "seg_cli/models/mynet.py", "seg_cli/losses/myloss.py", "seg_cli/data/mydata.py"}
    users |= {
        "conf/data/camvid32_segnet.yaml",
        "conf/model/mynet.yaml",
        "conf/loss/myloss.yaml",
        "conf/data/mydata.yaml",
    }
    missing = [
        name
        for name in ours - users
        if not ((REPOSITORY / name).is_file() or (REPOSITORY / "seg_cli" / name).is_file())
    ]
    assert not missing


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_headings_that_links_name_are_there() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            text = (page.parent / target).read_text() if target else page.read_text()
            titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"
