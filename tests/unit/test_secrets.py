"""Secrets among the settings of a run are in none of the files that it leaves."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from seg_cli.commands.build import build
from seg_cli.commands.resume import differences, with_settings
from seg_cli.config.secrets import is_masked, mask_settings, without_secrets
from seg_cli.errors import UserError
from seg_cli.runs.jobs import Job, Jobs
from seg_cli.runs.run import Run


@pytest.mark.parametrize(
    ("settings", "masked"),
    [
        ({"api_key": "a", "token": "b", "my-secret": "c", "passwords": "d"}, "***"),
        ({"root": "https://me:abc@host/path"}, "https://***@host/path"),
        ({"url": "https://host/?token=abc"}, "https://host/?token=***"),
    ],
)
def test_secrets_among_settings(settings: dict[str, str], masked: str) -> None:
    for mask in (mask_settings, lambda of: without_secrets(of, {})):
        found = mask({"own": [settings]})["own"][0]
        assert set(found.values()) == {masked}
        assert all(map(is_masked, found.values()))


def test_what_is_no_secret_stays() -> None:
    plain = {"key": 3, "token": None, "monkey": "a", "tokens_per": 1.5, "keyboard": "b", "name": "x", "a": [1]}
    assert mask_settings(plain) == without_secrets(plain, {"A": "x", "B": "b"}) == plain
    assert not any(map(is_masked, plain.values()))


def test_a_text_of_a_run_that_only_looks_like_a_secret_is_kept_for_making_it_again() -> None:
    assert without_secrets({"name": "key=3"}, {}) == {"name": "key=3"}


def test_a_secret_of_the_environment_is_read_from_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-of-mine")
    settings = {"model": {}, "data": {"token": "s3cr3t-of-mine", "other": "s3cr3t-of-mine/below"}}
    Run(tmp_path).write_config(settings)
    written = (tmp_path / "config.yaml").read_text()
    assert "token: ${oc.env:MY_TOKEN}" in written
    assert OmegaConf.to_container(Run(tmp_path).config) == settings
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(UserError, match=r"environment variables that are not set: MY_TOKEN\."):
        _ = Run(tmp_path).config


def test_a_secret_that_is_nowhere_has_to_be_given_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": {}, "data": {"_target_": "builtins.dict", "token": "s3cr3t"}}
    Run(tmp_path).write_config(settings)
    assert "s3cr3t" not in (tmp_path / "config.yaml").read_text()
    stored = OmegaConf.to_container(Run(tmp_path).config)
    assert isinstance(stored, dict)
    with pytest.raises(UserError, match=r"data\.token: it is a secret.*write \$\{oc\.env:NAME\} for \*\*\*"):
        build(stored, "data")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data\.token: it is a secret.* Type data\.token=VALUE"):
        with_settings(stored, [], Run(tmp_path))  # type: ignore[arg-type]
    assert differences(stored, settings) == {}, "a secret that was given again is no change"  # type: ignore[arg-type]


def test_records_of_jobs_have_none(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    job = Job(0, overrides=["data.token=s3cr3t", "data.url=https\\://me\\:s3cr3t@host", "seed=1"])
    jobs.write(job)
    jobs.write_plan([job])
    assert jobs.read(0).overrides == ["data.token=***", "data.url=https\\://***@host", "seed=1"]
    assert not [path for path in tmp_path.rglob("*.json") if "s3cr3t" in path.read_text()]
