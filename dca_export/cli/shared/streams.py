"""Standard streams as a command needs them, however it was started."""

import os
import sys
from typing import TextIO


def prepare_streams() -> None:
    """Gives stdout and stderr where they are closed, and lets them show what their encoding cannot.

    Python has None for a stream that was closed when it started (by cron, or ``>&-``). Its number is free
    then, and the next file to be opened, the model perhaps, would get it and the output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def discard_output() -> None:
    """Points stdout elsewhere after writing to it failed; else the interpreter complains when it ends."""
    _discard(sys.stdout)


def discard_errors() -> None:
    """The same of stderr."""
    _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):  # no file behind it, as in tests
        pass
