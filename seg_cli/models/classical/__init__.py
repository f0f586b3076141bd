"""What was there before deep networks, under one contract: see ``method.Method``."""

import importlib
from collections.abc import Mapping
from typing import Any


def is_classical(config: Mapping[str, Any]) -> bool:
    """Whether the model of a configuration is fitted in one go, without epochs; PyTorch is not imported for ours."""
    target = str(config["model"].get("_target_", ""))
    if target.startswith("seg_cli."):
        return target.startswith("seg_cli.models.classical.")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception:  # what is wrong with it, building it says
        return False
    from seg_cli.models.classical.method import Method

    return isinstance(found, type) and issubclass(found, Method)
