"""Whether an exported program says what its model says, and how quick each is."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

_REPEATS = 5

Program = Callable[[np.ndarray], np.ndarray]
"""(N, B, H, W) float32 -> logits (N, C, H, W)."""


@dataclass(frozen=True)
class Parity:
    """What a comparison found.

    Attributes:
        difference: largest difference of two logits, as a share of the range of the model's in its batch.
        agreement: share of the labels that are the same.
        problem: what the program said where it did not run; None where it did.
        shape: height x width of the images of the largest difference, or of the problem.
        images, views: how many were compared.
        timed: height x width of the first image.
        program_ms, model_ms: its median time.
    """

    difference: float
    agreement: float
    problem: str | None
    shape: str
    images: int
    views: int
    timed: str = ""
    program_ms: float = 0.0
    model_ms: float = 0.0

    def holds(self, tolerance: float, agreement: float) -> bool:
        """Whether they say the same; a difference that is no number does not hold."""
        return self.problem is None and self.difference <= tolerance and self.agreement >= agreement


def views(images: Sequence[np.ndarray], size: tuple[int, int] | None) -> list[tuple[int, np.ndarray]]:
    """What programs are compared on: each image, parts of odd sizes, and batches.

    Args:
        images: (H, W, B) uint8 or float32.
        size: of all images; None for any.

    Returns:
        Number of the image, and a batch (N, B, h, w) float32: the whole, then, where sizes are free, its upper left
        two thirds and a part whose sides divide by nothing; and the image beside its mirror image.
    """
    found = []
    for number, image in enumerate(images):
        values: np.ndarray = image.astype(np.float32)
        if size is not None:
            values = cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, image.shape[2])
        batch = np.ascontiguousarray(values.transpose(2, 0, 1)[None])  # (1, B, H, W)
        found.append((number, batch))
        height, width = batch.shape[-2:]
        if size is None:
            found.append((number, np.ascontiguousarray(batch[..., : height * 2 // 3, : width * 2 // 3])))
            found.append((number, np.ascontiguousarray(batch[..., : (height - 2) | 1, : (width - 6) | 1])))
        if number == 0:
            found.append((number, np.concatenate((batch, batch[..., ::-1]))))
    return found


@torch.no_grad()
def compare(
    model: nn.Module, program: Program, batches: Sequence[tuple[int, np.ndarray]], *, overlapping: bool
) -> Parity:
    """Run both on ``views``.

    Args:
        model: on the CPU, in eval mode.
        program: what was exported of it.
        batches: of ``views``.
        overlapping: whether each class is a yes or no of its own.
    """

    def run_model(batch: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(batch)).numpy()

    worst, same, pixels, where = -1.0, 0, 0, _shape(batches[0][1])
    for _, batch in batches:
        expected = run_model(batch)
        try:
            logits = program(batch)
        except Exception as error:  # of the runtime's own classes
            reason = " ".join(str(error).split())[:200]
            return Parity(np.inf, 0, f"it fails ({reason})", _shape(batch), 0, 0)
        if logits.shape != expected.shape:
            problem = f"it gives logits of {logits.shape} for those of {expected.shape}"
            return Parity(np.inf, 0, problem, _shape(batch), 0, 0)
        span = max(float(expected.max() - expected.min()), 1e-12)
        difference = float(np.abs(logits - expected).max()) / span
        if not difference <= worst:  # so that what is no number is the worst of all
            worst, where = difference, _shape(batch)
        equal = (logits > 0) == (expected > 0) if overlapping else logits.argmax(1) == expected.argmax(1)
        same, pixels = same + int(equal.sum()), pixels + equal.size
        if np.isnan(worst):
            break
    first = batches[0][1]
    return Parity(
        worst,
        same / pixels,
        None,
        where,
        len({number for number, _ in batches}),
        len(batches),
        _shape(first),
        _milliseconds(program, first),
        _milliseconds(run_model, first),
    )


def _milliseconds(run: Program, batch: np.ndarray) -> float:
    run(batch)
    return 1000 * statistics.median(_times(run, batch))


def _times(run: Program, batch: np.ndarray) -> Iterator[float]:
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run(batch)
        yield time.perf_counter() - started


def _shape(batch: np.ndarray) -> str:
    return "x".join(map(str, batch.shape[-2:]))
