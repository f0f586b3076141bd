"""The page of one run: its scores, examples, classes, confusions, curves, settings and circumstances.

Whatever of a run is missing or damaged is named on the page, and the rest of it is shown.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seg_cli.config.parent import compare_with_parent
from seg_cli.config.suggest import did_you_mean
from seg_cli.errors import UserError
from seg_cli.models.classical import is_classical
from seg_cli.reports import charts
from seg_cli.reports.gallery import Gallery, read_examples
from seg_cli.reports.page import NOTHING, Cell, Table, data_uri, mapping, number, render, when
from seg_cli.reports.page_metrics import other_metrics
from seg_cli.reports.page_scores import (
    Intervals,
    class_table,
    confusion_table,
    find_intervals,
    notes_of,
    score_charts,
    summary_of,
    tiles_of,
    what_is_wrong,
)
from seg_cli.reports.page_settings import changes_of, cost_of, environment_of
from seg_cli.runs.collection import collect
from seg_cli.runs.run import Run
from seg_cli.runs.sections import SAFE
from seg_cli.runs.watch import is_lost

T = TypeVar("T")

_TITLE = ("model", "encoder", "loss", "data")
_METHOD = {
    "steps.png": "Its steps on one image",
    "histogram.png": "Where the thresholds lie among the values of that image",
    "clusters.png": "The clusters that were found",
    "importances.png": "What the forest looks at",
}
_MANY_CLASSES = 40
_MOST_EPOCHS = 400  # rows of the table of epochs


def make_run_page(folder: Path, *, split: str | None = None) -> str:
    """The page of a run, as HTML.

    Args:
        folder: the run directory.
        split: whose scores; None takes test, or what there is.

    Raises:
        UserError: if it is no run directory, or has no scores on that split.
    """
    run, problems = Run.open(folder), list[str]()
    results = _results(run, problems)
    status = _read(lambda: run.status, dict[str, Any](), problems)
    rows = _read(lambda: _rows(run), list[charts.Row](), problems)
    config = _read(lambda: _config(run.folder / "config.yaml"), dict[str, Any](), problems)
    environment = _read(lambda: run.environment, dict[str, Any](), problems)
    gallery = _read(lambda: read_examples(run.figures / "examples"), None, problems)
    split = _choose_split(results, split)
    scores = results["splits"][split] if split else {}
    intervals = (
        _read(lambda: find_intervals(run.folder, split, scores), Intervals(), problems) if split else Intervals()
    )
    choices = mapping(results.get("choices")) or mapping(config.get("choices"))
    graphs = {
        **_curves(rows, config, dict(gallery.classes) if gallery else {}),
        **(score_charts(scores, intervals, split) if split else {}),
    }
    extra = other_metrics(scores)
    graphs |= extra.graphs
    parts = [str(choices[group]) for group in _TITLE if choices.get(group, "none") != "none"] or [run.folder.name]
    difference = compare_with_parent(config) if mapping(config.get("choices")) else None
    return render(
        "run.html.j2",
        data={
            "charts": {key: chart for key, chart in graphs.items() if chart},
            "classes": [*gallery.classes, ("void", gallery.void)] if gallery else [],
        },
        title=" · ".join(parts),
        parts=parts,
        folder=str(run.folder.absolute()),
        name=str(config.get("name", run.folder.name)),
        seed=results.get("seed", config.get("seed")),
        status={**status, "state": "lost"} if is_lost(run.folder) else status,
        started=when(status.get("started")),
        ended=when(status.get("ended")),
        split=split,
        tiles=tiles_of(results, scores, intervals, split) if split else [],
        problems=problems,
        notes=notes_of(scores, intervals),
        charts=graphs,
        classes=class_table(scores, intervals, split) if split else None,
        confusions=confusion_table(scores) if split else None,
        summary=summary_of(results),
        epochs=_epoch_table(rows),
        extra=extra,
        gallery=_pictures(gallery, problems),
        old_picture=_old_picture(run, gallery),
        method=_method(run),
        evaluations=_evaluations(run, results, problems),
        difference=difference,
        changes=changes_of(difference),
        tags=tags if isinstance(tags := config.get("tags"), list) else [],
        remark=config.get("notes"),
        config=_read(lambda: (run.folder / "config.yaml").read_text(encoding="utf-8"), "", []),
        environment=environment_of(environment),
        cost=cost_of(results, status),
        command=_command(environment.get("command_line")),
        go_on=_go_on(config, run.folder),
    )


def _go_on(config: Mapping[str, Any], folder: Path) -> str:
    """What to type after a run that did not come to its end; what has no epochs is made anew."""
    verb = "rerun" if mapping(config.get("model")) and is_classical(config) else "resume"
    return shlex.join(["segrun", verb, str(folder)])


# ---- reading


def _read(read: Callable[[], T], otherwise: T, problems: list[str]) -> T:
    """What a file says; where it cannot be read, that is a line of the page."""
    try:
        return read()
    except (UserError, OSError, ValueError) as error:
        problems.append(str(error))
        return otherwise


def _results(run: Run, problems: list[str]) -> dict[str, Any]:
    """results.json; empty where there is none, or where it is damaged."""
    if not (run.folder / "results.json").is_file():
        return {}
    problem = collect([run.folder]).records[0].problem
    if problem and "results.json" in problem:
        problems.append(problem)
        return {}
    results = _read(lambda: run.results, dict[str, Any](), problems)
    if results and (wrong := what_is_wrong(results)):
        problems.append(f"{run.folder / 'results.json'}: the file is damaged ({wrong}).")
        return {}
    return results


def _rows(run: Run) -> list[charts.Row]:
    """metrics.csv; empty where there is none yet."""
    return [*run.metrics] if (run.folder / "metrics.csv").is_file() else []


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), SAFE)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: the file is damaged ({str(error).splitlines()[0]}).") from None
    return found if isinstance(found, dict) else {}


def _choose_split(results: Mapping[str, Any], asked: str | None) -> str | None:
    splits = list(results.get("splits") or {})
    if asked is not None and splits and asked not in splits:
        raise UserError(
            f"--split {asked}: this run has no scores on it.{did_you_mean(asked, splits)} "
            f"There are: {', '.join(splits)}."
        )
    return asked if asked in splits else next((name for name in ("test", *reversed(splits)) if name in splits), None)


def _command(words: object) -> str:
    """The command line of a run, with the program's name instead of where it lay."""
    return shlex.join(["segrun", *map(str, words[1:])]) if isinstance(words, list) else ""


