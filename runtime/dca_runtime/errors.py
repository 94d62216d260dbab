"""The one exception that libdca's failures become, and the one warning."""

from enum import IntEnum


class Status(IntEnum):
    """``dca_status`` of dca.h."""

    OK = 0
    ARGUMENT = 1
    IO = 2
    FORMAT = 3
    UNSUPPORTED = 4
    MEMORY = 5
    DEVICE = 6
    CONTEXT = 7
    CANCELLED = 8
    INTERNAL = 9


class DcaError(Exception):
    """A call failed. ``str(error)`` is one line; ``error.status`` says of which kind it is."""

    def __init__(self, message: str, status: Status = Status.ARGUMENT) -> None:
        super().__init__(message)
        self.status = status


class DcaWarning(UserWarning):
    """Something is allowed, but what comes of it is likely not what was wanted."""
