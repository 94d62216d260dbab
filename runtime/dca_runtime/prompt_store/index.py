"""Which pages of a setup lie in which file: read from the files' headers, and again where a file changed."""

import contextlib
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dca_runtime.prompt_store import page_file
from dca_runtime.prompt_store.page_file import Damaged, Header


@dataclass(frozen=True)
class Place:
    """Where a page lies."""

    path: Path
    slot: int
    checksum: int


class Index:
    """The pages in one folder, by name. For any thread."""

    def __init__(self, folder: Path, root: bytes, page_bytes: int, warn: Callable[[str], None]) -> None:
        """warn: takes a line about each file that is skipped, once."""
        self.folder = folder
        self._root = root
        self._page_bytes = page_bytes
        self._warn = warn
        self._looking = threading.Lock()  # at the disk
        self._lock = threading.Lock()  # never while the disk is waited for
        self._files: dict[str, tuple[tuple[int, int, int], tuple[bytes, ...]]] = {}  # state, pages' names
        self._places: dict[bytes, Place] = {}
        self._bad: set[str] = set()  # files that were skipped

    def refresh(self) -> None:
        """Looks for files that came, grew or went."""
        with self._looking:
            found = set()
            with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith(page_file.SUFFIX):
                        found.add(entry.name)
                        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                            self._look_at(entry)
            for name in self._files.keys() - found:
                with self._lock:
                    self._drop(name)

    def prefix(self, names: Sequence[bytes]) -> list[Place]:
        """Where those pages lie, from the first on up to one that is nowhere."""
        with self._lock:
            found = (self._places.get(name) for name in names)
            return [place for place in itertools.takewhile(lambda place: place is not None, found) if place]

    def place(self, name: bytes) -> Place | None:
        """Where a page lies; None: nowhere."""
        with self._lock:
            return self._places.get(name)

    def paths(self, names: Iterable[bytes]) -> list[Path]:
        """The files that hold those pages, each once, in the pages' order."""
        with self._lock:
            places = (self._places.get(name) for name in names)
            return list(dict.fromkeys(place.path for place in places if place is not None))

    def cut(self, place: Place) -> None:
        """Drops a page, and those behind it in its file, from the file unless somebody writes to it."""
        with page_file.locked(place.path) as descriptor:
            if descriptor is not None:
                with contextlib.suppress(OSError, Damaged):
                    page_file.cut(descriptor, place.path, place.slot)
        with self._lock:
            _, names = self._files.get(place.path.name, (None, ()))
            for name in names[place.slot :]:
                if self._places.get(name, place).path == place.path:
                    self._places.pop(name, None)

    def _look_at(self, entry: os.DirEntry[str]) -> None:
        status = entry.stat(follow_symlinks=False)
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        if entry.name in self._bad or self._files.get(entry.name, (None,))[0] == state:
            return
        path = self.folder / entry.name
        if status.st_size == 0 and stat.S_ISREG(status.st_mode):  # just made, or left by who was killed then
            _mend(path)
            return
        try:
            header = self._read(path, status.st_uid)
        except FileNotFoundError:
            raise
        except (Damaged, OSError) as error:
            self._bad.add(entry.name)
            self._warn(f"{path}: skipped: {error.strerror if isinstance(error, OSError) else error}")
            return
        if header.size != status.st_size or not header.entries:
            _mend(path)
        with self._lock:
            self._drop(entry.name)
            self._files[entry.name] = (state, tuple(one.name for one in header.entries))
            for slot, one in enumerate(header.entries):
                self._places[one.name] = Place(path, slot, one.checksum)

    def _read(self, path: Path, owner: int) -> Header:
        descriptor = page_file.opened(path)
        try:
            header = page_file.read_header(descriptor)
        finally:
            os.close(descriptor)
        if owner != os.geteuid():
            raise Damaged("it belongs to another user")
        if header.root != self._root or header.page_bytes != self._page_bytes:
            raise Damaged("its pages belong to another setup")
        return header

    def _drop(self, file: str) -> None:
        _, names = self._files.pop(file, (None, ()))
        for name in names:
            place = self._places.get(name)
            if place is not None and place.path.name == file:
                del self._places[name]


def _mend(path: Path) -> None:
    """Removes what a killed writer left at the end of a file, or the file where it holds no page."""
    with page_file.locked(path) as descriptor:
        if descriptor is None:  # somebody writes to it
            return
        with contextlib.suppress(OSError, Damaged):
            header = page_file.read_header(descriptor) if os.fstat(descriptor).st_size else None
            if header is not None and header.entries:
                os.ftruncate(descriptor, header.size)
            else:
                path.unlink()
