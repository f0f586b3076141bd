"""The training loop on a tiny network: what it computes is what a few lines of plain PyTorch compute."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers.logger import Logger
from tiny import Steps, TinyModel, make_data, make_task, train
from torch import Tensor, nn
from torch.nn import functional as F

from seg_cli.data.datamodule import DataModule
from seg_cli.data.labels import VOID
from seg_cli.data.loading import Batch, scoring_loader
from seg_cli.data.sample import Sample
from seg_cli.errors import RunFailed
from seg_cli.inference.cost import count_flops
from seg_cli.inference.evaluate import evaluate
from seg_cli.losses import BinaryCrossEntropy, CrossEntropy, Dice, Ramp, Sum
from seg_cli.metrics.counting import Counting
from seg_cli.models.outputs import Outputs
from seg_cli.training import loop as loop_module
from seg_cli.training.averaging import Ema
from seg_cli.training.checkpoints import read_checkpoint
from seg_cli.training.finetune import Phases
from seg_cli.training.loop import Loop
from seg_cli.training.schedules import Constant, Plateau
from seg_cli.training.step import Stepper

# ---- beside a plain loop


def stacked(samples: list[Sample]) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) images and (N, H, W) int64 masks."""
    images = torch.stack([torch.from_numpy(sample.image) for sample in samples]).permute(0, 3, 1, 2)
    return images, torch.stack([torch.from_numpy(sample.mask).long() for sample in samples])


def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), masks, ignore_index=VOID)


def plain_loop(
    data: DataModule, *, epochs: int, batch_size: int, accumulate: int, clip: float | None, bf16: bool
) -> list[dict[str, float]]:
    """Rows of metrics.csv by PyTorch alone; the weight of the loss goes from 0.5 to 1 in three epochs."""
    model = make_task().model
    tensors = dict(model.named_parameters())
    weights = [tensors["encoder.0.weight"], tensors["head.weight"]]
    others = [value for value in tensors.values() if value.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    split = data.dataset.splits["train"]
    batches = len(split) // batch_size
    steps = math.ceil(batches / accumulate)
    rows, done = [], 0
    for epoch in range(epochs):
        weight = 0.5 + 0.25 * epoch
        order = np.random.default_rng((0, epoch)).permutation(len(split))
        model.train()
        losses = []
        rate = 0.1 * (1 - done / (epochs * steps)) ** 0.9
        for first in range(0, batches, accumulate):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - done / (epochs * steps)) ** 0.9
            numbers = range(first, min(first + accumulate, batches))
            optimizer.zero_grad()
            for number in numbers:
                chosen = order[number * batch_size : (number + 1) * batch_size]
                images, masks = stacked([split[index] for index in chosen])
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = model(images)
                loss = cross_entropy(logits, masks)
                losses.append(float(loss.detach()))
                (weight * loss / len(numbers)).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            done += 1
        model.eval()
        matrix, val_losses = np.zeros((7, 7), int), []
        val = data.dataset.splits["val"]
        for start in range(0, len(val), 2):
            samples = [val[index] for index in range(start, min(start + 2, len(val)))]
            images, masks = stacked(samples)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(images)
            val_losses += [weight * float(cross_entropy(logits, masks))] * len(samples)
            truth, predicted = masks.numpy().ravel(), logits.argmax(1).numpy().ravel()
            np.add.at(matrix, (truth[truth != VOID], predicted[truth != VOID]), 1)
        hits = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - hits
        rows.append(
            {
                "epoch": epoch + 1,
                "step": done,
                "lr": rate,
                "train/loss": weight * np.mean(losses),
                "train/loss/ce": np.mean(losses),
                "train/loss_weight/ce": weight,
                "val/loss": np.mean(val_losses),
                "val/miou": np.mean(hits[union > 0] / union[union > 0]),
                "val/pixel_accuracy": hits.sum() / matrix.sum(),
            }
        )
    return rows


