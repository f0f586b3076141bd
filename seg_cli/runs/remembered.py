"""What tables have read and computed, kept in the user's cache folder; it may be deleted at any time."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from seg_cli.errors import SegrunError
from seg_cli.runs.atomic import read_object, write_text

_VERSION = 1
_MOST_FILES = 200


def cache_file(kind: str, *identity: Any) -> Path:
    """Where something that was computed is kept: a file of the user's cache folder.

    Args:
        kind: a word, for people who look there.
        identity: what it depends on; values that JSON can hold.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "segrun" / "tables"
    name = hashlib.sha256(json.dumps([_VERSION, *identity], default=str).encode()).hexdigest()
    return folder / f"{kind}_{name[:32]}.json"


def keep(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of the cache, and remove the oldest of many; where that cannot be done, nothing is said."""
    with suppress(OSError, ValueError, RuntimeError, SegrunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(value, ensure_ascii=False))
        files = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for old in files[:-_MOST_FILES]:
            old.unlink(missing_ok=True)


def recall(path: Path) -> dict[str, Any]:
    """A file of the cache; empty where there is none, or where it is damaged."""
    return read_object(path)
