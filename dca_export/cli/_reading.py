"""Texts that a command is given, and the long prompts made of them: what is said while they are read."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dca_export.cli._common import note, progress_bar
from dca_export.errors import InputError
from dca_export.export.summary import size

if TYPE_CHECKING:
    from dca_runtime import Session

LONG = 512  # tokens: a prompt from here on takes long enough to be told about


def text_of(path: str) -> str:
    """A text file's content, or standard input's for "-"; UTF-8, with or without a byte order mark.

    Raises InputError: it is not UTF-8 text, or standard input is closed.
    """
    if path != "-":
        data = Path(path).expanduser().read_bytes()
    elif sys.stdin is None:
        raise InputError("-: standard input is closed")
    else:
        binary = getattr(sys.stdin, "buffer", None)
        data = binary.read() if binary is not None else sys.stdin.read().encode()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Reading:
    """Tells about the evaluation of long prompts: tokens and memory before, the time once it can be told.

    ``progress`` is for the session that reads.
    """

    def __init__(self) -> None:
        self._update = lambda done, total: None

    def progress(self, done: int, total: int) -> None:
        """As ``Model.session`` takes it."""
        self._update(done, total)

    @contextlib.contextmanager
    def of(self, session: "Session", tokens: int) -> Iterator[None]:
        """Around the evaluation of a prompt of that many ``tokens``; only a long one is told about."""
        if tokens < LONG:
            yield
            return
        info = session.info
        memory = info.cache_bytes * tokens / info.context
        note(f"reading {tokens:,} tokens, whose keys and values take {size(int(memory))}")
        told, began = False, time.monotonic()
        with progress_bar("reading") as bar:

            def update(done: int, total: int) -> None:
                nonlocal told
                if total != tokens:  # of a generated token
                    return
                bar(done, total)
                if not told and 0 < done < total:
                    told = True
                    seconds = (time.monotonic() - began) * total / done
                    note(f"about {duration(seconds)}, at the speed of its first {done:,} tokens")

            self._update = update
            try:
                yield
            finally:
                self._update = lambda done, total: None


def duration(seconds: float) -> str:
    """A time for a person: 8 s, 2 min 10 s, 1 h 5 min."""
    whole = max(round(seconds), 1)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
