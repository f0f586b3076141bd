"""Checks of the settings of losses, with one form of message; the config key is put before it where it is known."""

import math

from seg_cli.config.suggest import did_you_mean


def check_number(name: str, value: float, low: float = 0.0, high: float = math.inf, *, above: bool = False) -> float:
    """The number, if it lies in [low, high], or with ``above`` in (low, high]. Raises ValueError."""
    allowed = f"above {low:g}" if above else f"{low:g} or more"
    allowed += f" and at most {high:g}" if high < math.inf else ""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        raise ValueError(f"{name}={value}: it must be a number {allowed}.")
    return float(value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """The value, if it is one of the choices. Raises ValueError."""
    if value not in choices:
        raise ValueError(f"{name}={value}: allowed are {', '.join(choices)}.{did_you_mean(str(value), choices)}")
    return value