@pytest.mark.parametrize(
    ("accumulate", "clip", "mode"), [(1, None, "fp32"), (2, None, "fp32"), (1, 0.3, "fp32"), (2, 0.3, "bf16")]
)
def test_every_row_is_that_of_a_plain_loop(tmp_path: Path, accumulate: int, clip: float | None, mode: str) -> None:
    data = make_data(train=21, flip=False)  # 21 samples are five batches of 4, and one that is left out
    task = make_task(
        loss=Sum({"ce": CrossEntropy()}, {"ce": Ramp(start=0.5, end=1.0, epochs=2)}),
        make_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    )
    done = train(tmp_path, task=task, data=data, epochs=3, accumulate=accumulate, gradient_clip=clip, mode=mode)
    expected = plain_loop(data, epochs=3, batch_size=4, accumulate=accumulate, clip=clip, bf16=mode == "bf16")
    assert len(done.run.metrics) == 3
    for found, row in zip(done.run.metrics, expected, strict=True):
        of_classes = {key for key in found if key.startswith("val/iou/")}
        assert {key: found[key] for key in found.keys() - of_classes} == pytest.approx(row, rel=1e-6)
        assert np.mean([found[key] for key in of_classes]) == pytest.approx(row["val/miou"], rel=1e-6)


def test_batches_that_are_added_up_are_one_large_batch(tmp_path: Path) -> None:
    data = make_data(train=16)
    for name, samples in data.dataset.splits.items():
        full = [replace(sample, mask=np.where(sample.mask == VOID, 0, sample.mask)) for sample in samples]
        data.dataset.splits[name] = full
    found = {}
    for accumulate in (1, 2, 4):
        task = make_task(
            lambda: TinyModel(norm=False),
            loss=Sum({"ce": CrossEntropy()}, {"ce": 1.0}),
            make_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5, momentum=0.9),
        )
        done = train(
            tmp_path / str(accumulate), task=task, data=data, batch_size=8 // accumulate, accumulate=accumulate
        )
        found[accumulate] = done
    for accumulate in (2, 4):
        for (name, one), other in zip(
            found[1].task.named_parameters(), found[accumulate].task.parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)
        for row, other_row in zip(found[1].run.metrics, found[accumulate].run.metrics, strict=True):
            assert row == pytest.approx(other_row, rel=1e-4)


# ---- along the way


def test_a_fit_lowers_the_loss_along_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    train(tmp_path, task=make_task(encoder_lr_factor=0.5), epochs=10)
    assert len(steps.losses) == 30
    assert np.mean(steps.losses[-3:]) < 0.8 * np.mean(steps.losses[:3])
    rates = np.array(steps.rates)
    np.testing.assert_allclose(rates[0], [0.01] * 3 + [0.02] * 2)  # weight and bias of the layer; the norm; the head
    np.testing.assert_allclose(rates[15], rates[0] * 0.5**0.9)
    np.testing.assert_allclose(rates[-1], rates[0] * (1 / 30) ** 0.9)


def test_every_epoch_draws_another_order_and_the_same_with_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    for workers in (0, 2):
        with monkeypatch.context() as patch:
            steps = Steps(patch)
            train(tmp_path / str(workers), data=make_data(workers=workers), epochs=3)
        orders.append(steps.names)
    assert orders[0] == orders[1]
    epochs = [[name for names in orders[0][first : first + 3] for name in names] for first in (0, 3, 6)]
    assert all(sorted(names) == sorted(epochs[0]) and len(set(names)) == 12 for names in epochs)
    assert len({tuple(names) for names in epochs}) == 3


def test_what_is_rarely_scored_is_scored_in_the_end(tmp_path: Path) -> None:
    run = train(tmp_path, epochs=5, validate_every=2).run
    assert [row["val/miou"] is not None for row in run.metrics] == [False, True, False, True, True]
    assert all(row["train/loss"] is not None for row in run.metrics)


def test_only_so_many_batches_of_each_split_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, data = Steps(monkeypatch), make_data(workers=1)
    scored: list[int] = []
    count = Counting.count

    def counted(counting: Counting, predictions: Tensor, masks: Tensor) -> Tensor:
        scored.append(len(masks))
        return count(counting, predictions, masks)

    monkeypatch.setattr(Counting, "count", counted)
    train(tmp_path, data=data, limit_batches=2)
    assert [len(names) for names in steps.names] == [4] * 4
    assert scored == [2] * 4  # of the three batches of val


