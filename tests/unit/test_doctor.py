"""``segrun doctor``: what it finds, what it advises, and that it keeps secrets."""

import json
from importlib import metadata

import pytest

from seg_cli import cli
from seg_cli.commands import doctor
from seg_cli.errors import UserError
from seg_cli.runs import slurm


def test_all_is_well_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert cli.run(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert "aaaa" not in out
    found = {finding["name"]: finding for finding in json.loads(out)}
    assert found["torch"]["value"] == metadata.version("torch")
    assert found["shapes"]["value"] == "needs no files"
    assert found["mode"]["value"].startswith("offline")
    assert cli.run(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("Ready to train. Type: segrun\n")


def test_torchvision_that_does_not_fit_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_module(name: str) -> None:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "import_module", import_module)
    assert cli.run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: operator torchvision::nms does not exist" in out
    assert f"pip install 'torch=={metadata.version('torch').partition('+')[0]}' 'torchvision==" in out
    assert out.endswith("Broken: import torchvision. Follow the arrows.\n")


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: {"timm": None, "torch": "1.0"}.get(package, "99"))
    found = {finding.name: finding for finding in doctor._packages()}
    assert found["timm"].broken
    assert found["timm"].value == "missing"
    assert found["torch"].value == "1.0, which is not >=2.11"
    assert found["torch"].advice == "Type: pip install 'torch>=2.11'"


def test_extras_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "tensorboard" else "99")
    found = {finding.name: finding for finding in doctor._packages() if finding.section == "Extras"}
    assert found["tensorboard"].value == "without tensorboard"
    assert "pip install 'segrun[tensorboard]'" in (found["tensorboard"].advice or "")
    assert not found["tensorboard"].broken


def test_partitions_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "is_there", lambda: True)
    nodes = slurm.Nodes(partition="main", default=True, count=2, gpus=4, cpus=16, memory=64_000, minutes=240.0)
    monkeypatch.setattr(slurm, "partitions", lambda: [nodes])
    (found,) = doctor._cluster()
    assert (found.name, found.value) == ("main", "2 x 16 cores, 62.5 GiB, 4 GPUs, 240 minutes (the default one)")

    def silent() -> list[slurm.Nodes]:
        raise UserError("sinfo: SLURM does not answer (timed out).")

    monkeypatch.setattr(slurm, "partitions", silent)
    (found,) = doctor._cluster()
    assert "does not answer" in found.value
    assert "hydra/launcher=joblib" in (found.advice or "")
    assert not found.broken
    monkeypatch.setattr(slurm, "is_there", lambda: False)
    assert not list(doctor._cluster())


def test_data_roots(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("SEGRUN_DATA", str(tmp_path))
    (missing,) = [finding for finding in doctor._data() if finding.name == "not there"]
    assert "camvid, " in missing.value
    assert str(tmp_path) in missing.value
    assert missing.advice
    (tmp_path / "camvid").mkdir()
    (there,) = [finding for finding in doctor._data() if finding.name == "camvid"]
    assert there.value == str(tmp_path / "camvid")
    assert there.advice is None
