"""Who is on the card: tests that use it do so side by side, those marked ``alone`` while no other does.

Processes agree by locks on two files, whichever program started them. One that waits to be alone holds the
door, so that no other test begins before it.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

TAKEN = "DCA_TEST_CARD_TAKEN"  # set for what a test that is alone starts: it is part of its turn


@contextlib.contextmanager
def turn(alone: bool, directory: Path | None = None) -> Iterator[None]:
    """The block runs on the card; locks lie in ``directory`` (default: the temporary files' one)."""
    if TAKEN in os.environ:
        yield
        return
    name = Path(directory or tempfile.gettempdir(), f"dca-tests-{os.getuid()}")
    with open(f"{name}.door", "w") as door, open(f"{name}.card", "w") as card:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(card, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
            yield
            return
        os.environ[TAKEN] = "1"
        try:
            yield
        finally:
            del os.environ[TAKEN]
