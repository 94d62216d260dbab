"""One file of the store: up to 64 pages that follow each other in a prompt (docs/format.md, "Prompt store").

A page is written first and its entry in the header's table second, so that whoever dies in between leaves a
tail that no entry names. Who writes holds a lock on the file; pages that have an entry never change.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dca_runtime.prompt_store.chain import HASH_BYTES

SUFFIX = ".pages"
HEADER_BYTES = 4096
MOST_PAGES = 64
_MAGIC = b"DCAPG\r\n\1"
_HEAD = struct.Struct(f"<8sIIQ{HASH_BYTES}s{HASH_BYTES}s")  # magic, capacity, 0, page bytes, root, parent
_ENTRY = struct.Struct(f"<{HASH_BYTES}sQ")  # the page's name, its bytes' checksum
_SUM_BYTES = 8
_TABLE = 128  # where the entries begin
_STRIDE = _ENTRY.size + _SUM_BYTES
assert _HEAD.size + _SUM_BYTES <= _TABLE and _TABLE + MOST_PAGES * _STRIDE <= HEADER_BYTES


class Damaged(Exception):
    """What is at a path is no page file, or its header does not match its checksum; the message says why."""


@dataclass(frozen=True)
class Entry:
    """A page in a file."""

    name: bytes  # chain.page_hashes
    checksum: int  # of its bytes, _pages.checksum


@dataclass(frozen=True)
class Header:
    """What a page file says of itself."""

    root: bytes  # of the setup its pages belong to
    parent: bytes  # the name of the page before the first
    page_bytes: int
    capacity: int  # pages
    entries: tuple[Entry, ...]  # those that are whole, in order

    @property
    def size(self) -> int:
        """Bytes of a file that holds those pages and nothing more."""
        return HEADER_BYTES + len(self.entries) * self.page_bytes


def read_header(descriptor: int) -> Header:
    """Raises Damaged; a file whose last page or entry is not whole has fewer entries."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("not a regular file")
    data = os.pread(descriptor, HEADER_BYTES, 0)
    if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
        raise Damaged("not a file of the prompt store")
    if data[_HEAD.size : _HEAD.size + _SUM_BYTES] != _sum(data[: _HEAD.size], 0):
        raise Damaged("its header does not match its checksum")
    _, capacity, _, page_bytes, root, parent = _HEAD.unpack_from(data)
    if not 0 < capacity <= MOST_PAGES or page_bytes == 0:
        raise Damaged(f"{capacity} pages of {page_bytes} bytes, expected 1 to {MOST_PAGES} pages")
    whole = min((status.st_size - HEADER_BYTES) // page_bytes, capacity)
    entries: list[Entry] = []
    for slot in range(whole):
        at = _TABLE + slot * _STRIDE
        entry = data[at : at + _ENTRY.size]
        if data[at + _ENTRY.size : at + _STRIDE] != _sum(entry, slot + 1):
            break
        entries.append(Entry(*_ENTRY.unpack(entry)))
    return Header(root, parent, page_bytes, capacity, tuple(entries))


def page_offset(header_page_bytes: int, slot: int) -> int:
    """Where in a file the page in a slot begins."""
    return HEADER_BYTES + slot * header_page_bytes


def opened(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor. Never follows a link nor waits for a pipe; OSError."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """A descriptor of the file while nobody else writes to it; None: somebody does, or it is gone."""
    try:
        descriptor = opened(path, os.O_RDWR)
    except OSError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(descriptor).st_nlink > 0
        except OSError:
            free = False
        yield descriptor if free else None
    finally:
        os.close(descriptor)


def cut(descriptor: int, path: Path, slots: int) -> None:
    """Leaves the first ``slots`` pages of a file that is locked; removes a file that holds none."""
    if slots == 0:
        path.unlink(missing_ok=True)
        return
    header = read_header(descriptor)
    for slot in range(slots, header.capacity):
        os.pwrite(descriptor, bytes(_STRIDE), _TABLE + slot * _STRIDE)
    os.ftruncate(descriptor, HEADER_BYTES + slots * header.page_bytes)


class PageFile:
    """A new file, growing page by page; locked until it is closed."""

    def __init__(self, folder: Path, root: bytes, parent: bytes, page_bytes: int, capacity: int) -> None:
        """Raises OSError."""
        self.last = parent  # the name of the page that the next one must follow
        self.written = 0  # pages
        self._page_bytes = page_bytes
        self._capacity = capacity
        head = _HEAD.pack(_MAGIC, capacity, 0, page_bytes, root, parent)
        self.path, self._descriptor = _created(folder)
        try:
            os.pwrite(self._descriptor, (head + _sum(head, 0)).ljust(HEADER_BYTES, b"\0"), 0)
        except OSError:
            self.close()
            raise

    @property
    def full(self) -> bool:
        """Whether it has no room for another page."""
        return self.written == self._capacity

    def append(self, entry: Entry, page: Any) -> None:
        """Adds the page that follows ``last``. Raises OSError; the file then ends before it."""
        offset = page_offset(self._page_bytes, self.written)
        try:
            _write_all(self._descriptor, page, offset)
            packed = _ENTRY.pack(entry.name, entry.checksum)
            packed += _sum(packed, self.written + 1)
            os.pwrite(self._descriptor, packed, _TABLE + self.written * _STRIDE)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, offset)
            raise
        self.written += 1
        self.last = entry.name

    def close(self) -> None:
        """Lets go of the file, and removes it if it holds no page."""
        if self.written == 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)


def _created(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{secrets.token_hex(8)}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Who saw it before it was locked may have taken it for something left behind.
        if os.fstat(descriptor).st_nlink > 0:
            return path, descriptor
        os.close(descriptor)


def _write_all(descriptor: int, data: Any, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sum(data: bytes, place: int) -> bytes:
    """A checksum of a part of the header that depends on which part it is."""
    return hashlib.blake2b(data, digest_size=_SUM_BYTES, salt=struct.pack("<Q", place)).digest()
