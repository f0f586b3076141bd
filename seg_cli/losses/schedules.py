"""Weights of loss terms that change while training goes on."""


class Ramp:
    """A weight that goes evenly from ``start``, in the first epoch, to ``end``, and stays there.

    Kervadec (2019), arXiv:1812.07032, section 3, lets that of the boundary loss grow so.

    Args:
        start, end: weights, 0 or more.
        epochs: the number of epochs on the way; in epoch ``epochs``, counted from 0, it is there.

    Raises:
        ValueError: if a weight is negative or there is not at least one epoch.
    """

    def __init__(self, *, start: float, end: float, epochs: int) -> None:
        for name, value in (("start", start), ("end", end)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}: it must be a number of 0 or more.")
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: it must be 1 or more.")
        self.start, self.end, self.epochs = float(start), float(end), epochs

    def __call__(self, epoch: int) -> float:
        """The weight in an epoch, counted from 0."""
        done = min(1.0, epoch / self.epochs)
        return (1 - done) * self.start + done * self.end
