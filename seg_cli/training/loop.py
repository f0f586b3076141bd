"""The training loop: epochs of steps, a scoring after them, and checkpoints from which it goes on exactly.

It is a loop of our own, on whatever devices Fabric manages, because three things happen inside an epoch that a
ready-made one does not foresee: it stops and goes on between any two steps, batches change their shape, and a batch
that does not fit into memory is split.
"""

import time
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor

from seg_cli.data.datamodule import DataModule
from seg_cli.data.loading import Batch
from seg_cli.errors import RunFailed
from seg_cli.inference.evaluate import autocast
from seg_cli.metrics.confusion import score
from seg_cli.runs.run import Run
from seg_cli.runs.steps import append_steps, cut_steps
from seg_cli.training import observer
from seg_cli.training.averaging import AveragedModel
from seg_cli.training.checkpoints import keep_last, write_checkpoint
from seg_cli.training.finetune import freeze
from seg_cli.training.position import LossSums, Position, process_states, restore_process_state
from seg_cli.training.precision import autocast_dtype
from seg_cli.training.progress import TrainingDisplay
from seg_cli.training.shards import is_sharded, load_module, whole
from seg_cli.training.signals import ASKING, Interrupted, StopSignals
from seg_cli.training.stages import Plan
from seg_cli.training.step import Stepper, any_of, largest_of
from seg_cli.training.task import SegmentationTask
from seg_cli.training.waiting import DataWait

_LOOK_EVERY = 10  # steps between two looks at the losses, each of which waits for the device
_GUARDED_STEPS = 3  # first steps of a stage, in which all processes agree on whether memory does


