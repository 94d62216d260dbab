"""Opens libdca and speaks its C API: cffi in ABI mode, reading the declarations out of dca.h itself."""

import functools
import operator
import os
import sys
import threading
from pathlib import Path
from typing import Any

import cffi

from dca_runtime import process
from dca_runtime.errors import DcaError, Status
from dca_runtime.options import Progress

_LIBRARY = "libdca.dylib" if sys.platform == "darwin" else "libdca.so"
LIBRARY_VARIABLE = "DCA_LIBRARY"  # names a libdca to use instead of the installed one
_FREEING = ("dca_model_free", "dca_session_free", "dca_engine_free", "dca_sequence_free")
_BEGIN, _END = "/* ffi: begin", "/* ffi: end */"


def _installed(*parts: str) -> Path | None:
    beside = Path(__file__).parent.joinpath(*parts)
    if beside.is_file():
        return beside
    import importlib.resources  # an editable installation's; a tenth of the time that this module loads in

    path = importlib.resources.files("dca_runtime").joinpath(*parts)
    return path if isinstance(path, Path) and path.is_file() else None


def _header() -> Path:
    in_source_tree = Path(__file__).parents[2] / "native" / "include" / "dca.h"
    return _installed("include", "dca.h") or in_source_tree


def _declarations(header: str) -> str:
    """The part of dca.h between its marks, which is plain C without directives."""
    body = header[header.index(_BEGIN) : header.index(_END)]
    return body.replace("DCA_API ", "")


def _library() -> str:
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        return chosen
    installed = _installed("lib", _LIBRARY)
    if installed is None:
        raise DcaError(
            f"{_LIBRARY} is not installed beside dca_runtime; install the package, "
            f"or let {LIBRARY_VARIABLE} name the library",
            Status.IO,
        )
    return str(installed)


ffi = cffi.FFI()
ffi.cdef(_declarations(_header().read_text(encoding="utf-8")))


@functools.cache
def lib() -> Any:
    """The opened library."""
    path = _library()
    try:
        opened = ffi.dlopen(path)
    except OSError as error:
        raise DcaError(f"{path}: cannot open the library ({error})", Status.IO) from error
    # What frees handles runs at any moment, even while this thread holds the lock with which cffi finds a
    # function the first time.
    for name in _FREEING:
        getattr(opened, name)
    return opened


def check(status: int) -> None:
    """Raises the failure that a call of the C API returned."""
    if status != Status.OK:
        raise DcaError(text(lib().dca_last_error()), Status(status))


def options(struct: str) -> Any:
    """A new option struct of that name, filled with the library's defaults."""
    native = ffi.new(f"{struct} *")
    native.size = ffi.sizeof(struct)
    getattr(lib(), f"{struct}_default")(native)
    return native


def text(characters: Any) -> str:
    """A NUL-terminated C string as str; bytes that are not UTF-8 become U+FFFD."""
    return ffi.string(characters).decode("utf-8", "replace")


def integer(value: Any, least: int, what: str, most: int = 2**32 - 1) -> int:
    """``value`` if C can hold it in its place; otherwise raises DcaError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise DcaError(f"{what} must be an integer from {least} to {most}, got {value!r}")
    return number


class Callback:
    """A ``dca_progress`` for C, which also lets Ctrl-C end a native call.

    While a native call runs, Python code runs in this callback only, so that is where a pending signal
    becomes an exception. Every long call carries one, whether or not anybody watches its progress. What
    is raised in it cancels the call, and ``reraise`` brings it back up once the call has returned.
    So does ``cancel``, once it is set, from whatever thread; the call then fails with Status.CANCELLED.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.cancel: threading.Event | None = None
        self._progress = progress
        self._raised: BaseException | None = None
        # cffi returns `error` to C when the function raises; 1 cancels.
        self.function = ffi.callback("dca_progress", self._call, error=1, onerror=self._remember)

    def _call(self, done: int, total: int, user: Any) -> int:
        if process.must_end() or (self.cancel is not None and self.cancel.is_set()):
            return 1
        if self._progress is not None:
            self._progress(done, total)
        return 0

    def _remember(self, kind: type, raised: BaseException, trace: Any) -> None:
        self._raised = raised

    def reraise(self) -> None:
        """Raises what the last call's callback raised, if it did."""
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
