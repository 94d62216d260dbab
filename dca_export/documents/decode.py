"""Bytes of a text file as text."""

import codecs

from dca_export.errors import InputError

_UTF16 = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def stated_text(data: bytes, path: str) -> str:
    """UTF-8, or UTF-16 with a byte order mark; line breaks become one kind. InputError: it is neither."""
    encoding = _UTF16.get(data[:2], "utf-8-sig")
    try:
        decoded = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def text(data: bytes) -> str | None:
    """The same; None for what is no text. A NUL is in no text."""
    try:
        found = stated_text(data, "")
    except InputError:
        return None
    return None if "\0" in found else found


def beginning(data: bytes) -> str | None:
    """The same for the beginning of a file, which may end within a character."""
    encoding = _UTF16.get(data[:2], "utf-8-sig")
    try:
        found = codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return None
    return None if "\0" in found else found
