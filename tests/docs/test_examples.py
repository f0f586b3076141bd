"""The scripts in examples/: three ways through segrun, each from an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

EXAMPLES = Path(__file__).parents[2] / "examples"


def walk(script: str, *arguments: Path, folder: Path, **variables: str) -> str:
    """Run a script as a user would, with this environment's segrun; returns what it printed."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    hidden = ("SEGRUN_DATA", "SEGRUN_RUN_DIR", "SEGRUN_TRACEBACKS", "HYDRA_FULL_ERROR")
    own = {name: value for name, value in os.environ.items() if name not in hidden}
    own |= {"PATH": path, "WANDB_MODE": "offline", "XDG_CACHE_HOME": str(folder / ".cache"), **variables}
    command = ["bash", str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3000
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_every_script_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.sh")} == {"learn.sh", "own_images.sh", "paper.sh"}


def test_learning_with_a_laptop(tmp_path: Path) -> None:
    said = walk("learn.sh", folder=tmp_path)
    assert "its exit status is 130" in said
    for made in ("report.html", "unet/figures/predictions.png", "threshold/figures/histogram.png", "fpn/results.json"):
        assert (tmp_path / "outputs" / "learn" / made).is_file()


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "membranes"])
def test_choosing_a_model_for_own_images(tmp_path: Path, drawn: bool, request: pytest.FixtureRequest) -> None:
    given: list[Path] = []
    before: dict[Path, bytes] = {}
    if not drawn:
        given.append(tmp_path / "isbi")
        given[0].mkdir()
        for name, there in (("images", "image"), ("masks", "label")):
            shutil.copytree(request.getfixturevalue("shared") / "data" / "isbi" / "train" / there, tmp_path / there)
            (given[0] / name).symlink_to(tmp_path / there)
            before |= {path: path.read_bytes() for path in (tmp_path / there).iterdir()}
    walk("own_images.sh", *given, folder=tmp_path, EPOCHS="2")
    assert all(path.read_bytes() == content for path, content in before.items()), "what a user had is as it was"
    for made in ("check/sheet.png", "check_spoiled/check.json", "outputs/cells/report.html", "predictions/legend.png"):
        assert (tmp_path / made).is_file()
    assert len(list((tmp_path / "predictions" / "masks").glob("*.png"))) == 3, "the broken file has none"


def test_a_table_for_a_paper(tmp_path: Path, shared: Path) -> None:
    check_paper(tmp_path, walk("paper.sh", shared / "data" / "camvid", folder=tmp_path))


def check_paper(folder: Path, said: str) -> None:
    """What paper.sh leaves behind, wherever the jobs ran."""
    assert len(list((folder / "outputs" / "paper").glob("*/results.json"))) == 24 + 1, "and one that was made again"
    assert "bit for bit" in said
    assert "\\begin{tabular}" in (folder / "paper.tex").read_text()
    assert (folder / "outputs" / "search" / "best.yaml").is_file()