class Scores:
    """The mIoU that the next scorings find, in place of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *miou: float) -> None:
        coming, score = iter(miou), loop_module.score
        monkeypatch.setattr(loop_module, "score", lambda matrix: replace(score(matrix), miou=next(coming)))


@pytest.mark.parametrize(
    ("miou", "patience", "every", "epochs"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.9], 2, 1, 4),
        ([0.1, 0.3, 0.2, 0.4, 0.3, 0.3], 2, 1, 6),
        ([0.3, 0.2, 0.9], 1, 2, 4),
        ([0.5] + [0.1] * 8, None, 1, 9),
    ],
)
def test_early_stopping_waits_for_so_many_scorings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miou: list[float], patience: int | None, every: int, epochs: int
) -> None:
    Scores(monkeypatch, *miou)
    done = train(tmp_path, epochs=9, early_stop=patience, validate_every=every, limit_batches=1)
    assert done.fitted.epochs == epochs == len(done.run.metrics)
    assert done.fitted.best_epoch == (int(np.argmax(miou[: epochs // every])) + 1) * every


def test_a_plateau_lowers_the_learning_rate_of_the_next_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Scores(monkeypatch, 0.3, 0.2, 0.2, 0.4, 0.1)
    steps = Steps(monkeypatch)
    task = make_task(schedule=Plateau(factor=0.5, patience=1))
    run = train(tmp_path, task=task, epochs=5, limit_batches=1).run
    assert [row["lr"] for row in run.metrics] == [0.02, 0.02, 0.01, 0.005, 0.005]
    assert [rates[0] for rates in steps.rates] == [0.02, 0.02, 0.01, 0.005, 0.005]


class Told(Logger):
    """Remembers what it was told."""

    name, version = "told", None

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


def test_loggers_are_told_the_rows_and_now_and_then_a_step(tmp_path: Path) -> None:
    told = Told()
    run = train(tmp_path, data=make_data(train=48), epochs=2, loggers=[told]).run
    epochs = [(step, row) for step, row in told.rows if "val/miou" in row]
    assert [step for step, _ in epochs] == [12, 24]
    for (_, row), kept in zip(epochs, run.metrics, strict=True):
        assert {key: row[key] for key in kept if key != "step"} == pytest.approx(
            {key: value for key, value in kept.items() if key != "step"}
        )
        assert 0 <= row["time/data_wait"] <= 1
    steps = [(step, row) for step, row in told.rows if "step/loss" in row]
    assert [(step, row["epoch"]) for step, row in steps] == [(10, 1), (12, 1), (20, 2), (24, 2)]
    assert all(set(row) == {"step/loss", "step/loss/ce", "step/loss/dice", "epoch"} for _, row in steps)


def test_a_program_that_breaks_off_with_workers_ends(tmp_path: Path) -> None:
    """A traceback holds on to the loader; Python then asks its processes for an end, and waits for it."""
    script = tmp_path / "breaks.py"
    script.write_text(
        "from seg_cli.data.augment import Augment\n"
        "from seg_cli.data.loading import BatchShape, training_loader\n"
        "from seg_cli.data.shapes import Shapes\n"
        "split = Shapes(train=8, val=1, test=1, size=(32, 32)).splits['train']\n"
        "shape = BatchShape(2)\n"
        "loader = training_loader(split, augment=Augment({}), shape_of=lambda epoch: shape, seed=0, workers=1)\n"
        "loader.batch_sampler.choose(0, range(4))\n"
        "for batch in loader:\n"
        "    raise ValueError('broken')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ValueError: broken"), done.stderr


# ---- what learns


def test_frozen_parts_keep_every_bit_and_others_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(finetune=Phases(phases=[{"epochs": 2, "frozen": ["encoder"]}, {"epochs": 1, "frozen": ["head"]}]))
    states = [{key: value.clone() for key, value in task.model.state_dict().items()}]
    end = Loop._end

    def ended(loop: Loop, *arguments: Any) -> None:
        states.append({key: value.clone() for key, value in loop.task.model.state_dict().items()})
        end(loop, *arguments)

    monkeypatch.setattr(Loop, "_end", ended)
    train(tmp_path, task=task, epochs=4, average=Ema())
    learned = [
        {key for key in before if not torch.equal(before[key], after[key])} for before, after in pairwise(states)
    ]
    head, encoder = {"head.weight", "head.bias"}, {key for key in states[0] if key.startswith("encoder.")}
    assert len(encoder) == 7  # with the running mean and variance, and how many batches they are of
    assert learned == [head, head, encoder, head | encoder]


def test_a_part_that_thaws_warms_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    finetune = Phases(phases=[{"epochs": 1, "frozen": ["encoder"]}], warmup=1.0)
    task = make_task(finetune=finetune, schedule=Constant())
    train(tmp_path, task=task, data=make_data(train=16), epochs=3)
    rates = np.array(steps.rates) / 0.02
    np.testing.assert_allclose(rates[:, -1], 1)  # the head
    np.testing.assert_allclose(rates[4:, 0], [0.25, 0.5, 0.75, 1, 1, 1, 1, 1])  # the encoder


def test_norms_see_batches_also_after_the_model_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    modes: list[bool] = []
    step = Loop._step

    def watched(loop: Loop, *arguments: Any) -> None:
        modes.append(all(module.training for module in task.model.modules()))
        step(loop, *arguments)

    monkeypatch.setattr(Loop, "_step", watched)
    task.model.eval()
    count_flops(task.model, (32, 32))
    train(tmp_path, task=task)
    assert len(modes) == 6
    assert all(modes)


# ---- losses


def test_every_term_and_every_weight_is_in_the_record(tmp_path: Path) -> None:
    loss = Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": Ramp(start=0.5, end=1.5, epochs=2)})
    run = train(tmp_path, task=make_task(loss=loss), epochs=3).run
    assert [row["train/loss_weight/dice"] for row in run.metrics] == [0.5, 1.0, 1.5]
    for row in run.metrics:
        assert row["train/loss_weight/ce"] == 1.0
        whole = row["train/loss/ce"] + row["train/loss_weight/dice"] * row["train/loss/dice"]
        assert row["train/loss"] == pytest.approx(whole, rel=1e-5)


def poison(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Makes the weights NaN before a step, counted from 1; the images of that step, once it was."""
    names: list[str] = []
    count, true_step = iter(range(1, 100)), Stepper.step

    def poisoned(stepper: Stepper, batches: list[Batch], *, guarded: bool) -> dict[str, Tensor]:
        if next(count) == step:
            torch.nn.init.constant_(stepper.task.model.head.bias, float("nan"))  # type: ignore[union-attr,arg-type]
            names.extend(name for batch in batches for name in batch.names)
        return true_step(stepper, batches, guarded=guarded)

    monkeypatch.setattr(Stepper, "step", poisoned)
    return names


