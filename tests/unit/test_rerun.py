"""``segrun rerun``: what is refused before anything is trained, and the record of every step that it compares."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from seg_cli import cli
from seg_cli.commands.comparing import settings_of
from seg_cli.commands.completion import candidates
from seg_cli.commands.rerun import _check_same_start, _recorded
from seg_cli.config.secrets import mask_settings
from seg_cli.config.visible import visible
from seg_cli.errors import UserError
from seg_cli.runs.fingerprint import fingerprint
from seg_cli.runs.run import Run
from seg_cli.runs.steps import read_steps
from seg_cli.training.loop import Loop
from tests.unit import tiny


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Of a run, as it is composed."""
    command = [sys.executable, "-m", "seg_cli", "model=unet", "logger=wandb+csv", "name=old", "--cfg", "job"]
    composed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    resolved = OmegaConf.to_container(OmegaConf.create(composed), resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()} | {"choices": {"model": "unet", "logger": "wandb+csv"}}


@pytest.fixture
def original(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that is finished, as far as its status says."""
    monkeypatch.chdir(tmp_path)
    run = Run.create(Path("r"), numbered=False)
    run.write_config(config)
    run.write_environment({"packages": {}, "git": None, "cpu": {}})
    run.write_status("finished")
    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "rerun: which run? Type segrun rerun RUN"),
        (["nope"], "nope does not exist"),
        (["r", "--against", "r"], "rerun --against: it is for a comparison. Type segrun rerun r --verify."),
        (["r", "--tolerance", "0.1"], "rerun --tolerance: it is for a comparison."),
        (["r", "--verify", "--tolerance", "x"], "invalid float value: 'x'"),
        (["r", "--verify", "--tolerance", "nan"], "it must be a difference of scores, from 0 to 1."),
        (["r", "--verify", "--tolerance", "-1"], "it must be a difference of scores, from 0 to 1."),
        (["r", "--verify", "--against", "r"], "r is the run itself."),
        (["r", "--verify", "--against", "r", "seed=1"], "seed=1: with --against nothing is trained"),
        (["r", "--verfy"], "Did you mean '--verify'?"),
        (["r", "seed=1"], "seed=1: r had 0, and made again with another value it would be another run"),
        (["r", "trainer.max_epohcs=1"], "Did you mean 'trainer.max_epochs'?"),
        (["r", "model=fpn"], "of groups, only logger and trainer may be chosen anew"),
        (["r", "loader.workers=some"], "loader.workers=some: it must be auto or a whole number >= 0."),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_made(
    original: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert cli.run(["rerun", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("state", ["failed", "interrupted", "running"])
def test_only_finished_runs_are_compared(original: Run, capsys: pytest.CaptureFixture[str], state: Any) -> None:
    original.write_status(state)
    assert cli.run(["rerun", "r", "--verify"]) == 2
    said = capsys.readouterr().err
    assert f"r: its state is '{state}', and only finished runs can be compared." in " ".join(said.split())
    assert ("segrun resume r" in said) == (state != "running")


def test_a_run_whose_settings_changed_on_the_way_is_refused(original: Run) -> None:
    resumed = {"step": 7, "command_line": ["segrun", "resume", "r", "trainer.max_epochs=9", "--accept-changes"]}
    original.write_environment({"resumed": [{"step": 3, "command_line": ["segrun", "resume", "r"]}, resumed]})
    with pytest.raises(UserError, match=r"under other settings at step 7 \(segrun resume r trainer.max_epochs=9"):
        _recorded(original, [])


def test_a_new_run_has_a_place_of_its_own_here_and_in_wandb(original: Run, config: dict[str, Any]) -> None:
    wandb = config["logger"]["wandb"] | {"group": "camvid 2026", "run_id": "abc", "project": "mine"}
    original.write_config(config | {"run_dir": "r", "logger": config["logger"] | {"wandb": wandb}})
    again = _recorded(Run.open("r"), ["loader.workers=1", "tags=[again]"])
    assert again["run_dir"] is None
    assert {key: again["logger"]["wandb"][key] for key in ("group", "run_id", "project")} == {
        "group": None,
        "run_id": None,
        "project": "mine",
    }
    assert (again["loader"]["workers"], again["tags"]) == (1, ["again"])
    assert list(again["logger"]) == ["wandb", "csv"]
    given = _recorded(Run.open("r"), ["run_dir=here", "logger.wandb.group=reruns"])
    assert (given["run_dir"], given["logger"]["wandb"]["group"]) == ("here", "reruns")


def test_a_run_of_an_earlier_version_has_what_was_added_since_by_default(original: Run, config: dict[str, Any]) -> None:
    loader = {key: value for key, value in config["loader"].items() if key != "eval_batch_size"}
    older = {key: value for key, value in config.items() if key != "threshold"} | {"loader": loader}
    original.write_config(older)
    filled = settings_of(Run.open("r"))
    assert (filled["threshold"], filled["loader"]["eval_batch_size"]) == (0.5, 16)
    assert filled == config


def test_a_secret_has_to_be_typed_again(original: Run, config: dict[str, Any]) -> None:
    settings = config | {"logger": {"own": {"_target_": "own.Logger", "api_key": "abc"}}}
    original.write_config(mask_settings(settings))
    with pytest.raises(UserError, match=r"logger\.own\.api_key: it is a secret.* Type logger\.own\.api_key=VALUE"):
        _recorded(Run.open("r"), [])
    again = _recorded(Run.open("r"), ["logger.own.api_key=abc"])
    assert again["logger"]["own"]["api_key"] == "abc"


# ---- what the run began with

START = {"content": "c" * 64, "pretrained": "imagenet"}


@pytest.mark.parametrize(
    ("recorded", "now", "said"),
    [
        ({}, {}, None),
        ({}, {"content": "d" * 64}, "the data has changed since. What it holds has the hash dddddddddddd"),
        ({}, {"pretrained": "x.pth sha256:0"}, "it started from weights 'imagenet', and now there is 'x.pth sha256:0'"),
        ({"data": None}, {}, None),
        ({"data": None}, {"content": "d" * 64}, "the data has changed since. Settings and weights are the same"),
        ({"fingerprint": "made otherwise"}, {}, None),
    ],
)
def test_other_data_and_other_weights_are_named(
    original: Run,
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, Any],
    now: dict[str, Any],
    said: str | None,
) -> None:
    here = {"git": None, "packages": {"segrun": "0.1.0"}}
    monkeypatch.setattr("seg_cli.runs.environment.describe_environment", lambda: here)
    original.write_environment(here)
    known = fingerprint(config, data=START["content"], pretrained=START["pretrained"])
    results = {"schema": 1, "fingerprint": known, "pretrained": "imagenet", "data": {"content": START["content"]}}
    original.write_results(results | recorded)
    if said is None:
        _check_same_start(original, config, **START | now)
    else:
        with pytest.raises(UserError, match=said):
            _check_same_start(original, config, **START | now)


def test_of_another_version_the_fingerprint_says_nothing(original: Run, config: dict[str, Any]) -> None:
    original.write_environment({"git": {"commit": "an older one"}})
    original.write_results({"schema": 1, "fingerprint": "made otherwise", "pretrained": "imagenet"})
    _check_same_start(original, config, **START)


# ---- the loss of every step


def test_every_step_is_recorded_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = tiny.Steps(monkeypatch)
    run = tiny.train(tmp_path, epochs=2, batch_size=1).run
    assert read_steps(run.folder) == dict(enumerate(steps.losses, start=1))
    assert len(steps.losses) == 24


def test_a_run_in_several_sittings_records_what_one_in_one_go_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tiny.train(tmp_path / "alone", task=tiny.make_task(), epochs=2, batch_size=1).run
    step, stops = Loop._step, [5, 17]

    def stopping(loop: Loop, *arguments: Any) -> None:
        step(loop, *arguments)
        if stops and loop.at.step == stops[0]:
            loop.stop.received = "SIGTERM"
            stops.pop(0)

    monkeypatch.setattr(Loop, "_step", stopping)
    folder = tmp_path / "sittings"
    trained, sittings = tiny.train_in_sittings(folder, task=tiny.make_task, epochs=2, batch_size=1)
    assert sittings == 3
    assert read_steps(trained.run.folder) == read_steps(alone.folder)


def test_rows_behind_the_checkpoint_are_computed_again(tmp_path: Path) -> None:
    run = tiny.train(tmp_path, epochs=1, batch_size=4).run
    before = (run.folder / "steps.csv").read_text()
    with (run.folder / "steps.csv").open("a") as file:
        file.write("4,9.0\n5,9.0\n6,")
    checkpoint = torch.load(run.last_checkpoint, weights_only=True)
    tiny.train(tmp_path, epochs=1, batch_size=4, checkpoint=checkpoint)
    assert (run.folder / "steps.csv").read_text() == before


# ---- small things


def test_help_and_completion_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rerun", "--help"]) == 0
    assert "segrun rerun RUN --verify --against OTHER" in capsys.readouterr().out
    assert candidates("segrun rerun --") == ["--verify", "--against", "--tolerance", "--help"]
    assert candidates("segrun rerun ") == []
    assert candidates("segrun rerun RUN loader.w") == ["loader.workers="]


def test_wrong_input_is_answered_without_torch(original: Run) -> None:
    script = (
        "import sys; from seg_cli import cli\n"
        "assert [cli.run(['rerun', *a]) for a in (['--help'], ['r', 'seed=1'], ['nope'])] == [0, 2, 2]\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert visible("frame\x1b[2J\r ± é") == "frame\\x1b[2J\\r ± é"


def test_the_verification_of_hand_made_runs(
    original: Run, config: dict[str, Any], capsys: pytest.CaptureFixture[str], make_finished: Callable[..., Run]
) -> None:
    one, two = make_finished("one"), make_finished("two", miou=0.5000001)
    assert cli.run(["rerun", str(one.folder), "--verify", "--against", str(make_finished("same").folder)]) == 0
    assert "verified: one comes out the same, bit for bit\n" in capsys.readouterr().out
    assert cli.run(["rerun", "one", "--verify", "--against", str(two.folder)]) == 1
    assert "not verified: results.json, splits/test/miou 0.5000001 instead of 0.5" in capsys.readouterr().out


@pytest.fixture
def make_finished(original: Run, config: dict[str, Any]) -> Callable[..., Run]:
    """Finished runs beside each other."""

    def make(name: str, *, miou: float = 0.5) -> Run:
        run = Run.create(Path(name), numbered=False)
        run.write_config(config)
        run.write_environment({"packages": {}, "git": None, "cpu": {}})
        run.write_status("finished")
        run.write_metrics([{"epoch": 1, "step": 1, "val/miou": 0.5}])
        split = {"miou": miou, "pixel_accuracy": 0.5, "images": 1, "confusion": [[1]]}
        run.write_results({"schema": 1, "fingerprint": "f", "pretrained": "none", "splits": {"test": split}})
        (run.folder / "note.json").write_text(json.dumps({"name": name}))
        return run

    return make
