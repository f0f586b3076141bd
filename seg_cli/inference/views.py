"""Ways to look at an image, each of which can be undone: mirrored, turned, moved, larger or smaller.

A view turns images (N, B, H, W) into other images, and knows how what a model says of those is brought back to the
places of the first ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Undo = Callable[[Tensor], Tensor]


class Seen(NamedTuple):
    """Images as a view shows them.

    Attributes:
        images: (N, B, H', W'), of the type given or float32.
        undo: float (N, C, H', W') -> (N, C, H, W), 0 where the view saw nothing. It is linear, so that what it makes of
            ones says how much was seen.
        everything: whether it saw every pixel.
    """

    images: Tensor
    undo: Undo
    everything: bool


class View(Protocol):
    """Views compare equal if they show the same."""

    def __call__(self, images: Tensor) -> Seen: ...


class Transform(Protocol):
    """Views of one kind, of which each is combined with those of the other kinds."""

    def views(self) -> list[View]:
        """What it looks at; the image as it is comes first, where it is among them."""
        ...


# ---- views


@dataclass(frozen=True)
class Lattice:
    """Mirrored left and right or not, then turned left by quarters: pixels change places, and none is computed.

    There are eight of these, and each is two of them after another.
    """

    turns: int = 0
    mirrored: bool = False

    def __call__(self, images: Tensor) -> Seen:
        images = images.flip(-1) if self.mirrored else images
        images = torch.rot90(images, self.turns, (-2, -1)) if self.turns else images
        return Seen(images, self._undo, everything=True)

    def _undo(self, scores: Tensor) -> Tensor:
        scores = torch.rot90(scores, -self.turns, (-2, -1)) if self.turns else scores
        return scores.flip(-1) if self.mirrored else scores

    def after(self, first: "Lattice") -> "Lattice":
        """The one that is ``first`` and then this."""
        # What is turned left and then mirrored was as well mirrored and then turned right.
        turned = -first.turns if self.mirrored else first.turns
        return Lattice((self.turns + turned) % 4, self.mirrored != first.mirrored)


@dataclass(frozen=True)
class Turned:
    """Turned left about the centre by an angle in degrees, in a picture of the same size.

    What comes in from outside repeats the border. The corners that go out are not seen.
    """

    degrees: float

    def __call__(self, images: Tensor) -> Seen:
        if self.degrees == 0:
            return Seen(images, _same, everything=True)
        turned = _turn(images.float(), self.degrees, "border")
        return Seen(turned, lambda scores: _turn(scores, -self.degrees, "zeros"), everything=False)


@dataclass(frozen=True)
class Moved:
    """Moved by pixels, down and to the right. What comes in repeats the border; what goes out is not seen."""

    down: int
    right: int

    def __call__(self, images: Tensor) -> Seen:
        if self.down == self.right == 0:
            return Seen(images, _same, everything=True)
        height, width = images.shape[-2:]
        rows = (torch.arange(height, device=images.device) - self.down).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) - self.right).clamp(0, width - 1)
        return Seen(images.index_select(-2, rows).index_select(-1, columns), self._undo, everything=False)

    def _undo(self, scores: Tensor) -> Tensor:
        height, width = scores.shape[-2:]
        back = torch.zeros_like(scores)
        if abs(self.down) < height and abs(self.right) < width:
            (to_rows, from_rows), (to_columns, from_columns) = _moved(height, self.down), _moved(width, self.right)
            back[..., to_rows, to_columns] = scores[..., from_rows, from_columns]
        return back


@dataclass(frozen=True)
class Scaled:
    """Larger or smaller by a factor, bilinear; what shrinks is averaged over the pixels that become one."""

    factor: float

    def __call__(self, images: Tensor) -> Seen:
        height, width = images.shape[-2:]
        size = max(1, round(height * self.factor)), max(1, round(width * self.factor))
        if size == (height, width):
            return Seen(images, _same, everything=True)
        scaled = _resize(images.float(), size)
        return Seen(scaled, lambda scores: _resize(scores, (height, width)), everything=True)


def in_turn(views: Sequence[View], images: Tensor) -> Seen:
    """Images through one view after another, and all the way back."""
    undos: list[Undo] = []
    everything = True
    for view in views:
        seen = view(images)
        images, everything = seen.images, everything and seen.everything
        undos.append(seen.undo)

    def undo(scores: Tensor) -> Tensor:
        for undo_one in reversed(undos):
            scores = undo_one(scores)
        return scores

    return Seen(images, undo, everything)


def _same(scores: Tensor) -> Tensor:
    return scores


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def _moved(length: int, by: int) -> tuple[slice, slice]:
    """What is left of an axis after a move: its places before, and those after."""
    return slice(max(-by, 0), length - max(by, 0)), slice(max(by, 0), length - max(-by, 0))


def _turn(x: Tensor, degrees: float, padding: str) -> Tensor:
    height, width = x.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Where each pixel of the result looks. Half the height and half the width are the units; y points down.
    matrix = torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]], device=x.device)
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode=padding, align_corners=False)


# ---- kinds of views


class Flip:
    """The image, and mirrored.

    Args:
        horizontal: left and right.
        vertical: up and down. With both, also both at once.
    """

    def __init__(self, *, horizontal: bool = True, vertical: bool = False) -> None:
        self.horizontal, self.vertical = horizontal, vertical

    def views(self) -> list[View]:
        """One to four: as it is, mirrored, upside down, both."""
        found = [Lattice()]
        if self.horizontal:
            found.append(Lattice(mirrored=True))
        if self.vertical:
            found += [Lattice(turns=2, mirrored=True).after(view) for view in found]
        return [*found]


class Rotate90:
    """The image, and turned by each number of quarters of a circle."""

    def views(self) -> list[View]:
        """Four, by the number of quarters."""
        return [Lattice(turns) for turns in range(4)]


class Rotate:
    """The image, and turned by small angles.

    Args:
        degrees: of each turn, to the left where positive, above -90 and below 90.

    Raises:
        ValueError: if an angle is outside of that.
    """

    def __init__(self, *, degrees: Sequence[float]) -> None:
        for angle in degrees:
            if not -90 < angle < 90:
                raise ValueError(f"degrees={list(degrees)}: angles are above -90 and below 90. rotate90 turns further.")
        self.degrees = degrees

    def views(self) -> list[View]:
        """As it is, and one for each angle."""
        return [Turned(angle) for angle in dict.fromkeys((0.0, *map(float, self.degrees)))]


class Shift:
    """The image, and moved to each of the four sides.

    Args:
        pixels: how far, 1 or more.

    Raises:
        ValueError: if it is less.
    """

    def __init__(self, *, pixels: int) -> None:
        if pixels < 1:
            raise ValueError(f"pixels={pixels}: 1 or more is allowed.")
        self.pixels = pixels

    def views(self) -> list[View]:
        """Five: as it is, right, left, down and up."""
        by = self.pixels
        return [Moved(0, 0), Moved(0, by), Moved(0, -by), Moved(by, 0), Moved(-by, 0)]


class Scale:
    """The image in several sizes.

    Args:
        factors: of height and width; the image itself takes part as 1.

    Raises:
        ValueError: if there is none, or one is not positive.
    """

    def __init__(self, *, factors: Sequence[float]) -> None:
        if not factors or not all(0 < factor < math.inf for factor in factors):
            raise ValueError(f"factors={list(factors)}: positive numbers are allowed, as in [0.75,1,1.25].")
        self.factors = factors

    def views(self) -> list[View]:
        """One for each factor."""
        return [Scaled(factor) for factor in dict.fromkeys(map(float, self.factors))]
