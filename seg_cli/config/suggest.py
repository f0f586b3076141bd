"""Did you mean: the one place that guesses what was meant by a misspelt key, choice or verb."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like ``word``, or None where nothing is like it.

    Case does not count. A dotted key may also be known by its last part alone: ``batch_size`` finds
    ``loader.batch_size``.
    """
    by_spelling = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_spelling, n=1, cutoff=0.6)
    if found:
        return by_spelling[found[0]]
    by_last_part = {spelling.rpartition(".")[2]: name for spelling, name in by_spelling.items()}
    found = difflib.get_close_matches(word.lower().rpartition(".")[2], by_last_part, n=1, cutoff=0.75)
    return by_last_part[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'unet'?"``, to go behind a sentence; empty where nothing is like ``word``."""
    found = closest(word, known)
    return f" Did you mean '{found}'?" if found else ""
