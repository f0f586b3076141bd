"""The fingerprint of a run before it has begun: from its configuration, without building the model."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from seg_cli.runs.fingerprint import fingerprint


class Identifier:
    """Fingerprints of many configurations; each dataset and each file of weights is looked at once.

    ``identify(config)`` is what results.json will have as its fingerprint, but where the batch size is still to be
    found (``trainer.auto_batch_size``).
    """

    def __init__(self) -> None:
        self._data: dict[str, str] = {}
        self._digests: dict[Path, str] = {}

    def identify(self, config: Mapping[str, Any]) -> str:
        """The fingerprint of a run.

        Args:
            config: composed and resolved.

        Raises:
            Exception: whatever its dataset raises where it cannot be opened, and OSError for a file of weights.
        """
        data = config["data"]
        key = json.dumps(data, sort_keys=True)
        if key not in self._data:
            self._data[key] = instantiate(data, _convert_="all").fingerprint()
        return fingerprint(config, data=self._data[key], pretrained=self.pretrained(config))

    def pretrained(self, config: Mapping[str, Any]) -> str:
        """What the model will start from, as ``describe_pretraining`` will say of it."""
        if config.get("start"):
            path = Path(config["start"]).expanduser()
            kept = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last", "previous")]
            return self._describe(next((file for file in kept if file.is_file()), path))
        model = config["model"]
        if str(model.get("_target_", "")).startswith("seg_cli.models.transformers."):
            return self._of_transformers(model)
        encoder = model.get("encoder")
        weights = str((encoder if isinstance(encoder, Mapping) else model).get("weights") or "none")
        if not isinstance(encoder, Mapping) or weights in ("none", "imagenet"):
            return weights
        return self._describe(Path(weights).expanduser())

    def _of_transformers(self, model: Mapping[str, Any]) -> str:
        if model.get("weights") != "pretrained":
            return "none"
        folder = Path(model["name"]).expanduser()
        if (folder / "model.safetensors").is_file():
            return self._describe(folder / "model.safetensors", name=folder.name)
        from transformers import AutoConfig

        # A first run downloads it.
        config = AutoConfig.from_pretrained(model["name"], local_files_only=True, trust_remote_code=False)
        return f"{model['name']} {getattr(config, '_commit_hash', None) or ''}".strip()

    def _describe(self, path: Path, *, name: str | None = None) -> str:
        if path not in self._digests:
            with path.open("rb") as file:
                self._digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{name or path.name} sha256:{self._digests[path][:16]}"