@pytest.mark.parametrize(("step", "accumulate"), [(1, 1), (4, 1), (6, 1), (3, 2)])
def test_a_loss_that_is_no_number_stops_with_its_step_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, accumulate: int
) -> None:
    names = poison(monkeypatch, step)
    with pytest.raises(RunFailed) as failure:
        train(tmp_path, epochs=3, accumulate=accumulate)
    assert str(failure.value).startswith(f"The loss is nan at step {step}, on the images {', '.join(names)}. ")
    assert len(names) == 4 * accumulate
    for way in ("optimizer.lr", "precision=fp32", "trainer.gradient_clip"):
        assert way in str(failure.value)


@pytest.mark.parametrize("minutes", [None, 0])
@pytest.mark.parametrize("step", [1, 5])
def test_weights_that_are_no_numbers_are_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, minutes: float | None
) -> None:
    """Neither where an epoch ends, nor where it is time to save within it."""
    poison(monkeypatch, step)
    with pytest.raises(RunFailed, match=re.escape(f"at step {step},")):
        train(tmp_path, epochs=3, checkpoint_minutes=minutes)
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    if step == 1:
        assert not kept
    elif minutes is None:
        assert [path.name for path in kept] == ["best.ckpt", "last.ckpt"]
    for path in kept:
        assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())


