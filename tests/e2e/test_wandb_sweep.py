"""W&B beside many runs: the arguments with which ``wandb agent`` starts segrun, and how jobs of a matrix are filed.

Nothing goes online.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb.wandb_agent import Agent

from tests.e2e.conftest import SHAPES, TINY, Outcome
from tests.unit.test_loggers import read_wandb

Segrun = Callable[..., Outcome]
PAGE = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()


@pytest.fixture
def sweep() -> dict[str, Any]:
    """The sweep.yaml of the page."""
    return yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])  # type: ignore[index]


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters as the server sends them to an agent."""
    return {"args": {key: {"value": value} for key, value in values.items()}}


def composed(segrun: Segrun, *arguments: str) -> Any:
    done = segrun(*arguments, "--cfg", "job")
    assert done.status == 0, done.err
    return OmegaConf.create(done.out)


def test_the_sweep_of_the_page_composes_with_every_value(segrun: Segrun, sweep: dict[str, Any]) -> None:
    learning_rate = sweep["parameters"]["optimizer.lr"]
    assert 0 < learning_rate["min"] < learning_rate["max"], "numbers, not text"
    assert sweep["metric"]["name"] == "val/miou"
    fixed = {key: about["value"] for key, about in sweep["parameters"].items() if "value" in about}
    loss, crop = (sweep["parameters"][key]["values"] for key in ("loss", "loader.crop"))
    assert len(loss) >= len(crop) == 2
    for number, term in enumerate(loss):
        sent = chosen({**fixed, "optimizer.lr": 0.00012345, "loss": term, "loader.crop": crop[number % 2]})
        (program, macro) = create_sweep_command(list(sweep["command"]))[1:]
        assert (program, macro) == ("segrun", "${args_no_hyphens}")
        config = composed(segrun, *create_sweep_command_args(sent)[macro[2:-1]])
        assert (config.optimizer.lr, config.trainer.max_epochs) == (0.00012345, 10)
        assert config.loader.crop == (None, [64, 64])[number % 2]
        weights = {"ce": {"ce": 1.0}, "dice+focal": {"dice": 1.0, "focal": 1.0}, "ce+2*dice": {"ce": 1.0, "dice": 2.0}}
        assert config.loss.weights == weights[term]


def test_values_of_every_kind_arrive_as_they_are(segrun: Segrun) -> None:
    values = {
        "trainer.sync_batchnorm": True,
        "optimizer.lr": 1e-05,
        "loader.crop": [32, 64],
        "tags": ["a", "b c"],
        "notes": "two words",
        "name": "a@b+c",
        "++trainer.accumulate": 2,
    }
    config = composed(segrun, *create_sweep_command_args(chosen({**values, "optimizer": "sgd"}))["args_no_hyphens"])
    assert {key: OmegaConf.select(config, key.lstrip("+")) for key in values} == values
    assert config.optimizer._target_.endswith("SGD")


@pytest.mark.parametrize("form", ["args", "args_no_boolean_flags", "args_json"])
def test_other_forms_are_refused_in_one_sentence(segrun: Segrun, form: str) -> None:
    done = segrun(*create_sweep_command_args(chosen({"optimizer.lr": 0.01}))[form])
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "as in optimizer.lr=VALUE" in done.err or form == "args_json"


@pytest.mark.slow
def test_an_agent_runs_it_and_it_is_the_agents_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    bin_folder = Path(sys.executable).parent
    environment = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "sweep1"}
    for name, value in (environment | {"WANDB_RUN_ID": "", "WANDB_SWEEP_PARAM_PATH": ""}).items():
        monkeypatch.setenv(name, value)
    agent = Agent.__new__(Agent)  # without a server to ask
    agent._sweep_command, agent._function, agent._in_jupyter = list(sweep["command"]), None, False
    agent._forward_signals, agent._run_processes = False, {}
    settings = dict(argument.split("=", 1) for argument in (*TINY, *SHAPES, "loss=ce+2*dice", "name=a@b", "run_dir=r"))
    agent._command_run({**chosen(settings | {"logger": "wandb", "seed": 3}), "run_id": "agents", "program": "none"})
    assert agent._run_processes["agents"]._popen.wait(timeout=300) == 0
    assert [file.name for file in (tmp_path / "r").rglob("*.wandb")] == ["run-agents.wandb"]
    assert "seed: 3\n" in (tmp_path / "r" / "config.yaml").read_text()


@pytest.mark.slow
def test_jobs_of_a_benchmark_are_runs_of_their_own_in_its_group(
    segrun: Segrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "mine" / "benchmark").mkdir(parents=True)
    (tmp_path / "mine" / "benchmark" / "two.yaml").write_text(
        "# @package _global_\n# Two losses\nhydra: {sweeper: {params: {loss: [ce, ce+2*dice]}}}\n"
    )
    options = (*TINY, *SHAPES, "--config-dir", "mine", "name=small", "logger=wandb", "logger.wandb.project=streets")
    assert segrun("-m", "benchmark=two", *options).status == 0
    one = next(Path("outputs/small").glob("*_0"))
    done = segrun("rerun", str(one), "--verify", "run_dir=again", "logger.wandb.group=reruns")
    assert "compared with" in done.out, done.err

    runs = sorted(read_wandb(tmp_path), key=lambda run: (run["group"], sorted(run["tags"])))
    assert len({run["id"] for run in runs}) == 3
    again, jobs = runs[0], runs[1:]
    assert (again["group"], again["tags"]) == ("reruns", [])
    (group,) = {run["group"] for run in jobs}
    assert re.fullmatch(r"two \d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?", group)
    assert one.name.startswith(group.removeprefix("two "))
    kept = {"benchmark=two", "model=unet", "data=shapes", "precision=fp32", "logger=wandb"}
    assert [set(run["tags"]) for run in jobs] == [kept | {f"loss={loss}"} for loss in ("ce", "ce+2*dice")]
    assert [(run["job_type"], run["project"], run["exit"]) for run in jobs] == [("train", "streets", 0)] * 2
