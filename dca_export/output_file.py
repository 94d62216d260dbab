"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dca_export.errors import InputError


def check_output(path: Path, force: bool) -> None:
    """Raises InputError if `path` cannot become an output file."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file, expected the name of a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such directory to write {path.name} in")
    if path.exists() and not force:
        raise InputError(f"{path}: already exists; use --force to replace it")


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed to `path` if the block succeeds, removed if it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # mkstemp gives 0600; an output is an ordinary file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_space(path: Path, needed: int) -> None:
    """Raises InputError if the file system of `path` has fewer than `needed` bytes free."""
    usage = shutil.disk_usage(path.parent)
    if usage.total and usage.free < needed:
        raise InputError(
            f"{path}: needs {needed / 1e9:.2f} GB, its file system has {usage.free / 1e9:.2f} GB free"
        )
