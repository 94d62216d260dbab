"""Long prompts: what is said before they are read, while they are, and of documents they are made of."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dca_export.cli.shared.display import note, progress_bar
from dca_export.documents import decode
from dca_export.export.summary import size

if TYPE_CHECKING:
    from dca_runtime import Session
    from dca_runtime.prompt_store import Prompts

LONG = 512  # tokens: a prompt from here on takes long enough to be told about


class Reading:
    """Tells about the evaluation of long prompts: tokens and memory before, the time once it can be told.

    ``progress`` is for the session that reads, ``on_read`` for what reads through a store.
    """

    def __init__(self) -> None:
        self._base = 0  # tokens in the session when the call that runs began
        self._update = lambda length: None

    def progress(self, done: int, total: int) -> None:
        """As ``Model.session`` takes it."""
        self._update(self._base + done)

    def on_read(self, length: int) -> None:
        """As ``Generation`` takes it."""
        self._base = length
        self._update(length)

    @contextlib.contextmanager
    def of(self, session: "Session", ids: list[int], prompts: "Prompts | None") -> Iterator[None]:
        """Around the evaluation of a prompt, ``ids`` with what the session holds of it, told of if long."""
        info = session.info
        start, total = info.length, len(ids)
        if total - start < LONG:
            yield
            return
        known = max(start, prompts.find(ids)) if prompts is not None else start
        speed = prompts.speed if prompts is not None else None
        parts = [f"reading {total:,} tokens"]
        if known:
            parts.append(f"{known:,} of them read before")
        parts.append(f"keys and values take {size(info.cache_bytes * total // info.context)}")
        if speed is not None:
            parts.append(f"about {duration(speed.seconds(known, total))}")
        note(", ".join(parts))
        told, began = speed is not None, time.monotonic()
        with progress_bar("reading", "tokens") as bar:

            def update(length: int) -> None:
                nonlocal told
                bar(length - start, total - start)
                new = length - known
                if not told and 0 < new < total - known:
                    told = True
                    seconds = (time.monotonic() - began) * (total - known) / new
                    note(f"about {duration(seconds)}, at the speed of its first {new:,} tokens")

            self._base, self._update = start, update
            try:
                yield
            finally:
                self._update = lambda length: None


def text_of(path: str) -> str:
    """A text file's content, or standard input's for "-"; UTF-8, with or without a byte order mark.

    Raises InputError: it is not UTF-8 text, or standard input is closed.
    """
    from dca_export.documents.read import at_home, standard_input

    data = standard_input() if path == "-" else at_home(path).read_bytes()
    return decode.stated_text(data, path)


def duration(seconds: float) -> str:
    """A time for a person: 8 s, 2 min 10 s, 1 h 5 min."""
    whole = max(round(seconds), 1)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
