"""Locks on open files, which end with the process that holds them, however it ends."""

import errno
from contextlib import suppress
from typing import IO


def lock(file: IO[bytes], *, exclusive: bool, wait: bool = True) -> bool:
    """Take a lock of a file, in place of the one that this process has on it. Whether it was had.

    Where the system or the file system has no locks, it always is: then two jobs may build the same cache, and the
    later one's stays.

    Args:
        file: open.
        exclusive: or shared with others that ask for a shared one.
        wait: until it can be had.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def unlock(file: IO[bytes]) -> None:
    """Give up a lock, for all processes that were forked meanwhile and have the file open too."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
