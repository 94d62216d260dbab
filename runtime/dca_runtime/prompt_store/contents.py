"""What a store holds, for people: read from its files without a model."""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dca_runtime.options import PAGE_TOKENS
from dca_runtime.prompt_store import page_file, speed
from dca_runtime.prompt_store.directory import SETUP_FILE, Directory
from dca_runtime.prompt_store.page_file import Damaged, Header
from dca_runtime.prompt_store.speed import Speed
from dca_runtime.prompt_store.store import MODEL_LINE


@dataclass(frozen=True)
class File:
    """A file of pages."""

    path: Path
    size: int  # bytes
    used: float  # when last, seconds since 1970
    header: Header | None  # None: damaged

    @property
    def pages(self) -> int:
        """Whole pages in it."""
        return 0 if self.header is None else len(self.header.entries)


@dataclass(frozen=True)
class SetupContents:
    """The prompts of one setup."""

    folder: Path
    model: str  # as it was called; empty: not known
    lines: tuple[str, ...]  # of the setup: model, attention, rope, prefill, layout, page
    speed: Speed | None
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        """What commands call it."""
        return self.folder.name[:8]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def tokens(self) -> int:
        """Whose keys and values are kept."""
        return sum(file.pages for file in self.files) * PAGE_TOKENS

    @property
    def used(self) -> float | None:
        """When last, seconds since 1970; None: there is nothing."""
        return max((file.used for file in self.files), default=None)

    @property
    def prompts(self) -> list[int]:
        """The tokens of each prompt that no longer one continues, longest first."""
        depths: dict[bytes, int] = {}
        parents: dict[bytes, bytes] = {}
        root = b""
        for file in self.files:
            if file.header is not None:
                root = parent = file.header.root
                parent = file.header.parent
                for entry in file.header.entries:
                    parents[entry.name] = parent
                    parent = entry.name
        for name in parents:
            chain: dict[bytes, None] = {}
            while name in parents and name not in depths and name not in chain:
                chain[name] = None
                name = parents[name]
            # A prompt whose beginning was evicted is of no use, nor are pages that go in a circle.
            depth = 0 if name == root and name not in chain else depths.get(name, -1)
            for one in reversed(chain):
                depth = -1 if depth < 0 else depth + 1
                depths[one] = depth
        continued = {parents[name] for name in parents}
        ends = [depth for name, depth in depths.items() if name not in continued and depth > 0]
        return sorted((depth * PAGE_TOKENS for depth in ends), reverse=True)


def contents(directory: Directory) -> list[SetupContents]:
    """Every setup's, the last used first."""
    found = [_setup(folder) for folder in directory.setup_folders()]
    return sorted(found, key=lambda one: one.used or 0, reverse=True)


def _setup(folder: Path) -> SetupContents:
    model, lines = "", tuple[str, ...]()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        first, *rest = (folder / SETUP_FILE).read_text("utf-8").splitlines() or [""]
        model, lines = first.removeprefix(MODEL_LINE), tuple(rest)
    files = [_file(path) for path in sorted(folder.glob(f"*{page_file.SUFFIX}"))]
    return SetupContents(
        folder, model, lines, speed.load(folder), tuple(file for file in files if file is not None)
    )


def _file(path: Path) -> File | None:
    """None: gone meanwhile."""
    try:
        status = path.lstat()
    except OSError:
        return None
    header = None
    if stat.S_ISREG(status.st_mode):
        with contextlib.suppress(OSError, Damaged):
            descriptor = page_file.opened(path)
            try:
                header = page_file.read_header(descriptor)
            finally:
                os.close(descriptor)
    return File(path, status.st_size, status.st_mtime_ns / 1e9, header)