class Loop:
    """Everything that moves while a run trains.

    Args:
        task: model, loss and optimiser.
        data: loaders of train and val.
        run: where checkpoints and the record go.
        fabric: the processes.
        plan: stages, batches and steps.
        settings: the ``trainer`` group.
        mode: a resolved precision, see ``precision.resolve``.
        average: the averaged model, if there is to be one.
        loggers: are told numbers, on the first process.
        display: is told how far it is.
        stop: signals that ask for an end.
        identity: what a checkpoint says of the run besides, see ``checkpoint``.
    """

    def __init__(
        self,
        task: SegmentationTask,
        data: DataModule,
        run: Run,
        *,
        fabric: Fabric,
        plan: Plan,
        settings: Mapping[str, Any],
        mode: str,
        average: AveragedModel | None,
        loggers: list[Logger],
        display: TrainingDisplay,
        stop: StopSignals,
        identity: Mapping[str, Any],
    ) -> None:
        self.task, self.data, self.run_directory, self.fabric, self.plan = task, data, run, fabric, plan
        self.settings, self.average, self.loggers, self.display, self.stop = settings, average, loggers, display, stop
        self.identity = identity
        self.device = fabric.device
        self.dtype = autocast_dtype(mode)
        self.copy = deepcopy(task.model).to(self.device) if is_sharded(fabric) else None  # whole, to be scored
        lr_batch = settings["lr_batch"]
        self.stepper = Stepper(
            task,
            fabric=fabric,
            clip=settings["gradient_clip"],
            dtype=self.dtype,
            say=display.say,
            lr_factor=plan.step_samples / lr_batch if lr_batch else 1.0,
        )
        if average is not None:
            average.model.to(self.device)
        self.parts = task.parts
        data.open(plan.shape, rank=fabric.global_rank, world_size=fabric.world_size)
        self.at = Position()
        self.losses = LossSums(self.device)
        self.data_wait: float | None = None
        self.recent: deque[tuple[int, list[str], dict[str, Tensor]]] = deque()
        self.waiting = DataWait(self.device)
        self.saved_at = self.started_at = time.monotonic()

    # ---- the story

    def run(self) -> None:
        """Train until the epochs are done, or early stopping ends it.

        Raises:
            Interrupted: if a signal asked for an end; last.ckpt is of the latest step then.
            RunFailed: if the loss is no number, the disk is full, or memory does not do for a single sample.
        """
        if self.fabric.is_global_zero:
            cut_steps(self.run_directory.folder, self.at.step)
        patience = self.settings["early_stop"]
        for epoch in range(self.at.epoch, self.plan.epochs):
            if patience is not None and self.at.waited >= patience:
                break
            self._begin(epoch)
            self._train(epoch)
            self._look_at_losses()
            due = (epoch + 1) % self.settings["validate_every"] == 0 or epoch + 1 == self.plan.epochs
            scores = self._validate(epoch) if due else {}
            self._end(epoch, scores)
        if self.at.best_epoch is None:  # nothing was scored that has a score
            self.at.best_epoch = self.at.epoch - 1
            self._keep_best()

    def _begin(self, epoch: int) -> None:
        self.task.loss.epoch = epoch
        frozen = self.task.finetune.frozen(epoch, epochs=self.plan.epochs, parts=self.parts)
        freeze(self.task.model, frozen)
        for part in self.parts:
            if part in frozen:
                self.at.thawed[part] = -1
            elif self.at.thawed.get(part) == -1:
                self.at.thawed[part] = self.at.step
        self.lr = self.stepper.base_lr[-1] * self._lr_factor(epoch, 0)
        if self.at.seen == 0:
            self.losses.reset()
        if self.at.batch != self._samples(epoch):
            self.at.batch, self.at.skipped = self._samples(epoch), self.at.seen
        done = min(self.at.seen // self.at.batch, self.plan.batches(epoch))
        self.display.begin_epoch(epoch, done, frozen, self.parts)

    def _train(self, epoch: int) -> None:
        """The steps of an epoch that are still to be done."""
        accumulate = self.plan.accumulate
        done, total = self._batches_done(epoch), self._batches(epoch)
        collected: list[Batch] = []
        self.waiting.begin_epoch()
        for batch in self.data.training_batches(epoch, range(done, total), self.at.skipped):
            self.waiting.begin_step()
            collected.append(batch.to(self.device))
            done += 1
            if len(collected) == accumulate or done == total:
                self._step(epoch, collected)
                collected = []
                self.display.step(done + self.at.skipped // self.at.batch, self.at.batch, self.recent[-1][2][""])
                if self.at.step % _LOOK_EVERY == 0:
                    self._look_at_losses()
                self._pause(between_epochs=False)
            self.waiting.end_step()
        self.data_wait = self.waiting.end_epoch()

    def _end(self, epoch: int, scores: dict[str, float]) -> None:
        """The record of an epoch, and a checkpoint from which the next one begins."""
        losses = {f"train/loss{name}": value for name, value in self.losses.means(self.fabric).items()}
        weights = {f"train/loss_weight/{name}": weight for name, weight in self.task.loss.current_weights().items()}
        row = {"lr": self.lr, **losses, **weights, **scores}
        self.at.rows.append({"epoch": epoch + 1, "step": self.at.step, **row})
        self.at.epoch, self.at.seen, self.at.skipped = epoch + 1, 0, 0
        self._save()
        if self.fabric.is_global_zero:
            self.run_directory.write_metrics(self.at.rows)
            waited = {} if self.data_wait is None else {"time/data_wait": self.data_wait}
            for logger in self.loggers:
                logger.log_metrics(row | waited | {"epoch": epoch + 1}, self.at.step)
                logger.save()
            reason = observer.tell(epoch + 1, scores)
            if reason and epoch + 1 < self.plan.epochs:
                self.stop.ask(reason)
        self.display.end_epoch(losses.get("train/loss"))
        self._pause(between_epochs=True)

    # ---- a step

    def _step(self, epoch: int, batches: list[Batch]) -> None:
        """One step of the optimiser over the gradients of these batches."""
        step = min(self.at.seen // (self.at.batch * self.plan.accumulate), self.plan.steps(epoch) - 1)
        warm = self.task.finetune.warmup * self.plan.steps(epoch)
        thawing = {
            part: min(1.0, (self.at.step - since + 1) / warm)
            for part, since in self.at.thawed.items()
            if since >= 0 < warm
        }
        self.stepper.set_learning_rates(self._lr_factor(epoch, step), thawing)
        losses = self.stepper.step(batches, guarded=step < _GUARDED_STEPS)
        self.at.step += 1
        self.at.seen += len(batches) * self.at.batch
        if self.average is not None:
            ends = self._batches_done(epoch) == self._batches(epoch)
            self.average.update(self.task.model, self.plan.progress(epoch, step + 1), epoch_ends=ends)
        self.recent.append((self.at.step, [name for batch in batches for name in batch.names], losses))
        self.losses.add(losses, sum(len(batch.names) for batch in batches))

    def _lr_factor(self, epoch: int, step: int) -> float:
        return self.task.schedule(self.plan.progress(epoch, step)) * self.plan.lr_factor(epoch, step)

    def _look_at_losses(self) -> None:
        """See that the recent losses are numbers, and tell them to the loggers. Waits for the device, once."""
        if not self.recent:
            return
        steps, names, losses = zip(*self.recent, strict=True)
        self.recent.clear()
        values = torch.stack([torch.stack([*terms.values()]) for terms in losses]).tolist()
        if self.fabric.is_global_zero:
            append_steps(self.run_directory.folder, [(step, row[0]) for step, row in zip(steps, values, strict=True)])
        for step, images, row in zip(steps, names, values, strict=True):
            if not all(map(_is_finite, row[:1])):
                raise RunFailed(
                    f"The loss is {row[0]} at step {step}, on the images {', '.join(images)}. Training has stopped; "
                    "the checkpoints of earlier epochs are kept. Try a smaller optimizer.lr, precision=fp32, or a "
                    "smaller trainer.gradient_clip."
                )
        if self.fabric.is_global_zero:
            numbers = {f"step/loss{name}": value for name, value in zip(losses[-1], values[-1], strict=True)}
            for logger in self.loggers:
                logger.log_metrics(numbers | {"epoch": self.at.epoch + 1}, steps[-1])

    # ---- scoring

    @torch.no_grad()
    def _validate(self, epoch: int) -> dict[str, float]:
        """Scores on val, of the averaged weights where there are any; the best weights are kept."""
        model = self._scored_model(epoch)
        if self.fabric.world_size > 1:
            # Each process has batch-norm statistics of its own; a score is of one model, that of the first process.
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        model.eval()
        self.task.loss.eval()  # a model gives no edges now, and terms that look at them count for nothing
        matrix, loss_sum = self.task.counting.nothing().to(self.device), torch.zeros(2, device=self.device)
        limit = self.plan.limit_batches
        length = self.data.validation_length if limit is None else min(limit, self.data.validation_length)
        self.display.begin_validation(length)
        for done, sizes in enumerate(islice(self.data.validation_batches(), length)):
            for cpu_batch in sizes:
                batch = cpu_batch.to(self.device)
                with autocast(self.device, self.dtype):
                    logits = model(batch.images)
                    loss, _ = self.task.loss(logits, batch.masks)
                loss_sum += torch.stack((loss.float(), torch.ones_like(loss_sum[0]))) * len(batch.names)
                matrix += self.task.counting.count(self.task.counting.predict(logits), batch.masks).sum(0)
            self.display.validated(done + 1)
            if self.stop.received and self.fabric.world_size == 1:
                self._save()
                raise Interrupted(self.stop.received)
        self.task.loss.train()
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(matrix)
            torch.distributed.all_reduce(loss_sum)
        scores = score(matrix.cpu().numpy())
        values = {
            "val/loss": float(loss_sum[0] / loss_sum[1]),
            "val/miou": scores.miou,
            "val/pixel_accuracy": scores.pixel_accuracy,
        }
        values |= {f"val/iou/{name}": float(iou) for name, iou in zip(self.task.class_names, scores.iou, strict=True)}
        # NaN is the score of what does not occur, and no logger has a place for it.
        values = {key: value for key, value in values.items() if value == value}
        self._compare(epoch, values.get("val/miou", 0.0))  # a split of void alone: its first epoch is as good as any
        self.display.end_validation(values.get("val/miou"))
        return values

    def _scored_model(self, epoch: int) -> torch.nn.Module:
        if self.average is not None and self.average.averaged:
            if self.average.average.recalibrate:
                few = range(min(self.average.average.recalibrate, self.plan.batches(epoch)))
                batches = self.data.training_batches(epoch, few)
                with autocast(self.device, self.dtype):
                    self.average.recalibrate(batch.to(self.device).images for batch in batches)
            return self.average.model
        if self.copy is None:
            return self.task.model
        self.copy.load_state_dict(whole(self.task.model.state_dict()))
        return self.copy

    def _compare(self, epoch: int, miou: float) -> None:
        observe = getattr(self.task.schedule, "observe", None)
        if observe is not None:
            observe(miou)
        if self.at.best_miou is None or miou > self.at.best_miou:
            self.at.best_miou, self.at.best_epoch, self.at.waited = miou, epoch, 0
            self._keep_best()
        else:
            self.at.waited += 1

    # ---- checkpoints

    def _keep_best(self) -> None:
        averaged = self.average is not None and self.average.averaged > 0
        model = self.average.model if self.average is not None and averaged else self.task.model
        state = {f"model.{key}": value for key, value in self._whole_state(model).items()}
        if self.fabric.is_global_zero:
            write_checkpoint(
                self.run_directory.best_checkpoint,
                {"state_dict": state, "epoch": self.at.best_epoch, **self.identity},
            )

    def _save(self) -> None:
        """last.ckpt of this very moment."""
        now = time.monotonic()
        self.at.seconds, self.started_at = self.at.seconds + now - self.started_at, now
        processes = process_states(self.fabric, self.losses)
        model, stepper = self._whole_state(self.task.model), self.stepper.state_dict()
        if self.fabric.is_global_zero:
            observer = getattr(self.task.schedule, "state_dict", None)
            content = {
                "state_dict": {f"model.{key}": value for key, value in model.items()},
                "stepper": stepper,
                "average": self.average.state_dict() if self.average else None,
                "schedule": observer() if observer else None,
                "position": self.at.state_dict(),
                "processes": processes,
                **self.identity,
            }
            keep_last(self.run_directory, content)
            self.run_directory.write_status("running", epoch=self.at.epoch, step=self.at.step)
        self.saved_at = time.monotonic()

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of ``_save``, on however many processes."""
        self.at = Position.from_state_dict(content["position"])
        state = content["state_dict"]
        load_module(self.task.model, {key.removeprefix("model."): value for key, value in state.items()})
        self.stepper.load_state_dict(content["stepper"])
        if self.average is not None and content["average"] is not None:
            self.average.load_state_dict(content["average"])
        rows = [row["val/miou"] for row in self.at.rows if row.get("val/miou") is not None]
        self.display.restore(rows[-1] if rows else None, self.at.best_miou)
        if content["schedule"] is not None and hasattr(self.task.schedule, "load_state_dict"):
            self.task.schedule.load_state_dict(content["schedule"])
        restore_process_state(content["processes"], self.fabric, self.losses)
        if self.fabric.is_global_zero and self.at.rows:
            self.run_directory.write_metrics(self.at.rows)  # a kill may have come between a checkpoint and its rows

    def _pause(self, *, between_epochs: bool) -> None:
        """Between two steps: save and end if somebody asked for it, save if it is time to."""
        alone = self.fabric.world_size == 1
        if not (alone or between_epochs or self.device.type == "cpu" or self.at.step % _LOOK_EVERY == 0):
            return  # processes agree only now and then, since that waits for the device
        minutes = self.settings["checkpoint_minutes"]
        due = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        asked = self.stop.received
        number = ASKING.index(asked) if asked in ASKING else len(ASKING)
        ended = largest_of(self.fabric, number + 1 if asked else 0)
        if not between_epochs and (ended or any_of(self.fabric, due)):
            self._look_at_losses()  # weights that are no numbers are never kept
            self._save()
        if ended:
            raise Interrupted(ASKING[ended - 1] if ended <= len(ASKING) else asked or "ended by the first process")

    # ---- small things

    def _samples(self, epoch: int) -> int:
        """Samples of a batch over all processes."""
        return self.plan.stage(epoch).batch_size * self.fabric.world_size

    def _batches(self, epoch: int) -> int:
        """Batches of the epoch behind the samples that are skipped, a process."""
        rest = (self.plan.samples - self.at.skipped) // self._samples(epoch)
        return min(rest, self.plan.batches(epoch)) if self.at.skipped else self.plan.batches(epoch)

    def _batches_done(self, epoch: int) -> int:
        """Those of them that are done."""
        return min((self.at.seen - self.at.skipped) // self._samples(epoch), self._batches(epoch))

    @staticmethod
    def _whole_state(model: torch.nn.Module) -> dict[str, Tensor]:
        """All processes must ask."""
        return whole(model.state_dict(), torch.device("cpu"))


def _is_finite(value: float) -> bool:
    return value - value == 0
