"""Files that are whole or not there: written under another name, flushed to the disk, then renamed."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from seg_cli.errors import RunFailed


def write_file(path: Path, write: Callable[[BinaryIO], object], *, flush: bool = True) -> None:
    """Write a file atomically; a reader sees the old one or the new one, and a failure leaves the old one.

    Args:
        path: the file; its folder must exist.
        write: is given the open binary file.
        flush: to the disk, which takes milliseconds; without it, a power cut may leave the file empty.

    Raises:
        RunFailed: if the disk is full.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if _is_full_disk(error):
            raise RunFailed(
                f"{path}: no space is left on the disk, and the file was not written. What was there before is "
                "untouched. Make room, or choose another disk with run_dir=DIR."
            ) from error
        raise


def write_bytes(path: Path, data: bytes | memoryview, *, flush: bool = True) -> None:
    """Write bytes atomically, see ``write_file``."""
    write_file(path, lambda file: file.write(data), flush=flush)


def write_text(path: Path, text: str, *, flush: bool = True) -> None:
    """Write UTF-8 text atomically, see ``write_file``."""
    write_bytes(path, text.encode(), flush=flush)


def write_json(path: Path, value: Any, *, flush: bool = True) -> None:
    """Write indented JSON atomically, see ``write_file``. Raises ValueError for NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", flush=flush)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, for those to whom a file that is missing, damaged or no object says nothing: empty then."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether that is the reason; torch.save raises a RuntimeError of its own over the system's error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