# ---- training


def _curves(
    rows: Sequence[charts.Row], config: Mapping[str, Any], colors: Mapping[str, str]
) -> dict[str, charts.Chart | None]:
    """The charts of a training; the classes in the colours that they have in the pictures."""
    stages = _stages(config)
    terms = charts.series_of(rows, "train/loss/")
    several = [(key, f"train, {key.split('/', 2)[2]}") for key in terms] if len(terms) > 1 else []
    losses = [("train/loss", "train"), ("val/loss", "val"), *several]
    # of many classes the curves would only be a tangle; the table has them
    classes = [(key, key.split("/", 2)[2]) for key in charts.series_of(rows, "val/iou/")]
    return {
        "loss": charts.lines(rows, losses, alt="Loss on train and val, and its terms, over epochs.", stages=stages),
        "miou": charts.lines(
            rows, [("val/miou", "mIoU on val")], alt="mIoU on val over epochs.", stages=stages, best="val/miou", top=1
        ),
        "iou": charts.lines(rows, classes, alt="IoU of each class on val over epochs.", top=1, colors=colors)
        if len(classes) <= _MANY_CLASSES
        else None,
        "lr": charts.lines(rows, [("lr", "learning rate")], alt="Learning rate over epochs.", stages=stages),
    }


def _stages(config: Mapping[str, Any]) -> list[tuple[int, str]]:
    """First epoch (from 1) and name of the stages of ``resize=progressive``; empty of a training of one stage."""
    given, epochs = mapping(config.get("resize")).get("stages"), mapping(config.get("trainer")).get("max_epochs")
    stages = [stage for stage in given if isinstance(stage, Mapping)] if isinstance(given, list) else []
    wanted = [part for stage in stages if isinstance(part := stage.get("epochs"), int | float)]
    if len(wanted) < 2 or len(wanted) < len(stages) or not isinstance(epochs, int):
        return []
    whole = all(isinstance(part, int) for part in wanted)
    ends = [sum(wanted[:n]) if whole else round(epochs * sum(wanted[:n])) for n in range(len(wanted))]
    sizes = [stage.get("size") for stage in stages]
    names = [f"{size:.0%}" if isinstance(size, float | int) else "×".join(map(str, size or ())) for size in sizes]
    return [(int(end) + 1, f"size {name}") for end, name in zip(ends, names, strict=True)]


