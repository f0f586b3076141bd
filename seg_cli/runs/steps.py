"""``steps.csv`` of a run: the loss of every step, by which two runs are compared step by step."""

import csv
from collections.abc import Iterable
from pathlib import Path

from seg_cli.errors import RunFailed, UserError
from seg_cli.runs.atomic import write_text

_HEADER = "step,loss\n"


def append_steps(folder: Path, rows: Iterable[tuple[int, float]]) -> None:
    """Add rows (step, loss) to the end of a run's steps.csv.

    It is the one file of a run that grows in place, for rewriting it would cost more the longer a run is. A kill may
    leave a row too many or half of one: ``cut_steps`` mends that.

    Raises:
        RunFailed: if they cannot be written, as on a full disk.
    """
    path = folder / "steps.csv"
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            if file.tell() == 0:
                file.write(_HEADER)
            file.writelines(f"{step},{loss!r}\n" for step, loss in rows)
    except OSError as error:
        raise RunFailed(f"{path}: the losses of these steps cannot be written ({error.strerror}).") from error


def cut_steps(folder: Path, last: int) -> None:
    """Keep the rows up to this step: a run that goes on computes those behind it again. A damaged file begins anew."""
    path = folder / "steps.csv"
    if not path.is_file():
        return
    try:
        rows = [row for row in _whole_rows(path.read_text(encoding="utf-8")) if row[0] <= last]
    except (UnicodeDecodeError, csv.Error):
        rows = []
    write_text(path, _HEADER + "".join(f"{step},{loss!r}\n" for step, loss in rows))


def read_steps(folder: Path) -> dict[int, float]:
    """Step, from 1, -> loss. Raises UserError where the run has no steps.csv, or one that cannot be read."""
    path = folder / "steps.csv"
    try:
        return dict(_whole_rows(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: this run has no steps.csv.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: the file cannot be read ({error}).") from None


def _whole_rows(text: str) -> list[tuple[int, float]]:
    """The rows but for a last one without its end; of a step that stands there twice, the later one counts."""
    whole = text[: text.rfind("\n") + 1]
    rows: dict[int, float] = {}
    for fields in csv.reader(whole.splitlines()[1:]):
        try:
            step, loss = fields
            rows[int(step)] = float(loss)
        except ValueError:
            raise csv.Error(f"'{','.join(fields)[:40]}' is no row of a step and its loss") from None
    return sorted(rows.items())
