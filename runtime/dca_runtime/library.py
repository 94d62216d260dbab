"""Which libdca is in use, and what it says of the machine."""

from dca_runtime import _ffi

_UNKNOWN = 2**64 - 1


def library_version() -> str:
    """The version of the native library, "MAJOR.MINOR.PATCH"."""
    return _ffi.text(_ffi.lib().dca_version())


def available_memory() -> int | None:
    """Bytes of host memory that this process could take without pushing anything out; None: not known."""
    size = _ffi.lib().dca_available_memory()
    return None if size == _UNKNOWN else size
