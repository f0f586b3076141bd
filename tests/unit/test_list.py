"""``segrun list``."""

import json
import re
from pathlib import Path

import pytest

from seg_cli import cli
from seg_cli.config.choices import UPSAMPLINGS, choices, groups
from seg_cli.config.suggest import closest, did_you_mean


def test_every_choice_has_a_line() -> None:
    for group in groups():
        for choice in choices(group):
            assert choice.line, f"{choice.path} must begin with a comment that describes it"
            assert len(choice.line) < 110


@pytest.mark.parametrize("name", ["loss", "losses", "Losses"])
def test_a_group_goes_by_any_of_its_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Losses: loss=...\n  bce ")
    assert "unet" not in out


@pytest.mark.parametrize("name", ["upsample", "upsamplings", "model.upsample"])
def test_upsamplings_are_listed_like_a_group(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Upsamplings: model.upsample=...\n  nearest ")
    assert cli.run(["list", name, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["model.upsample"]) == list(UPSAMPLINGS)
    assert cli.run(["list"]) == 0
    assert out in capsys.readouterr().out


def test_all_groups_as_json_with_a_config_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# @package model\n# My own network\nchannels: 3\n")
    assert cli.run(["list", "--json", "--config-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == groups()
    assert found["model"]["mine"] == "My own network"
    assert "unet" in found["model"]


def test_choices_in_folders_come_last_each_folder_with_a_column_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    names = [line.split()[0] for line in lines]
    assert names == sorted(names, key=lambda name: ("/" in name, name))
    assert {name.partition("/")[0] for name in names if "/" in name} == {"own", "smp", "torchvision", "transformers"}
    assert "model/" not in "".join(names)
    for folder in ("smp", "torchvision"):
        rows = [line for line in lines if line.split()[0].startswith(f"{folder}/")]
        assert len({re.match(r"  \S+ +", row).end() for row in rows}) == 1  # type: ignore[union-attr]
    assert lines[names.index("smp/fpn")].startswith("  smp/fpn            SMP's feature pyramid network (Kirillov 2019")


def test_choices_in_folders_of_ones_own_take_part(tmp_path: Path) -> None:
    (tmp_path / "model" / "mine").mkdir(parents=True)
    (tmp_path / "model" / "mine" / "net.yaml").write_text("# My own network\n")
    (tmp_path / "model" / "smp").mkdir()
    (tmp_path / "model" / "smp" / "unet.yaml").write_text("# Not this one\n")
    found = {choice.name: choice.line for choice in choices("model", [tmp_path])}
    assert found["mine/net"] == "My own network"
    assert found["smp/unet"] == choices("model")[[c.name for c in choices("model")].index("smp/unet")].line


def test_timm_is_searched_for_encoders_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "losses", "--timm", "x*"]) == 2
    assert "Type: segrun list encoders --timm 'x*'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("unett", ["unet", "fpn"], "unet"),
        ("UNet", ["unet", "fpn"], "unet"),
        ("batch_size", ["loader.batch_size", "seed"], "loader.batch_size"),
        ("xyz", ["unet", "fpn"], None),
        ("xyz", [], None),
    ],
)
def test_closest(word: str, known: list[str], expected: str | None) -> None:
    assert closest(word, known) == expected
    assert did_you_mean(word, known) == (f" Did you mean '{expected}'?" if expected else "")
