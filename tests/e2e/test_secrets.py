"""What a user types may hold a key or a password; nothing that a run or a matrix leaves behind does."""

from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import SHAPES, TINY, Outcome

SECRET = "s3cr3t-of-mine"


def test_no_file_of_runs_and_their_matrix_holds_a_secret(segrun: Callable[..., Outcome], tmp_path: Path) -> None:
    asked = ["-m", *TINY, *SHAPES, "logger=wandb+tensorboard+csv", f"notes='https://me:{SECRET}@host/page'", "seed=0,1"]
    done = segrun(*asked)
    assert done.status == 0, done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name in ("config.yaml", "plan.json", "events", "multirun.yaml")]) >= 4
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in done.out + done.err
    config = next(path for path in files if path.name == "config.yaml").read_text()
    assert "notes: https://***@host/page" in config
    again = segrun(*asked)  # what is known of the jobs is found without what was left out
    assert again.out.count("before") >= 2, again.out
