"""The source archive and the wheel made from it, as a stranger gets them: installed, and called from another folder."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation the build uses the hatchling of this environment, and needs no network.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def files_of(*folders: str) -> set[str]:
    paths = (path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(REPOSITORY)) for path in paths if "__pycache__" not in path.parts}


def test_the_source_archive_has_all_that_is_needed_to_test_and_to_read(wheel: Path) -> None:
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files_of("seg_cli", "conf", "tests", "docs", "bench", "examples") <= names
    for name in ("Makefile", "constraints.txt", "README.md", "LICENSE", "CHANGELOG.md", ".ci/run", "outputs/README.md"):
        assert name in names
    assert not [name for name in names if name.startswith((".venv", "outputs/2", "dist"))]


def test_every_file_of_the_package_and_of_conf_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name if name.startswith("seg_cli") else f"seg_cli/{name}" for name in files_of("seg_cli", "conf")} <= names
    assert not [name for name in names if name.startswith(("tests", "conf/", "outputs", "docs", "bench"))]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone; dependencies are seen in this one, as downloading 6 GB is no unit test."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    # With --prefix, bin/segrun would be begun by the Python of this environment, and use the checkout.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    command = [*pip, "install", "--quiet", "--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    outside = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(outside))
    return folder


def call(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"WANDB_MODE": "disabled"}
    program = [str(environment / "bin" / command[0]), *command[1:]]
    return subprocess.run(program, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def test_the_installed_package_is_used_and_not_the_checkout(environment: Path, tmp_path: Path) -> None:
    found = call(environment, tmp_path, "python", "-c", "import seg_cli; print(seg_cli.__file__)")
    assert found.stdout.startswith(str(environment)), found.stdout + found.stderr
    first = (environment / "bin" / "segrun").read_text().splitlines()[0]
    assert first == f"#!{environment / 'bin' / 'python'}", "what segrun is run by"


def test_it_trains_from_another_folder(environment: Path, tmp_path: Path) -> None:
    options = ["model=unet", "encoder.name=resnet10t", "loss=ce+dice", "data.train=4", "data.val=2", "data.test=2"]
    options += ["data.size=[32,32]", "loader.batch_size=2", "loader.workers=0", "trainer.max_epochs=1", "logger=none"]
    done = call(environment, tmp_path, "segrun", *options, "trainer.accelerator=cpu", "run_dir=run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").is_file()
    again = call(environment, tmp_path, "python", "-m", "seg_cli", "eval", "run=run", "split=val", "accelerator=cpu")
    assert again.returncode == 0, again.stderr
