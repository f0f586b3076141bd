"""The fingerprint of a run: a hash of what decides its result, and of nothing else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from seg_cli import __version__

_DECIDES = (
    *("model", "encoder", "loss", "augment", "crop", "optimizer", "scheduler", "resize", "finetune", "average"),
    *("precision", "seed", "void", "threshold", "postprocess", "fit"),
)
_DECIDES_IN = {
    "data": None,  # all but where it lies and is cached; what it holds is hashed apart
    "tta": None,
    "inference": None,
    "loader": ("crop", "batch_size"),
    "trainer": (
        *("max_epochs", "accumulate", "lr_batch", "gradient_clip", "sync_batchnorm"),
        *("validate_every", "early_stop", "limit_batches"),
    ),
}

_NEVER = {"data": ("root", "cache"), "tta": ("views_per_batch",), "inference": ("batch_size", "scores")}


def fingerprint(config: Mapping[str, Any], *, data: str, pretrained: str) -> str:
    """SHA-256 of the settings that decide a result.

    It is an allow-list: devices, workers, paths, names, notes and logging are not in it. Where the batch size is still
    to be found (``trainer.auto_batch_size``), that is what it knows of it.

    Args:
        config: composed and resolved, as plain dicts.
        data: the dataset's own fingerprint.
        pretrained: what the encoder started from, with the hash of its file.
    """
    decides = {key: config[key] for key in _DECIDES if key in config}
    for group, keys in _DECIDES_IN.items():
        settings = config.get(group, {})
        decides[group] = {key: settings.get(key) for key in (keys or settings) if key not in _NEVER.get(group, ())}
    if config.get("trainer", {}).get("auto_batch_size"):
        decides["loader"]["batch_size"] = "auto"
    decides["encoder"] = {key: value for key, value in decides.get("encoder", {}).items() if key != "weights"}
    decides["model"] = _without_weights_path(decides["model"])
    decides |= {"data_content": data, "pretrained": pretrained, "version": __version__}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _without_weights_path(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings but for where its weights lie: their content is in ``pretrained``."""
    encoder = model.get("encoder")
    if not isinstance(encoder, Mapping):
        return dict(model)
    return {**model, "encoder": {key: value for key, value in encoder.items() if key != "weights"}}