def _epoch_table(rows: Sequence[charts.Row]) -> Table | None:
    if not rows:
        return None
    keys = [key for key in rows[-1] if key != "epoch" and not key.startswith(("val/iou/", "train/loss_weight/"))]
    step = -(-len(rows) // _MOST_EPOCHS)
    shown = rows[step - 1 :: step]
    cells = [
        [
            Cell(f"{row.get('epoch') or 0:.0f}", row.get("epoch")),
            *(Cell(NOTHING) if (value := row.get(key)) is None else Cell(f"{value:.4g}", value) for key in keys),
        ]
        for row in shown
    ]
    every = f", every {step}th" if step > 1 else ""
    return Table(f"Epochs{every}", ("epoch", *keys), cells, text=0, sortable=False)


# ---- pictures, other scores, settings


def _pictures(gallery: Gallery | None, problems: list[str]) -> dict[str, Any] | None:
    """The gallery with its pictures as addresses."""
    if gallery is None:
        return None
    shown = []
    for picture in gallery.pictures:
        try:
            uris = {what: data_uri(path) for what, path in picture.files.items()}
        except OSError as error:
            problems.append(f"{picture.name}: a picture cannot be read ({error.strerror}).")
            continue
        miou = "all void" if picture.miou is None else f"mIoU {picture.miou:.3f}"
        wrong = "" if picture.wrong is None else f"{picture.wrong:.1%} wrong"
        shown.append(
            {"name": picture.name, "kinds": ", ".join(picture.kinds), "miou": miou, "wrong": wrong, "uris": uris}
        )
    return {"split": gallery.split, "classes": gallery.classes, "void": gallery.void, "pictures": shown}


def _old_picture(run: Run, gallery: Gallery | None) -> str | None:
    """predictions.png of a run that has no gallery."""
    path = run.figures / "predictions.png"
    return data_uri(path) if gallery is None and path.is_file() else None


def _method(run: Run) -> list[tuple[str, str]]:
    """What a classical method shows of itself: (what it is, picture)."""
    paths = [(label, run.figures / name) for name, label in _METHOD.items()]
    return [(label, data_uri(path)) for label, path in paths if path.is_file()]


def _evaluation(folder: Path) -> dict[str, Any]:
    return Run(folder).results


def _evaluations(run: Run, results: Mapping[str, Any], problems: list[str]) -> Table | None:
    """The scorings of ``segrun eval``, against those of the run on the same split."""
    rows = []
    own, choices = mapping(results.get("splits")), mapping(results.get("choices"))
    for folder in sorted(path.parent for path in run.folder.glob("eval/*/results.json")):
        found = _read(partial(_evaluation, folder), dict[str, Any](), problems)
        other = [f"{group}={c}" for group, c in mapping(found.get("choices")).items() if choices.get(group) != c]
        for split, scores in mapping(found.get("splits")).items():
            of, before = mapping(scores), mapping(own.get(split))
            miou = number(of.get("miou")), number(before.get("miou"))
            change = Cell(NOTHING)
            if miou[0].value is not None and miou[1].value is not None and of.get("images") == before.get("images"):
                gain = miou[0].value - miou[1].value
                change = Cell(f"{gain:+.3f}".replace("-", "−"), gain)
            what = Cell(" ".join(other) or "as the run")
            rows.append([Cell(folder.name), what, Cell(split), miou[0], change, number(of.get("pixel_accuracy"))])
    headings = ("evaluation", "differs in", "split", "mIoU", "against the run", "pixel accuracy")
    return Table("Evaluations of this run", headings, rows, text=3) if rows else None
