"""A SLURM for these tests: the one that answers here, or one that a script brings up and takes down again.

The script is ``$SEGRUN_SLURM/slurm_up.sh``, or lies in ``../shared/tools`` beside this repository. It prints, last,
``source FILE``, a file that exports ``SLURM_CONF``; ``slurm_down.sh`` beside it ends what it began.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running SLURM in the environment; skips where there is none and no script."""
    if _answers():
        yield
        return
    tools = Path(os.environ.get("SEGRUN_SLURM") or REPOSITORY.parent / "shared" / "tools")
    if not (tools / "slurm_up.sh").is_file():
        pytest.skip("no SLURM answers sinfo here, and SEGRUN_SLURM names no folder with slurm_up.sh")
    lab = {**os.environ, "SLURM_LAB": str(tmp_path_factory.mktemp("slurm"))}
    up = subprocess.run(["bash", str(tools / "slurm_up.sh")], env=lab, capture_output=True, text=True, timeout=600)
    try:
        named = re.search(r"^source (.+)$", up.stdout, re.MULTILINE)
        assert up.returncode == 0, up.stderr
        assert named is not None, up.stdout
        conf = re.search(r"SLURM_CONF=(.+)", Path(named[1]).read_text())
        assert conf is not None
        os.environ["SLURM_CONF"] = conf[1]
        yield
    finally:
        subprocess.run(["bash", str(tools / "slurm_down.sh")], env=lab, capture_output=True, timeout=120)
        os.environ.pop("SLURM_CONF", None)


def _answers() -> bool:
    return shutil.which("sinfo") is not None and not subprocess.run(["sinfo"], capture_output=True).returncode
