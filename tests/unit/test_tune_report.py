"""What a search leaves behind: its table, its file, its pictures, and an experiment of the best."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.console import Console

from seg_cli.commands.trials import NoSuchScore, value_of
from seg_cli.commands.tune_report import experiment
from seg_cli.config import sums
from seg_cli.config.paths import conf_dir
from seg_cli.config.search import Objective
from seg_cli.config.space import Space
from seg_cli.errors import RunFailed
from seg_cli.reports import figures_tune
from seg_cli.reports.search import SHOWN, Trial, ranked, search_csv, search_table

HOSTILE = "=cmd[bold]\x1b[31m"
DRAWN: list[dict[str, Any]] = [{"lr": 0.01, HOSTILE: "-x"}, {"lr": 0.1}, {"lr": 0.02, HOSTILE: "+1"}, {}]
TRIALS = [
    Trial(0, "complete", (0.5,), False, DRAWN[0], ((1, 0.3), (2, 0.5)), 3.2, "outputs/a", ""),
    Trial(1, "complete", (0.7,), True, DRAWN[1], ((1, 0.7),), 3.2, "outputs/b", ""),
    Trial(2, "pruned", None, False, DRAWN[2], ((1, 0.1),), 1.0, "outputs/c", "pruned by median after epoch 1"),
    Trial(3, "failed", None, False, DRAWN[3], (), None, "", "the loss is nan"),
]


def show(trials: list[Trial], objectives: list[str], parameters: list[str], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(search_table(trials, objectives, parameters))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_table_is_ranked_and_shows_names_as_they_are() -> None:
    order = ranked(TRIALS, maximize=True)
    assert [trial.number for trial in order] == [1, 0, 2, 3]
    shown = show(order, ["miou"], ["lr", HOSTILE])
    assert "=cmd[bold]\\x1b[31m" in shown  # neither markup nor colour
    assert "0.7000" in shown.splitlines()[2]
    assert [trial.number for trial in ranked(TRIALS[:1] + TRIALS[2:], maximize=False)] == [0, 2, 3]


def test_long_tables_end_and_narrow_ones_keep_their_columns() -> None:
    many = [Trial(i, "complete", (i / 100,), False, {"optimizer.lr": i / 7}, (), 1.0, "", "") for i in range(50)]
    assert len(show(many, ["miou"], ["optimizer.lr"]).splitlines()) < SHOWN + 6
    narrow = show(TRIALS, ["miou"], ["optimizer.weight_decay", "model.decoder_channels", "lr"], width=80)
    assert "decay" in narrow and "channels" in narrow  # noqa: PT018


def test_the_file_has_all_and_no_formulas() -> None:
    rows = list(csv.DictReader(io.StringIO(search_csv(TRIALS, ["miou"], ["lr", HOSTILE]))))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[1]["best"] == "1"
    assert rows[1]["miou"] == "0.7"
    assert rows[0]["lr"] == "0.01"
    name = "'" + HOSTILE.replace("\x1b", "\\x1b")
    assert [row[name] for row in rows] == ["'-x", "", "'+1", ""]
    assert rows[3]["note"] == "the loss is nan"


def test_pictures_of_searches_of_every_shape(tmp_path: Path) -> None:
    space = Space.parse(
        {
            "optimizer.lr": {"low": 1e-3, "high": 2e-3, "log": True},
            "n": {"low": 1, "high": 5},
            "a_very_long_name.of_a_setting.that_goes_on_and_on": ["$x_{1}$", "b" * 60, [1, 2]],
            "sometimes": {"choices": [True, False], "when": {"n": 3}},
        }
    )
    sources = {parameter.name: parameter.source for parameter in space.parameters}
    rng = np.random.default_rng(0)
    names = list(sources)

    def trial(number: int, state: str) -> Trial:
        drawn = {names[0]: 1e-3 + number / 1e5, "n": number % 5 + 1, names[2]: [1, 2] if number % 2 else "$x_{1}$"}
        drawn |= {"sometimes": True} if drawn["n"] == 3 else {}
        values = (float(rng.random()), 5.0) if state == "complete" else None
        return Trial(number, state, values, number == 1, drawn, ((1, 0.2),) if state == "pruned" else (), 1.0, "", "")

    for count in (2, 12):
        states = ["failed", "complete", "pruned", "complete", "running"]
        trials = [trial(i, states[i % 5]) for i in range(count)]
        figures_tune.history(trials, ["miou"], [True], tmp_path / "history.png")
        figures_tune.history(trials, ["miou", "flops"], [True, False], tmp_path / "two.png")
        figures_tune.slices(trials, "miou", sources, tmp_path / "slices.png")
        figures_tune.pareto(trials, ["miou", "flops"], tmp_path / "pareto.png")
        figures_tune.importance({name: 1 / len(names) for name in names}, "miou", tmp_path / "importance.png")
        for path in tmp_path.glob("*.png"):
            assert np.asarray(Image.open(path).convert("L")).min() < 100  # there is ink


@pytest.mark.parametrize(
    ("name", "value"),
    [("miou", 0.5), ("iou:Car", 0.25), ("boundary.f.mean", 0.75), ("parameters", 7.0)],
)
def test_values_of_objectives(name: str, value: float) -> None:
    val = {"miou": 0.5, "classes": {"Car": {"iou": 0.25, "dice": None}}, "boundary": {"f": {"mean": 0.75}}, "void": "x"}
    results = {
        "splits": {"val": val, "test": {"miou": 0.9}},
        "cost": {"parameters": 7, "flops": None, "train_seconds": math.nan},
    }
    assert value_of(results, Objective(name, "maximize")) == value
    with pytest.raises(NoSuchScore, match=r"there is no class 'Cra'\. Did you mean 'Car'\?"):
        value_of(results, Objective("iou:Cra", "maximize"))
    with pytest.raises(NoSuchScore, match=r"no 'boundary\.g' below val; instead of 'g' there is: f"):
        value_of(results, Objective("boundary.g", "maximize"))
    with pytest.raises(NoSuchScore, match="is no number"):
        value_of(results, Objective("boundary.f", "maximize"))
    for undefined in ("flops", "dice:Car"):
        with pytest.raises(RunFailed, match="is not defined for this run"):
            value_of(results, Objective(undefined, "maximize"))
    with pytest.raises(RunFailed, match="train_seconds is nan for this run"):
        value_of(results, Objective("train_seconds", "minimize"))


def test_an_experiment_says_what_the_overrides_said(tmp_path: Path, compose_config: Callable[..., DictConfig]) -> None:
    """Also what an experiment of theirs says, of which the file does not have to know where it lies."""
    overrides = [
        *("experiment=camvid_cpu", "model=fpn", "loss=ce+2*dice", "optimizer.lr=1e-05", "loss.weights.dice=0.3"),
        *("tags=[a,'b c']", "+optimizer.betas=[0.5,0.9]", "notes='it\\'s'", "data.root=null", "seed=4"),
    ]
    wanted = compose_config(*overrides, "name=mine_best")
    sums.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        HydraConfig.instance().set_config(compose("train", return_hydra_config=True))
        content = experiment(overrides, name="mine_best")
    assert {"override /loss": "ce+2*dice"} in content["defaults"]
    assert content["optimizer"]["lr"] == 1e-05
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("train", ["experiment=best", f"hydra.searchpath=[file://{tmp_path}]"], return_hydra_config=True)
    HydraConfig.instance().set_config(found)
    sides = [OmegaConf.to_container(side, resolve=True) for side in (found, wanted)]
    assert [side.pop("hydra", None) is not None for side in sides] == [True, False]  # type: ignore[union-attr]
    assert sides[0] == sides[1]
