"""The version of this package, as pyproject.toml states it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dca-export")
except PackageNotFoundError:  # run from a source tree that nobody installed
    __version__ = "0+source"
