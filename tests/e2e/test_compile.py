"""``trainer.compile=true``: the same run, compiled once a stage."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from seg_cli.runs.run import Run
from tests.e2e.conftest import TINY, Outcome

Segrun = Callable[..., Outcome]
SIZES = 3
OPTIONS = (
    *(*TINY, "trainer.max_epochs=4", "resize=progressive", "average=ema"),
    *("data=shapes", "data.train=4", "data.val=2", "data.test=2", "data.size=[128,128]"),
)


@pytest.mark.slow
def test_a_compiled_run_learns_what_a_plain_one_learns(segrun: Segrun, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without making C++ of it, which takes minutes: what is traced, and when it is traced again, is the same.
    graphs = CompileCounterWithBackend("aot_eager")
    compile_with = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_with(module, backend=graphs))
    torch._dynamo.reset()
    runs = []
    for folder, on in (("plain", "false"), ("compiled", "true")):
        assert segrun(*OPTIONS, f"trainer.compile={on}", f"name={folder}").status == 0
        (path,) = (path for path in Path("outputs", folder).iterdir() if (path / "config.yaml").exists())
        runs.append(Run.open(path))
        assert (graphs.frame_count > 0) == (on == "true")
    plain, compiled = runs
    for ours, theirs in zip(compiled.metrics, plain.metrics, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-3)
    found, expected = (torch.load(run.best_checkpoint, weights_only=True)["state_dict"] for run in runs)
    assert found.keys() == expected.keys()
    assert graphs.frame_count <= 2 * SIZES  # once to learn and once to be scored
