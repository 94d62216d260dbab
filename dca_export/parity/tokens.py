"""The token ids that both sides get: the same on every machine and every day."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dca_export.errors import InputError

if TYPE_CHECKING:
    from dca_runtime import Model

SEED = 20240217


def token_ids(model: Model, length: int, text: Path | None = None) -> tuple[list[int], str]:
    """`length` token ids and where they come from.

    From the file `text` (UTF-8), or the texts that come with Python; seeded random ids where the model has
    no tokenizer. Raises InputError if the text is too short or there is nothing to tokenise it with.
    """
    if not has_tokenizer(model):
        if text is not None:
            raise InputError(f"{model.path}: has no tokenizer for --text {text}")
        random = np.random.default_rng(SEED)
        return random.integers(0, model.info.n_vocab, length).tolist(), f"random ids, seed {SEED}"
    content = text_for(text)
    source = "pydoc_data.topics" if text is None else str(text)
    ids = model.tokenize(content[: 16 * length])  # far more than any tokenizer takes a token
    if len(ids) < length:
        ids = model.tokenize(content)
    if len(ids) < length:
        raise InputError(f"{source} has {len(ids)} tokens, --length asks for {length}")
    return list(ids[:length]), source


def text_for(path: Path | None) -> str:
    """The file's text, or the texts that come with Python."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def has_tokenizer(model: Model) -> bool:
    """Whether the file says how text becomes ids."""
    return "tokenizer.ggml.model" in model.metadata or "tokenizer.huggingface.json" in model.metadata
