"""A thread that writes pages to files, so that who reads a prompt need not wait for the disk."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dca_runtime import _pages
from dca_runtime.prompt_store import eviction
from dca_runtime.prompt_store.directory import Directory, in_words
from dca_runtime.prompt_store.index import Index
from dca_runtime.prompt_store.page_file import HEADER_BYTES, MOST_PAGES, Entry, PageFile

_FILE_BYTES = 64 << 20  # of pages in one file: what is evicted at once, and large enough for any disk
_FILES_OF_A_STORE = 16  # a small store consists of so many files at least
_MOST_WAITING = 4  # pages that wait to be written
_MOST_OPEN = 8  # files that wait for their next page: of prompts that a server reads in turns
_PAUSE_SECONDS = 60  # before the disk is tried again after it failed


@dataclass(frozen=True)
class _Page:
    number: int  # in its prompt
    names: Sequence[bytes]  # of the prompt's pages
    data: np.ndarray


class Writer:
    """Writes the pages of one setup. ``put``, ``flush`` and ``close`` are for one thread."""

    def __init__(
        self,
        directory: Directory,
        index: Index,
        root: bytes,
        page_bytes: int,
        warn: Callable[[str], None],
        make_folder: Callable[[], None],
    ) -> None:
        """warn: takes a line where pages cannot be kept.

        make_folder: makes the setup's folder if there is none; OSError.
        """
        self.written = 0  # pages
        self._directory = directory
        self._index = index
        self._root = root
        self._page_bytes = page_bytes
        self._warn = warn
        self._make_folder = make_folder
        most = max(directory.limit // _FILES_OF_A_STORE, page_bytes)
        self._capacity = int(min(max(min(_FILE_BYTES, most) // page_bytes, 1), MOST_PAGES))
        self._queue: queue.Queue[_Page | None] = queue.Queue(_MOST_WAITING)
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        self._made = 0  # buffers
        self._open: dict[bytes, _OpenFile] = {}  # by the name of the last page, the longest unused first
        self._resumes = 0.0  # when it is tried again
        self._full = False  # the store was full, and it was said
        self._waiting: set[bytes] = set()  # names of pages that are to be written
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def resting(self) -> bool:
        """Whether nothing can be written for now: the disk failed, or the store is full of this prompt."""
        return time.monotonic() < self._resumes

    def waits(self, name: bytes) -> bool:
        """Whether that page is to be written already."""
        with self._lock:
            return name in self._waiting

    def buffer(self, wait: bool) -> np.ndarray | None:
        """Room for a page; None: all of it is in use, and there is no ``wait``."""
        if self._made <= _MOST_WAITING:
            self._made += 1
            return np.empty(self._page_bytes, np.uint8)
        with contextlib.suppress(queue.Empty):
            return self._free.get(block=wait)
        return None

    def put(self, number: int, names: Sequence[bytes], data: np.ndarray) -> None:
        """Has page ``number`` of a prompt written; ``data`` is a ``buffer``, which goes back."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prompt-store-write", daemon=True)
            self._thread.start()
        with self._lock:
            self._waiting.add(names[number])
        self._queue.put(_Page(number, names, data))

    def flush(self) -> None:
        """Waits until everything is written."""
        self._queue.join()

    def close(self) -> None:
        """Writes what waits, and lets go of the file."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (page := self._queue.get()) is not None:
            try:
                self._write(page)
            except Exception as error:  # whatever it is, who puts pages must not wait for ever
                self._resumes = time.monotonic() + _PAUSE_SECONDS
                self._leave_files(0)
                reason = error.strerror if isinstance(error, OSError) else repr(error)
                with contextlib.suppress(Warning):  # where warnings are errors
                    self._warn(f"{self._index.folder}: pages cannot be kept: {reason}")
            finally:
                with self._lock:
                    self._waiting.discard(page.names[page.number])
                self._free.put(page.data)
                self._queue.task_done()
        self._leave_files(0)
        self._queue.task_done()

    def _write(self, page: _Page) -> None:
        name = page.names[page.number]
        if self.resting:
            return
        self._index.refresh()
        if self._index.place(name) is not None:  # another process was faster
            return
        parent = page.names[page.number - 1] if page.number else self._root
        file = self._open.pop(parent, None) or self._new_file(page, parent)
        if file is None:
            return
        self._open[name] = file  # also where it fails, to be closed
        file.append(Entry(name, _pages.checksum(page.data)), page.data)
        file.page = page
        self.written += 1
        if file.full:
            del self._open[name]
            self._leave(file)

    def _new_file(self, page: _Page, parent: bytes) -> "_OpenFile | None":
        folder = self._index.folder
        self._leave_files(_MOST_OPEN - 1)
        if not self._make_room(page):
            self._resumes = time.monotonic() + _PAUSE_SECONDS
            if not self._full:
                self._full = True
                room = in_words(self._directory.limit)
                self._warn(
                    f"{self._directory.path}: this prompt needs more than its {room}, so only the first "
                    f"{page.number} pages are kept; --cache-disk SIZE enlarges it"
                )
            return None
        self._full = False
        self._make_folder()
        return _OpenFile(folder, self._root, parent, self._page_bytes, self._capacity)

    def _make_room(self, page: _Page) -> bool:
        size = HEADER_BYTES + self._capacity * self._page_bytes
        for _ in range(2):
            if eviction.make_room(self._directory, size, self._index.paths(page.names[: page.number])):
                return True
            self._leave_files(0)  # those of other prompts are in the way
        return False

    def _leave_files(self, most: int) -> None:
        """Closes files until ``most`` are open, the longest unused first."""
        while len(self._open) > most:
            self._leave(self._open.pop(next(iter(self._open))))

    def _leave(self, file: "_OpenFile") -> None:
        """Closes a file, and says that its prompt's first files were used last."""
        with contextlib.suppress(OSError):
            file.close()
        if file.page is not None:
            eviction.touch([*self._index.paths(file.page.names[: file.page.number]), file.path])


class _OpenFile(PageFile):
    """A file that waits for the page behind its last one."""

    page: _Page | None = None  # the last one
