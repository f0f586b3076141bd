"""What was typed after ``segrun``, for commands that are proposed to be typed next."""

import shlex
from collections.abc import Collection
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from seg_cli.runs.environment import mask_secrets


def again(without: Collection[str], data: str) -> str:
    """What was typed after ``segrun``, for a command that the user may type next.

    Args:
        without: keys to leave out, with the settings below them; the command gives its own.
        data: the dataset, for a run that was not begun by a command line.
    """
    if not HydraConfig.initialized():
        return f"data={data}"
    hydra = HydraConfig.get()
    typed = [text for text in hydra.overrides.task if text.lstrip("+~").split("=")[0].split(".")[0] not in without]
    if not any(text.startswith("data=") for text in typed) and not hydra.runtime.choices.get("experiment"):
        typed.insert(0, f"data={data}")
    own = next((source.path for source in hydra.runtime.config_sources if source.provider == "command-line"), None)
    if own and Path(own).is_relative_to(Path.cwd()):
        own = str(Path(own).relative_to(Path.cwd()))
    folder = ["--config-dir", own] if own else []
    return shlex.join(mask_secrets(text) for text in (*folder, *typed))
