"""The files of a folder that somebody means when they name the folder."""

import os
from collections.abc import Iterator
from pathlib import Path


def files(folder: Path) -> Iterator[Path]:
    """Regular files at any depth, by name: the same order every time. Leaves out what is hidden and links."""
    waiting = [folder]  # the next one last; not by recursion, for a stranger's folders may be deep
    while waiting:
        path = waiting.pop()
        if path.is_dir():
            names = [name for name in sorted(os.listdir(path)) if not name.startswith(".")]
            waiting += [path / name for name in reversed(names) if not (path / name).is_symlink()]
        elif path.is_file():
            yield path
