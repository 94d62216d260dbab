"""The store of prompts: what one process reads, any later one finds."""

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from dca_runtime._pages import Setup
from dca_runtime.errors import DcaWarning
from dca_runtime.options import PAGE_TOKENS, TokenIds
from dca_runtime.prompt_store import chain, eviction, speed
from dca_runtime.prompt_store.directory import SETUP_FILE, Directory, default_path
from dca_runtime.prompt_store.index import Index
from dca_runtime.prompt_store.loading import Loading, PageDamaged
from dca_runtime.prompt_store.speed import Sample, Speed
from dca_runtime.prompt_store.writer import Writer

MODEL_LINE = "name "  # of the setup's file, beside the library's lines: what people call the model
# Pieces of readings whose times are kept, the last ones: a server that only short prompts come to never asks
# for a speed. A million tokens in pieces of 256 are as many.
_MOST_SAMPLES = 4096


class HasSetup(Protocol):
    """An Engine, a TokenSequence or a Session."""

    @property
    def setup(self) -> Setup: ...


class Held(Protocol):
    """What pages are copied from and to: a TokenSequence or a Session."""

    @property
    def length(self) -> int: ...
    @property
    def ids(self) -> np.ndarray: ...
    def truncate(self, length: int) -> None: ...
    def read_pages(self, first: int, count: int, out: object) -> None: ...
    def append_pages(self, ids: TokenIds, pages: object) -> None: ...


def _warn(line: str) -> None:
    warnings.warn(line, DcaWarning, stacklevel=2)


