"""The text that experiments read: the user's file, or CPython's own documentation, which is always there."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dca_export.errors import InputError

if TYPE_CHECKING:
    from dca_runtime import Model

DEFAULT_TEXT = "pydoc_data.topics"


def load_text(path: Path | None) -> str:
    """The text of the file, or of CPython's pydoc_data.topics. Raises InputError if it is not UTF-8."""
    if path is None:
        import pydoc_data.topics

        return "\n".join(pydoc_data.topics.topics.values())
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def describe_text(path: Path | None, text: str) -> dict[str, str]:
    """What tells this text from another, for a results file."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"text": DEFAULT_TEXT if path is None else path.name, "text_sha256": digest}


def text_ids(model: "Model", text: str, length: int) -> np.ndarray:
    """The first ``length`` token ids of ``text``, int32. Raises InputError if it has fewer.

    What spells a special token stays ordinary text.
    """
    ids = np.array(model.tokenize(text, parse_special=False), np.int32)
    if len(ids) < length:
        raise InputError(
            f"the text has {len(ids)} tokens, {length} are needed; give a longer one with --text"
        )
    return ids[:length]
