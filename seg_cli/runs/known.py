"""The runs that a place has already, by what was asked for."""

import os
from contextlib import suppress
from pathlib import Path

from seg_cli.runs.atomic import read_object
from seg_cli.runs.claims import Place
from seg_cli.runs.run import Run

_BEST_FIRST = ("finished", "running", "interrupted", "failed")


def known_runs(place: Place) -> dict[str, Run]:
    """Fingerprint -> the run that was made for it: of several a finished one, and of those the newest.

    Only status.json is read; where one has no fingerprint, as those of earlier versions, results.json too.
    """
    found: dict[str, tuple[tuple[int, str], Run]] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(place.folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.startswith(place.prefix):
                continue
            folder = Path(entry.path)
            status = read_object(folder / "status.json")
            state = status.get("state")
            if state not in _BEST_FIRST:
                continue
            fingerprint = status.get("fingerprint") or read_object(folder / "results.json").get("fingerprint")
            rank = (-_BEST_FIRST.index(state), entry.name)
            if isinstance(fingerprint, str) and (fingerprint not in found or found[fingerprint][0] < rank):
                found[fingerprint] = (rank, Run(folder))
    return {fingerprint: run for fingerprint, (_, run) in found.items()}
