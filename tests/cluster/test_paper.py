"""The researcher's way through segrun, examples/paper.sh, with SLURM under it: kills, a search, LaTeX, a repetition."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.test_examples import check_paper, walk

pytestmark = pytest.mark.slurm


def test_a_table_for_a_paper(tmp_path: Path, shared: Path) -> None:
    camvid = shared / "data" / "camvid"
    said = walk("paper.sh", camvid, folder=tmp_path)
    assert "SLURM is here" in said
    check_paper(tmp_path, said)
    assert not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip()
