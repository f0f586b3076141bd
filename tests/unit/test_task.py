"""Training and validation as Lightning runs them, with a real Trainer on a tiny network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tiny import TinyModel, make_data, make_task, make_trainer
from torch import Tensor, nn

from seg_cli.data.labels import VOID
from seg_cli.data.loading import Batch, ShuffledBatches, scoring_loader
from seg_cli.data.sample import Sample, Split
from seg_cli.data.shapes import Shapes
from seg_cli.inference.cost import count_flops
from seg_cli.inference.evaluate import evaluate
from seg_cli.losses import BinaryCrossEntropy, CrossEntropy, Dice, Ramp, Sum
from seg_cli.metrics.counting import Counting
from seg_cli.models.encoder import Encoder
from seg_cli.models.outputs import Outputs
from seg_cli.models.unet import UNet
from seg_cli.training.task import parameter_groups

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


class Seen(pl.Callback):
    """What each epoch was given and how its loss went."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[list[str]]] = {}
        self.losses: list[float] = []
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Batch, index: int) -> None:
        self.epochs.setdefault(trainer.current_epoch, []).append(batch.names)
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: dict, batch: Batch, index: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


# ---- parameter groups


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = UNet(encoder=Encoder("resnet10t"), num_classes=3)
    parameters = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == set(model.parameters())


def test_norms_and_biases_are_not_decayed_and_the_encoder_learns_slower() -> None:
    model = TinyModel()
    (convolution, norm, _), head = model.encoder, model.head
    expected = {
        convolution.weight: (0.1, None),
        **dict.fromkeys((convolution.bias, norm.weight, norm.bias), (0.1, 0.0)),
        head.weight: (1.0, None),
        head.bias: (1.0, 0.0),
    }
    found = {
        parameter: (group["lr_factor"], group.get("weight_decay"))
        for group in parameter_groups(model, 0.1)
        for parameter in group["params"]
    }
    assert found == expected


# ---- fitting


def test_a_fit_lowers_the_loss_along_the_schedule(tmp_path: Path) -> None:
    seen = Seen()
    task = make_task(encoder_lr_factor=0.5)
    make_trainer(tmp_path, seen, max_epochs=10).fit(task, datamodule=make_data())
    assert len(seen.losses) == 30
    assert np.mean(seen.losses[-3:]) < 0.8 * np.mean(seen.losses[:3])
    rates = np.array(seen.rates)
    np.testing.assert_allclose(rates[0], [0.01, 0.01, 0.02, 0.02])
    np.testing.assert_allclose(rates[15], rates[0] * 0.5**0.9)
    np.testing.assert_allclose(rates[-1], rates[0] * (1 / 30) ** 0.9)


