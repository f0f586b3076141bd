"""What a training proposes to type next: the same once more with another model."""

import shlex
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig

_OF_THIS_RUN = ("model", "fit", "run_dir", "seed", "hydra", "benchmark")
"""Options that another model does not share, or that would name this very run."""


def compare_with(config: Mapping[str, Any], other: str) -> str:
    """The command that trains this model and another under the same options."""
    model = config["choices"]["model"]
    return shlex.join(["segrun", "-m", f"model={model},{other}", *_shared(config)])


def _shared(config: Mapping[str, Any]) -> list[str]:
    """The options as they were typed; where nobody typed them (``resume``), those that say which images these are."""
    if HydraConfig.initialized():
        typed = [str(override) for override in HydraConfig.get().overrides.task]
        keys = [text.lstrip("+~").partition("=")[0].partition(".")[0] for text in typed]
        found = [text for text, key in zip(typed, keys, strict=True) if key not in _OF_THIS_RUN]
        if any(text.lstrip("+").startswith(("data=", "data.", "experiment=")) for text in found):
            return found
        return [f"data={config['choices']['data']}", *found]
    experiment, root = config["choices"].get("experiment"), config["data"].get("root")
    if experiment not in (None, "none"):
        return [f"experiment={experiment}"]
    return [f"data={config['choices']['data']}", *([f"data.root={root}"] if root else [])]
