"""Checkpoints: best.ckpt by val mIoU, last.ckpt of where training is, previous.ckpt of where it was before that.

A checkpoint is a file of ``torch.save`` that loads without executing pickles. Its SHA-256 stands in the comment of the
zip archive that such a file is, so that the hash cannot be parted from what it is of.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seg_cli.errors import RunFailed, UserError
from seg_cli.runs.atomic import write_bytes
from seg_cli.runs.run import Run

FORMAT = 2
"""Of what a checkpoint holds; raised when a reader of the old form would misunderstand the new one."""

_END = b"PK\x05\x06"  # of a zip archive, followed by 16 bytes and the length of its comment
_TITLE = b"sha256:"
_COMMENT = len(_TITLE) + 64


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, and read it back to see that it arrived.

    Raises:
        RunFailed: if the disk is full, or does not give back what was written.
    """
    # Into memory first: a Ctrl-C that meets torch's zip writer on a file comes out as an error of the writer.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    archive = bytearray(buffer.getbuffer())
    digest = hashlib.sha256(archive).hexdigest()
    archive[-2:] = _COMMENT.to_bytes(2, "little")
    archive += _TITLE + digest.encode()
    write_bytes(path, memoryview(archive))
    if _digests(path.read_bytes()) != (digest, digest):
        raise RunFailed(
            f"{path}: the disk does not give back what was written to it. Is it failing, or over its quota?"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no pickle is executed.

    Raises:
        UserError: if the file is missing, damaged, holds more than tensors and plain values, or is of a newer format.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint.") from None
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be read ({error.strerror}).") from None
    promised, found = _digests(data)
    if promised is not None and promised != found:
        raise UserError(f"{path}: the checkpoint is damaged (it is not what was once written).")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        written = content.get("format", 1)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{path}: the checkpoint cannot be read ({reason}).") from None
    if promised is None and written > 1:  # the first format had no hash; this one has lost it
        raise UserError(f"{path}: the checkpoint is damaged (its end is not what was once written).")
    if written > FORMAT:
        raise UserError(f"{path}: a checkpoint of format {written}, and this version of segrun reads up to {FORMAT}.")
    return content


def keep_last(run: Run, content: Mapping[str, Any]) -> None:
    """Write last.ckpt; the one that was there becomes previous.ckpt, once the new one is seen to be whole.

    A kill in between leaves at least one of them, a full disk both.
    """
    fresh = run.last_checkpoint.with_name(f"{run.last_checkpoint.name}.new")
    write_checkpoint(fresh, content)
    if run.last_checkpoint.exists():
        os.replace(run.last_checkpoint, run.previous_checkpoint)
    os.replace(fresh, run.last_checkpoint)


def read_latest(run: Run) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint of a run that is whole, and a sentence on each newer one that is not.

    None where the run has no checkpoint yet: it goes on from the very beginning.

    Raises:
        UserError: if there are checkpoints, and none of them is whole.
    """
    complaints: list[str] = []
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if path.exists():
            try:
                return read_checkpoint(path), complaints
            except UserError as error:
                complaints.append(str(error))
    if complaints:
        raise UserError(" ".join(complaints) + " There is no other to go on from.")
    return None, []


def load_model(model: nn.Module, checkpoint: Path) -> None:
    """Fill a model with a checkpoint's weights; no pickle is executed.

    Raises:
        UserError: if the file is missing, damaged, or of another model.
    """
    if not checkpoint.is_file():
        reason = "it ended before its first epoch did, or the file was removed since"
        raise UserError(f"{checkpoint}: this run has no such checkpoint; {reason}.")
    content = read_checkpoint(checkpoint)
    try:
        state = content["state_dict"]
        weights = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    except (KeyError, AttributeError):
        raise UserError(f"{checkpoint}: the file is no checkpoint of segrun (it has no weights of a model).") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{checkpoint}: the checkpoint is of another model than config.yaml says ({reason}).") from None


def _digests(data: bytes) -> tuple[str | None, str]:
    """The hash that a file says it has, None where it says nothing, and the one that it has."""
    end = len(data) - _COMMENT
    comment = data[end:]
    if end < 22 or data[end - 22 : end - 18] != _END or not comment.startswith(_TITLE):
        return None, ""
    digest = hashlib.sha256(data[: end - 2])
    digest.update(b"\0\0")  # the length of a comment that was not there yet
    return comment.removeprefix(_TITLE).decode(errors="replace"), digest.hexdigest()
