"""A sequence of an engine: tokens with their keys and values in pages of its pool."""

import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from dca_runtime import _ffi, _pages, process
from dca_runtime._convert import c_path, token_array
from dca_runtime._ffi import ffi
from dca_runtime.engine import _feeds
from dca_runtime.engine.handle import EngineHandle, Keep
from dca_runtime.errors import DcaError
from dca_runtime.options import TokenIds


class TokenSequence:
    """Tokens with their keys and values in an engine. Made by ``Engine.sequence``, ``fork`` and ``load``.

    A context manager; ``close`` gives its pages back.
    """

    def __init__(self, engine: EngineHandle, native: Any) -> None:
        self.engine = engine
        self._native = native
        self._address = _feeds.address(native)  # 0 once it is closed
        # The finalizer holds what keeps the native engine, so that it goes after the sequence in any order.
        self._free = weakref.finalize(self, _free, native, engine._keep, engine._home)
        engine._sequences.add(self)

    def close(self) -> None:
        """Frees the sequence and the pages that no other holds. Nothing the second time, nor in a fork."""
        if self.engine._home.left():
            return
        with self.engine._exclusive(may_be_closed=True):
            self._drop()

    def __enter__(self) -> "TokenSequence":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fork(self) -> "TokenSequence":
        """Another sequence that holds the same; every page is shared until one of them writes to it."""
        with self.engine._exclusive():
            native = ffi.new("dca_sequence **")
            _ffi.check(_ffi.lib().dca_sequence_fork(self._handle(), native))
            return TokenSequence(self.engine, native[0])

    def truncate(self, length: int) -> None:
        """Forgets every token from index ``length`` on; what comes before stays valid."""
        with self.engine._exclusive():
            _ffi.check(_ffi.lib().dca_sequence_truncate(self._handle(), _ffi.integer(length, 0, "length")))

    def sleep(self) -> None:
        """Lets its keys and values leave for host memory, so that others get its pages.

        They leave while others' steps run. Whatever needs them wakes the sequence. Raises DcaError.
        """
        with self.engine._exclusive():
            _ffi.check(_ffi.lib().dca_sequence_sleep(self._handle()))

    def wake(self) -> None:
        """Starts the way back ahead of need: it goes on while others' steps run. Raises DcaError (status
        CONTEXT), and sleeps on, where the pool has too few pages."""
        with self.engine._exclusive():
            _ffi.check(_ffi.lib().dca_sequence_wake(self._handle()))

    @property
    def asleep(self) -> bool:
        """Whether its keys and values are in host memory."""
        with self.engine._exclusive():
            return bool(_ffi.lib().dca_sequence_asleep(self._handle()))

    @property
    def in_place(self) -> bool:
        """Whether all its keys and values are in its pages: it does not sleep, and nothing is on its way."""
        with self.engine._exclusive():
            return bool(_ffi.lib().dca_sequence_in_place(self._handle()))

    def park_pages(self, first: int, slots: Sequence[int]) -> None:
        """Copies whole pages, from page ``first`` on, to ``slots``, while others' steps run.

        Slots come from ``Engine.add_slots``. The sequence keeps the pages; those that it is shortened by are
        free when they have left (``EngineInfo.tokens_leaving``). A slot may be given to another page at once:
        copies keep their order. Raises DcaError.
        """
        with self.engine._exclusive():
            _pages.park(self._handle(), _ffi.integer(first, 0, "first"), slots)

    def unpark_pages(self, ids: TokenIds, slots: Sequence[int]) -> None:
        """Appends whole pages of tokens that were parked in ``slots`` after the same tokens, while others'
        steps run. Raises DcaError (status CONTEXT: the pool has too few pages), and leaves it as it is.
        """
        with self.engine._exclusive():
            _pages.unpark(self._handle(), token_array(ids, self.engine.n_vocab), slots)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sequence to ``path``, whole or not at all; ``Engine.load`` reads it. Raises DcaError."""
        with self.engine._exclusive():
            _ffi.check(_ffi.lib().dca_sequence_save(self._handle(), c_path(path)))

    @property
    def setup(self) -> _pages.Setup:
        """What its keys and values depend on beside the tokens."""
        return self.engine.setup

    def read_pages(self, first: int, count: int, out: Any) -> None:
        """Copies ``count`` whole pages, from page ``first`` on, into the writable buffer ``out``.

        ``out`` has ``count * setup.page_bytes`` bytes. Raises DcaError.
        """
        with self.engine._exclusive():
            _pages.read(_ffi.lib().dca_sequence_read_pages, self._handle(), first, count, out)

    def append_pages(self, ids: TokenIds, pages: Any) -> None:
        """Appends whole pages of tokens with the keys and values ``read_pages`` gave for the same tokens up
        to there under an equal ``setup``; the sequence ends at a page's end. The bytes are not checked.
        Raises DcaError, and leaves the sequence as it is.
        """
        with self.engine._exclusive():
            tokens = token_array(ids, self.engine.n_vocab)
            _pages.append(_ffi.lib().dca_sequence_append_pages, self._handle(), tokens, pages)

    @property
    def length(self) -> int:
        """Tokens in the sequence."""
        with self.engine._exclusive():
            return _ffi.lib().dca_sequence_length(self._handle())

    @property
    def ids(self) -> np.ndarray:
        """The token ids, int32 (length,)."""
        with self.engine._exclusive():
            handle = self._handle()
            length = _ffi.lib().dca_sequence_length(handle)
            if length == 0:
                return np.empty(0, np.int32)
            return np.frombuffer(
                ffi.buffer(_ffi.lib().dca_sequence_tokens(handle), 4 * length), np.int32
            ).copy()

    def _drop(self) -> None:
        self._address = 0
        self._free()

    def _handle(self) -> Any:
        if not self._address:
            raise DcaError("the sequence is closed")
        return self._native


def _free(native: Any, keep: Keep, home: process.Home) -> None:
    if process.may_free(home):
        keep.drop(native)
