"""Losses and their sums: plain PyTorch, usable without the rest of segrun."""

from seg_cli.losses.cross_entropy import BinaryCrossEntropy, CrossEntropy
from seg_cli.losses.dice import Dice, GeneralizedDice
from seg_cli.losses.focal import Focal
from seg_cli.losses.hard_pixels import HardPixels
from seg_cli.losses.jaccard import Jaccard
from seg_cli.losses.lovasz import Lovasz
from seg_cli.losses.schedules import Ramp
from seg_cli.losses.sum import Sum
from seg_cli.losses.tversky import Tversky

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Dice",
    "Focal",
    "GeneralizedDice",
    "HardPixels",
    "Jaccard",
    "Lovasz",
    "Ramp",
    "Sum",
    "Tversky",
]
