"""The text of a PDF, page by page."""

import io
import logging

from dca_export.errors import InputError


def pdf_text(data: bytes, path: str) -> str:
    """Each page that has text after a line that says its number.

    Raises InputError: the package is missing, the file is damaged or encrypted, or it holds no text.
    """
    try:
        import pypdf
    except ImportError as error:
        raise InputError(
            f"{path}: reading PDF needs the package {error.name}: pip install 'dca-export[documents]'"
        ) from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it says of each oddity how it got over it
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{path}: encrypted; give a copy without a password")
        pages = [page.extract_text().strip() for page in reader.pages]
    except InputError:
        raise
    except Exception as error:  # what its parser meets in a damaged file is not all of one kind
        raise InputError(f"{path}: not a PDF that can be read ({' '.join(str(error).split())})") from error
    text = "\n\n".join(f"[page {number}]\n{page}" for number, page in enumerate(pages, 1) if page)
    if not text:
        raise InputError(f"{path}: its {len(pages)} pages hold no text (a scan?)")
    return text.replace("\r\n", "\n").replace("\r", "\n")
