"""Runs of Weights & Biases, as loggers and tables need them: they ask nobody, wait for nobody, and keep no secrets.

Nothing here imports torch.
"""

import contextlib
import logging
import netrc
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from seg_cli.config.secrets import mask_secrets

_log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
_FINISH_TIMEOUT = 120.0  # seconds for the last uploads at the end of a run
LONGEST_TAG, _LONGEST_GROUP = 64, 128  # letters that W&B takes
_ONE_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""Environment variables that mean one run: ``wandb agent`` sets them for each that it starts."""


def filing(config: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Group and tags of a job of a multirun, by its configuration; outside of one there are none.

    The group is the benchmark, or the run's name, and when the multirun began; tags are the choices that were made, on
    the command line or by the benchmark, as ``model=unet``.
    """
    if not _is_job():
        return None, []
    hydra, chosen = HydraConfig.get(), config.get("choices", {})
    name = chosen.get("benchmark") or config.get("name", "")
    overrides = [str(override).lstrip("+") for override in hydra.overrides.task]
    made = {group: each for each in overrides if (group := re.split("[@=]", each)[0]) in chosen}  # the last one counts
    tags = [each[:LONGEST_TAG] for each in made.values()]
    return f"{name} {Path(hydra.sweep.dir).name}"[:_LONGEST_GROUP], tags


def start_run(mode: str, *, timeout: float, **init: Any) -> Any:
    """Start a W&B run with these arguments of ``wandb.init``; None if there is to be none or it fails."""
    try:
        import wandb

        _leave_the_id_to_the_first_job()
        mode = decide_mode(mode, wandb.setup(wandb.Settings(silent=True)).settings)
        if mode == "disabled":
            return None
        try:
            return _init_run(mode, timeout, **init)
        except Exception as error:
            if mode != "online":
                raise
            _log.warning(
                "W&B cannot be reached (%s); the run is kept offline. Upload: wandb sync %s/wandb/offline-*",
                reason(error),
                init["dir"],
            )
            return _init_run("offline", timeout, **init)
    except Exception as error:
        _log.warning("W&B cannot be used (%s); the run goes on without it.", reason(error))
        return None


def _init_run(mode: Any, timeout: float, **init: Any) -> Any:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=timeout,
        finish_timeout=_FINISH_TIMEOUT,
        finish_timeout_raises=True,
    )
    # create_new: a run that is still open in this process is neither continued nor ended.
    with _masked_command_line():
        run = wandb.init(mode=mode, reinit="create_new", settings=settings, **init)
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    return run


def decide_mode(mode: str, settings: Any) -> str:
    """online, offline or disabled; online only where there is a key, for W&B would ask for one."""
    asked = os.environ.get("WANDB_MODE") if mode == "auto" else mode
    if (asked or settings.mode) in ("disabled", "offline", "dryrun"):
        return "disabled" if (asked or settings.mode) == "disabled" else "offline"
    if _has_key(settings):
        return "online"
    if asked == "online":
        _log.warning("W&B was to be online, but there is no key: the run is kept offline. Type: wandb login")
    return "offline"


def _has_key(settings: Any) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return True
    hosts = {urlsplit(settings.base_url).netloc}
    if settings.base_url == type(settings).model_fields["base_url"].default:
        hosts.add("api.wandb.ai")  # the public server's old name, under which netrc may still hold the key
    files = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    path = next((path for file in files if file and (path := Path(file).expanduser()).is_file()), None)
    try:
        known = netrc.netrc(path).hosts if path else {}
    except (netrc.NetrcParseError, OSError):
        return False
    return any(known[host][2] for host in hosts & known.keys())


def abandon(run: Any) -> None:
    """End a W&B run after an error; where even that fails, W&B's service is gone and is cleared away."""
    try:
        run.finish(exit_code=1)
    except Exception:
        import wandb

        # Raises too, for nobody answers, but only after it has forgotten the service: the next run gets a new
        # one, and nothing is tried again when the program ends.
        with contextlib.suppress(Exception, SystemExit):
            wandb.teardown(exit_code=1)


def reason(error: Exception) -> str:
    """The first line of an error."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_job() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def _leave_the_id_to_the_first_job() -> None:
    """Where ``wandb agent`` started a multirun: its first job is the agent's run, and the others are runs beside it."""
    given = [name for name in _ONE_RUN if name in os.environ]
    if given and _is_job() and HydraConfig.get().job.num:
        import wandb

        for name in given:
            del os.environ[name]
        wandb.teardown()  # it has read the environment already


@contextlib.contextmanager
def _masked_command_line() -> Iterator[None]:
    """W&B keeps the command line of the process, as it finds it when a run begins."""
    written = sys.argv
    sys.argv = [mask_secrets(argument) for argument in written]
    try:
        yield
    finally:
        sys.argv = written
