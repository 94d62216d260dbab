"""SentencePiece's unigram model: the cut of a text into pieces with the best sum of scores."""

import base64
import json
from typing import Any

from tokenizers import Tokenizer

from dca_runtime.text.tokenizer_json import build_parsed, check_tokenizer

SPACE = "\u2581"  # SentencePiece's visible space

NO_TEXT = "\ufdd0"  # a code point that is no character: no text holds it


def unigram_tokenizer(
    pieces: list[tuple[str, float]],
    unknown: int | None,
    byte_fallback: bool,
    character_map: bytes,
    space_prefix: bool,
    removes_extra_spaces: bool,
    where: str,
) -> Tokenizer:
    """The tokenizer of pieces with scores, by id, without special tokens. Raises DcaError with ``where``."""
    steps: list[dict[str, Any]] = []
    if character_map:
        encoded = base64.b64encode(character_map).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if removes_extra_spaces:
        steps.append({"type": "Strip", "strip_left": not space_prefix, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    scheme = "first" if space_prefix else "never"
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if space_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model: dict[str, Any] = {"type": "Unigram", "unk_id": unknown, "vocab": [list(piece) for piece in pieces]}
    parsed: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": scheme,
            "split": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model | {"byte_fallback": byte_fallback},
    }
    check_tokenizer(parsed, where)
    return build_parsed(parsed, where)


def without_special_pieces(tokenizer: Tokenizer) -> Tokenizer:
    """The same, but text that spells a special token is never cut into it.

    Control tokens are pieces too, often with the best score of all: a unigram model would find them in any
    text.
    """
    parsed = json.loads(tokenizer.to_str())
    vocab = parsed["model"]["vocab"]
    special = {
        entry["id"] for entry in parsed["added_tokens"] if entry["special"] and entry["id"] < len(vocab)
    }
    for id_ in special:
        vocab[id_][0] = f"{NO_TEXT}{id_}"
    parsed["added_tokens"] = [entry for entry in parsed["added_tokens"] if entry["id"] not in special]
    parsed["post_processor"] = None  # names tokens that are no more
    return build_parsed(parsed, "the tokenizer without special tokens")
