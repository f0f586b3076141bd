"""environment.json: what a run ran on, without the secrets of whoever ran it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seg_cli.config.secrets import mask_secrets
from seg_cli.runs import environment
from seg_cli.runs.environment import describe_environment


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("WANDB_API_KEY=abc123", "WANDB_API_KEY=***"),
        ("+logger.wandb.api_key=abc123", "+logger.wandb.api_key=***"),
        ("--token=abc", "--token=***"),
        ("password: abc def", "password: *** def"),
        ("db.secret_value=abc", "db.secret_value=***"),
        ("data.root=https://me:abc@host/path", "data.root=https://***@host/path"),
        ("data.root=https://abc@host/path", "data.root=https://***@host/path"),
        ("https://host/file?token=abc", "https://host/file?token=***"),
        ("model=unet", "model=unet"),
        ("notes=mail me@host", "notes=mail me@host"),
        ("data.root=/home/me/a:b@c", "data.root=/home/me/a:b@c"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_the_environment_is_json_and_masks_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["segrun", "model=unet", "logger.wandb.api_key=abc123"])
    found = describe_environment()
    assert "abc123" not in json.dumps(found)
    assert found["command_line"] == ["segrun", "model=unet", "logger.wandb.api_key=***"]
    assert found["packages"]["torch"]
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["model"]


# ---- git


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that the code pretends to lie in."""
    code = tmp_path / "package" / "environment.py"
    code.parent.mkdir()
    code.write_text("code")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(environment, "__file__", str(code))
    return tmp_path


def test_the_commit_and_what_was_changed_since(checkout: Path) -> None:
    clean = describe_environment()["git"]
    assert clean["commit"] == git(checkout, "rev-parse", "HEAD")
    assert clean["changed"] is False
    hashes = {clean["diff_sha256"]}
    for content in (b"other code", b"caf\xe9, not UTF-8"):
        (checkout / "package" / "environment.py").write_bytes(content)
        changed = describe_environment()["git"]
        assert changed["changed"] is True
        hashes.add(changed["diff_sha256"])
    assert len(hashes) == 3


def test_an_installed_package_is_nobodys_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment inside a repository, which git ignores."""
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "environment.py").touch()
    monkeypatch.setattr(environment, "__file__", str(checkout / ".venv" / "environment.py"))
    assert describe_environment()["git"] is None


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_environment()["git"] is None
    monkeypatch.setenv("PATH", "")
    assert describe_environment()["git"] is None
