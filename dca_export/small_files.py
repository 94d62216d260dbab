"""The files beside a model's weights: read whole, so only if they are regular files of a size that they have.

A pipe would be waited for, a device never ends, and an optional file that cannot be read must not count as
one that is absent: the model would be converted without what it says.
"""

from __future__ import annotations

import os
from pathlib import Path

from dca_export.errors import InputError

MAX_BYTES = 64 << 20  # the largest published ones (tokenizer.json) have 35 MB


def is_there(path: Path) -> bool:
    """Whether a file that may be absent is there. Raises InputError if what is there is no regular file."""
    if not os.path.lexists(path):
        return False
    check_regular(path)
    return True


def check_regular(path: Path) -> None:
    """Raises InputError unless `path` is a regular file, or a link to one."""
    if path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: is a link to {os.readlink(path)}, which does not exist; fetch it again")
    found = "a directory" if path.is_dir() else "not a regular file"
    raise InputError(f"{path}: {'is ' + found if os.path.lexists(path) else 'no such file'}")


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """All of a file. Raises InputError if it is no regular file or has more than `most` bytes."""
    check_regular(path)
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path}: has {path.stat().st_size:,} bytes, expected at most {most:,}")
    return data


def read_text(path: Path) -> str:
    """The same, which must be UTF-8; line breaks become one kind."""
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 ({error})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
