"""Models, losses and scores are useful alone: the program of docs/models.md, and what it imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import seg_cli.models
from seg_cli.config.paths import conf_dir

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_program_of_the_docs_runs_without_lightning_and_hydra() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    light = "import sys\nassert not {'pytorch_lightning', 'lightning', 'hydra'} & sys.modules.keys()\n"
    done = subprocess.run([sys.executable, "-c", program + light], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout) <= 1


def test_every_shipped_network_has_a_name_in_the_package() -> None:
    for file in (conf_dir() / "model").glob("*.yaml"):
        target = re.search(r"^_target_: seg_cli\.models\.(\w+)\.(\w+)$", file.read_text(), re.MULTILINE)
        if target:  # classical methods are a package of their own
            assert getattr(seg_cli.models, target[2]).__module__ == f"seg_cli.models.{target[1]}"
            assert target[2] in dir(seg_cli.models)
    with pytest.raises(AttributeError, match="UNet3"):
        _ = seg_cli.models.UNet3
