"""How far the runs of a matrix are, or those in a folder: read from what they write, whoever runs them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_cli.errors import SegrunError, UserError
from seg_cli.runs.atomic import read_object
from seg_cli.runs.heartbeat import silence
from seg_cli.runs.jobs import Job, Jobs, score_of
from seg_cli.runs.run import Run
from seg_cli.runs.runner import lives, named_process, seconds_since
from seg_cli.runs.sections import Sections

SWEEPS = Path("outputs") / ".sweeps"

GOING = ("running", "elsewhere")
"""States of jobs that somebody is working on."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        job: what is known of it as a job; of a run outside of a matrix, what would be.
        epoch, epochs: whole epochs that are done, and of how many; None where it has not begun.
        val: its newest mIoU on val.
        seconds_left: until training is over, at the pace of this sitting; None where that cannot be told.
        process: who works on it, or did last, see ``describe_runner``.
        silent: seconds since it was heard of.
    """

    job: Job
    epoch: int | None = None
    epochs: int | None = None
    val: float | None = None
    seconds_left: float | None = None
    process: Mapping[str, Any] | None = None
    silent: float | None = None


def find(asked: str | None) -> Path:
    """The folder that is meant: a run, a folder of runs, or a matrix, by default the newest.

    Raises:
        UserError: if it is none of these.
    """
    folder = SWEEPS if asked is None else Path(asked).expanduser()
    if not folder.is_dir():
        where = "there is no matrix in outputs/.sweeps" if asked is None else f"{asked}: there is no such folder"
        raise UserError(f"{where}. Type the folder of a matrix, outputs/.sweeps/<time>, or of runs, outputs/<name>.")
    if folder.name == SWEEPS.name:
        matrices = sorted(path.parent for path in folder.glob("*/plan.json"))
        if not matrices:
            raise UserError(f"{folder}: there is no matrix in it. Begin one with segrun -m.")
        return matrices[-1]
    if not Jobs(folder).is_there and not _runs_in(folder):
        raise UserError(
            f"{folder}: there are no runs in it, and it is not the folder of a matrix. "
            "Type one, as outputs/.sweeps/<time> or outputs/<name>."
        )
    return folder


def look(folder: Path) -> list[Progress]:
    """How far everything in a folder is that ``find`` gave."""
    jobs, sections = Jobs(folder), Sections()
    if jobs.is_there:
        return [_of_job(jobs, job, sections) for job in jobs.read_all()]
    return [_of_run(number, run, _read_config(run, sections)) for number, run in enumerate(_runs_in(folder))]


def is_lost(folder: Path) -> bool:
    """Whether a run says that it is running, and its process is gone without a word."""
    status = read_object(folder / "status.json")
    process = named_process(status.get("process"))
    return status.get("state") == "running" and (process is None or not lives(process, silent=silence(folder)))


def _runs_in(folder: Path) -> list[Path]:
    if (folder / "config.yaml").is_file():
        return [folder]
    found = {path.parent for pattern in ("*/status.json", "*/*/status.json") for path in folder.glob(pattern)}
    return sorted(found)


def _of_job(jobs: Jobs, job: Job, sections: Sections) -> Progress:
    silent = seconds_since(jobs.path(job.number)) if job.state in ("running", "lost") else None
    if job.run is None:
        return Progress(job, process=job.process, silent=silent)
    folder = Path(job.run)
    return _measured(folder, job, {} if job.state == "finished" else _read_config(folder, sections))


def _of_run(number: int, folder: Path, config: Mapping[str, Any]) -> Progress:
    """A run as if it were the job of a matrix that chose whatever it has."""
    status = read_object(folder / "status.json")
    state: Any = "lost" if is_lost(folder) else status.get("state", "lost")
    process, reason, score = named_process(status.get("process")), status.get("reason"), None
    if state == "finished":
        with suppress(SegrunError):
            score = score_of(Run(folder))
    # The results name none for what a classical method has no use for, as a loss.
    choices = read_object(folder / "results.json").get("choices") or config.get("choices")
    chosen = {**(choices if isinstance(choices, dict) else {}), "seed": config.get("seed")}
    overrides = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    job = Job(number, overrides=overrides, state=state, run=str(folder), reason=reason, score=score, process=process)
    return _measured(folder, job, config)


def _measured(folder: Path, job: Job, config: Mapping[str, Any]) -> Progress:
    status = read_object(folder / "status.json")
    going = job.state in GOING
    rows: Sequence[Mapping[str, float | None]] = []
    epochs = None
    if job.state != "finished":
        with suppress(SegrunError):
            rows = Run(folder).metrics
        with suppress(KeyError, TypeError, ValueError):
            epochs = int(config["trainer"]["max_epochs"])
    epoch = len(rows) if rows else status.get("epoch")
    return Progress(
        job,
        epoch=epoch,
        epochs=epochs,
        val=next((row["val/miou"] for row in reversed(rows) if row.get("val/miou") is not None), None),
        seconds_left=_left(folder, len(rows), epochs) if going and rows and epochs else None,
        process=job.process or named_process(status.get("process")),
        silent=silence(folder) if status else None,
    )


def _left(folder: Path, done: int, epochs: int) -> float | None:
    """environment.json is written when a sitting begins, and metrics.csv after each epoch of it."""
    sittings = read_object(folder / "environment.json").get("resumed") or [{"epoch": 0}]
    here = done - int(sittings[-1]["epoch"])
    began, newest = seconds_since(folder / "environment.json"), seconds_since(folder / "metrics.csv")
    if here < 1 or began < newest:
        return None
    return max(0.0, (epochs - done) * (began - newest) / here - newest)


def _read_config(folder: Path, sections: Sections) -> dict[str, Any]:
    """What a run was asked for, as far as it can be read."""
    try:
        numbers = sections.add((folder / "config.yaml").read_text(encoding="utf-8"))
        return {key: value for number in numbers for key, value in sections.parse(number).items()}
    except (OSError, ValueError):
        return {}
