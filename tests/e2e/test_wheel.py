"""The wheel as a stranger gets it: built, installed into an empty environment, called from another folder."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation the build uses the hatchling of this environment, and needs no network.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_every_yaml_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in (REPOSITORY / "conf").rglob("*.yaml"):
        assert f"seg_cli/conf/{path.relative_to(REPOSITORY / 'conf')}" in names
    assert "seg_cli/cli.py" in names
    assert not [name for name in names if name.startswith(("tests", "conf/", "outputs"))]


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
