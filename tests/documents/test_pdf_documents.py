"""PDF as text."""

import io

import pytest

from dca_export.documents.pdf import pdf_text
from dca_export.documents.read import texts_of
from dca_export.errors import InputError

pypdf = pytest.importorskip("pypdf")


def pdf(*pages: str, password: str | None = None) -> bytes:
    """A PDF whose pages show those lines."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(200, 200)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = stream
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_pages_follow_lines_that_say_their_numbers():
    assert pdf_text(pdf("Call me Ishmael.", "", "The end."), "x.pdf") == (
        "[page 1]\nCall me Ishmael.\n\n[page 3]\nThe end."
    )


def test_a_pdf_is_known_by_its_bytes(tmp_path):
    file = tmp_path / "book"
    file.write_bytes(pdf("Call me Ishmael."))
    [text] = texts_of(str(file))
    assert (text.name, text.text) == ("book", "[page 1]\nCall me Ishmael.")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pdf("", ""), "2 pages hold no text"),
        (pdf("secret", password="x"), "encrypted"),
        (b"%PDF-1.7 nothing more", "not a PDF that can be read"),
        (pdf("cut short")[:300], "not a PDF|no text"),
    ],
)
def test_what_cannot_be_read_is_a_line(data, says):
    with pytest.raises(InputError, match=says) as caught:
        pdf_text(data, "x.pdf")
    assert str(caught.value).startswith("x.pdf: ") and "\n" not in str(caught.value)
