"""docs/licences.md lists every package of constraints.txt, and none of them forbids what people do with segrun.

``python tests/unit/test_licences.py`` writes the table again, from what is installed.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "licences.md"
CONSTRAINTS = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line]
NAMES = [line.partition("==")[0] for line in CONSTRAINTS]
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)

KNOWN = {  # a piece of what packages say -> its name
    "apache": "Apache-2.0",
    "3-clause bsd": "BSD-3-Clause",
    "freebsd": "BSD-2-Clause",
    "mozilla": "MPL-2.0",
    "isc license": "ISC",
    "python software foundation": "PSF-2.0",
    "proprietary": "NVIDIA's, free to use and to hand on with programs",
    "bsd license": "BSD",
    "mit license": "MIT",
}
SILENT = {"cuda-toolkit": "proprietary", "monai": "apache", "ray": "apache", "transformers": "apache"}


def licence(name: str) -> str | None:
    """What a package says of itself, in one form; None where it is not installed."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    classes = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    classes = [one for one in classes if one != "OSI Approved"]
    text = (about.get("License") or "").strip()
    short = text if "\n" not in text and len(text) < 60 and "//" not in text else ""
    said = about.get("License-Expression") or " OR ".join(classes) or short or SILENT.get(name, "")
    if not said and "mit license" in _file(name).lower():
        said = "MIT"
    if re.fullmatch(r"LicenseRef-\S+|.*[Pp]roprietary.*", said):
        return KNOWN["proprietary"]
    return " OR ".join(
        dict.fromkeys(
            next((to for piece, to in KNOWN.items() if piece in part.lower()), part) for part in said.split(" OR ")
        )
    )


def _file(name: str) -> str:
    files = metadata.distribution(name).files or []
    return next((Path(str(path.locate())).read_text() for path in files if path.name.startswith("LICENSE")), "")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def comes_with(name: str) -> str:
    """``segrun`` where it is needed always, an extra, or what brings it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {"segrun": project["dependencies"], **project["optional-dependencies"]}
    direct = [
        where
        for where, needed in wanted.items()
        if normal(name) in {normal(re.split(r"[\[<>=!~ ;]", one)[0]) for one in needed}
    ]
    return ", ".join(f"`{where}`" if where != "segrun" else "segrun" for where in direct) or "others"


def table() -> str:
    lines = ["| package | licence | comes with |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {licence(name) or '?'} | {comes_with(name)} |" for name in NAMES)])


LISTED = (
    {name: (said.strip(), where.strip()) for name, said, where in ROW.findall(PAGE.read_text())}
    if PAGE.is_file()
    else {}
)


def test_every_package_is_listed_and_no_other() -> None:
    assert list(LISTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_package_is_what_the_page_says(name: str) -> None:
    said, where = LISTED[name]
    assert where == comes_with(name)
    assert licence(name) in (said, None)


@pytest.mark.parametrize("name", NAMES)
def test_no_licence_reaches_into_the_code_of_users(name: str) -> None:
    said = LISTED[name][0]
    assert said not in ("", "?")
    assert not re.search(r"GPL|AGPL|[Nn]on-?[Cc]ommercial|CC-BY-NC|SSPL|BUSL", said)


if __name__ == "__main__":
    page = PAGE.read_text()
    start = page.index("| package |")
    PAGE.write_text(page[:start] + table() + "\n")
