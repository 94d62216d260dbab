"""The text that experiments read: the user's file, or CPython's own documentation, which is always there."""

import codecs
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate.contents import digest

if TYPE_CHECKING:
    from dca_runtime import Model

DEFAULT_TEXT = "pydoc_data.topics"

_HASHED_BYTES = 1 << 20  # of a file: its beginning and size tell it from others
_CHARACTERS_A_TOKEN = 6  # read at first; English has about 4
# Ids read beyond those wanted: where a text is cut, its last tokens are not those of the whole.
_SPARE = 64


class Text:
    """A text of which only as much is read as is asked for."""

    def __init__(self, path: Path | None) -> None:
        """The file, or CPython's pydoc_data.topics. Raises OSError if it cannot be opened."""
        self.path = path
        self._whole: str | None = None
        self._piped: bytes | None = None  # of a pipe, which can be read once
        if path is None:
            import pydoc_data.topics

            self._whole = "\n".join(pydoc_data.topics.topics.values())
        elif path.is_fifo():
            self._piped = path.read_bytes()
        else:
            path.open("rb").close()

    def start(self, characters: int) -> tuple[str, bool]:
        """At most so many of its first characters, and whether there are more.

        Line ends become \\n, a byte-order mark goes. Raises InputError if they are not UTF-8.
        """
        if self._whole is not None:
            return self._whole[:characters], len(self._whole) > characters
        with self._opened() as file:
            size = file.seek(0, io.SEEK_END) if file.seekable() else 0
            most = 4 * characters + len(codecs.BOM_UTF8)  # 4 bytes at most a character
            if size:
                file.seek(0)
                most = min(most, size)  # for the room to read into is taken at once
            data = file.read(most)
            more = bool(file.read(1))
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not more)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not UTF-8 text (byte {error.start})") from error
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        return text[:characters], more or len(text) > characters

    def ids(self, model: "Model", length: int) -> np.ndarray:
        """Its first ``length`` token ids, int32. Raises InputError if it has fewer.

        What spells a special token stays ordinary text.
        """
        characters, more = _CHARACTERS_A_TOKEN * length, True
        while True:
            text, more = self.start(characters)
            ids = model.tokenize(text, parse_special=False)
            if not more or len(ids) >= length + _SPARE:
                break
            characters *= 2
        if len(ids) < length:
            raise InputError(
                f"the text has {len(ids)} tokens, {length} are needed; give a longer one with --text"
            )
        return np.array(ids[:length], np.int32)

    def description(self) -> dict[str, Any]:
        """What tells this text from another, for a results file."""
        if self.path is None:
            assert self._whole is not None
            start, size, name = self._whole.encode(), len(self._whole), DEFAULT_TEXT
            pieces = digest(io.BytesIO(start))
        else:
            with self._opened() as file:
                start = file.read(_HASHED_BYTES)
                pieces = digest(file) if file.seekable() else hashlib.sha256(start).hexdigest()
                size = self.path.stat().st_size if self._piped is None else len(self._piped)
            name = printable(self.path.name)
        first = hashlib.sha256(start[:_HASHED_BYTES]).hexdigest()
        return {
            "text": name,
            "text_bytes": size,
            "text_sha256_of_first_mib": first,
            "text_sha256_of_pieces": pieces,
        }

    def _opened(self) -> BinaryIO:
        """The bytes of the file, or of the pipe."""
        if self._piped is not None:
            return io.BytesIO(self._piped)
        assert self.path is not None
        return self.path.open("rb")


def printable(name: str) -> str:
    """A file's name as text that any file can hold: bytes that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
