"""``segrun rerun RUN``: make a run again from what it recorded; with ``--verify``, does it come out the same?"""

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from seg_cli.commands.arguments import Parser
from seg_cli.commands.comparing import check_finished, named, settings_of, verify
from seg_cli.commands.resume import differences, with_settings, written
from seg_cli.config.visible import visible
from seg_cli.errors import UserError
from seg_cli.runs import compare
from seg_cli.runs.run import Run


def main(argv: Sequence[str]) -> int:
    """Make a run again, or compare two; returns the exit status, 1 where a verification failed."""
    parser = Parser("rerun")
    parser.add_argument("run", nargs="?")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--against")
    parser.add_argument("--tolerance", type=float)
    asked = parser.parse_intermixed_args(list(argv))
    if asked.run is None:
        raise UserError("rerun: which run? Type segrun rerun RUN, where RUN is a run directory in outputs/.")
    for flag in ("against", "tolerance"):
        if getattr(asked, flag) is not None and not asked.verify:
            raise UserError(f"rerun --{flag}: it is for a comparison. Type segrun rerun {asked.run} --verify.")
    tolerance = compare.SCORES if asked.tolerance is None else asked.tolerance
    if not (math.isfinite(tolerance) and 0 <= tolerance <= 1):
        raise UserError(f"rerun --tolerance {asked.tolerance}: it must be a difference of scores, from 0 to 1.")
    original = Run.open(asked.run.removeprefix("run="))
    if asked.against is not None:
        if asked.settings:
            raise UserError(f"rerun: {asked.settings[0]}: with --against nothing is trained, and has no settings.")
        other = Run.open(asked.against)
        if other.folder.resolve() == original.folder.resolve():
            raise UserError(f"rerun: {other.folder} is the run itself. Name another one with --against.")
        check_finished(original, other)
        return verify(original, other, tolerance=tolerance)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if asked.verify:
        check_finished(original)
    again = run_again(original, asked.settings, compared=asked.verify)
    return verify(original, again, tolerance=tolerance, keep=True) if asked.verify and again else 0


def run_again(original: Run, settings: Iterable[str] = (), *, compared: bool = False) -> Run | None:
    """Train as a run was trained, in a new run directory; the original is only read.

    Args:
        original: its run directory.
        settings: ``key=value`` of those that say how and where it is computed, and not what comes of it.
        compared: whether the two will be compared, for the hint after an interruption.

    Returns:
        The new run; None in all processes but the first.

    Raises:
        UserError: if what the run began with is not what it was, or is not known.
    """
    config = _recorded(original, list(settings))

    # What follows takes seconds to import.
    from pytorch_lightning.utilities.rank_zero import rank_zero_only
    from rich.console import Console

    from seg_cli.commands.build import describe_pretraining
    from seg_cli.commands.experiment import prepare
    from seg_cli.commands.train import carry_out
    from seg_cli.models.classical import is_classical
    from seg_cli.runs.environment import describe_environment
    from seg_cli.training.devices import make_fabric
    from seg_cli.training.quiet import quiet

    quiet()
    _keep_processes(config, original, list(settings))
    _keep_threads(original)
    first = getattr(rank_zero_only, "rank", 0) == 0  # known from the environment before there is a group of processes
    console = Console(soft_wrap=True, quiet=not first)
    console.print(f"making {original.folder} again", markup=False, highlight=False)
    here = compare.environment_differences(
        original.environment, describe_environment(), configs=(original.config, config)
    )
    if here:
        console.print(f"note: not as it was: {visible(named(here))}", markup=False, highlight=False)
    if is_classical(config):
        return _fit_again(original, config)
    experiment = prepare(config)
    pretrained = describe_pretraining(experiment.model)
    _check_same_start(original, config, content=experiment.dataset.fingerprint(), pretrained=pretrained)
    folder = Run.create(_place(config), numbered=not config["run_dir"]).folder if first else Path()
    fabric = make_fabric(config["trainer"], experiment.device, thaws=experiment.thaws)
    again = Run(fabric.broadcast(folder))
    try:
        with _no_job():
            carry_out(experiment, again, fabric, checkpoint=None)
    except KeyboardInterrupt as interrupt:
        if compared:
            folders = [shlex.quote(str(run.folder)) for run in (original, again)]
            interrupt.add_note(f"Then compare: segrun rerun {folders[0]} --verify --against {folders[1]}")
        raise
    return again if fabric.is_global_zero else None


# ---- what the run recorded


