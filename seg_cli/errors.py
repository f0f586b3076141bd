"""The two ways in which a command ends badly without being a bug.

An error of either kind is shown to the user as one short paragraph on stderr (see ``cli.py``); any other exception is a
bug of ours and is shown with its traceback.
"""


class SegrunError(Exception):
    """Base of the errors that are shown without a traceback.

    A DataLoader worker hands its exception over as text, with the traceback in front of the message; the message alone
    is what the user needs, so everything up to the exception's own name is dropped.
    """

    exit_status = 1

    def __init__(self, message: str) -> None:
        name = f"{type(self).__module__}.{type(self).__name__}: "
        super().__init__(message.rpartition(name)[2].rstrip())


class UserError(SegrunError):
    """The request was wrong: a bad option, a bad value, missing or broken data. Exit status 2.

    The message says what is wrong, where (file, key), what is allowed, and what to type.
    """

    exit_status = 2


class RunFailed(SegrunError):
    """The request was fine and the run failed: a loss that is not finite, a full disk. Exit status 1."""
