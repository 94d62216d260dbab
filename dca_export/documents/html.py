"""HTML as Markdown: what a reader of the page sees, with its headings, lists, tables and links."""

import re

from dca_export.errors import InputError

_UNSEEN = ("script", "style", "noscript", "template", "head", "svg", "iframe", "object")
# What the parser looks for the end of, through all of the rest, each time.
_SEARCHED = {b"<!--": b"-->", b"<![": b"]>", b"<?": b">"}
MAX_OPEN = 100


def html_text(data: bytes, path: str) -> str:
    """Takes the encoding that the page states. Raises InputError: a package is missing, or it is no HTML."""
    try:
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter
    except ImportError as error:
        raise InputError(
            f"{path}: reading HTML needs the package {error.name}: pip install 'dca-export[documents]'"
        ) from error
    for opening, closing in _SEARCHED.items():
        if data.count(opening, data.rfind(closing) + 1) > MAX_OPEN:
            raise InputError(f"{path}: more than {MAX_OPEN} times {opening.decode()} without an end")
    try:
        page = BeautifulSoup(data, "html.parser")
        title = page.title.get_text().strip() if page.title is not None else ""
        for element in page(list(_UNSEEN)):
            element.decompose()
        text = MarkdownConverter(heading_style="ATX").convert_soup(page)
    except (RecursionError, ValueError, AssertionError) as error:
        raise InputError(f"{path}: not HTML that can be read ({type(error).__name__})") from error
    lines = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    text = re.sub(r"\n{3,}", "\n\n", lines).strip()
    if not text:
        raise InputError(f"{path}: holds no text (a page that a script fills?)")
    return f"{title}\n\n{text}" if title and title not in text else text
