"""Which libdca is in use."""

from dca_runtime import _ffi


def library_version() -> str:
    """The version of the native library, "MAJOR.MINOR.PATCH"."""
    return _ffi.text(_ffi.lib().dca_version())
