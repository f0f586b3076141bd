"""Scores: plain PyTorch, usable without the rest of segrun."""

from seg_cli.metrics.confusion import Scores, score
from seg_cli.metrics.counting import Counting

__all__ = ["Counting", "Scores", "score"]
