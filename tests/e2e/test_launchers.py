"""Launchers: what is missing is said first, and each comes back with what its jobs gave."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Outcome
from tests.e2e.test_multirun import TINY


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has a module appear as if it were not installed."""
    find = importlib.util.find_spec

    def hide(name: str) -> None:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda asked, package=None: None if asked == name else find(asked, package)
        )

    return hide


@pytest.mark.parametrize(
    ("launcher", "module"),
    [("joblib", "hydra_plugins.hydra_joblib_launcher"), ("slurm", "submitit"), ("ray", "ray")],
)
def test_a_missing_extra_is_said_before_anything_is_sent_off(
    segrun: Callable[..., Outcome],
    without: Callable[[str], None],
    launcher: str,
    module: str,
) -> None:
    without(module)
    done = segrun("-m", "seed=0,1", f"hydra/launcher={launcher}")
    assert done.status == 2
    assert f"hydra/launcher={launcher}: " in done.err
    assert f"is not installed. Type: pip install 'segrun[{launcher}]'" in done.err
    assert not list(Path("outputs").glob("*/*/config.yaml"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"), "hydra.launcher.n_jobs=0: it must be 1 or more, or -1"),
        (("hydra/launcher=joblib", "hydra.launcher.jobs=2"), "hydra.launcher.jobs=2: there is no key"),
        (("hydra/launcher=slrum",), "there is no choice of hydra/launcher 'slrum'. Did you mean 'slurm'?"),
    ],
)
def test_bad_settings(segrun: Callable[..., Outcome], options: tuple[str, ...], sentence: str) -> None:
    done = segrun("-m", "seed=0,1", *options)
    assert done.status == 2
    assert sentence in done.err


class _FakeRay:
    """As much of Ray as is asked what its machines have."""

    def __init__(self, **resources: float) -> None:
        self._resources = resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self._resources}, {"Alive": False, "Resources": {"CPU": 1000}}]


def test_ray_gives_a_job_no_more_than_a_machine_has() -> None:
    from seg_cli.commands.launchers import Ray
    from seg_cli.errors import UserError

    plain = Ray(address=None, num_cpus=2, num_gpus=None, memory_gb=None)
    assert plain._resources(_FakeRay(CPU=4)) == {"num_cpus": 2, "num_gpus": 0}
    assert plain._resources(_FakeRay(CPU=4, GPU=8)) == {"num_cpus": 2, "num_gpus": 1}
    more = Ray(address=None, num_cpus=8, num_gpus=0, memory_gb=None)
    with pytest.raises(UserError, match=r"hydra.launcher.num_cpus=8: no machine of this Ray cluster has more than 4"):
        more._resources(_FakeRay(CPU=4))
    large = Ray(address=None, num_cpus=1, num_gpus=0, memory_gb=16)
    with pytest.raises(UserError, match=r"hydra.launcher.memory_gb=16: .* more than 8"):
        large._resources(_FakeRay(CPU=4, memory=8 * 2**30))


@pytest.mark.slow
def test_a_matrix_on_a_local_ray_is_that_of_one_process_though_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(name: str, *options: str) -> subprocess.Popen[bytes]:
        (tmp_path / name).mkdir()
        command = [sys.executable, "-m", "seg_cli", "-m", *TINY, "trainer.max_epochs=15", "seed=0,1,2", *options]
        with (tmp_path / name / "said.txt").open("wb") as file:
            return subprocess.Popen(
                command, cwd=tmp_path / name, env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    def scores(name: str) -> dict[int, Any]:
        files = list((tmp_path / name).glob("outputs/shapes/*/results.json"))
        assert len(files) == 3
        return {results["seed"]: results["splits"] for results in map(json.loads, map(Path.read_text, files))}

    on_ray = start("ray", "hydra/launcher=ray", "hydra.launcher.num_cpus=1")
    end = time.monotonic() + 200
    while not (begun := list((tmp_path / "ray").glob("outputs/shapes/*/metrics.csv"))):
        assert time.monotonic() < end
        time.sleep(0.2)
    victim = json.loads((begun[0].parent / "status.json").read_text())["process"]["pid"]
    os.kill(victim, signal.SIGKILL)
    said = tmp_path / "ray" / "said.txt"
    assert on_ray.wait(300) == 0, said.read_text()
    assert f"process {victim} on" in said.read_text()
    assert "it is gone on with, alone" in said.read_text()
    assert start("local").wait(300) == 0
    assert scores("ray") == scores("local")
