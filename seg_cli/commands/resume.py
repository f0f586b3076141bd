"""``segrun resume RUN``: go on with a run that was interrupted, was killed or failed, as if it had never stopped."""

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

from omegaconf import OmegaConf

from seg_cli.commands.arguments import Parser
from seg_cli.config.choices import groups
from seg_cli.config.flat import flat
from seg_cli.config.paths import conf_dir
from seg_cli.config.secrets import is_masked, mask_settings
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.models.classical import is_classical
from seg_cli.runs.heartbeat import silence
from seg_cli.runs.run import Run
from seg_cli.runs.runner import rank, who_runs

_FREE = (
    *("name", "run_dir", "tags", "notes", "retry", "choices", "logger", "data.root", "data.cache"),
    *("loader.workers", "loader.eval_batch_size"),
    *("trainer.accelerator", "trainer.devices", "trainer.nodes", "trainer.strategy", "trainer.compile"),
    *("trainer.deterministic", "trainer.checkpoint_minutes"),
)
"""Settings and sections that say how and where a run is computed, not what comes of it."""

_FIXED = ("model", "encoder", "data", "optimizer._target_")
"""Those that what a checkpoint holds depends on, so that no other ones fit it."""

_CHOSEN = ("logger", "trainer")
"""Groups of which another choice may be made on the way; of ``trainer``, its free settings are taken."""


def main(argv: Sequence[str]) -> int:
    """Go on as asked on the command line; returns the exit status."""
    parser = Parser("resume")
    parser.add_argument("run", nargs="?")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--accept-changes", action="store_true")
    asked = parser.parse_intermixed_args(list(argv))
    if asked.run is None:
        raise UserError("resume: which run? Type segrun resume RUN, where RUN is a run directory in outputs/.")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    directory = Run.open(asked.run.removeprefix("run="))
    resume_run(directory, asked.settings, accept_changes=asked.accept_changes)
    return 0


def resume_run(directory: Run, settings: Iterable[str] = (), *, accept_changes: bool = False) -> float | None:
    """Go on with a run in its directory, from its newest whole checkpoint or, if it has none, from the beginning.

    Args:
        directory: of the run.
        settings: ``key=value``, instead of those in its config.yaml.
        accept_changes: whether they may change what comes of the run.

    Returns:
        The mIoU on test.

    Raises:
        UserError: if the run is finished or still going, or a change is not accepted.
    """
    stored = cast(dict[str, Any], OmegaConf.to_container(directory.config, resolve=True))
    if is_classical(stored):
        raise UserError(
            f"{directory.folder}: model={stored['choices']['model']} is fitted in one go and has no epochs to go on "
            f"with. Make the run again: segrun rerun {shlex.quote(str(directory.folder))}"
        )
    _check_state(directory, accept_changes)
    config = with_settings(stored, list(settings), directory)

    # What follows takes seconds to import.
    from rich.console import Console

    from seg_cli.commands.experiment import prepare
    from seg_cli.commands.train import carry_out
    from seg_cli.training.checkpoints import read_latest
    from seg_cli.training.devices import make_fabric
    from seg_cli.training.quiet import quiet

    quiet()
    checkpoint, complaints = read_latest(directory)
    if checkpoint is not None and "position" not in checkpoint:
        raise UserError(f"{directory.last_checkpoint}: an earlier version of segrun wrote it, and it cannot go on.")
    before = json.loads(checkpoint["config"]) if checkpoint else stored
    changes = differences(before, config)
    _check_changes(changes, directory, accept_changes, began=checkpoint is not None)
    if accept_changes and not changes and directory_state(directory) == "finished":
        raise UserError(_finished(directory))

    experiment = prepare(config, found=directory.environment if checkpoint else None)
    classes = list(experiment.dataset.labels.names)
    if checkpoint is not None and checkpoint["classes"] != classes:
        raise UserError(
            f"data: its classes are {', '.join(classes)} now, and this run learns {', '.join(checkpoint['classes'])}."
        )
    fabric = make_fabric(config["trainer"], experiment.device, thaws=experiment.thaws)
    # From here on all processes have read what they need, so that the first may tidy up.
    if fabric.is_global_zero:
        console = Console(soft_wrap=True)
        for line in _opening(directory, checkpoint, complaints, changes, fabric.world_size):
            console.print(line, markup=False, highlight=False)
        _tidy(directory, broken=bool(complaints))
    if checkpoint is not None and any(key.startswith("loss.") for key in changes):
        for process in checkpoint["processes"]:  # sums of other losses
            process["losses"] = {"names": [], "sums": []}
    asked = None if changes else _asked(directory)
    return carry_out(experiment, directory, fabric, checkpoint=checkpoint, asked=asked)


def _asked(directory: Run) -> str | None:
    """The fingerprint of what the run was asked for; None where that is not known, or another one now."""
    known = directory_state(directory) != "unknown"
    return directory.status.get("fingerprint") if known else None


