"""A table as an artifact of Weights & Biases (``segrun table --wandb``). Nothing here imports torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seg_cli.config.visible import visible
from seg_cli.errors import RunFailed, UserError
from seg_cli.reports.table import Table
from seg_cli.reports.table_formats import FORMATS, SUFFIXES
from seg_cli.training.wandb_runs import LONGEST_TAG, abandon, reason, start_run

_INIT_TIMEOUT = 20.0  # seconds
_PLACE = re.compile(r"(?:([\w.-]+)/)?([^/\\#?%:\s]{1,128})")
_SCORES = ("mean", "std", "low", "high", "difference", "p_corrected", "tied")


def read_place(text: str) -> tuple[str | None, str]:
    """Entity and project of ``[ENTITY/]PROJECT``. Raises UserError if it is none."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise UserError(
            f"--wandb {text}: it is no project of W&B. Type --wandb PROJECT or --wandb ENTITY/PROJECT; names have none "
            "of / \\ # ? % : and no spaces."
        )
    return found[1], found[2]


def log_table(table: Table, place: str, *, files: Sequence[Path] = ()) -> str:
    """Log a table to W&B, in a run of its own of the job type ``table``, which shows it.

    The artifact, of the type ``table``, holds the table in every format. It and the run's group are named after the
    benchmark, where all runs are of one; logged again, it becomes the artifact's next version. Offline, W&B keeps it
    in ``wandb/`` of the working directory.

    Args:
        table: to log.
        place: ``[ENTITY/]PROJECT``.
        files: that the artifact holds besides, such as figures; those that there are.

    Returns:
        A sentence on where it is.

    Raises:
        UserError: if the place is none.
        RunFailed: if W&B fails.
    """
    entity, project = read_place(place)
    benchmarks = {run.choices.get("benchmark") for row in table.rows for run in row.runs}
    (group,) = benchmarks if len(benchmarks) == 1 else (None,)
    run = start_run(
        "auto",
        timeout=_INIT_TIMEOUT,
        dir=str(Path.cwd()),
        project=project,
        entity=entity,
        group=group,
        job_type="table",
        name=f"table {group}" if group else "table",
        tags=[f"benchmark={group}"[:LONGEST_TAG]] if group else None,
    )
    if run is None:
        return "W&B: the table is not logged."
    name = re.sub(r"[^\w.-]+", "-", group or "").strip("-.") or "table"
    try:
        import wandb

        artifact = wandb.Artifact(name, type="table", metadata={"request": table.data["request"]})
        with TemporaryDirectory() as folder:  # W&B keeps copies
            for suffix, form in SUFFIXES.items():
                file = Path(folder) / f"table{suffix}"
                file.write_text(FORMATS[form](table), encoding="utf-8")
                artifact.add_file(str(file), name=file.name)
            for file in filter(Path.is_file, files):
                artifact.add_file(str(file), name=f"figures/{file.name}")
        columns, rows = _numbers(table)
        run.log({"table": wandb.Table(columns=columns, data=rows)})
        run.log_artifact(artifact)
        where = run.url or f"offline; to upload it: wandb sync {run.settings.sync_dir}"
        run.finish()
    except Exception as error:
        abandon(run)
        raise RunFailed(f"W&B failed ({reason(error)}); the table is not logged.") from error
    return f"W&B: the artifact {name} is logged ({where})."


def _numbers(table: Table) -> tuple[list[str | int], list[list[Any]]]:
    """Columns and rows with numbers as they are, for W&B sorts and draws them; a column is of one kind."""
    fields = [
        (column.id, name)
        for column in table.columns
        for name in _SCORES
        if name == "mean" or any(of["scores"][column.id].get(name) is not None for of in table.data["rows"])
    ]
    titles = (id if name == "mean" else f"{id}_{name}" for id, name in fields)
    columns: list[str | int] = [*table.request.rows, "runs", *titles]
    rows = [
        [
            *(visible(row.values[key]) for key in table.request.rows),
            len(row.runs),
            *(of["scores"][id].get(name) for id, name in fields),
        ]
        for row, of in zip(table.rows, table.data["rows"], strict=True)
    ]
    return columns, rows
