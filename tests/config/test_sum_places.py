"""Sums work in every place where Hydra takes a choice: one test a place, through a small app of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from seg_cli.config import sums

APP = """\
import json, os
import hydra
from omegaconf import OmegaConf
from seg_cli.config import sums

sums.register()

def job(cfg):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(json.dumps(list(OmegaConf.to_container(cfg.loss["weights"]).items())) + "\\n")

def main():
    hydra.main(config_path=os.environ["CONF"], config_name="train", version_base="1.3")(job)()
"""

TRAIN = """\
defaults: [_self_, loss: ce, experiment: null]
hydra: {output_subdir: null, run: {dir: .}, sweep: {dir: sweep, subdir: .}}
"""


def write_term(conf: Path, name: str) -> None:
    (conf / "loss").mkdir(parents=True, exist_ok=True)
    text = f"_target_: torch.nn.Identity\nterms: {{{name}: {{}}}}\nweights: {{{name}: 1.0}}\n"
    (conf / "loss" / f"{name}.yaml").write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an app, its conf/, and more/: a user's own config folder."""
    conf = tmp_path / "conf"
    for name in ("ce", "dice", "focal"):
        write_term(conf, name)
    (conf / "train.yaml").write_text(TRAIN)
    (conf / "experiment").mkdir()
    experiment = "# @package _global_\ndefaults: [override /loss: ce+2*dice]\n"
    (conf / "experiment" / "summed.yaml").write_text(experiment)
    write_term(tmp_path / "more", "mine")
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def run_app(place: Path, *arguments: str) -> list[str]:
    """Run the app in a process; the weights that each job saw, sorted, as in ``"ce 1.0, dice 2.0"``."""
    seen = place / "seen"
    environment = os.environ | {"CONF": str(place / "conf"), "SEEN": str(seen), "PYTHONPATH": str(place)}
    command = [sys.executable, "-c", "import app; app.main()", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return sorted(", ".join(f"{k} {v}" for k, v in json.loads(line)) for line in seen.read_text().splitlines())


def test_command_line(place: Path) -> None:
    assert run_app(place, "loss=ce+2*dice+.5*focal") == ["ce 1.0, dice 2.0, focal 0.5"]


def test_defaults_list_of_an_experiment(place: Path) -> None:
    assert run_app(place, "experiment=summed") == ["ce 1.0, dice 2.0"]


def test_the_command_line_wins_over_the_experiment(place: Path) -> None:
    assert run_app(place, "experiment=summed", "loss=3*focal") == ["focal 3.0"]


def test_multirun(place: Path) -> None:
    assert run_app(place, "-m", "loss=ce,dice+3*focal") == ["ce 1.0", "dice 1.0, focal 3.0"]


def test_sweeper_params_in_a_file(place: Path) -> None:
    sweeper = "hydra: {mode: MULTIRUN, sweeper: {params: {loss: 'ce,2*dice+focal'}}}\n"
    (place / "conf" / "experiment" / "sweep.yaml").write_text("# @package _global_\n" + sweeper)
    assert run_app(place, "experiment=sweep") == ["ce 1.0", "dice 2.0, focal 1.0"]


def test_weights_can_be_changed_behind_the_sum(place: Path) -> None:
    assert run_app(place, "loss=ce+2*dice", "loss.weights.ce=0.1") == ["ce 0.1, dice 2.0"]


@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [("joblib", "hydra_joblib_launcher"), ("submitit_local", "hydra_submitit_launcher")],
)
def test_launcher(place: Path, launcher: str, plugin: str) -> None:
    if importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    options = ["-m", "--config-dir", "more", f"hydra/launcher={launcher}"]
    assert run_app(place, *options, "loss=ce,mine+2*dice") == ["ce 1.0", "mine 1.0, dice 2.0"]


def test_own_losses_of_a_config_dir_take_part(place: Path) -> None:
    assert run_app(place, "--config-dir", "more", "loss=ce+0.5*mine") == ["ce 1.0, mine 0.5"]


def test_own_losses_of_the_search_path_take_part(place: Path) -> None:
    assert run_app(place, f"hydra.searchpath=[file://{place}/more]", "loss=ce+mine") == ["ce 1.0, mine 1.0"]


@pytest.mark.parametrize("folder", ["conf", "more"])
@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath"])
def test_a_file_wins_over_the_sum(place: Path, folder: str, how: str) -> None:
    (place / folder / "loss" / "ce+dice.yaml").write_text("weights: {from_the_file: 7}\n")
    more = place / "more"
    options = [how, str(more)] if how == "--config-dir" else [f"hydra.searchpath=[file://{more}]"]
    assert run_app(place, *options, "loss=ce+dice") == ["from_the_file 7"]


def test_compose(place: Path) -> None:
    sums.register()
    sums.register()  # registering again does nothing
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(place / "conf"), version_base="1.3"):
        cfg = compose("train", ["loss=focal+2*dice"])
    assert cfg.loss["weights"] == {"focal": 1.0, "dice": 2.0}
    assert list(cfg.loss.terms) == ["focal", "dice"]
