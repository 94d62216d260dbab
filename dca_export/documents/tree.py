"""The files of a folder that somebody means when they name the folder."""

import os
from collections.abc import Iterator
from pathlib import Path


def files(folder: Path) -> Iterator[Path]:
    """Regular files at any depth, by name: the same order every time. Leaves out what is hidden and links."""
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            yield from files(path)
        elif path.is_file():
            yield path
