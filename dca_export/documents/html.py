"""HTML as Markdown: what a reader of the page sees, with its headings, lists, tables and links."""

import re

from dca_export.errors import InputError

_UNSEEN = ("script", "style", "noscript", "template", "head", "svg", "iframe", "object")


def html_text(data: bytes, path: str) -> str:
    """Takes the encoding that the page states. Raises InputError: a package is missing, or it is no HTML."""
    try:
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter
    except ImportError as error:
        raise InputError(
            f"{path}: reading HTML needs the package {error.name}: pip install 'dca-export[documents]'"
        ) from error
    try:
        page = BeautifulSoup(data, "html.parser")
        title = page.title.get_text().strip() if page.title is not None else ""
        for element in page(list(_UNSEEN)):
            element.decompose()
        text = MarkdownConverter(heading_style="ATX").convert_soup(page)
    except (RecursionError, ValueError, AssertionError) as error:
        raise InputError(f"{path}: not HTML that can be read ({type(error).__name__})") from error
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()
    if not text:
        raise InputError(f"{path}: holds no text (a page that a script fills?)")
    return f"{title}\n\n{text}" if title and title not in text else text
