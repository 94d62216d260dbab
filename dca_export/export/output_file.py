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


def check_apart(path: Path, source: Path) -> None:
    """Raises InputError if `path` is a file of the model directory `source`, other than a .gguf there."""
    is_part = path.is_file() and path.resolve().parent == source.resolve() and path.suffix != ".gguf"
    if is_part:
        raise InputError(f"{path}: is part of the model that is read; name another file to write")


def check_space(path: Path, needed: int) -> None:
    """Raises InputError if the file system that `path` is to be on has fewer than `needed` bytes free."""
    usage = shutil.disk_usage(path.parent)
    if usage.total and usage.free < needed:
        raise InputError(
            f"{path}: needs {needed / 1e9:.2f} GB, its file system has {usage.free / 1e9:.2f} GB free"
        )


@contextlib.contextmanager
def directory_beside(path: Path) -> Iterator[Path]:
    """An empty directory beside `path`, on the same file system; removed with what is left in it."""
    directory = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Writes a small file, over one that may be there. Raises InputError if `path` cannot become a file."""
    check_output(path, force=True)
    with directory_beside(path) as directory:
        finished = directory / path.name
        finished.write_bytes(data)
        move_into_place({finished: path}, force=True)


def move_into_place(files: dict[Path, Path], force: bool) -> None:
    """Renames finished files (from, to). All targets are checked before the first is touched."""
    for target in files.values():
        check_output(target, force)
    for finished, target in files.items():
        os.replace(finished, target)
