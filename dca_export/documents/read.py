"""What a document's file holds, as text."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from dca_export.documents import decode, tree
from dca_export.errors import InputError

STANDARD_INPUT = "-"
_PDF = b"%PDF-"
_START_BYTES = 8192  # of a file, that tell whether it is text
_PDF_WITHIN = 1024  # bytes from the start that the mark may stand in
_HTML_NAMES = {".html", ".htm", ".xhtml"}
_HTML_MARKS = (b"<!doctype html", b"<html")
_HTML_WITHIN = 1024
MAX_BYTES = 256 << 20  # of a document; the longest books have some MB, with pictures some hundred


@dataclass(frozen=True)
class Text:
    """A document's text, and what the model is told it is called."""

    name: str
    text: str


def texts_of(path: str) -> list[Text]:
    """The document at ``path`` (-: standard input), or all files of a folder that hold text, by name.

    A file is what it contains: PDF and HTML become text, everything else must be text. In a folder HTML is
    source like any other.

    Raises InputError: it is no text, a package that reads it is missing, or a folder holds no text; OSError.
    """
    if path == STANDARD_INPUT:
        return [Text("standard input", text_in(standard_input(), path))]
    place = at_home(path)
    if not place.is_dir():
        is_html = place.suffix.lower() in _HTML_NAMES
        return [Text(place.name, text_in(_all_of(place), path, is_html))]
    texts = []
    for file in tree.files(place):
        text = _text_in_tree(file)
        if text.strip():
            texts.append(Text(str(Path(place.resolve().name) / file.relative_to(place)), text))
    if not texts:
        raise InputError(f"{path}: no file in this folder holds text")
    return texts


def at_home(path: str) -> Path:
    """With the user's folder in place of ~; where there is no such user, the name as it stands."""
    return Path(os.path.expanduser(path))


def _all_of(file: Path) -> bytes:
    """All of a file, which may be a pipe: another program's output. Raises InputError: it has no end."""
    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _too_long(file)
    return data


def _too_long(file: Path) -> InputError:
    return InputError(f"{file}: has more than {MAX_BYTES:,} bytes, more than is read of a document")


def _text_in_tree(file: Path) -> str:
    """Empty for what is no text, of which only the beginning is read: a model's file may lie there."""
    with file.open("rb") as stream:
        start = stream.read(_START_BYTES)
        if not _is_pdf(start) and decode.beginning(start) is None:
            return ""
        data = start + stream.read(MAX_BYTES)
        if len(data) > MAX_BYTES:
            raise _too_long(file)
    return text_in(data, str(file)) if _is_pdf(start) else decode.text(data) or ""


def text_in(data: bytes, path: str, is_html: bool = False) -> str:
    """The text of a file's bytes. Raises InputError."""
    if _is_pdf(data):
        from dca_export.documents.pdf import pdf_text

        return pdf_text(data, path)
    if is_html or _looks_like_html(data):
        from dca_export.documents.html import html_text

        return html_text(data, path)
    text = decode.stated_text(data, path)
    if not text.strip():
        raise InputError(f"{path}: holds no text")
    return text


def standard_input() -> bytes:
    """All of it. Raises InputError: it is closed."""
    if sys.stdin is None:
        raise InputError("-: standard input is closed")
    binary = getattr(sys.stdin, "buffer", None)
    return binary.read() if binary is not None else sys.stdin.read().encode()


def _looks_like_html(data: bytes) -> bool:
    start = data.removeprefix(b"\xef\xbb\xbf")[:_HTML_WITHIN].lstrip().lower()
    return start.startswith(b"<") and any(mark in start for mark in _HTML_MARKS)


def _is_pdf(data: bytes) -> bool:
    return _PDF in data[:_PDF_WITHIN] and decode.text(data.partition(_PDF)[0]) is not None
