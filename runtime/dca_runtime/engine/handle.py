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
        self._busy = threading.Lock()
        self._open = True

    def close(self) -> None:
        """Frees the engine and its sequences. Does nothing the second time, nor in a forked child."""
        if self._home.left():
            return
        with self._exclusive(may_be_closed=True):
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
            if not self._busy.acquire(blocking=False):
                raise DcaError("the engine is busy: a call on it has not returned yet")
            try:
                if not (self._open or may_be_closed):
                    raise DcaError("the engine is closed")
                yield
            finally:
                self._busy.release()


class Keep:
    """Frees a native engine once, when it is told to or when the last that holds it goes."""

    def __init__(self, lib: Any, native: Any, native_model: Any, home: process.Home) -> None:
        self.free = weakref.finalize(self, _free_engine, lib, native, native_model, home)


def _free_engine(lib: Any, native: Any, native_model: Any, home: process.Home) -> None:
    if process.may_free(home):
        lib.dca_engine_free(native)
