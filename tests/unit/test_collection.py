"""Runs found and read in bulk: what counts as one, what is damaged, what is remembered."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from seg_cli.config.flat import flat
from seg_cli.errors import UserError
from seg_cli.runs import collection
from seg_cli.runs.collection import collect
from seg_cli.runs.sections import Sections
from tests.run_folders import write_run


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def names(*folders: Path) -> list[str]:
    return [record.folder.name for record in collect(folders).records]


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "segrun" / "tables").glob("runs_*.json"))


def test_runs_are_found_at_any_depth_once_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for name in ("a/one", "a/b/two", "three", ".sweeps/four"):
        write_run(outputs / name)
    write_run(outputs / "a" / "one" / "eval" / "inner")  # a run holds no runs
    (outputs / "link").symlink_to(outputs)
    assert names(outputs) == ["two", "one", "three"]
    assert names(outputs, outputs / "a", outputs / "three") == ["two", "one", "three"]
    assert names(outputs / "three") == ["three"]
    assert names(tmp_path / "outputs" / ".sweeps") == ["four"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone: there is no such folder\. Runs are kept in outputs/"):
        collect([tmp_path / "gone"])


def test_what_a_run_is_known_by(tmp_path: Path) -> None:
    write_run(tmp_path / "r", model="fpn", loss="ce+dice", seed=3, config={"optimizer": {"lr": 0.01}})
    (record,) = collect([tmp_path / "r"]).records
    values = [record.value(key) for key in ("model", "loss", "optimizer.lr", "seed", "pretrained", "void")]
    assert values == ["fpn", "ce+dice", 0.01, 3, "none", "ignored"]
    for key in ("optimizer", "optimizer.momentum", "nothing"):
        with pytest.raises(KeyError):
            record.value(key)
    with pytest.raises(UserError, match=r"--rows optimizer\.rl: no run has .* Did you mean 'optimizer\.lr'\?"):
        collect([tmp_path / "r"]).check_key("optimizer.rl", "--rows optimizer.rl")


def test_a_config_read_by_sections_is_the_config(tmp_path: Path) -> None:
    config = {"a": {"x": [1, {"y": None}], "t": "two\nlines: yes\n- no"}, "b": "# no: comment", "ü": 1e-5, "empty": {}}
    write_run(tmp_path / "r", config=config)
    (record,) = collect([tmp_path / "r"]).records
    assert record.config == yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert flat(record.config["a"]) == {"x": [1, {"y": None}], "t": "two\nlines: yes\n- no"}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("results.json", '{"schema"', r"results\.json: the file is damaged \("),
        ("results.json", "[1]", "it holds no JSON object"),
        ("results.json", '{"schema": 1}', "it has no choices or no splits"),
        ("results.json", '{"schema": 7}', "written with schema 7, and this version of segrun reads 1"),
        ("results.json", '{"choices": {}, "splits": {"test": 3}}', "split 'test' has no classes"),
        ("results.json", '{"choices": {}, "splits": {"test": {"classes": {"a": 1}}}}', "classes of split 'test'"),
        ("status.json", "\0", r"status\.json: the file is damaged"),
        ("config.yaml", "model: [\n", r"config\.yaml: the file is damaged \(not YAML"),
        ("config.yaml", "colour: red\n", "this is not the configuration of a run"),
    ],
)
def test_what_is_damaged_is_named_and_not_finished(tmp_path: Path, file: str, content: str, said: str) -> None:
    write_run(tmp_path / "r")
    (tmp_path / "r" / file).write_text(content)
    for _ in range(2):  # also as it is remembered
        (record,) = collect([tmp_path]).records
        assert not record.finished
        assert re.search(said, str(record.problem)), record.problem


def test_results_of_an_older_form_are_read(tmp_path: Path) -> None:
    write_run(tmp_path / "r")
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    for key in ("schema", "data", "fingerprint", "pretrained"):
        del results[key]
    (tmp_path / "r" / "results.json").write_text(json.dumps(results))
    (record,) = collect([tmp_path]).records
    assert record.finished


def test_an_evaluation_takes_the_place_of_the_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "r", miou=0.5)
    write_run(tmp_path / "other", miou=0.7, choices={"tta": "flip"}, results={"data": {"content": "d1"}})
    (tmp_path / "r" / "eval").mkdir()
    (tmp_path / "other").rename(tmp_path / "r" / "eval" / "flip")
    (record,) = collect([tmp_path], evaluation="flip").records
    assert record.results is not None
    assert record.results["splits"]["test"]["miou"] == pytest.approx(0.7, abs=0.02)
    assert record.choices["tta"] == "flip"
    assert (record.results["data"]["content"], record.results["data"]["train_images"]) == ("d1", 20)
    assert record.per_image == tmp_path / "r" / "eval" / "flip" / "per_image.csv"
    assert not collect([tmp_path], evaluation="none").records[0].finished


# ---- what is remembered


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = tmp_path / "outputs"
    for seed in range(3):
        write_run(outputs / f"{seed}", seed=seed)
    before = collect([outputs]).records
    read: list[str] = []
    real = collection._read

    def spy(folder: Path, sections: Sections, evaluation: str | None) -> dict[str, Any]:
        read.append(folder.name)
        return real(folder, sections, evaluation)

    monkeypatch.setattr(collection, "_read", spy)
    after = collect([outputs]).records
    assert read == []
    assert [(r.results, r.config, r.environment, r.dates) for r in after] == [
        (r.results, r.config, r.environment, r.dates) for r in before
    ]
    status = json.loads((outputs / "1" / "status.json").read_text())
    (outputs / "1" / "status.json").write_text(json.dumps({**status, "state": "failed"}))
    write_run(outputs / "3", seed=3)
    assert [record.state for record in collect([outputs]).records] == ["finished", "failed", "finished", "finished"]
    assert sorted(read) == ["1", "3"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"sections": [], "runs": {"/r": [[], {}]}}', '{"runs": 3}', "\0\0"]
)
def test_a_damaged_cache_is_ignored(tmp_path: Path, content: str) -> None:
    write_run(tmp_path / "outputs" / "r")
    collect([tmp_path / "outputs"])
    (file,) = cached(tmp_path)
    file.write_text(content)
    assert collect([tmp_path / "outputs"]).records[0].finished
    assert json.loads(file.read_text())["runs"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "outputs" / "r")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert collect([tmp_path / "outputs"]).records[0].finished


def test_runs_of_two_folders_are_compared_by_what_they_hold(tmp_path: Path) -> None:
    """The numbers of sections, which caches of each folder keep, are those of one list."""
    write_run(tmp_path / "a" / "r", config={"optimizer": {"lr": 0.1}})
    write_run(tmp_path / "b" / "r", config={"optimizer": {"lr": 0.2}})
    for folder in ("a", "b"):
        collect([tmp_path / folder])
    first, second = collect([tmp_path / "a", tmp_path / "b"]).records
    assert (first.value("optimizer.lr"), second.value("optimizer.lr")) == (0.1, 0.2)
    assert set(first.sections) != set(second.sections)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert "closed: Permission denied" in collect([tmp_path]).unreadable[0]


def test_no_torch(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "outputs" / f"{seed}", seed=seed)
        write_run(tmp_path / "outputs" / f"fpn{seed}", model="fpn", seed=seed)
    code = (
        "import sys; from seg_cli import cli\n"
        "slow = {'torch', 'torchvision', 'lightning_fabric', 'timm', 'cv2', 'wandb', 'matplotlib', 'hydra'}\n"
        "status = cli.run(['table', 'outputs']); print(status, slow & set(sys.modules), 'scipy' in sys.modules)\n"
        "sys.exit(status)"
    )
    for scipy in (True, False):  # the second time all is remembered
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == f"0 set() {scipy}", done.stderr