def _recorded(original: Run, settings: list[str]) -> dict[str, Any]:
    """The configuration of a run, as one of a new run in a directory of its own."""
    for sitting in original.environment.get("resumed", []):
        if "--accept-changes" in sitting.get("command_line", []):
            command = " ".join(sitting["command_line"][1:])
            raise UserError(
                f"{original.folder}: it was gone on with under other settings at step {sitting.get('step')} (segrun "
                f"{visible(command)}), so that its config.yaml is that of its last part alone, and it cannot be made "
                "again in one go."
            )
    stored = settings_of(original)
    fresh = {**stored, "run_dir": None}
    if "wandb" in (stored.get("logger") or {}):  # a run of its own there too, and none of the group's jobs
        logger = {key: value for key, value in stored["logger"]["wandb"].items() if key not in ("group", "run_id")}
        fresh["logger"] = {**stored["logger"], "wandb": {**logger, "group": None, "run_id": None}}
    config = with_settings(fresh, settings, original)
    changes = differences(stored, config)
    if changes:
        key, (before, now) = next(iter(changes.items()))
        raise UserError(
            f"{key}={written(now)}: {original.folder} had {written(before)}, and made again with another value it "
            "would be another run: begin one with segrun. Devices, workers, paths, names and loggers may be changed."
        )
    return config


def _keep_processes(config: dict[str, Any], original: Run, settings: Iterable[str]) -> None:
    """Ask for as many processes as the run had, where its last checkpoint says so and here there would be others.

    A step has samples of each of them.
    """
    import torch

    from seg_cli.training.checkpoints import read_latest
    from seg_cli.training.devices import device_of

    trainer = config["trainer"]
    told = any(setting.startswith(("trainer.devices=", "trainer.nodes=", "trainer=")) for setting in settings)
    if told or trainer["devices"] != "auto":
        return
    try:
        checkpoint, _ = read_latest(original)
    except UserError:
        return
    if checkpoint is not None and "processes" in checkpoint:
        count = max(1, len(checkpoint["processes"]) // trainer["nodes"])
        here = torch.cuda.device_count() if device_of(trainer).type == "cuda" else 1
        if count != here:
            trainer["devices"] = count


def _keep_threads(original: Run) -> None:
    """Compute with as many threads as the run did, whatever OMP_NUM_THREADS is: they decide how sums are rounded."""
    import torch

    threads = original.environment.get("cpu", {}).get("torch_threads")
    if isinstance(threads, int) and 1 <= threads <= (os.cpu_count() or 1):
        torch.set_num_threads(threads)


def _check_same_start(original: Run, config: Mapping[str, Any], *, content: str, pretrained: str) -> None:
    """Whether data and weights are those that the run began with. Raises UserError, naming what is not.

    Args:
        original: what it recorded; nothing, where it never came to its scores.
        config: of the run to be made.
        content: the dataset's fingerprint now.
        pretrained: what the model starts from now.
    """
    from seg_cli.runs.fingerprint import fingerprint

    if not (original.folder / "results.json").is_file():
        return
    results = original.results
    if pretrained != results["pretrained"]:
        raise UserError(
            f"{original.folder}: it started from weights '{results['pretrained']}', and now there is '{pretrained}'. "
            "The file that start or encoder.weights name is another one."
        )
    before = (results.get("data") or {}).get("content")
    if before is not None and before != content:
        raise UserError(
            f"{original.folder}: the data has changed since. What it holds has the hash {content[:12]}, and had "
            f"{before[:12]}; see data.root, and segrun check."
        )
    now = fingerprint(config, data=content, pretrained=pretrained)
    if now != results["fingerprint"] and before is None and not _other_version(original):
        raise UserError(
            f"{original.folder}: the data has changed since. Settings and weights are the same, and the fingerprint is "
            f"{now[:12]}, and was {results['fingerprint'][:12]}; see data.root, and segrun check."
        )


def _other_version(original: Run) -> bool:
    """Whether another version of segrun made the run, which may have made fingerprints in another way."""
    from seg_cli.runs.environment import describe_environment

    before, now = original.environment, describe_environment()
    return before.get("git") != now["git"] or before.get("packages", {}).get("segrun") != now["packages"]["segrun"]


def _place(config: Mapping[str, Any]) -> Path:
    """Where the new run goes."""
    if config["run_dir"]:
        return Path(config["run_dir"]).expanduser()
    return Path("outputs") / config["name"] / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


@contextmanager
def _no_job() -> Iterator[None]:
    """Directories and W&B ask Hydra whether this is a job of a multirun. It is none, whatever was before it."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.cfg = None
    try:
        yield
    finally:
        hydra.cfg = before


def _fit_again(original: Run, config: dict[str, Any]) -> Run | None:
    """The same for a method that is fitted in one go."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    from seg_cli.commands import fit_classical
    from seg_cli.commands.build import build

    _check_same_start(original, config, content=build(config, "data").fingerprint(), pretrained="none")
    config["run_dir"] = str(_place(config))
    with _no_job():
        fit_classical.run(config)
    return Run(Path(config["run_dir"]).expanduser()) if getattr(rank_zero_only, "rank", 0) == 0 else None
