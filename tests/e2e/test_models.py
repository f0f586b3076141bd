"""Architectures on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seg_cli.runs.run import Run
from tests.e2e.conftest import Outcome

MODELS = ("fcn8s", "segnet", "unet", "unetpp", "fpn", "pspnet", "deeplabv3", "deeplabv3plus")


@pytest.mark.slow
def test_a_matrix_of_architectures_runs_as_it_is(segrun: Callable[..., Outcome], shared: Path) -> None:
    root = f"data.root={shared / 'data' / 'camvid'}"
    options = ("loader.crop=[224,288]", "trainer.max_epochs=1", "trainer.limit_batches=1", "logger=none")
    done = segrun("-m", f"model={','.join(MODELS)}", "data=camvid", root, *options)
    assert done.status == 0, done.err
    found = (path.parent for path in Path("outputs/camvid").glob("*/results.json"))
    runs = sorted(found, key=lambda run: int(run.name.rpartition("_")[2]))
    assert [Run.open(run).results["choices"]["model"] for run in runs] == list(MODELS)
    assert all(Run.open(run).status["state"] == "finished" for run in runs)
