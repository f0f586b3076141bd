"""What a search is asked for: objectives, samplers and pruners by name, and what does not go together."""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from seg_cli.config.choices import choices
from seg_cli.config.paths import conf_dir
from seg_cli.config.search import PRUNERS, SAMPLERS, Objective, Search, Tool
from seg_cli.errors import UserError
from seg_cli.runs.samplers import PlainCmaEs, make_pruner, make_sampler, unpickled

SECTION = {"space": {"optimizer.lr": {"low": 0.1, "high": 1.0}}, "objectives": ["miou"], "trials": 3}


def test_objectives_have_directions() -> None:
    asked = ["miou", "flops", {"name": "iou:Car"}, {"name": "boundary.ece", "direction": "minimize"}]
    found = Search.parse(SECTION | {"objectives": asked}).objectives
    assert found == (
        Objective("miou", "maximize"),
        Objective("flops", "minimize"),
        Objective("iou:Car", "maximize"),
        Objective("boundary.ece", "minimize"),
    )


def test_what_is_left_out_has_a_default() -> None:
    search = Search.parse(SECTION)
    assert (search.failures, search.sampler, search.pruner, search.settings) == (
        10,
        Tool("tpe", {}),
        Tool("none", {}),
        (),
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trails": 3}, "sweep.trails: there is no such key. Did you mean 'trials'?"),
        ({"trials": 0}, "sweep.trials=0: it must be a whole number >= 1"),
        ({"failures": True}, "sweep.failures=true"),
        ({"objectives": []}, "sweep.objectives: there are none"),
        ({"objectives": ["mio"]}, "Did you mean 'miou'?"),
        ({"objectives": ["miou", "miou"]}, "miou stands there twice"),
        ({"objectives": [{"name": "miou", "direction": "maximise"}]}, "Did you mean 'maximize'?"),
        ({"objectives": [{"nmae": "miou"}]}, "Did you mean 'name'?"),
        ({"sampler": "tpo"}, "sweep.sampler=tpo: there is no such sampler. Did you mean 'tpe'?"),
        ({"pruner": {"name": "medain"}}, "sweep.pruner=medain: there is no such pruner. Did you mean 'median'?"),
        ({"pruner": "median", "objectives": ["miou", "flops"]}, "there are 2 objectives"),
        ({"pruner": "median", "objectives": ["fw_iou"]}, "trials are pruned by val/miou"),
        ({"sampler": "grid"}, "sweep.sampler=grid: the space has inf points"),
        ({"settings": ["trainer.max_epochs"]}, "it must be a list of overrides"),
        ({"settings": "a=b"}, "it must be a list of overrides"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as refused:
        Search.parse(SECTION | change)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_sampler_can_be_made_or_says_what_it_needs(name: str) -> None:
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        with pytest.raises(UserError, match=r"sweep\.sampler=cmaes: it needs a package .* Type: pip install cmaes"):
            make_sampler(Tool(name, {}), seed=1)
    else:
        assert make_sampler(Tool(name, {}), seed=1)


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_can_be_made_or_says_what_it_needs(name: str) -> None:
    needed = {"percentile": {"percentile": 25.0}, "threshold": {"lower": 0.1}}.get(name, {})
    assert make_pruner(Tool(name, needed), epochs=4)
    if needed:
        with pytest.raises(UserError, match=f"sweep.pruner={name}: "):
            make_pruner(Tool(name, {}), epochs=4)


def test_settings_of_samplers_and_pruners_are_checked() -> None:
    with pytest.raises(UserError) as refused:
        make_sampler(Tool("tpe", {"n_startup_trails": 3}), seed=1)
    assert "sweep.sampler.n_startup_trails: tpe has no such setting. Did you mean 'n_startup_trials'?" in str(
        refused.value
    )
    with pytest.raises(UserError, match=r"sweep\.sampler\.seed: tpe has no such setting"):
        make_sampler(Tool("tpe", {"seed": 3}), seed=1)  # it is that of the run
    with pytest.raises(UserError, match=r"sweep\.pruner\.warmup: median has no such setting"):
        make_pruner(Tool("median", {"warmup": 3}), epochs=4)


def test_every_shipped_sweep_reads_and_lists_all_its_settings() -> None:
    assert [choice.name for choice in choices("sweep")] == ["architecture", "augmentation", "loss_weights", "lr_wd"]
    for choice in choices("sweep"):
        section = yaml.safe_load(Path(conf_dir() / "sweep" / f"{choice.name}.yaml").read_text())
        assert list(section) == ["space", "objectives", "trials", "failures", "sampler", "pruner", "settings"]
        search = Search.parse(section)
        assert make_sampler(search.sampler, seed=0)
        assert make_pruner(search.pruner, epochs=3)
        assert 10 < len(choice.line) < 110


class Hostile:
    """What a storage of somebody else's might hold in place of the state of a search."""

    def __reduce__(self) -> tuple:
        return eval, ("open('executed', 'w')",)


@pytest.mark.parametrize("state", [Hostile(), {"a": Hostile()}, np.array([Hostile()], object), Path("a")])
def test_the_state_of_cmaes_holds_numbers_and_executes_nothing(
    state: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"storage: the state of sweep\.sampler=cmaes in it is not one .* \(it holds "):
        unpickled(pickle.dumps(state))
    assert not (tmp_path / "executed").exists()


def test_what_a_state_of_cmaes_is_made_of_comes_back() -> None:
    generator = np.random.RandomState(3)
    state: dict[str, Any] = {
        "mean": np.arange(4.0),
        "sigma": np.float64(0.5),
        "rng": generator,
        "solutions": [(np.ones(2), 0.25)],
    }
    back = unpickled(pickle.dumps(state))
    assert np.array_equal(back["mean"], state["mean"])
    assert back["rng"].rand() == generator.rand()
    with pytest.raises(UserError, match="Choose another storage or name"):
        unpickled(b"damaged")


def test_optuna_still_asks_for_the_state_where_it_is_guarded() -> None:
    assert "_restore_optimizer" in vars(optuna.samplers.CmaEsSampler), "see PlainCmaEs: it is no longer overloaded"
    pytest.importorskip("cmaes")
    drawn = []
    for sampler in (PlainCmaEs(seed=1, n_startup_trials=1), optuna.samplers.CmaEsSampler(seed=1, n_startup_trials=1)):
        study = optuna.create_study(sampler=sampler)
        study.optimize(
            lambda trial: trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_float("y", -1, 1), n_trials=15
        )
        drawn.append([trial.params for trial in study.trials])
    assert drawn[0] == drawn[1]
