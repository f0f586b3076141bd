"""What a training proposes to type next: the same once more with another model."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from seg_cli.config.secrets import mask_secrets

_OF_THIS_RUN = ("model", "fit", "run_dir", "name", "seed", "hydra", "benchmark")
"""Options that another model does not share, or that would name this very run."""

_COMPARE = ("-m", "--multirun", "rerun", "tune")
"""Words of command lines that compare already."""


def compare_with(config: Mapping[str, Any], other: str, began_with: Sequence[str] = ()) -> str:
    """``", then compare: "`` and the command that trains this model and another under the same options.

    It is empty in a job of a matrix or a search, and where a run is made again.

    Args:
        config: composed and resolved.
        other: model.
        began_with: the command line that the run began with, which another process may go on with.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        return ""
    if not HydraConfig.initialized() and any(word in _COMPARE or word.startswith("benchmark=") for word in began_with):
        return ""
    options = (mask_secrets(text) for text in (*own_choices(began_with), *_shared(config, began_with)))
    command = ["segrun", "-m", f"model={config['choices']['model']},{other}", *options]
    return f", then compare: {shlex.join(command)}"


def own_choices(began_with: Sequence[str] = ()) -> list[str]:
    """``--config-dir`` as it was typed, below the working folder as a relative path; or on an earlier command line."""
    if not HydraConfig.initialized():
        flags = [index for index, word in enumerate(began_with[:-1]) if word in ("--config-dir", "-cd")]
        return [began_with[flags[0]], began_with[flags[0] + 1]] if flags else []
    sources = HydraConfig.get().runtime.config_sources
    own = next((Path(source.path) for source in sources if source.provider == "command-line"), None)
    if own is None:
        return []
    return ["--config-dir", str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)]


def _shared(config: Mapping[str, Any], began_with: Sequence[str]) -> list[str]:
    """The options as they were typed; where that is not known, those that say which images these are."""
    typed = [word for word in began_with[1:] if "=" in word and not word.startswith("-")]
    if HydraConfig.initialized():
        typed = [str(override) for override in HydraConfig.get().overrides.task]
    if typed:
        keys = [text.lstrip("+~").partition("=")[0].partition(".")[0] for text in typed]
        found = [text for text, key in zip(typed, keys, strict=True) if key not in _OF_THIS_RUN]
        if any(text.lstrip("+").startswith(("data=", "data.", "experiment=")) for text in found):
            return found
        return [f"data={config['choices']['data']}", *found]
    experiment, root = config["choices"].get("experiment"), config["data"].get("root")
    if experiment not in (None, "none"):
        return [f"experiment={experiment}"]
    return [f"data={config['choices']['data']}", *([f"data.root={root}"] if root else [])]
