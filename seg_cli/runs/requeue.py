"""Jobs of SLURM that are put back into its queue, and find the run again that they had begun.

``outputs/.slurm/<job>_<hash of the configuration>`` holds the path of the run: the same command of the same job means
the same run.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg_cli.runs.atomic import write_text
from seg_cli.runs.slurm import own_job

_NOTES = Path("outputs") / ".slurm"
_back = False


def earlier_run(config: Mapping[str, Any]) -> Path | None:
    """The run that this job began with this configuration before it was put back into the queue."""
    if not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return None
    try:
        folder = Path(_note(config).read_text(encoding="utf-8"))
    except OSError:
        return None
    return folder if (folder / "config.yaml").is_file() else None


def remember(config: Mapping[str, Any], folder: Path) -> None:
    """Note down which run this job has begun; nothing happens outside of SLURM."""
    if os.environ.get("SLURM_JOB_ID"):
        note = _note(config)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, str(folder.absolute()))


def requeue() -> str:
    """Put this job back into SLURM's queue, which also ends it; a sentence on how that went. Empty outside of SLURM."""
    job = own_job()
    if not job:
        return ""
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        return f"SLURM did not take job {job} back into its queue ({said})."
    global _back
    _back = True
    return f"Job {job} is back in SLURM's queue."


def is_queued_again() -> bool:
    """Whether this process has put its job back into the queue, and is about to be ended."""
    return _back


def _note(config: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return _NOTES / f"{os.environ.get('SLURM_JOB_ID', '')}_{digest[:16]}"
