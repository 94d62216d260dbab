"""HTML as text: what a reader of the page sees."""

import pytest

from dca_export.documents.html import html_text
from dca_export.errors import InputError

pytest.importorskip("markdownify")

PAGE = b"""<!DOCTYPE html><html><head><title>Storms</title><style>p {color: red}</style></head><body>
<script>var hidden = 1;</script><h1>Of storms</h1><p>First &amp; second.</p>
<ul><li>one</li><li>two</li></ul><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<noscript>turn it on</noscript></body></html>"""


def test_a_page_is_what_is_seen_of_it():
    text = html_text(PAGE, "x.html")
    assert text.startswith("Storms\n\n# Of storms\n\nFirst & second.")
    assert "one" in text and "| 1 | 2 |" in text
    for unseen in ("hidden", "color", "turn it on", "\n\n\n"):
        assert unseen not in text


def test_the_encoding_that_a_page_states_is_taken():
    page = '<html><head><meta charset="iso-8859-1"></head><body>café</body></html>'
    assert html_text(page.encode("latin-1"), "x.html") == "café"


@pytest.mark.parametrize("page", [b"<html></html>", b"<html><script>all()</script></html>"])
def test_a_page_without_text_is_said(page):
    with pytest.raises(InputError, match="x.html: holds no text"):
        html_text(page, "x.html")


def test_a_page_nested_too_deep_is_a_line():
    with pytest.raises(InputError, match="x.html"):
        html_text(b"<div>" * 100_000, "x.html")


@pytest.mark.parametrize("opening", [b"<!--", b"<![CDATA[", b"<?"])
def test_openings_without_an_end_are_refused_in_time(opening):
    with pytest.raises(InputError, match="x.html: more than 100 times .* without an end"):
        html_text(b"<html><body>" + opening * 300_000, "x.html")


def test_a_page_may_end_within_one_comment():
    assert html_text(b"<html><body><!-- one --><p>Text<!-- two", "x.html").startswith("Text")