def test_auxiliary_logits_are_weighed_by_the_model(tmp_path: Path) -> None:
    class TwoHeads(nn.Module):
        aux_weight = 0.4

        def __init__(self) -> None:
            super().__init__()
            self.main, self.other = TinyModel(), TinyModel()

        def forward(self, images: Tensor) -> Tensor | Outputs:
            logits = self.main(images)
            return Outputs(logits, aux=(self.other(images), self.other(images) / 2)) if self.training else logits

    data = make_data(train=4, flip=False)
    task = make_task(TwoHeads, make_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    (row,) = train(tmp_path, task=task, data=data, epochs=1).run.metrics
    images, masks = stacked([data.dataset.splits["train"][index] for index in range(4)])
    outputs = task.model.train()(images)
    parts = [float(task.loss(logits, masks.byte())[0].detach()) for logits in (outputs.logits, *outputs.aux)]
    assert row["train/loss"] == pytest.approx(parts[0] + 0.4 * (parts[1] + parts[2]), rel=1e-4)
    assert row["train/loss/aux"] == pytest.approx(parts[1] + parts[2], rel=1e-4)


# ---- scoring


def test_what_is_scored_is_what_scoring_finds_and_sklearn_too(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    data = make_data()
    done = train(tmp_path, data=data, epochs=1)
    (found,) = done.run.metrics
    batches = scoring_loader(data.dataset.splits["val"], batch_size=5, workers=0)
    again = evaluate(done.task.model, batches, counting=Counting(7), device=torch.device("cpu"), dtype=None)
    images, masks = stacked([data.dataset.splits["val"][index] for index in range(5)])
    with torch.no_grad():
        predicted = done.task.model(images).argmax(1).numpy()
    counted = masks.numpy() != VOID
    y, p = masks.numpy()[counted], predicted[counted]
    np.testing.assert_array_equal(again.matrix, metrics.confusion_matrix(y, p, labels=range(7)))
    occurring = sorted(set(y) | set(p))
    iou = metrics.jaccard_score(y, p, labels=occurring, average=None, zero_division=0)
    names = data.dataset.labels.names
    # A class that does not occur has no score, and none to log.
    assert {key: value for key, value in found.items() if key.startswith("val/iou/")} == pytest.approx(
        {f"val/iou/{names[index]}": value for index, value in zip(occurring, iou, strict=True)}
    )
    assert found["val/miou"] == pytest.approx(iou.mean())


class Planes:
    """The scenes with a mask for each class, in which every other one is also the next."""

    def __init__(self, splits: dict[str, Any]) -> None:
        self.splits = {name: [self.planes(sample) for sample in samples] for name, samples in splits.items()}

    @staticmethod
    def planes(sample: Sample) -> Sample:
        planes = np.stack([(sample.mask == c) | (sample.mask == c - 1) for c in range(7)]).astype(np.uint8)
        planes[:, sample.mask == VOID] = VOID
        return replace(sample, mask=planes)


def test_overlapping_labels_are_learned_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    loss = Sum({"bce": BinaryCrossEntropy(), "dice": Dice()}, {"bce": 1.0, "dice": 1.0})
    data, steps = make_data(), Steps(monkeypatch)
    data.dataset.splits = Planes(data.dataset.splits).splits
    done = train(tmp_path, task=make_task(loss=loss, overlapping=True), data=data, epochs=5)
    assert np.mean(steps.losses[-3:]) < 0.9 * np.mean(steps.losses[:3])
    found, samples = done.run.metrics[-1], [data.dataset.splits["val"][index] for index in range(5)]
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples])
        yes = (done.task.model.eval()(images).sigmoid() > 0.5).movedim(1, -1).numpy()
    truth = np.stack([sample.mask for sample in samples]).transpose(0, 2, 3, 1)
    counted = truth[..., 0] != VOID  # here void is the same in all planes
    y, p = truth[counted], yes[counted].astype(int)
    iou = metrics.jaccard_score(y, p, average=None, zero_division=0)
    assert found["val/miou"] == pytest.approx(iou.mean(), rel=1e-5)
    assert found["val/pixel_accuracy"] == pytest.approx((y == p).mean(), rel=1e-5)
    assert found["val/iou/Disk"] == pytest.approx(iou[1], rel=1e-5)


def test_a_split_without_a_pixel_that_counts_has_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Scores(monkeypatch, math.nan, math.nan)
    done = train(tmp_path)
    assert "val/miou" not in done.run.metrics[0]
    assert done.fitted.best_epoch == 1
    assert done.run.best_checkpoint.is_file()
