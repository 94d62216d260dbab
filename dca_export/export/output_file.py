"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dca_export.errors import InputError

LOCK = ".dca-export.lock"  # in a directory of unfinished files, held by the process that writes there
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_TRIES = 100


def check_output(path: Path, force: bool) -> None:
    """Raises InputError if `path` cannot become an output file."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file, expected the name of a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such directory to write {path.name} in")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: is a link to {os.readlink(path)}, which does not exist")
    if path.exists() and not force:
        raise InputError(f"{path}: already exists; use --force to replace it")


def check_report(path: Path, *others: Path) -> None:
    """Raises InputError if a report cannot be written to `path`, or if that is one of the `others`.

    Unlike an output, a report may go to a device or a pipe, and replaces a file without being asked.
    """
    if path.is_dir():
        raise InputError(f"{path}: is not a regular file but a directory; name a file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such directory to write {path.name} in")
    for other in others:
        if os.path.realpath(path) == os.path.realpath(other):
            raise InputError(f"{path}: is also read or written otherwise; name another file for the report")


def check_apart(path: Path, source: Path) -> None:
    """Raises InputError if `path` is a file of the model directory `source`, other than a .gguf there."""
    resolved = path.resolve()
    is_part = path.is_file() and path.suffix != ".gguf" and source.resolve() in resolved.parents
    linked = source.is_dir() and path.is_file() and any(_is_same(path, file) for file in source.iterdir())
    if is_part or linked:
        raise InputError(f"{path}: is part of the model that is read; name another file to write")


def _is_same(path: Path, file: Path) -> bool:
    """Whether a file of a model directory, not a .gguf, is the file at `path` under another name."""
    return file.suffix != ".gguf" and file.is_file() and file.samefile(path)


def check_space(path: Path, needed: int) -> None:
    """Raises InputError if the file system that `path` is to be on has fewer than `needed` bytes free."""
    usage = shutil.disk_usage(path.parent)
    if usage.total and usage.free < needed:
        raise InputError(
            f"{path}: needs {needed / 1e9:.2f} GB, its file system has {usage.free / 1e9:.2f} GB free"
        )


@contextlib.contextmanager
def directory_beside(path: Path) -> Iterator[Path]:
    """An empty directory beside `path`, on the same file system; removed with what is left in it.

    Also where SIGTERM or SIGHUP end the process. What a killed one left is removed by the next that writes in
    the same place; a lock tells such directories from those in use.
    """
    _remove_abandoned(path.parent)
    with _ending_signals_raise():
        directory, lock = _locked_directory(path)
        try:
            yield directory
        finally:
            _remove(directory)
            os.close(lock)


def _locked_directory(path: Path) -> tuple[Path, int]:
    for _ in range(_TRIES):
        try:
            directory = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # in the name that was asked for
        try:
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # another process took it for abandoned before it had a lock
        except OSError:
            _remove(directory)  # no room for the lock: none for what it would guard either
            raise
        with contextlib.suppress(BlockingIOError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
                return directory, lock  # a file system without locks: nothing is cleared there either
            if os.fstat(lock).st_nlink:
                return directory, lock
        os.close(lock)  # likewise, before it was locked
    raise InputError(f"{path.parent}: other processes keep removing {path.name}'s unfinished files")


def _remove(directory: Path) -> None:
    """Removes a directory of unfinished files, the lock last: one that is half removed can still be told."""
    for path in (directory / name for name in _names_in(directory) if name != LOCK):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _names_in(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []  # gone already


def _remove_abandoned(parent: Path) -> None:
    """Removes directories of unfinished files in `parent` that no process holds any more.

    An empty one was left before it had a lock, or is about to get one: who makes it makes another then.
    """
    try:
        found = [Path(entry) for entry in os.scandir(parent) if _PART.fullmatch(entry.name)]
    except OSError:
        return  # what is wrong with it is said when something is written there
    for directory in found:
        with contextlib.suppress(OSError):
            directory.rmdir()
        try:
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # not one of ours, or gone already
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory)
        except OSError:
            pass  # in use
        finally:
            os.close(lock)


@contextlib.contextmanager
def _ending_signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end the process as SystemExit does, so that what is unfinished is removed.

    Only where nobody else handles or ignores them, and in the main thread, which alone may say so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # as a shell reports a process that the signal ended

    before = {number: signal.getsignal(number) for number in _ENDING}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def move_into_place(files: dict[Path, Path], force: bool) -> None:
    """Renames finished files (from, to). All targets are checked before the first is touched.

    A target that is a link stays one: the file it leads to is replaced.
    """
    for target in files.values():
        check_output(target, force)
    for finished, target in files.items():
        _replace(finished, target)


def _replace(finished: Path, target: Path) -> None:
    real = Path(os.path.realpath(target))
    if finished.stat().st_dev == real.parent.stat().st_dev:
        os.replace(finished, real)
        return
    with directory_beside(real) as directory:  # a link to another file system
        copy = directory / real.name
        check_space(real, finished.stat().st_size)
        shutil.copyfile(finished, copy)
        os.replace(copy, real)


def write_file(path: Path, data: bytes) -> None:
    """Writes a small file, over one that may be there.

    A regular file, also one that a link leads to, appears whole or not at all; what is written into, such as
    a pipe or a device, is opened and stays what it is. Raises InputError if `path` can be neither.
    """
    check_report(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    try:
        if mode is not None and not stat.S_ISREG(mode):
            with open(path, "wb") as file:
                file.write(data)
            return
        real = Path(os.path.realpath(path))
        with directory_beside(real) as directory:
            finished = directory / real.name
            finished.write_bytes(data)
            os.replace(finished, real)
    except OSError as error:
        if error.filename is None:  # of a full disk the system does not say whose
            error.filename = str(path)
        raise
