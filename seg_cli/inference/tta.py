"""Test-time augmentation: a model looks at an image in several ways, and the mean of what it says counts.

Several kinds of views are combined each with each, as is usual in the field: ``flip+scale`` with two sizes is four
views. They are always applied in the same order, mirror and quarter turns first, and no view is taken twice. A view
that did not see a pixel says nothing about it.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from seg_cli.inference.memory import Portions
from seg_cli.inference.views import Lattice, Moved, Scaled, Transform, Turned, Undo, View, in_turn
from seg_cli.metrics.counting import Counting

AVERAGES = ("probabilities", "logits", "votes")

_ORDER = (Lattice, Turned, Moved, Scaled)
_TIE = 1e-3  # weight of the probabilities beside the votes: they decide where votes are equal
_TINY = 1e-30


class Tta:
    """Looks at images in several ways.

    Args:
        transforms: name -> kind of views; without any the image is looked at as it is.
        average: of ``probabilities``, of ``logits``, or of ``votes``. A vote is the label that the view alone would
            give; where views are divided equally, probabilities decide.
        views_per_batch: views of one size that the model sees at once; ``auto`` is one on a CPU, and on a GPU all, or
            as many as memory takes.

    Raises:
        ValueError: if a setting is not allowed.
    """

    def __init__(
        self,
        *,
        transforms: Mapping[str, Transform],
        average: str = "probabilities",
        views_per_batch: int | str = "auto",
    ) -> None:
        if average not in AVERAGES:
            raise ValueError(f"average={average}: {', '.join(AVERAGES)} are allowed.")
        if views_per_batch != "auto" and not (isinstance(views_per_batch, int) and views_per_batch >= 1):
            raise ValueError(f"views_per_batch={views_per_batch}: auto is allowed, or a number from 1.")
        self.average, self.views_per_batch = average, views_per_batch
        self.views = combined([transform.views() for transform in transforms.values()])
        self._portions: Portions | None = None

    def __call__(self, predict: Callable[[Tensor], Tensor], images: Tensor, counting: Counting) -> Tensor:
        """Scores of images.

        Args:
            predict: (N, B, H', W') images -> (N, C, H', W') logits, of any size.
            images: (N, B, H, W) uint8 or floating.
            counting: how scores become labels.

        Returns:
            (N, C, H, W) float32 scores, whose softmax (sigmoid where labels overlap) is the mean: logarithms of mean
            probabilities or shares of votes, or mean logits. Of a single view, what ``predict`` returned.
        """
        if len(self.views) == 1 and self.views[0] == ():
            return predict(images)
        if self._portions is None:
            at_once = None if images.is_cuda else 1
            self._portions = Portions(at_once if self.views_per_batch == "auto" else int(self.views_per_batch))
        mean = _Mean(self.average, counting)
        for views in self._by_size(images):
            for _, (logits, undos) in self._portions.run(views, lambda some: _predict(predict, some, images)):
                for part, undo in zip(logits.split(len(images)), undos, strict=True):
                    mean.add(part, undo)
        return mean.scores()

    def _by_size(self, images: Tensor) -> list[list[tuple[View, ...]]]:
        """The views, those together that show pictures of one size and type; a small thing is enough to find out."""
        probe = torch.empty(images.shape[-2:], device="meta", dtype=images.dtype).expand(1, 1, -1, -1)
        found: dict[tuple, list[tuple[View, ...]]] = {}
        for view in self.views:
            shown = in_turn(view, probe).images
            found.setdefault((*shown.shape[-2:], shown.dtype), []).append(view)
        return [*found.values()]


def combined(kinds: Sequence[Sequence[View]]) -> list[tuple[View, ...]]:
    """Each view of each kind with each of the others, in the order in which they are applied, none twice."""
    found: dict[tuple[View, ...], None] = {}
    for views in product(*kinds):
        lattice = Lattice()
        for view in views:
            lattice = view.after(lattice) if isinstance(view, Lattice) else lattice
        others = [view for view in views if not isinstance(view, Lattice) and view not in _NOTHING]
        others.sort(key=lambda view: _ORDER.index(type(view)) if type(view) in _ORDER else len(_ORDER))
        found[*([lattice] if lattice != Lattice() else []), *others] = None
    return [*found]


_NOTHING = (Turned(0.0), Moved(0, 0), Scaled(1.0))


def _predict(
    predict: Callable[[Tensor], Tensor], views: Sequence[tuple[View, ...]], images: Tensor
) -> tuple[Tensor, list[tuple[Undo, bool]]]:
    """(views * N, C, H', W') logits of views of one size, and the way back of each, with whether it saw everything."""
    shown = [in_turn(view, images) for view in views]
    logits = predict(shown[0].images if len(shown) == 1 else torch.cat([seen.images for seen in shown]))
    return logits, [(seen.undo, seen.everything) for seen in shown]


class _Mean:
    """The mean over views, of which each counts where it saw something."""

    def __init__(self, average: str, counting: Counting) -> None:
        self.average, self.counting = average, counting
        self.sum: Tensor | None = None
        self.weight: Tensor | float = 0.0

    def add(self, logits: Tensor, back: tuple[Undo, bool]) -> None:
        """Add a view's (N, C, H', W') logits, by the way back of ``_predict``."""
        undo, everything = back
        ones = torch.ones_like(logits[:1, :1], dtype=torch.float32)
        logits = undo(logits.float())
        if everything:
            said = self._said(logits)
            self.weight = self.weight + 1.0
        else:
            weight = undo(ones)  # (1, 1, H, W)
            # Half a pixel that was seen, as at the rim of a turned picture, has half of its value.
            said = self._said(logits / weight.clamp(min=_TINY)).mul_(weight)
            self.weight = self.weight + weight
        self.sum = said if self.sum is None else self.sum.add_(said)

    def _said(self, logits: Tensor) -> Tensor:
        """What a view says in terms of what is averaged; a new tensor."""
        if self.average == "logits":
            return logits.clone()
        probabilities = logits.sigmoid() if self.counting.overlapping else logits.softmax(1)
        if self.average == "probabilities":
            return probabilities
        labels = self.counting.predict(logits)
        probabilities.mul_(_TIE)
        if self.counting.overlapping:
            return probabilities.add_(labels, alpha=1 - _TIE)
        return probabilities.scatter_add_(
            1, labels[:, None], torch.full_like(labels[:, None], 1 - _TIE, dtype=probabilities.dtype)
        )

    def scores(self) -> Tensor:
        assert self.sum is not None
        mean = self.sum.div_(self.weight)
        if self.average == "logits":
            return mean
        if self.counting.overlapping:
            return mean.logit_(eps=1e-7)
        return mean.clamp_(min=_TINY).log_()
