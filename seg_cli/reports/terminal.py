"""What a run says at its end: a table of its scores, and where to go from there."""

import textwrap
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seg_cli.config.visible import visible

_ABSENT = "–"
_SUMMARY = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_dice": "mean dice",
    "fw_iou": "fw IoU",
}


def score_table(results: dict[str, Any]) -> RenderableType:
    """The choices of a run, the scores of each class, and those of each split.

    The IoU of a class is given for every split, its other scores for the last one, which is test where that
    was scored. A class that occurs neither in the truth nor in the prediction has no score and is in no mean.

    Args:
        results: what results.json holds, with at least one split.
    """
    splits = results["splits"]
    return Group(_choices(results), "", _class_table(splits), "", _summary_table(splits), "")


def closing(run_dir: Path, results: dict[str, Any], next_hint: str) -> Text:
    """How the run went, where it lies, and what to try next.

    Print it with ``soft_wrap=True``, so that paths and commands stay on one line and can be copied.

    Args:
        run_dir: the run directory.
        results: what results.json holds.
        next_hint: a command or a picture to look at.
    """
    cost = results["cost"]
    facts = [
        f"best epoch {results['best_epoch']} of {results['epochs']}",
        f"trained in {_duration(cost['train_seconds'])}",
        f"scored at {cost['images_per_second']:.0f} images/s",
    ]
    text = Text(" · ".join(facts) + "\n")
    waited = cost.get("data_wait") or 0
    if waited > 0.1 and results["epochs"] > 1:  # in the first epoch workers start
        text.append(f"{waited:.0%} of the training time was spent waiting for data: data.cache=ram or disk decodes ")
        text.append("images once, loader.workers=N reads with more processes\n")
    text.append("run   ", style="bold").append(f"{run_dir}\n")
    text.append("next  ", style="bold").append(next_hint, style="cyan")
    return text


def _choices(results: dict[str, Any]) -> Text:
    """``model=unet encoder=resnet18 ... seed=0``, as one would type it."""
    choices = " ".join(f"{group}={choice}" for group, choice in results["choices"].items())
    lines = textwrap.wrap(f"{choices} seed={results['seed']}", 80, break_long_words=False, break_on_hyphens=False)
    return Text("\n".join(lines), style="bold")


def _class_table(splits: dict[str, Any]) -> Table:
    *_, (shown, scores) = splits.items()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("class", overflow="fold")
    for split in splits:
        table.add_column(Text(f"IoU\n{visible(split)}"), justify="right", no_wrap=True)
    for name in ("dice", "precision", "recall", "pixels"):
        table.add_column(Text(f"{name}\n{visible(shown)}"), justify="right", no_wrap=True)
    for (name, of), all_pixels in zip(scores["classes"].items(), _counted_pixels(scores), strict=True):
        table.add_row(
            Text(visible(name)),
            *(_score(split["classes"][name]["iou"]) for split in splits.values()),
            *(_score(of[key]) for key in ("dice", "precision", "recall")),
            f"{of['pixels'] / (all_pixels or 1):.1%}",
        )
    return table


def _counted_pixels(scores: dict[str, Any]) -> list[int]:
    """For each class, of how many pixels its own are a share: of those that count for any class, or for this one."""
    if scores.get("labels") == "overlapping":
        return [sum(map(sum, of_class)) for of_class in scores["confusion"]]
    pixels = [of["pixels"] for of in scores["classes"].values()]
    return [sum(pixels)] * len(pixels)


def _summary_table(splits: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("split", overflow="fold")
    for heading in (*_SUMMARY.values(), "images"):
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)  # 60 columns are enough
    for split, of in splits.items():
        miou, *others = (_score(of[key]) for key in _SUMMARY)
        table.add_row(Text(visible(split)), Text(miou, style="bold green"), *others, str(of["images"]))
    return table


def _score(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
