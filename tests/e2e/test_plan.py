"""``segrun plan``, the batch that fits, and a run that begins with another's weights, from the command to files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from seg_cli.commands import experiment as experiments
from seg_cli.runs.run import Run
from seg_cli.training.checkpoints import read_checkpoint, write_checkpoint
from seg_cli.training.trial import StepMemory
from tests.e2e.conftest import SHAPES, TINY, Outcome

Segrun = Callable[..., Outcome]

STAGED = (
    "trainer.max_epochs=4",
    "data.size=[64,64]",
    "resize.stages=[{size: 0.5, epochs: 2},{size: 1.0, epochs: 2, lr_factor: 0.5}]",
    "finetune.phases=[{epochs: 3, frozen: [encoder]}]",
)


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_a_plan_says_what_training_then_does(segrun: Segrun) -> None:
    options = (*SHAPES, *TINY, "resize=progressive", "finetune=freeze", *STAGED, "trainer.accumulate=2")
    done = segrun("plan", *options, "out=p")
    assert done.status == 0, done.err
    assert files() == ["p/plan.json"]
    plan = json.loads(Path("p/plan.json").read_text())
    assert [
        (span["first"], span["last"], span["size"], span["batch_size"], span["lr_factor"]) for span in plan["stages"]
    ] == [(1, 2, [32, 32], 4, 1.0), (3, 3, [64, 64], 2, 0.5), (4, 4, [64, 64], 2, 0.5)]
    levels = [f"encoder.{level}" for level in range(5)]
    assert [span["frozen"] for span in plan["stages"]] == [levels, levels, []]
    assert [span["steps"] for span in plan["stages"]] == [2, 1, 1]
    assert {part["part"]: part["learns"] for part in plan["parts"]} == {
        **{level: [[4, 4]] for level in levels},
        **{"decoder": [[1, 4]], "head": [[1, 4]]},
    }
    assert plan["total"]["images"] == 4 * 4
    assert plan["total"]["pixels"] == 8 * 32 * 32 + 8 * 64 * 64
    assert plan["total"]["seconds"] is None
    trained = segrun(*options, "run_dir=r")
    assert trained.status == 0, trained.err
    status, results = Run.open("r").status, Run.open("r").results
    assert status["step"] == plan["total"]["steps"] == 4
    assert sum(part["parameters"] for part in plan["parts"]) == results["cost"]["parameters"]
    assert plan["stages"][-1]["flops"] == 3 * 4 * results["cost"]["flops"]
    weights = read_checkpoint(Path("r/checkpoints/last.ckpt"))
    state = weights["stepper"]["optimizer"]["state"]
    moments = sum(value.nbytes for of in state.values() for value in of.values())
    assert plan["memory"]["optimizer"] == moments
    held = sum(value.nbytes for value in weights["state_dict"].values())
    assert plan["memory"]["parameters"] == held + 2 * 3 * 4  # mean and deviation of the images are in no checkpoint


def test_plans_of_the_jobs_of_a_matrix(segrun: Segrun, tmp_path: Path) -> None:
    small = ("data.train=8", "data.val=2", "data.test=2", "data.size=[32,32]")
    alone = segrun("plan", "benchmark=shapes_quick", *small)
    assert alone.status == 0
    assert "benchmark=shapes_quick is a matrix" in alone.out
    assert "segrun plan -m benchmark=shapes_quick" in alone.out
    all_of_them = segrun("plan", "-m", "benchmark=shapes_quick", "seed=0", "model=unet,fpn", *small)
    assert all_of_them.status == 0
    assert all_of_them.out.count("of 4: ") == 4
    assert all_of_them.out.count("\nfpn · ") == 2
    assert "is a matrix" not in all_of_them.out
    assert not list((tmp_path / "outputs").glob(".sweeps/*")), "nothing is left behind"
    some = segrun("plan", "-m", "model=unet", "trainer.max_epochs=1,-1", *small)
    assert some.status == 2
    assert "1 of 2 jobs failed; see above" in some.err
    assert "unet · " in some.out


def test_times_a_learning_rate_and_a_batch(segrun: Segrun) -> None:
    few = ("plan.lr_steps=12", "plan.lr_range=[1e-4,1]")
    done = segrun("plan", *SHAPES, *TINY, "--time", "--find-lr", "--largest-batch", *few, "out=p")
    assert done.status == 0, done.err
    assert files() == ["p/lr_finder.csv", "p/lr_finder.png", "p/plan.json"]
    plan = json.loads(Path("p/plan.json").read_text())
    (span,) = plan["stages"]
    assert span["seconds"] == pytest.approx(span["seconds_a_step"] * span["steps"])
    assert plan["total"]["seconds"] == pytest.approx(span["seconds"] + plan["scoring"]["seconds"])
    assert plan["scoring"]["images"] == 2 + 2 + 3
    assert "largest batch: loader.batch_size=4 a process (all of train)" in done.out
    rows = list(csv.DictReader(Path("p/lr_finder.csv").read_text().splitlines()))
    assert list(rows[0]) == ["lr", "loss", "smoothed"]
    rates = [float(row["lr"]) for row in rows]
    assert rates[0] == pytest.approx(1e-4)
    assert rates == sorted(rates)
    with Image.open("p/lr_finder.png") as picture:
        assert picture.size[0] > 500
    assert "learning rate: the loss " in done.out
    assert "optimizer.lr=" in done.out or "no suggestion" in done.out


def test_a_plan_leaves_nothing_behind(segrun: Segrun) -> None:
    done = segrun("plan", *SHAPES, *TINY, "logger=wandb")
    assert done.status == 0, done.err
    assert files() == []
    assert "in all " in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["plan.tiem=true"], "there is no key 'plan.tiem'. Did you mean 'plan.time'?"),
        (["plan.lr_steps=3"], "plan.lr_steps=3: it must be a whole number >= 10."),
        (["plan.lr_range=[1,0.1]"], "plan.lr_range=[1,0.1]: it must be the first and the last learning rate"),
        (["--tiem"], "--tiem: there is no such flag. Did you mean '--time'?"),
        (["modle=unet"], "there is no key 'modle'. Did you mean 'model'?"),
        (["loader.batch_size=0"], "loader.batch_size=0: it must be a whole number >= 1."),
        ([*SHAPES, *TINY, "resize=progressive", "resize.stages=[{size: 1.0, epochs: 5}]"], "epochs are 5 = 5"),
        ([*SHAPES, *TINY, "out=file/p"], "out=file/p: the folder cannot be made"),
    ],
)
def test_wrong_plans(segrun: Segrun, options: list[str], said: str) -> None:
    Path("file").write_text("mine")
    done = segrun("plan", *options)
    assert (done.status, said in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


# ---- the largest batch


def test_the_largest_batch_is_found_once_and_recorded(segrun: Segrun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "free_memory", lambda: 2 * 10_300)
    memory = StepMemory(parameters=4000, gradients=2000, optimizer=1000, fixed=300.0, sample=1000.0)
    monkeypatch.setattr(experiments, "measure_memory", lambda *_, **__: memory)
    done = segrun(*SHAPES, *TINY, "trainer.auto_batch_size=true", "run_dir=r")
    assert done.status == 0, done.err
    assert "batch size: 3 a process, as cpu memory allows" in done.out
    run = Run.open("r")
    assert (run.config.loader.batch_size, run.config.trainer.auto_batch_size) == (3, False)
    assert run.environment["batch_size"] == {"found": 3, "asked": 2}
    assert run.status["step"] == 1  # of four samples three make a batch
    assert json.loads(read_checkpoint(run.best_checkpoint)["config"])["loader"]["batch_size"] == 3
    monkeypatch.setattr(experiments, "free_memory", lambda: 0)
    done = segrun(*SHAPES, *TINY, "trainer.auto_batch_size=true", "run_dir=none")
    assert done.status == 1
    assert "trainer.auto_batch_size: memory does not do for a batch of 1." in done.err
    assert Run(Path("none")).status["state"] == "failed"


@pytest.mark.slow
def test_the_search_for_a_batch_changes_nothing_but_the_batch(segrun: Segrun) -> None:
    # There is memory for all of train, which the second run asks for by itself.
    assert segrun(*SHAPES, *TINY, "trainer.auto_batch_size=true", "run_dir=a").status == 0
    assert segrun(*SHAPES, *TINY, "loader.batch_size=4", "run_dir=b").status == 0
    first, second = (read_checkpoint(Path(name, "checkpoints/last.ckpt"))["state_dict"] for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert Run.open("a").results["fingerprint"] == Run.open("b").results["fingerprint"]


# ---- another run's weights


def test_a_run_begins_with_another_with_other_classes(segrun: Segrun, tmp_path: Path) -> None:
    assert segrun(*SHAPES, *TINY, "run_dir=first").status == 0
    classes = read_checkpoint(Path("first/checkpoints/best.ckpt"))["classes"]
    # The same run under the names of other classes: one is ours no more, two have changed places.
    content = read_checkpoint(Path("first/checkpoints/best.ckpt"))
    content["classes"] = ["Tree", *classes[1:5], classes[6], classes[5]]
    write_checkpoint(Path("other.ckpt"), content)
    tuned = (*SHAPES, *TINY, "optimizer.lr=1e-12", "encoder.weights=no_such_file", "seed=1")
    done = segrun(*tuned, "start=other.ckpt", "run_dir=second")
    assert done.status == 0, done.err
    kept = ", ".join(classes[1:])
    (line,) = (line for line in done.out.splitlines() if line.startswith("start: "))
    assert line.endswith(f"tensors from other.ckpt; head made new for {classes[0]}, kept for {kept}")
    before, after = content["state_dict"], read_checkpoint(Path("second/checkpoints/last.ckpt"))["state_dict"]
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert torch.allclose(
        before["model.decoder.convs.0.0.0.weight"], after["model.decoder.convs.0.0.0.weight"], **close
    )
    head = "model.head.conv.weight"
    for here, there in ((1, 1), (4, 4), (5, 6), (6, 5)):
        assert torch.allclose(after[head][here], before[head][there], **close)
    assert not torch.allclose(after[head][0], before[head][0], **close)
    results = Run.open("second").results
    assert results["pretrained"].startswith("other.ckpt sha256:")
    start = Run.open("second").environment["start"]
    assert start["pretrained"] == results["pretrained"]
    assert start["file"] == "other.ckpt"
    # auto: an encoder that knows something learns slower
    assert OmegaConf.select(Run.open("second").config, "start") == "other.ckpt"

    # It is prepared again, as resume does it, when the other run is gone.
    Path("other.ckpt").unlink()
    config = OmegaConf.to_container(Run.open("second").config, resolve=True)
    again = experiments.prepare(config, found=Run.open("second").environment)  # type: ignore[arg-type]
    assert again.model.started_from == results["pretrained"]
    factors = {group["part"]: group["lr_factor"] for group in again.task.configure_optimizers().param_groups}
    assert (factors["encoder.0"], factors["decoder"]) == (0.1, 1.0)


def test_what_a_run_cannot_begin_with(segrun: Segrun) -> None:
    assert segrun(*SHAPES, *TINY, "run_dir=first").status == 0
    wrong = (*SHAPES, *TINY, "run_dir=second")
    done = segrun(*wrong, "start=nowhere")
    assert (done.status, "start=nowhere: there is no such run or checkpoint" in done.err) == (2, True), done.err
    done = segrun(*wrong, "start=first", "encoder.name=test_resnet.r160_in1k")
    assert done.status == 2
    assert "tensors of the encoder are in first/checkpoints/best.ckpt" in done.err
    assert "It was trained with model=unet encoder=resnet10t." in done.err
    assert not Path("second").exists()
    small = ("encoder.name=resnet10t", "model.channels=32", "model.pyramid_channels=32")
    done = segrun("plan", *SHAPES, *TINY[3:], "model=fpn", *small, "start=first")
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("start: "))
    assert "; made new: decoder (" in line
    assert line.endswith("; head made new, since it has another form")
