"""What a training proposes to type next."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from seg_cli.commands import next_step

CONFIG = {"choices": {"model": "fcn8s", "data": "camvid", "experiment": None}, "data": {"root": "my data"}}


def typed(
    monkeypatch: pytest.MonkeyPatch, *overrides: str, mode: RunMode = RunMode.RUN, own: Path | None = None
) -> None:
    sources = [SimpleNamespace(provider="main", path="conf"), SimpleNamespace(provider="command-line", path=str(own))]
    runtime = SimpleNamespace(config_sources=sources[: 1 + (own is not None)])
    hydra = SimpleNamespace(mode=mode, overrides=SimpleNamespace(task=list(overrides)), runtime=runtime)
    fake = SimpleNamespace(initialized=lambda: True, get=lambda: hydra)
    monkeypatch.setattr(next_step, "HydraConfig", fake)


def test_options_are_kept_but_not_those_of_this_very_run(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "model=fcn8s", "loss=ce+2*dice", "experiment=tour", "+model.depth=3", "run_dir=here", "seed=3")
    said = next_step.compare_with(CONFIG, "unet")
    assert said == ", then compare: segrun -m model=fcn8s,unet 'loss=ce+2*dice' experiment=tour"


def test_the_data_is_always_said(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "loss=dice")
    assert next_step.compare_with(CONFIG, "unet") == ", then compare: segrun -m model=fcn8s,unet data=camvid loss=dice"


def test_without_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_step, "HydraConfig", SimpleNamespace(initialized=lambda: False))
    assert (
        next_step.compare_with(CONFIG, "unet")
        == ", then compare: segrun -m model=fcn8s,unet data=camvid 'data.root=my data'"
    )
    tour = CONFIG | {"choices": CONFIG["choices"] | {"experiment": "tour"}}
    assert next_step.compare_with(tour, "unet") == ", then compare: segrun -m model=fcn8s,unet experiment=tour"


def test_what_went_on_keeps_what_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_step, "HydraConfig", SimpleNamespace(initialized=lambda: False))
    began = ["/bin/segrun", "--config-dir", "mine", "model=fcn8s", "data=fruit", "loss=dice", "seed=2"]
    assert (
        next_step.compare_with(CONFIG, "unet", began)
        == ", then compare: segrun -m model=fcn8s,unet --config-dir mine data=fruit loss=dice"
    )
    assert next_step.compare_with(CONFIG, "unet", ["segrun", "-m", "model=fcn8s,fpn"]) == ""
    assert next_step.compare_with(CONFIG, "unet", ["segrun", "benchmark=losses"]) == ""
    assert next_step.compare_with(CONFIG, "unet", ["segrun", "rerun", "outputs/fruit/first"]) == ""


def test_a_job_of_a_matrix_proposes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "model=fcn8s", "loss=dice", mode=RunMode.MULTIRUN)
    assert next_step.compare_with(CONFIG, "unet") == ""


def test_own_choices_are_found_again_and_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    typed(monkeypatch, "data=mine", "data.token=abc", own=tmp_path / "my conf")
    said = next_step.compare_with(CONFIG, "unet")
    assert said.endswith("segrun -m model=fcn8s,unet --config-dir 'my conf' data=mine 'data.token=***'")