def test_gradients_are_clipped_for_a_fused_optimiser(tmp_path: Path) -> None:
    task = make_task(make_optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0, fused=True))
    before = {key: value.clone() for key, value in task.named_parameters()}
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0, gradient_clip_val=0.01)
    trainer.fit(task, datamodule=make_data())
    moved = torch.stack([(value - before[key]).norm() for key, value in task.named_parameters()]).norm()
    assert float(moved.detach()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_draws_another_order_and_the_same_on_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    seen = Seen()
    make_trainer(tmp_path, seen, max_epochs=3).fit(make_task(), datamodule=make_data(workers=workers))
    batches = ShuffledBatches(12, batch_size=4, seed=0)
    for epoch in range(3):
        batches.set_epoch(epoch)
        expected = [[f"scene{draw.sample:05d}" for draw in batch] for batch in batches]
        assert seen.epochs[epoch] == expected
    assert len({str(names) for names in seen.epochs.values()}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_from_a_checkpoint_draws_and_learns_as_if_never_stopped(tmp_path: Path, workers: int) -> None:
    whole, first, second = Seen(), Seen(), Seen()
    make_trainer(tmp_path, whole, max_epochs=3).fit(make_task(), datamodule=make_data(workers=workers))

    class StopAfterTwo(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    stopped = make_trainer(tmp_path, first, StopAfterTwo(), max_epochs=3)
    stopped.fit(make_task(), datamodule=make_data(workers=workers))
    resumed = make_trainer(tmp_path, second, max_epochs=3)
    resumed.fit(make_task(), datamodule=make_data(workers=workers), ckpt_path=tmp_path / "last.ckpt")
    assert first.epochs | second.epochs == whole.epochs
    np.testing.assert_allclose(first.losses + second.losses, whole.losses, rtol=1e-6)


# ---- losses


def test_every_term_and_every_weight_is_logged_and_a_schedule_is_followed(tmp_path: Path) -> None:
    class Weights(pl.Callback):
        found: list[dict[str, float]] = []

        def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
            logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
            self.found.append({key: value for key, value in logged.items() if key.startswith("train/loss")})

    weights = Weights()
    task = make_task()
    task.loss = Sum({"ce": CrossEntropy(), "dice": Dice()}, {"ce": 1.0, "dice": Ramp(start=0.5, end=1.5, epochs=2)})
    make_trainer(tmp_path, weights, max_epochs=3).fit(task, datamodule=make_data())
    assert [epoch["train/loss_weight/dice"] for epoch in weights.found] == [0.5, 1.0, 1.5]
    for epoch in weights.found:
        assert epoch["train/loss_weight/ce"] == 1.0
        whole = epoch["train/loss/ce"] + epoch["train/loss_weight/dice"] * epoch["train/loss/dice"]
        assert epoch["train/loss"] == pytest.approx(whole, rel=1e-5)


def test_auxiliary_logits_are_weighed_by_the_model(tmp_path: Path) -> None:
    class TwoHeads(nn.Module):
        aux_weight = 0.4

        def __init__(self) -> None:
            super().__init__()
            self.main, self.other = TinyModel(), TinyModel()

        def forward(self, images: Tensor) -> Tensor | Outputs:
            logits = self.main(images)
            return Outputs(logits, aux=(self.other(images), self.other(images) / 2)) if self.training else logits

    task = make_task(make_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    task.model = TwoHeads()
    data, trainer = make_data(train=4), make_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, datamodule=data)
    (batch,) = data.train_dataloader()
    outputs = task.model.train()(batch.images)
    parts = [float(task.loss(logits, batch.masks)[0].detach()) for logits in (outputs.logits, *outputs.aux)]
    logged = trainer.callback_metrics
    assert float(logged["train/loss"]) == pytest.approx(parts[0] + 0.4 * (parts[1] + parts[2]), rel=1e-4)
    assert float(logged["train/loss/aux"]) == pytest.approx(parts[1] + parts[2], rel=1e-4)


# ---- validation


def test_validation_scores_are_those_of_an_independent_computation(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    task, data = make_task(), make_data()
    trainer = make_trainer(tmp_path)
    trainer.fit(task, datamodule=data)
    found = {key: float(value) for key, value in trainer.callback_metrics.items()}

    split = data.dataset.splits["val"]
    samples = [split[i] for i in range(len(split))]
    images = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples])
    masks = torch.stack([torch.from_numpy(sample.mask) for sample in samples])
    with torch.no_grad():
        logits = task.model.eval()(images)
        batches = [slice(0, 2), slice(2, 4), slice(4, 5)]
        loss = sum(len(masks[part]) * float(task.loss(logits[part], masks[part])[0]) for part in batches) / len(masks)
    truth, predicted = masks.numpy(), logits.argmax(1).numpy()
    counted = truth != VOID
    y, p = truth[counted], predicted[counted]
    occurring = sorted(set(y) | set(p))
    iou = dict(
        zip(occurring, metrics.jaccard_score(y, p, labels=occurring, average=None, zero_division=0), strict=True)
    )
    assert found["val/miou"] == pytest.approx(np.mean(list(iou.values())), rel=1e-5)
    assert found["val/pixel_accuracy"] == pytest.approx(np.mean(y == p), rel=1e-5)
    assert found["val/loss"] == pytest.approx(loss, rel=1e-4)
    names = data.dataset.labels.names
    assert {names[index]: pytest.approx(value, rel=1e-5) for index, value in iou.items()} == {
        key.removeprefix("val/iou/"): value for key, value in found.items() if key.startswith("val/iou/")
    }


def test_validation_is_what_scoring_finds(tmp_path: Path) -> None:
    task, data = make_task(), make_data()
    make_trainer(tmp_path).fit(task, datamodule=data)
    batches = scoring_loader(data.dataset.splits["val"], batch_size=5, workers=0)
    found = evaluate(task.model, batches, counting=Counting(7), device=torch.device("cpu"), dtype=None)
    np.testing.assert_array_equal(task.matrix.numpy(), found.matrix)


def test_training_trains_also_after_the_model_was_measured(tmp_path: Path) -> None:
    """Norms must see batches: what puts the model into eval mode beforehand must not last."""
    task = make_task()

    class Modes(pl.Callback):
        found: list[bool] = []

        def on_train_batch_start(self, trainer: pl.Trainer, task: nn.Module, batch: Batch, index: int) -> None:
            self.found.append(all(module.training for module in task.modules()))

    modes = Modes()
    count_flops(task.model, (32, 32))
    make_trainer(tmp_path, modes).fit(task, datamodule=make_data())
    assert modes.found
    assert all(modes.found)


def test_a_class_that_does_not_occur_has_no_score_to_log(tmp_path: Path) -> None:
    class Ground(nn.Module):
        """Predicts class 0 everywhere."""

        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.eye(7)[0].view(1, 7, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            return self.logits.expand(len(images), 7, *images.shape[-2:])

    task = make_task(make_optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    task.model = Ground()
    data = make_data()
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, datamodule=data)
    logged = {key for key in trainer.callback_metrics if key.startswith("val/iou/")}
    split = data.dataset.splits["val"]
    occurring = {int(value) for i in range(len(split)) for value in np.unique(split[i].mask)} - {VOID}
    assert logged == {f"val/iou/{data.dataset.labels.names[index]}" for index in occurring}


# ---- labels that overlap


class Planes(Shapes):
    """The shapes with a mask for each class, in which every other one is also the next."""

    def __init__(self) -> None:
        super().__init__(train=12, val=5, test=1, size=(32, 32))
        self.labels = replace(self.labels, overlapping=True)
        for name, split in self.splits.items():
            self.splits[name] = _PlaneSplit(split)


class _PlaneSplit:
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample:
        sample = self.split[index]
        planes = np.stack([(sample.mask == c) | (sample.mask == c - 1) for c in range(7)]).astype(np.uint8)
        planes[:, sample.mask == VOID] = VOID
        return replace(sample, mask=planes)


class Whole:
    """Samples as they are."""

    def __call__(self, split: Split, index: int, crop: object, rng: np.random.Generator) -> Sample:
        return split[index]


def test_overlapping_labels_are_learned_and_validated(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    task = make_task(overlapping=True)
    task.loss = Sum({"bce": BinaryCrossEntropy(), "dice": Dice()}, {"bce": 1.0, "dice": 1.0})
    data = make_data()
    data.dataset, data.augment = Planes(), Whole()
    seen, trainer = Seen(), make_trainer(tmp_path, max_epochs=5)
    trainer.callbacks.append(seen)
    trainer.fit(task, datamodule=data)
    assert np.mean(seen.losses[-3:]) < 0.9 * np.mean(seen.losses[:3])
    found = {key: float(value) for key, value in trainer.callback_metrics.items()}

    samples = [*map(data.dataset.splits["val"].__getitem__, range(5))]
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples])
        yes = (task.model.eval()(images).sigmoid() > 0.5).movedim(1, -1).numpy()
    truth = np.stack([sample.mask for sample in samples]).transpose(0, 2, 3, 1)
    counted = truth[..., 0] != VOID  # here void is the same in all planes
    y, p = truth[counted], yes[counted].astype(int)
    iou = metrics.jaccard_score(y, p, average=None, zero_division=0)
    np.testing.assert_array_equal(task.matrix, metrics.multilabel_confusion_matrix(y, p))
    assert found["val/miou"] == pytest.approx(iou.mean(), rel=1e-5)
    assert found["val/pixel_accuracy"] == pytest.approx((y == p).mean(), rel=1e-5)
    assert found["val/iou/Disk"] == pytest.approx(iou[1], rel=1e-5)
