"""How processes that read data are started, by whatever loader."""

import sys


def start_method(workers: int) -> str | None:
    """``multiprocessing_context`` of a ``DataLoader`` of so many workers.

    Processes of joblib would otherwise start others in a way of joblib's own, which cannot.
    """
    return "fork" if workers > 0 and sys.platform == "linux" else None
