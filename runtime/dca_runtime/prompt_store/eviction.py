"""Keeps a store within its size: what was not used for the longest goes first.

A file's time of modification is when it was last used. Of the files of one prompt the first ones count as
used last, since the others are of no use without them.
"""

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dca_runtime.prompt_store import page_file
from dca_runtime.prompt_store.directory import SETUP_FILE, SPEED_FILE, Directory

_STEP_NS = 1000  # between the files of one prompt


@dataclass(frozen=True)
class Stored:
    """A file of the store."""

    path: Path
    size: int
    used: float  # when, seconds since 1970


def stored_files(directory: Directory) -> list[Stored]:
    """Every file with pages, damaged ones too, the longest unused first."""
    files = []
    for folder in directory.setup_folders():
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(page_file.SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        files.append(Stored(Path(entry.path), status.st_size, status.st_mtime_ns / 1e9))
    return sorted(files, key=lambda file: file.used)


def touch(paths: Sequence[Path]) -> None:
    """Says that a prompt's files were used, given in the prompt's order."""
    now = time.time_ns()
    for index, path in enumerate(paths):
        with contextlib.suppress(OSError):
            os.utime(path, ns=(now, now - index * _STEP_NS), follow_symlinks=False)


def make_room(directory: Directory, wanted: int, kept: Collection[Path] = ()) -> bool:
    """Removes files until ``wanted`` more bytes fit into the store's size; False: they do not.

    kept: files that must stay. So do files that somebody writes to.
    """
    with directory.lock():
        return shrink(stored_files(directory), directory.limit - wanted, kept)[1]


def shrink(files: Sequence[Stored], most: int, kept: Collection[Path] = ()) -> tuple[list[Stored], bool]:
    """Removes the first of ``files`` until the rest take ``most`` bytes; which went, and whether that came
    about. Inside ``Directory.lock``."""
    total, gone = sum(file.size for file in files), []
    for file in files:
        if total <= most:
            break
        if file.path not in kept and remove(file.path):
            total -= file.size
            gone.append(file)
    return gone, total <= most


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders of setups that hold nothing but their description. Inside ``Directory.lock``."""
    for folder in folders:
        names = {path.name for path in folder.iterdir()}
        if {name.removeprefix(".") for name in names} <= {SETUP_FILE, SPEED_FILE}:
            with contextlib.suppress(OSError):
                for name in names:
                    (folder / name).unlink()
                folder.rmdir()


def remove(path: Path) -> bool:
    """False: somebody writes to it, or it may not be removed."""
    try:
        if path.is_symlink() or not path.is_file():
            path.unlink()
            return True
        with page_file.locked(path) as descriptor:
            if descriptor is None and path.exists():
                return False
            path.unlink(missing_ok=True)
            return True
    except OSError:
        return False