def directory_state(directory: Run) -> str:
    """The state in status.json; ``unknown`` where a kill left none."""
    return str(directory.status["state"]) if (directory.folder / "status.json").is_file() else "unknown"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that decide what comes of a run and are not what they were: key -> (before, now).

    A setting that is missing on one side is None there. Secrets, which are written nowhere, are not compared.
    """
    old, new = (flat(json.loads(json.dumps(mask_settings(config)))) for config in (before, now))
    keys = [key for key in dict.fromkeys([*old, *new]) if not _is_one_of(key, _FREE)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _check_state(directory: Run, accept_changes: bool) -> None:
    """Whether there is something to go on with, and nobody does already. Only the first process looks."""
    if rank() != 0 or directory_state(directory) == "unknown":
        return
    status = directory.status
    if status["state"] == "finished" and not accept_changes:
        raise UserError(_finished(directory))
    runner = who_runs(status, silent=silence(directory.folder))
    if runner is not None:
        raise UserError(f"{directory.folder}: this run is still going: {runner}.")


def _finished(directory: Run) -> str:
    epochs, folder = directory.status["epoch"], shlex.quote(str(directory.folder))
    return (
        f"{directory.folder}: this run is finished, after {epochs} epochs. To score it again: segrun eval "
        f"run={folder}. To train it longer: segrun resume {folder} "
        f"trainer.max_epochs={2 * epochs} --accept-changes"
    )


def with_settings(stored: Mapping[str, Any], settings: list[str], directory: Run) -> dict[str, Any]:
    """The configuration with what was asked for on the command line; checked as that of a new run is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from seg_cli.config.schema import validate

    config = deepcopy(dict(stored))
    known = flat(config)
    for override in OverridesParser.create().parse_overrides(settings):
        key, text = override.key_or_group, override.input_line
        if override.is_delete() or override.is_sweep_override():
            raise UserError(f"{text}: a run goes on with one value of a setting, as in loader.workers=2.")
        value = override.value()
        if key in groups():
            if key not in _CHOSEN:
                raise UserError(
                    f"{text}: a run goes on with the {key} that it began with; of groups, only {' and '.join(_CHOSEN)} "
                    f"may be chosen anew. Another run begins with: segrun {text}"
                )
            _choose(config, key, str(value))
            continue
        if key not in known:
            raise UserError(
                f"{key}: {directory.folder / 'config.yaml'} has no such setting.{did_you_mean(key, known)} Settings "
                "are written out here, as in trainer.devices=2."
            )
        node = OmegaConf.create(config)
        OmegaConf.update(node, key, value)
        config = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    for key, value in flat(config).items():
        if is_masked(value):
            raise UserError(f"{key}: it is a secret, which no run directory keeps. Type {key}=VALUE.")
    validate(OmegaConf.create({key: value for key, value in config.items() if key != "choices"}))
    return config


def _choose(config: dict[str, Any], group: str, choice: str) -> None:
    """Make another choice in a group."""
    from hydra import compose, initialize_config_dir

    from seg_cli.config import sums

    sums.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", [f"{group}={choice}", "name=any"])[group]
    chosen = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    if group == "trainer":
        chosen = config[group] | {key: value for key, value in chosen.items() if _is_one_of(f"{group}.{key}", _FREE)}
    config[group] = chosen
    config["choices"][group] = choice


def _check_changes(changes: Mapping[str, Any], directory: Run, accept_changes: bool, *, began: bool) -> None:
    named = "; ".join(
        f"{key} was {written(before)} and is {written(now)} now" for key, (before, now) in changes.items()
    )
    fixed = [key for key in changes if _is_one_of(key, _FIXED)]
    if fixed and began:
        raise UserError(
            f"{directory.folder}: {named}. A checkpoint does not fit another {fixed[0].partition('.')[0]}; begin a new "
            "run, or write config.yaml as it was."
        )
    if changes and not accept_changes:
        raise UserError(
            f"{directory.folder}: {named}. That changes what comes of the run. If it is what you want, add "
            "--accept-changes; devices, workers, paths and loggers may be changed without it."
        )


def _opening(
    directory: Run,
    checkpoint: Mapping[str, Any] | None,
    complaints: Iterable[str],
    changes: Mapping[str, tuple[Any, Any]],
    world_size: int,
) -> list[str]:
    lines = [f"note: {complaint} The one before it is used." for complaint in complaints]
    if checkpoint is None:
        return [*lines, f"resuming {directory.folder}: it has no checkpoint yet, and begins anew"]
    position, processes = checkpoint["position"], len(checkpoint["processes"])
    inside = f" and {position['seen']} samples" if position["seen"] else ""
    lines.append(f"resuming {directory.folder} after {position['epoch']} epochs{inside}, {position['step']} steps")
    lines += [f"accepted: {key}={written(now)} instead of {written(before)}" for key, (before, now) in changes.items()]
    if processes != world_size:
        lines.append(
            f"note: it was trained by {processes} process{'es' * (processes > 1)} and goes on with {world_size}: a "
            f"step has {world_size}/{processes} of the samples that it had."
        )
    return lines


def _tidy(directory: Run, *, broken: bool) -> None:
    """Remove what a kill left half-written, and put a broken last.ckpt aside, lest it replace the one that is used."""
    for folder in (directory.folder, directory.folder / "checkpoints", directory.figures):
        for path in [*folder.glob(".*.tmp"), *folder.glob("*.ckpt.new")]:
            path.unlink(missing_ok=True)
    if broken and directory.last_checkpoint.exists():
        os.replace(directory.last_checkpoint, directory.folder / "checkpoints" / "broken.ckpt")


def _is_one_of(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def written(value: object) -> str:
    return "null" if value is None else json.dumps(value) if not isinstance(value, str) else value
