"""Where a store lies, how large it may become, and that it is its owner's alone."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dca_runtime.errors import DcaError, Status

DIRECTORY_VARIABLE = "DCA_CACHE_DIR"  # names the store in place of the user's cache folder
SETTINGS = "store.json"
SETUP_FILE, SPEED_FILE = "setup.txt", "speed.json"  # in a setup's folder
_LOCK = "lock"
_LOCK_SECONDS = 5.0  # for another process to let go of it: who was stopped, or hangs, never does
_LOOK_SECONDS = 0.01
_FORMAT = 1
_SETUP_FOLDER = re.compile(r"[0-9a-f]{32}")
_SHARE = 10  # of the free disk a new store may take the tenth part


def default_path() -> Path:
    """``$DCA_CACHE_DIR``, else a folder in the user's cache. Raises DcaError: there is no such place."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dca-export" / "prompts"
    except RuntimeError as error:  # a service's user has no home
        raise DcaError(f"no prompt store: {error}; give --cache-dir") from error


def in_words(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


class Directory:
    """A store's folder: its settings, its lock, and a folder for each setup."""

    def __init__(
        self, path: Path, limit: int | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        """Makes it where there is none, with ``limit`` or a tenth of the free disk, which ``tell`` is told.

        limit: the most bytes it may take from now on; None: as it was.

        Raises DcaError: somebody else's, writable for others, or a folder of something else.
        """
        self.path = path
        try:
            stated = None if self._make() else self._stated_limit()
            if limit is None and stated is None:
                limit = shutil.disk_usage(path).free // _SHARE
                if tell is not None:
                    tell(
                        f"prompts are kept in {path}, up to {in_words(limit)}, a tenth of the free disk "
                        "(--cache-disk SIZE changes it, --no-cache keeps none)"
                    )
            self.limit: int = limit if limit is not None else stated  # type: ignore[assignment]
            if self.limit != stated:
                self.write(path / SETTINGS, json.dumps({"format": _FORMAT, "limit": self.limit}))
        except OSError as error:
            raise DcaError(f"{path}: no prompt store can be here: {error.strerror}", Status.IO) from error

    def setup_folder(self, root: bytes) -> Path:
        """The folder of a setup's pages; there may be none yet."""
        return self.path / root[:16].hex()

    def setup_folders(self) -> list[Path]:
        """All there are; other folders are not the store's."""
        return sorted(
            path
            for path in self.path.iterdir()
            if _SETUP_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Around what looks at the whole store to remove something: one process at a time.

        Raises OSError, also if another process does not let go of it.
        """
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _wait_for_lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def write(self, path: Path, text: str) -> None:
        """Replaces a small file of the store, whole or not at all. Not inside ``lock``."""
        part = path.with_name(f".{path.name}")  # one name, so that the killed leave one file at most
        with self.lock():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            part.replace(path)

    def _make(self) -> bool:
        """True: the store is new."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.path.stat()
        if status.st_uid != os.geteuid():
            raise DcaError(f"{self.path}: belongs to another user; give another --cache-dir")
        new = not (self.path / SETTINGS).exists()
        if new and {path.name for path in self.path.iterdir()} - {f".{SETTINGS}", _LOCK}:
            raise DcaError(f"{self.path}: holds something else than a prompt store; give an empty folder")
        if not new and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DcaError(
                f"{self.path}: others may write to it, so nothing in it can be trusted; remove it, or give "
                "another --cache-dir"
            )
        if status.st_mode & 0o077:
            self.path.chmod(0o700)
        return new

    def _stated_limit(self) -> int | None:
        """What the settings say; None: they are damaged."""
        path = self.path / SETTINGS
        settings = read_json(path)
        try:
            version, limit = settings["format"], int(settings["limit"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return None
        if version != _FORMAT:
            raise DcaError(f"{path}: of another version of dca-export; give another --cache-dir")
        return limit if limit >= 0 else None


def read_json(path: Path) -> Any:
    """What a small file of the store says; None: nothing that is JSON. Raises OSError."""
    data = path.read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _wait_for_lock(descriptor: int) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                held = f"another process has held its lock for {_LOCK_SECONDS:g} s"
                raise OSError(errno.EAGAIN, held) from None
        time.sleep(_LOOK_SECONDS)
