"""Composing the jobs of a matrix: each set of choices once, and what a job was resolved to kept for the next time.

Hydra takes a tenth of a second for a job, nearly all of it for the files of its choices. Jobs that make the same
choices differ in single values alone, such as the seed, and these are set on a copy in a few thousandths.
"""

import hashlib
import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from seg_cli import __version__
from seg_cli.config.secrets import without_secrets
from seg_cli.runs.atomic import write_text

_READABLE = ("file", "structured", "segrun-sums")
"""Schemes of config sources that are known; of ``pkg``, Hydra's own is."""

_BASES = 64
"""Composed sets of choices that are held at a time."""

_KEPT = 8
"""Files of stores that are kept: one for each matrix and each state of conf/."""


class Composer(ConfigLoaderImpl):
    """Hydra's config loader, which composes a set of choices once for all jobs that make it.

    What it holds is not sent to the workers of a launcher.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.config_search_path, self.repository = loader.config_search_path, loader.repository
        self._bases: dict[tuple[str, ...], bytes] = {}  # pickled, to be copied

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bases": {}}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job, equal to what Hydra's own loader makes of it."""
        parsed = OverridesParser.create().parse_overrides(list(sweep_overrides))
        if master_config.hydra.searchpath or any(override.is_hydra_override() for override in parsed):
            return super().load_sweep_config(master_config, list(sweep_overrides))
        sets_value = [self._sets_value(override) for override in parsed]
        choices = [str(text) for text, value in zip(sweep_overrides, sets_value, strict=True) if not value]
        values = [override for override, value in zip(parsed, sets_value, strict=True) if value]
        key = (*master_config.hydra.overrides.hydra, "", *choices)
        if key not in self._bases:
            if len(self._bases) == _BASES:
                self._bases.pop(next(iter(self._bases)))
            try:
                self._bases[key] = pickle.dumps(super().load_sweep_config(master_config, choices))
            except pickle.PicklingError:  # in a job of submitit's, which has imported Hydra's plugins twice
                return super().load_sweep_config(master_config, list(sweep_overrides))
        cfg: DictConfig = pickle.loads(self._bases[key])
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        dirname = cfg.hydra.job.config.override_dirname
        with open_dict(cfg.hydra):
            cfg.hydra.overrides.task = [override.input_line for override in parsed]
            cfg.hydra.job.override_dirname = get_overrides_dirname(
                overrides=parsed, kv_sep=dirname.kv_sep, item_sep=dirname.item_sep, exclude_keys=dirname.exclude_keys
            )
        OmegaConf.copy_cache(from_config=master_config, to_config=cfg)
        return cfg

    def _sets_value(self, override: Override) -> bool:
        """Whether an override sets a value, and makes no choice."""
        return isinstance(override.value(), dict) or not self.repository.group_exists(override.key_or_group)


def copied(cfg: DictConfig) -> DictConfig:
    """A deep copy, three times as fast as by ``deepcopy``."""
    copy: DictConfig = pickle.loads(pickle.dumps(cfg))
    return copy


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The configuration of the current job as plain dicts, with the choices of the groups that it was composed of."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    # Hydra lists the groups from the last to the first.
    chosen = reversed(HydraConfig.get().runtime.choices.items())
    choices = {"model": ""} | {group: choice for group, choice in chosen if "hydra/" not in group and choice}
    # What was built counts: encoder.name=NAME takes any timm model, whichever file it started from, and some models
    # have an encoder of their own.
    encoder = config["model"].get("encoder")
    built = encoder.get("name", "own") if isinstance(encoder, Mapping) else "own"
    config["choices"] = choices | {"encoder": built}
    return config  # type: ignore[return-value]


class Store:
    """What the jobs of a matrix were resolved to, in a file, for as long as nothing that it follows from changes.

    It follows from the files of all config folders, the environment variables that they name, and this version.

    Args:
        folder: of the file.
        master: the configuration of the matrix.
    """

    def __init__(self, folder: Path, master: DictConfig) -> None:
        self._jobs: dict[str, dict[str, Any]] = {}
        self._changed = False
        identity = _identity(master)
        self._path = folder / f"{identity[:32]}.json" if identity else None
        if self._path is not None:
            try:
                self._jobs = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self._jobs = {}

    def get(self, overrides: Sequence[str]) -> dict[str, Any] | None:
        """What these overrides were resolved to; None if it is not known."""
        return self._jobs.get(json.dumps(list(overrides)))

    def put(self, overrides: Sequence[str], config: Mapping[str, Any], written: object) -> None:
        """Keep what these overrides were resolved to.

        Args:
            overrides: of the job.
            config: resolved.
            written: the same as it was written. What holds the time, or refers to something else than the config, is
                another next time, and not kept; nor are secrets.
        """
        refers = any("${" in override for override in overrides) or "${now:" in json.dumps(written)
        if self._path is not None and not refers and without_secrets(config, {}) == config:
            self._jobs[json.dumps(list(overrides))] = dict(config)
            self._changed = True

    def save(self) -> None:
        """Write the file; those that nobody has written for long go."""
        if not self._changed or self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(self._jobs))
        files = sorted(self._path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[_KEPT:]:
            path.unlink(missing_ok=True)


def _identity(master: DictConfig) -> str | None:
    """A hash of what composed configurations follow from, besides a job's overrides; None if it cannot be seen."""
    hydra = master.hydra
    digest = hashlib.sha256(json.dumps([__version__, hydra.job.config_name, *hydra.overrides.hydra]).encode())
    for source in hydra.runtime.config_sources:
        if source.schema not in _READABLE and source.path != "hydra.conf":
            return None
        digest.update(f"{source.schema}://{source.path}".encode())
        for path in sorted(Path(source.path).rglob("*.yaml")) if source.schema == "file" else []:
            text = path.read_text(encoding="utf-8", errors="replace")
            digest.update(f"{path}\0{text}\0".encode())
            for name in sorted(set(re.findall(r"oc\.env:\s*['\"]?(\w+)", text))):
                digest.update(f"{name}={os.environ.get(name)}\0".encode())
    return digest.hexdigest()
