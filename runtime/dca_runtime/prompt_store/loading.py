"""Pages from files into a sequence: threads read and check ahead, the caller's thread appends.

It ends where a page is missing or damaged, and where loading turns out slower than reading the tokens again.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dca_runtime import _pages
from dca_runtime.options import PAGE_TOKENS, TokenIds
from dca_runtime.prompt_store import page_file
from dca_runtime.prompt_store.index import Place
from dca_runtime.prompt_store.speed import Speed

_CHUNK_BYTES = 16 << 20  # read by one call, or a page: large enough for any disk, small enough to overlap
_AHEAD = 4  # chunks that are read before they are wanted
_THREADS = 3  # that read and check; memory's speed is more than one thread's
_TELLING_SECONDS = 0.25  # before a rate is believed


def chunk_pages(page_bytes: int) -> int:
    """How many pages one ``Loading.step`` appends at most."""
    return max(_CHUNK_BYTES // page_bytes, 1)


class Appendable(Protocol):
    """What is loaded into: a TokenSequence or a Session."""

    @property
    def length(self) -> int: ...
    def append_pages(self, ids: TokenIds, pages: object) -> None: ...


class PageDamaged(Exception):
    """A page does not match its checksum, or its file is too short; the message says so."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"{place.path}: page {place.slot} does not match its checksum")
        self.place = place


@dataclass(frozen=True)
class _Chunk:
    places: tuple[Place, ...]  # of one file, one slot after another


class Loading:
    """One prompt's pages on their way into a sequence that ends where they begin.

    A context manager; ``close`` lets go of what was read ahead.
    """

    def __init__(
        self,
        ids: np.ndarray,
        first: int,
        places: Sequence[Place],
        page_bytes: int,
        speed: Speed | None = None,
        damaged: Callable[[PageDamaged], None] = lambda damage: None,
    ) -> None:
        """``places`` are those of pages ``first``, ``first + 1``, … of the prompt ``ids`` (int32).

        speed: of reading instead; None: loading goes on however slow it is.
        damaged: told about a page that was not what it should be.
        """
        self.loaded = 0  # pages appended
        self.bytes_per_second: float | None = None  # once it can be told
        self.too_slow = False  # it ended because reading again is faster
        self._ids = ids
        self._next = first
        self._last = first + len(places)
        self._page_bytes = page_bytes
        self._speed = speed
        self._damaged = damaged
        self._chunks = deque(_chunks(places, chunk_pages(page_bytes)))
        self._reads: deque[Future[tuple[np.ndarray, float]]] = deque()
        self._free: list[np.ndarray] = []
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="prompt-store-load")
        self._reading = self._appending = 0.0  # seconds, of all threads and of the caller's
        self._fill()

    def __enter__(self) -> "Loading":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def done(self) -> bool:
        """Whether nothing more comes."""
        return not self._reads

    def step(self, sequence: Appendable, wait: bool = True) -> bool:
        """Appends what was read next, a few megabytes; False: nothing was, as it has ended, or, without
        ``wait``, is not read yet."""
        if self.done or not (wait or self._reads[0].done()):
            return False
        try:
            pages, seconds = self._reads.popleft().result()
        except PageDamaged as damage:
            self._damaged(damage)
            self.close()
            return False
        except OSError:  # evicted meanwhile
            self.close()
            return False
        count = len(pages) // self._page_bytes
        start = self._next * PAGE_TOKENS
        began = time.perf_counter()
        sequence.append_pages(self._ids[start : start + count * PAGE_TOKENS], pages)
        self._appending += time.perf_counter() - began
        self._reading += seconds
        self._free.append(pages)
        self._next += count
        self.loaded += count
        if self._slower_than_reading():
            self.too_slow = True
            self.close()
        else:
            self._fill()
        return True

    def close(self) -> None:
        """Ends it; what was appended stays."""
        self._chunks.clear()
        for read in self._reads:
            read.cancel()
        self._reads.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)  # a slow disk is not waited for

    def _fill(self) -> None:
        while self._chunks and len(self._reads) < _AHEAD:
            chunk = self._chunks.popleft()
            size = len(chunk.places) * self._page_bytes
            fitting = [buffer for buffer in self._free if len(buffer) == size]
            buffer = fitting[0] if fitting else np.empty(size, np.uint8)
            self._free = [one for one in self._free if one is not buffer]
            self._reads.append(self._threads.submit(_timed_read, chunk, buffer, self._page_bytes))
        if not self._reads:
            self._threads.shutdown(wait=False)

    def _slower_than_reading(self) -> bool:
        # Reading and appending overlap; what the caller does between steps is no fault of the disk.
        seconds = max(self._reading / _THREADS, self._appending)
        if seconds < _TELLING_SECONDS:
            return False
        self.bytes_per_second = self.loaded * self._page_bytes / seconds
        if self._speed is None:
            return False
        rest = (self._last - self._next) * self._page_bytes / self.bytes_per_second
        return rest > self._speed.seconds(self._next * PAGE_TOKENS, self._last * PAGE_TOKENS)


def _chunks(places: Sequence[Place], most: int) -> list[_Chunk]:
    chunks: list[list[Place]] = []
    for place in places:
        last = chunks[-1] if chunks else []
        if last and len(last) < most and last[-1].path == place.path and last[-1].slot + 1 == place.slot:
            last.append(place)
        else:
            chunks.append([place])
    return [_Chunk(tuple(chunk)) for chunk in chunks]


def _timed_read(chunk: _Chunk, buffer: np.ndarray, page_bytes: int) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    return _read(chunk, buffer, page_bytes), time.perf_counter() - began


def _read(chunk: _Chunk, buffer: np.ndarray, page_bytes: int) -> np.ndarray:
    first = chunk.places[0]
    descriptor = page_file.opened(first.path)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        view, offset = buffer.data, page_file.page_offset(page_bytes, first.slot)
        while view:
            got = os.preadv(descriptor, [view], offset)
            if got == 0:
                raise PageDamaged(first)
            view, offset = view[got:], offset + got
    finally:
        os.close(descriptor)
    for index, place in enumerate(chunk.places):
        if _pages.checksum(buffer[index * page_bytes : (index + 1) * page_bytes]) != place.checksum:
            raise PageDamaged(place)
    return buffer
