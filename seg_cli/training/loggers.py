"""``logger=wandb|csv|tensorboard|none`` and sums of them: where else numbers and pictures of a run go.

Every logger is built with the same four arguments (``run_dir``, ``name``, ``config``, ``tags``) and is one of
Lightning's. Those that can show more than numbers are an ``ExperimentLogger`` too; the runner closes
them when the run is over, however it ends. Epochs count from 1, as in everything that people read.
"""

import importlib.util
import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import yaml
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from seg_cli.config.secrets import mask_settings
from seg_cli.data.labels import VOID, LabelSpace
from seg_cli.errors import UserError
from seg_cli.training.wandb_runs import MODES, abandon, filing, reason, start_run

if TYPE_CHECKING:
    from seg_cli.inference.evaluate import Example

_log = logging.getLogger(__name__)

_SUMMARY = ("miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "fw_iou")
_PANELS = "image, truth, prediction"
_CLASS_SCORES = ("iou", "dice", "precision", "recall", "pixels")


@runtime_checkable
class ExperimentLogger(Protocol):
    """A logger that shows predictions and final scores as well as curves."""

    def log_predictions(self, examples: Sequence["Example"], labels: LabelSpace, epoch: int) -> None:
        """Show truth and prediction over each example's image, as they were after ``epoch`` epochs."""

    def log_results(self, results: dict[str, Any]) -> None:
        """Keep the final scores; ``results`` is what results.json holds."""

    def close(self, *, failed: bool = False) -> None:
        """Say that the run is over; nothing is logged after that. Closing twice is fine."""


class Csv(CSVLogger):
    """Lightning's CSV file of every logged step, in ``<run_dir>/csv/version_<n>/``.

    Going on after an interruption begins version n+1, so that no row is lost.
    """

    def __init__(self, *, run_dir: Path, name: str, config: dict[str, Any], tags: list[str]) -> None:
        super().__init__(save_dir=run_dir, name="csv")


class TensorBoard(TensorBoardLogger):
    """TensorBoard event files in ``<run_dir>/tensorboard/``.

    Raises:
        UserError: if TensorBoard is not installed.
    """

    def __init__(self, *, run_dir: Path, name: str, config: dict[str, Any], tags: list[str]) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "logger=tensorboard: TensorBoard is not installed. Type: pip install 'segrun[tensorboard]', "
                "or choose logger=csv, wandb or none."
            )
        super().__init__(save_dir=run_dir, name="tensorboard", version="", default_hp_metric=False)
        settings = yaml.safe_dump(mask_settings(config) | {"name": name, "tags": tags}, sort_keys=False)
        self.experiment.add_text("config", textwrap.indent(settings, "    "))  # a code block in Markdown

    @rank_zero_only
    def log_predictions(self, examples: Sequence["Example"], labels: LabelSpace, epoch: int) -> None:
        for example in examples:
            picture = _side_by_side(example, labels)
            self.experiment.add_image(f"predictions/{example.name}", picture, epoch, dataformats="HWC")

    @rank_zero_only
    def log_results(self, results: dict[str, Any]) -> None:
        for key, value in _summary(results).items():
            self.experiment.add_scalar(f"results/{key}", value, results["epochs"])
        for split, scores in results["splits"].items():
            self.experiment.add_text(f"results/{split}", _markdown(_class_rows(scores)), results["epochs"])

    @rank_zero_only
    def close(self, *, failed: bool = False) -> None:
        self.finalize("failed" if failed else "success")


