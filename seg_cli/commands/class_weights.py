"""Class weights of the loss before training starts: checked, computed from the training masks, and described."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from seg_cli.data.class_counts import content_key, count_classes
from seg_cli.data.sample import Dataset
from seg_cli.losses.class_weights import ClassWeights
from seg_cli.training.progress import track

_LISTED = 12  # classes; of more, a line names the ends


def fit_class_weights(loss: nn.Module, dataset: Dataset, *, workers: int) -> dict[str, Any] | None:
    """Give every term of a loss its class weights; the masks are counted once, where a scheme needs it.

    Args:
        loss: whatever ``ClassWeights`` it holds are filled in.
        dataset: its ``train`` split is counted.
        workers: processes that read masks.

    Returns:
        What class_weights.json holds, see docs/run-directory.md; None where no term weighs classes.

    Raises:
        UserError: if there are not as many numbers as classes, a class never occurs and a scheme divides by how often
            it does, or a mask cannot be read.
    """
    found = {name: module for name, module in loss.named_modules() if isinstance(module, ClassWeights)}
    names = list(dataset.labels.names)
    for key, weights in found.items():
        weights.check(names, where=f"loss.{key}")

    counts = None
    if any(weights.scheme for weights in found.values()):
        counts = count_classes(
            dataset.splits["train"],
            dataset.labels,
            workers=workers,
            key=content_key(dataset, "train"),
            progress=lambda masks: track(masks, "counting classes"),
        )
        for key, weights in found.items():
            weights.fit(counts, names, where=f"loss.{key}")

    recorded = {
        _short(name): {"scheme": weights.scheme or "given", "values": _by_class(names, _rounded(weights.values))}
        for name, weights in found.items()
        if weights.values is not None
    }
    if not recorded:
        return None
    return {
        "split": "train",
        "images": len(dataset.splits["train"]),
        "pixels": _by_class(names, counts.pixels) if counts else None,
        "weights": recorded,
    }


def describe_class_weights(recorded: Mapping[str, Any]) -> str:
    """A line for each term that weighs classes; of many classes, those with the smallest and largest weights."""
    lines = []
    for term, weights in recorded["weights"].items():
        values: list[tuple[str, float]] = list(weights["values"].items())
        shown = [f"{name} {value:.3g}" for name, value in values]
        if len(values) > _LISTED:
            ordered = [f"{name} {value:.3g}" for name, value in sorted(values, key=lambda item: item[1])]
            shown = [*ordered[:5], "...", *ordered[-5:]]
        lines.append(f"class weights of {term} ({weights['scheme']}): {', '.join(shown)}")
    return "\n".join(lines)


def _by_class(names: list[str], values: Any) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _rounded(values: Tensor) -> list[float]:
    """As many digits as float32 has, and not those that come from writing it as a double."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def _short(module: str) -> str:
    """``ce`` for terms.ce.weights, ``focal.alpha`` for terms.focal.alpha."""
    return module.removeprefix("terms.").removesuffix(".weights")
