"""Losses and their sums: plain PyTorch, usable without the rest of segrun."""

from seg_cli.losses.cross_entropy import CrossEntropy
from seg_cli.losses.dice import Dice
from seg_cli.losses.focal import Focal
from seg_cli.losses.sum import Sum

__all__ = ["CrossEntropy", "Dice", "Focal", "Sum"]