class Wandb(Logger):
    """A Weights & Biases run in ``<run_dir>/wandb/`` that starts with this object and ends with ``close``.

    Whatever happens to W&B, the experiment goes on: W&B never asks for a key, is waited for at most
    ``init_timeout`` seconds before the run is kept offline, and is left alone after its first error, which is
    said. Lightning's own WandbLogger promises none of this: it takes over a run that is already open, sets
    WANDB_MODE for the whole process, and never ends a run.

    Args:
        run_dir: run directory.
        name: what the run is called.
        config: the resolved config.
        tags: of the run; a job of a multirun has those of its choices besides, as ``model=unet``.
        project, entity: where the run is filed.
        group: of runs that are shown together; None in a job of a multirun takes the name of the benchmark, or of the
            run, with the time at which the multirun began.
        job_type: what kind of work it is.
        mode: online, offline, disabled, or auto: what WANDB_MODE or ``wandb offline`` say, and otherwise
            online where there is a key (WANDB_API_KEY, netrc or W&B's settings), offline where there is none.
        init_timeout: seconds.
        run_id: W&B's id of a run to go on with; None begins one.

    Raises:
        UserError: if there is no such mode.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        name: str,
        config: dict[str, Any],
        tags: list[str],
        project: str = "segrun",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = "train",
        mode: str = "auto",
        init_timeout: float = 20.0,
        run_id: str | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UserError(f"logger.wandb.mode={mode}: there is no such mode. Choose of {', '.join(MODES)}.")
        self._run_dir, self._name = run_dir, name
        sweep, choices = (None, []) if run_id else filing(config)  # a run that goes on is filed already
        self._run: Any = rank_zero_only(start_run)(
            mode,
            timeout=init_timeout,
            dir=str(run_dir.absolute()),
            project=project,
            entity=entity,
            group=group or sweep,
            job_type=job_type,
            name=name,
            config=mask_settings(config),
            tags=list(dict.fromkeys([*tags, *choices])),
            **({"id": run_id, "resume": "allow"} if run_id else {}),
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        """W&B's id of the run; empty where there is none."""
        return self._run.id if self._run else ""

    @property
    def save_dir(self) -> str:
        return str(self._run_dir)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run was started with the whole config."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = dict(metrics)
        if step is not None:
            row["step"] = step
        self._guarded(lambda run: run.log(row))

    @rank_zero_only
    def log_predictions(self, examples: Sequence["Example"], labels: LabelSpace, epoch: int) -> None:
        def log(run: Any) -> None:
            import wandb

            names = dict(enumerate(labels.names)) | {VOID: "void"}

            def show(example: "Example") -> Any:
                if labels.overlapping:  # which W&B's masks cannot show: they have one class a pixel
                    return wandb.Image(_side_by_side(example, labels), caption=f"{example.name}: {_PANELS}")
                masks = {"truth": example.truth, "prediction": example.prediction}
                shown = {key: {"mask_data": mask, "class_labels": names} for key, mask in masks.items()}
                return wandb.Image(example.image, caption=example.name, masks=shown)

            run.log({"predictions": [show(example) for example in examples], "epoch": epoch})

        self._guarded(log)

    @rank_zero_only
    def log_results(self, results: dict[str, Any]) -> None:
        def log(run: Any) -> None:
            import wandb

            for split, scores in results["splits"].items():
                header, *rows = _class_rows(scores)
                run.log({f"{split}/classes": wandb.Table(columns=header, data=rows)})
            run.summary.update(_summary(results))

        self._guarded(log)

    @rank_zero_only
    def close(self, *, failed: bool = False) -> None:
        self._guarded(lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _guarded(self, action: Callable[[Any], None]) -> None:
        """Do something with the W&B run, if there still is one; the first error is said and is the last."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            _log.warning("W&B failed (%s) and logs no more; the run itself goes on.", reason(error))
            abandon(self._run)
            self._run = None


def _side_by_side(example: "Example", labels: LabelSpace) -> np.ndarray:
    """Image, truth and prediction in one picture, (H, 3 W, 3) uint8."""
    return np.concatenate((example.image, labels.paint(example.truth), labels.paint(example.prediction)), axis=1)


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    """``test/miou`` and so on, and what the run cost."""
    scores = {f"{split}/{key}": of[key] for split, of in results["splits"].items() for key in _SUMMARY}
    return scores | {"best_epoch": results["best_epoch"]} | results["cost"]


def _class_rows(scores: dict[str, Any]) -> list[list[Any]]:
    """A header and a row a class."""
    rows = [[name, *(values[key] for key in _CLASS_SCORES)] for name, values in scores["classes"].items()]
    return [["class", *_CLASS_SCORES], *rows]


def _markdown(rows: list[list[Any]]) -> str:
    lines = ["|".join(map(str, row)) for row in rows]
    return "\n".join([lines[0], "|".join("-" * len(rows[0])), *lines[1:]])