class PromptStore:
    """Keys and values of prompts in a folder that is the user's alone. Several processes may share it."""

    def __init__(
        self,
        path: Path | str | None = None,
        limit: int | None = None,
        tell: Callable[[str], None] | None = None,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        """``path`` is made where there is none; by default ``$DCA_CACHE_DIR`` or a folder in the user's
        cache.

        limit: the most bytes it may take from now on; by default as it was, at first a tenth of the disk.
        tell: takes a line when the store is made.
        warn: takes a line about what is skipped or cannot be kept; a DcaWarning by default.

        Raises DcaError: the folder is somebody else's, or holds something else.
        """
        self.directory = Directory(default_path() if path is None else Path(path), limit, tell)
        self._warn_of = warn

    def prompts(self, holder: HasSetup, model: str = "") -> "Prompts":
        """The prompts read under an engine's or a session's setup; ``model`` is its name for people."""
        return Prompts(self.directory, holder.setup, model, self._warn_of)


class Prompts:
    """The prompts of one setup. ``find`` and ``finish_reading`` are for any thread, the rest for the one that
    owns the sequences.

    A context manager; ``close`` writes what waits.
    """

    def __init__(self, directory: Directory, setup: Setup, model: str, warn: Callable[[str], None]) -> None:
        """As ``PromptStore.prompts``."""
        self.directory = directory
        self.page_bytes = setup.page_bytes
        self._setup = setup
        self._model = model
        self._warn = warn
        self._root = chain.root(setup.text)
        self.folder = directory.setup_folder(self._root)
        self._index = Index(self.folder, self._root, setup.page_bytes, warn)
        self._writer = Writer(directory, self._index, self._root, setup.page_bytes, warn, self._describe)
        self._described = False
        self._samples: deque[Sample] = deque(maxlen=_MOST_SAMPLES)
        self._lock = threading.Lock()
        self.speed: Speed | None = speed.load(self.folder)  # of reading a prompt, if it is known
        self.load_rate: float | None = None  # bytes/s of the last loading that was long enough

    def __enter__(self) -> "Prompts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def written(self) -> int:
        """Pages that this process has added."""
        return self._writer.written

    def find(self, ids: TokenIds) -> int:
        """How many tokens at the start of ``ids`` are stored: whole pages, and never the last token."""
        self._index.refresh()
        return len(self._index.prefix(self._names(ids, len(ids) - 1))) * PAGE_TOKENS

    def loading(self, sequence: Held, ids: TokenIds, refresh: bool = True) -> Loading | None:
        """Makes ready to append what is stored of ``ids`` beyond what ``sequence`` holds of it.

        The sequence holds a start of ``ids``, and is cut back to a page's end. None, and nothing is cut:
        nothing more is stored. Step it on the sequence's own thread.

        refresh: look at the disk for what others added or removed since the last ``find``.
        """
        names = self._names(ids, len(ids) - 1)
        first = sequence.length // PAGE_TOKENS
        if refresh:
            self._index.refresh()
        places = self._index.prefix(names)
        if len(places) * PAGE_TOKENS <= sequence.length:
            return None
        sequence.truncate(first * PAGE_TOKENS)
        eviction.touch(list(dict.fromkeys(place.path for place in places)))
        tokens = np.asarray(ids, np.int32)
        return Loading(tokens, first, places[first:], self.page_bytes, self.speed, self._drop)

    def load_into(self, sequence: Held, ids: TokenIds, progress: Callable[[int], None] | None = None) -> int:
        """Appends what is stored of ``ids`` beyond what ``sequence`` holds of it; how many tokens came.

        progress: called with the tokens in the sequence now and then.
        """
        loading = self.loading(sequence, ids)
        if loading is None:
            return 0
        with loading:
            while loading.step(sequence):
                if progress is not None:
                    progress(sequence.length)
        if loading.bytes_per_second is not None:
            self.load_rate = loading.bytes_per_second
        return loading.loaded * PAGE_TOKENS

    def save(self, sequence: Held, wait: bool = True) -> bool:
        """Has the whole pages of ``sequence`` written that are not stored yet, in another thread.

        wait: wait for the disk where too much waits to be written; otherwise the disk is not looked at, and
            False says that pages are left for the next call. Copies what is to be written, a page at a time.
        """
        ids = sequence.ids
        names = self._names(ids, len(ids))
        if self._writer.resting:
            return True
        if wait:
            self._index.refresh()
        for number, name in enumerate(names):
            if self._index.place(name) is not None or self._writer.waits(name):
                continue
            buffer = self._writer.buffer(wait)
            if buffer is None:
                return False
            sequence.read_pages(number, 1, buffer)
            self._writer.put(number, names, buffer)
        return True

    def read_in(self, sample: Sample) -> None:
        """Says how long a piece of a prompt took; ``finish_reading`` makes a speed of the last ones."""
        self._samples.append(sample)

    def finish_reading(self) -> None:
        """Keeps the speed of what was read since the last call, if it was long enough to tell.

        Waits for the disk; for any thread, also while another says ``read_in``.
        """
        samples, self._samples = self._samples, deque(maxlen=_MOST_SAMPLES)
        found = speed.measured(list(samples))  # a deque that is added to meanwhile cannot be walked over
        if found is not None:
            self.speed = found
            with contextlib.suppress(OSError):
                self._describe()
                speed.save(self.directory, self.folder, found)

    def forget(self, ids: TokenIds, kept: int = 0) -> None:
        """Removes the pages of ``ids`` from the store, but for those of the first ``kept`` tokens.

        What continues them in other prompts is read again then.
        """
        self.close()
        self._index.refresh()
        for name in reversed(self._names(ids, len(ids))[kept // PAGE_TOKENS :]):
            place = self._index.place(name)
            if place is not None:
                self._index.cut(place)

    def flush(self) -> None:
        """Waits until everything is written."""
        self._writer.flush()
        self._index.refresh()

    def close(self) -> None:
        """Writes what waits. What is used afterwards works as before."""
        self._writer.close()

    def _names(self, ids: TokenIds, most: int) -> list[bytes]:
        return chain.page_hashes(self._root, ids[: max(most, 0)])

    def _drop(self, damage: PageDamaged) -> None:
        self._warn(f"{damage}: skipped, and read again")
        self._index.cut(damage.place)

    def _describe(self) -> None:
        """Makes the folder and says in it what it holds. Raises OSError."""
        with self._lock:
            if self._described and self.folder.exists():
                return
            self.folder.mkdir(mode=0o700, exist_ok=True)
            name = " ".join(self._model.split())
            text = f"{MODEL_LINE}{name}\n{self._setup.text}"
            self.directory.write(self.folder / SETUP_FILE, text)
            self._described = True
