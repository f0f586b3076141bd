"""``segrun report RUN|DIR``: one HTML file that shows a run, or all runs below a folder."""

from collections.abc import Sequence
from pathlib import Path

from seg_cli.commands.arguments import Parser
from seg_cli.errors import UserError

_NAME = "report.html"
_MARK = 'name="generator" content="segrun"'
_HEAD = 4096  # characters, in which the mark stands


def main(argv: Sequence[str]) -> int:
    """Write the report; returns the exit status."""
    parser = Parser("report")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--split")
    asked = parser.parse_intermixed_args(argv)
    if len(asked.folders) != 1:
        raise UserError(
            "report: of what? Type segrun report RUN for one run, or segrun report DIR for all below a folder."
        )
    folder = Path(asked.folders[0]).expanduser()
    if not folder.is_dir():
        raise UserError(f"report {folder}: there is no such folder. Runs are kept in outputs/<name>/<date>_<time>.")
    out = _check_out((asked.out or folder / _NAME).expanduser())

    from seg_cli.reports.page_run import make_run_page
    from seg_cli.reports.page_runs import make_runs_page
    from seg_cli.runs.atomic import write_text

    make = make_run_page if (folder / "config.yaml").is_file() else make_runs_page
    html = make(folder, split=asked.split)
    try:
        write_text(out, html)
    except OSError as error:
        raise UserError(f"--out {out}: the file cannot be written ({error.strerror}). Type --out FILE.html") from None
    print(f"report: {out} ({len(html.encode()) / 1e6:.1f} MB). Open it in a browser.")
    return 0


def _check_out(out: Path) -> Path:
    """Raises UserError where a report cannot be written, or would take the place of something else."""
    if out.is_dir():
        raise UserError(f"--out {out}: this is a folder. Type --out {out / _NAME}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist.")
    if out.exists():
        with out.open(encoding="utf-8", errors="replace") as file:
            if _MARK not in file.read(_HEAD):
                raise UserError(f"--out {out}: this file is there already, and is no report. Choose another name.")
    return out
