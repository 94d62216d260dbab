"""The library's engine as an engine of Python and its sequences hold it: who may use it, what frees it."""

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from dca_runtime import _ffi, _pages, process
from dca_runtime.errors import DcaError


class EngineHandle:
    """An open ``dca_engine *`` that is closed once. One thread at a time may use it and its sequences.

    The sequences hold ``_keep`` too, so that the native engine is freed after the last of them.
    """

    def __init__(self, native: Any, native_model: Any, n_vocab: int) -> None:
        """``native`` was made in this process from ``native_model``, which knows ``n_vocab`` tokens."""
        self.n_vocab = n_vocab
        self._native = native
        self._home = process.Home()
        self._keep = Keep(_ffi.lib(), native, native_model, self._home)
        self._sequences: weakref.WeakSet[Any] = weakref.WeakSet()  # those that close with it
        self._beside = threading.Lock()  # held by what may run beside steps, not beside close
        self._open = True

    def close(self) -> None:
        """Frees the engine and its sequences. Does nothing the second time, nor in a forked child."""
        if self._home.left():
            return
        with self._exclusive(may_be_closed=True), self._beside:
            for sequence in list(self._sequences):
                sequence._drop()
            self._open = False
            self._keep.free()

    @property
    def setup(self) -> _pages.Setup:
        """What keys and values of its sequences depend on beside their tokens."""
        with self._exclusive():
            return _pages.setup(_ffi.lib().dca_engine_setup, self._native)

    @contextlib.contextmanager
    def _exclusive(self, may_be_closed: bool = False) -> Iterator[None]:
        """Refuses a second user: another thread, or the progress callback of a call that still runs."""
        self._home.check()
        with process.calling():
            if not self._keep.busy.acquire(blocking=False):
                raise DcaError("the engine is busy: a call on it has not returned yet")
            try:
                if not (self._open or may_be_closed):
                    raise DcaError("the engine is closed")
                yield
            finally:
                self._keep.busy.release()
                self._keep.settle()


class Keep:
    """Frees a native engine once, when it is told to or when the last that holds it goes.

    Frees its sequences too. They go at any moment, in any thread, as garbage does, and must not under a step.
    """

    def __init__(self, lib: Any, native: Any, native_model: Any, home: process.Home) -> None:
        self.busy = threading.Lock()  # held while the engine or a sequence of it is used
        self._lib = lib
        self._dropped: list[Any] = []
        self.free = weakref.finalize(self, _free_engine, lib, native, native_model, home)

    def drop(self, sequence: Any) -> None:
        """Frees a ``dca_sequence *``: now, or after the call that uses the engine."""
        self._dropped.append(sequence)
        self.settle()

    def settle(self) -> None:
        """Frees what was dropped while the engine was in use, unless it is again: then that call will."""
        while self._dropped and self.busy.acquire(blocking=False):
            try:
                while self._dropped:
                    self._lib.dca_sequence_free(self._dropped.pop())
            finally:
                self.busy.release()


def _free_engine(lib: Any, native: Any, native_model: Any, home: process.Home) -> None:
    if process.may_free(home):
        lib.dca_engine_free(native)
